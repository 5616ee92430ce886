//! What the tools print at the end: text for people, JSON for scripts.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::source::Counts;

/// The longest time a histogram keeps apart from longer ones: ten minutes.
const LATENCY_MAX_US: u64 = 600_000_000;
/// The percentiles that are reported.
const PERCENTILES: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 100.0];

/// Something that ends a tool's run.
pub(crate) trait Report {
    /// For people; lines with their ends.
    fn text(&self) -> String;
    /// For scripts; one object.
    fn json(&self) -> Value;
}

/// Prints a report on the standard output.
///
/// # Errors
///
/// When the standard output cannot be written.
pub(crate) fn print(report: &impl Report, as_json: bool) -> io::Result<()> {
    print_text(&if as_json { format!("{}\n", report.json()) } else { report.text() })
}

/// Prints lines on the standard output.
///
/// # Errors
///
/// When the standard output cannot be written.
pub(crate) fn print_text(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Says something on the standard error, where it does not mix with a report.
pub(crate) fn note(text: &str) {
    // There is nobody left to tell when this fails.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A histogram of times, in microseconds with three digits.
#[derive(Debug, Clone)]
pub(crate) struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        // The bounds are constants that the constructor takes; without bounds it takes any.
        let histogram = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3);
        Self(histogram.unwrap_or_else(|_| unreachable!("constant bounds are valid")))
    }
}

impl Latency {
    /// Counts one time; those above ten minutes count as ten minutes.
    pub(crate) fn record(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(us.clamp(1, LATENCY_MAX_US));
    }

    /// Adds all times of `other`.
    pub(crate) fn add(&mut self, other: &Self) {
        // Both have the same bounds, so this cannot be out of range.
        let _ = self.0.add(&other.0);
    }

    fn percentiles(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        PERCENTILES.into_iter().map(|percent| (percent, self.0.value_at_percentile(percent)))
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (percent, us) in self.percentiles() {
            let name = if percent >= 100.0 { "max".to_owned() } else { format!("p{percent}") };
            // Writing to a string does not fail.
            let _ = write!(text, "{name} {:.2} ms  ", us as f64 / 1000.0);
        }
        text.trim_end().to_owned()
    }

    fn json(&self) -> Value {
        let mut object = serde_json::Map::new();
        for (percent, us) in self.percentiles() {
            let name = if percent >= 100.0 {
                "max_us".to_owned()
            } else {
                format!("p{}_us", percent.to_string().replace('.', ""))
            };
            object.insert(name, json!(us));
        }
        object.insert("mean_us".to_owned(), json!(self.0.mean()));
        object.insert("count".to_owned(), json!(self.0.len()));
        Value::Object(object)
    }
}

/// The two times a source measures.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latencies {
    /// From the end of the write of the final dot to its reply.
    pub(crate) reply: Latency,
    /// The whole message: with a connection of its own from before connecting, on a kept one from
    /// before MAIL, and with a rate from when it was due.
    pub(crate) transaction: Latency,
}

impl Latencies {
    /// Counts one acknowledged message.
    pub(crate) fn record(&mut self, reply: Duration, transaction: Duration) {
        self.reply.record(reply);
        self.transaction.record(transaction);
    }
}

/// What a source has done.
#[derive(Debug, Clone, Default)]
pub(crate) struct SourceReport {
    /// Messages it was to send.
    pub(crate) asked: u64,
    /// Messages acknowledged.
    pub(crate) accepted: u64,
    /// Recipients of acknowledged messages.
    pub(crate) recipients: u64,
    /// Recipients refused while others of their message were taken.
    pub(crate) recipients_refused: u64,
    /// Messages refused for good.
    pub(crate) refused: u64,
    /// Messages given up after all attempts.
    pub(crate) given_up: u64,
    /// Messages whose final dot was sent and not answered.
    pub(crate) unknown: u64,
    /// Attempts that were repeated.
    pub(crate) retried: u64,
    /// Connections made.
    pub(crate) connections: u64,
    /// Parallel sessions.
    pub(crate) sessions: u64,
    /// Octets of each message's content.
    pub(crate) message_size: u64,
    /// From the start to the last session's end.
    pub(crate) seconds: f64,
    /// The times of acknowledged messages.
    pub(crate) latencies: Latencies,
    /// The first few different reasons why messages were not taken.
    pub(crate) failures: Vec<String>,
}

impl SourceReport {
    /// Adds what one core has done.
    pub(crate) fn add(&mut self, counts: &Counts, latencies: &Latencies, recipients: u64) {
        self.accepted += counts.accepted;
        self.recipients += recipients;
        self.recipients_refused += counts.recipients_refused;
        self.refused += counts.refused;
        self.given_up += counts.given_up;
        self.unknown += counts.unknown;
        self.retried += counts.retried;
        self.connections += counts.connections;
        self.latencies.reply.add(&latencies.reply);
        self.latencies.transaction.add(&latencies.transaction);
    }

    /// Acknowledged messages a second.
    pub(crate) fn rate(&self) -> f64 {
        per_second(self.accepted, self.seconds)
    }
}

impl Report for SourceReport {
    fn text(&self) -> String {
        let mut text = format!(
            "source: {} of {} messages of {} octets accepted in {:.2} s: {:.0} messages/s, {:.1} MiB/s\n\
             \x20 {} sessions, {} connections, {} recipients\n\
             \x20 refused {}, given up {}, unknown {}, recipients refused {}, attempts repeated {}\n",
            self.accepted,
            self.asked,
            self.message_size,
            self.seconds,
            self.rate(),
            self.rate() * self.message_size as f64 / f64::from(1 << 20),
            self.sessions,
            self.connections,
            self.recipients,
            self.refused,
            self.given_up,
            self.unknown,
            self.recipients_refused,
            self.retried,
        );
        if self.accepted > 0 {
            // Writing to a string does not fail.
            let _ = writeln!(text, "  final dot to reply: {}", self.latencies.reply.text());
            let _ = writeln!(text, "  whole transaction:  {}", self.latencies.transaction.text());
        }
        for failure in &self.failures {
            let _ = writeln!(text, "  seen: {failure}");
        }
        text
    }

    fn json(&self) -> Value {
        json!({
            "asked": self.asked,
            "accepted": self.accepted,
            "recipients": self.recipients,
            "recipients_refused": self.recipients_refused,
            "refused": self.refused,
            "given_up": self.given_up,
            "unknown": self.unknown,
            "retried": self.retried,
            "connections": self.connections,
            "sessions": self.sessions,
            "message_size": self.message_size,
            "seconds": self.seconds,
            "messages_per_second": self.rate(),
            "dot_to_reply": self.latencies.reply.json(),
            "transaction": self.latencies.transaction.json(),
            "failures": self.failures,
        })
    }
}

/// What a sink has taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct SinkReport {
    /// Connections accepted.
    pub(crate) connections: u64,
    /// Messages answered with a 250, copies and foreign ones included.
    pub(crate) messages: u64,
    /// Octets of their contents as received.
    pub(crate) octets: u64,
    /// Messages with an id that arrived as they were sent, copies included.
    pub(crate) intact: u64,
    /// Different (message, recipient) among the intact ones.
    pub(crate) recipients: u64,
    /// Repeated (message, recipient) among the intact ones.
    pub(crate) duplicates: u64,
    /// Messages that were not as they were sent.
    pub(crate) damaged: u64,
    /// Messages without an id.
    pub(crate) foreign: u64,
    /// Connections closed after the final dot, as ordered; these messages count nowhere else.
    pub(crate) closed_after_dot: u64,
    /// Recipients refused for now, as ordered.
    pub(crate) recipients_4xx: u64,
    /// Recipients refused for good, as ordered.
    pub(crate) recipients_5xx: u64,
    /// Commands that were out of order, unknown, or malformed.
    pub(crate) errors: u64,
    /// From the first message to the last.
    pub(crate) seconds: f64,
    /// The first few damaged messages, each with what is wrong.
    pub(crate) damages: Vec<String>,
}

impl Report for SinkReport {
    fn text(&self) -> String {
        let mut text = format!(
            "sink: {} messages in {:.2} s: {:.0} messages/s, {:.1} MiB/s, {} connections\n\
             \x20 intact {}, damaged {}, without id {}, recipients {}, duplicates {}\n",
            self.messages,
            self.seconds,
            per_second(self.messages, self.seconds),
            per_second(self.octets, self.seconds) / f64::from(1 << 20),
            self.connections,
            self.intact,
            self.damaged,
            self.foreign,
            self.recipients,
            self.duplicates,
        );
        if self.closed_after_dot + self.recipients_4xx + self.recipients_5xx + self.errors > 0 {
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "  recipients refused: 4xx {}, 5xx {}; closed after the dot {}; bad commands {}",
                self.recipients_4xx, self.recipients_5xx, self.closed_after_dot, self.errors
            );
        }
        for damage in &self.damages {
            let _ = writeln!(text, "  damaged: {damage}");
        }
        text
    }

    fn json(&self) -> Value {
        json!({
            "connections": self.connections,
            "messages": self.messages,
            "octets": self.octets,
            "intact": self.intact,
            "recipients": self.recipients,
            "duplicates": self.duplicates,
            "damaged": self.damaged,
            "foreign": self.foreign,
            "closed_after_dot": self.closed_after_dot,
            "recipients_4xx": self.recipients_4xx,
            "recipients_5xx": self.recipients_5xx,
            "errors": self.errors,
            "seconds": self.seconds,
            "damages": self.damages,
        })
    }
}

/// A rate that is 0 rather than infinite when no time has passed.
pub(crate) fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn percentiles_come_from_all_cores() {
        let (mut a, mut b) = (Latency::default(), Latency::default());
        for time in 1..=50 {
            a.record(ms(time));
            b.record(ms(time + 50));
        }
        a.add(&b);
        let json = a.json();
        assert_eq!(json["count"], 100);
        let near = |name: &str, ms: u64| {
            let us = json[name].as_u64().unwrap();
            assert!(us.abs_diff(ms * 1000) <= ms * 2, "{name} is {us} us");
        };
        near("p50_us", 50);
        near("p90_us", 90);
        near("p99_us", 99);
        near("max_us", 100);
    }

    #[test]
    fn extreme_times_are_kept_within_bounds() {
        let mut latency = Latency::default();
        latency.record(Duration::ZERO);
        latency.record(Duration::MAX);
        assert_eq!(latency.json()["count"], 2);
        assert!(latency.json()["max_us"].as_u64().unwrap() >= LATENCY_MAX_US);
    }

    #[test]
    fn source_report_adds_cores_up() {
        let mut report = SourceReport {
            asked: 30,
            message_size: 1 << 20,
            seconds: 2.0,
            ..SourceReport::default()
        };
        let mut latencies = Latencies::default();
        latencies.record(ms(1), ms(5));
        let counts = Counts { accepted: 10, unknown: 1, retried: 2, ..Counts::default() };
        report.add(&counts, &latencies, 20);
        report.add(&counts, &latencies, 20);
        let json = report.json();
        assert_eq!(json["accepted"], 20);
        assert_eq!(json["recipients"], 40);
        assert_eq!(json["unknown"], 2);
        assert_eq!(json["dot_to_reply"]["count"], 2);
        assert!(report.text().starts_with(
            "source: 20 of 30 messages of 1048576 octets accepted in 2.00 s: 10 messages/s, 10.0 MiB/s\n"
        ));
    }

    #[test]
    fn sink_report_names_what_is_damaged() {
        let report = SinkReport {
            messages: 3,
            damaged: 1,
            damages: vec!["00000001-00000002: checksum".to_owned()],
            ..SinkReport::default()
        };
        assert!(report.text().contains("  damaged: 00000001-00000002: checksum\n"));
        assert!(report.text().contains("3 messages in 0.00 s: 0 messages/s"));
        assert_eq!(report.json()["damaged"], 1);
    }
}
