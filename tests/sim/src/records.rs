//! What the event records say, held against what everybody else knows.
//!
//! A record may come twice, after a crash, and then has to say the same. Of what it claims, each
//! part is looked for in the account: a delivery needs a copy that was answered well, a bounce
//! needs a refusal, an expiry an age, and a report needs an originator.

use std::net::SocketAddr;
use std::time::Instant;

use ringpost_protocol::notify::Notify;
use serde_json::Value;

use crate::ledger::{Fate, FateKind, Fingerprint, Key, Ledger, Origin, Party, Recipient};
use crate::tls::TLS_PORT;

/// What the configuration lets be checked of event records.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expected {
    /// The least age at which a message of an injector may expire, in milliseconds.
    pub lifetime_ms: u64,
    /// The least age at which a report, or another message with the null reverse-path, may expire.
    pub bounce_lifetime_ms: u64,
}

/// How much earlier mail may expire: the two clocks are not rounded together.
const LIFETIME_SLACK_MS: u64 = 10;

/// What a record says of one recipient.
struct Claim<'a> {
    record: &'a Value,
    key: Key,
    now: Instant,
}

impl Ledger {
    /// Takes event records, one to a line, as the event log has them.
    pub fn event_lines(&mut self, lines: &[u8], now: Instant, expected: &Expected) {
        for line in lines.split(|octet| *octet == b'\n').filter(|line| !line.is_empty()) {
            self.event_line(line, now, expected);
        }
    }

    fn event_line(&mut self, line: &[u8], now: Instant, expected: &Expected) {
        let Ok(record) = serde_json::from_slice::<Value>(line) else {
            let text = String::from_utf8_lossy(line).into_owned();
            return self.violate("event record that is not JSON", now, text);
        };
        let name = text(&record, "record").to_owned();
        let sum = Fingerprint::of(line).sum;
        if let Some(before) = self.records.insert(name.clone(), sum) {
            if before != sum {
                let text = format!("{name}: {record}");
                self.violate("event record that says two things", now, text);
            }
            return;
        }
        let kind = text(&record, "type").to_owned();
        *self.counts.entry(kind.clone()).or_default() += 1;
        match kind.as_str() {
            "received" => self.received(&record, now),
            "purged" => {
                self.purged_recipients += record["recipients"].as_u64().unwrap_or_default();
            }
            "delivered" | "deferred" | "delayed" | "bounced" | "expired" => {
                let Some(key) = self.key_of(&record, now) else { return };
                let claim = Claim { record: &record, key, now };
                self.check_tls_of(&claim);
                match kind.as_str() {
                    "delivered" => self.delivered(&claim),
                    "bounced" => self.bounced(&claim),
                    "expired" => self.expired(&claim, expected),
                    "delayed" => self.reported(&claim, false),
                    _ => {}
                }
            }
            other => self.violate("event record of no known type", now, other.to_owned()),
        }
    }

    fn received(&mut self, record: &Value, now: Instant) {
        let id = text(record, "id").to_owned();
        let reverse_path = text(record, "reverse_path");
        let number = if text(record, "protocol") == "internal" {
            // The record of the bounce comes before it, and has entered the report.
            let Some(number) = self.number_of(&id) else {
                return self.violate("report without an outcome", now, record.to_string());
            };
            number
        } else if let Some(Party::Originator(number)) = Party::read(reverse_path) {
            self.name(number, &id, now);
            number
        } else {
            // Null: known by the acknowledgement, or by a later record, or not at all.
            let Some(number) = self.number_of(&id) else {
                let recipients = record["recipients"].as_u64().unwrap_or_default();
                self.strangers.insert(id, recipients);
                return;
            };
            number
        };
        let Some(message) = self.message_mut(number) else {
            return self.violate("event record of an unknown message", now, record.to_string());
        };
        message.received = Some(now);
        let recipients = message.accepted().count() as u64;
        if message.reverse_path != reverse_path || record["recipients"].as_u64() != Some(recipients)
        {
            let text = format!("{recipients} were accepted: {record}");
            self.violate("event record with another envelope", now, text);
        }
        self.check_tenant(number, record, now);
        let is_optional = self.message(number).is_some_and(|message| message.is_tls_optional);
        if (record["tls_optional"].as_bool() == Some(true)) != is_optional {
            self.violate("event record with another TLS-Required", now, record.to_string());
        }
    }

    /// A record tells of the tenant that the injector has named.
    fn check_tenant(&mut self, number: u32, record: &Value, now: Instant) {
        let tenant = self.message(number).and_then(|message| message.tenant.as_deref());
        if record["tenant"].as_str() != tenant {
            let text = format!("{tenant:?} was named: {record}");
            self.violate("event record with another tenant", now, text);
        }
    }

    /// Which recipient a record is about; its queue id and its number have to be those of the address.
    fn key_of(&mut self, record: &Value, now: Instant) -> Option<Key> {
        let id = text(record, "id");
        let address = text(record, "forward_path");
        // The number of the recipient stands behind the queue id.
        let name = text(record, "record").strip_prefix(id).and_then(|name| name.strip_prefix('.'));
        let index = name.and_then(|name| name.split('.').next()?.parse().ok()).unwrap_or(u64::MAX);
        let key = match Party::read(address) {
            Some(Party::Recipient(key)) => {
                let accepted = self.message(key.message)?.accepted();
                let rank =
                    accepted.take_while(|(number, _)| *number < key.recipient).count() as u64;
                (rank == index).then_some(key)
            }
            // Lines that were read back may come behind later ones; at rest it has to have an outcome.
            Some(Party::Originator(about)) => {
                let message = self.report(id, about, now);
                Some(Key { message, recipient: 0 })
            }
            None => None,
        };
        let known = key.and_then(|key| self.recipient(key));
        if known.is_none_or(|known| known.address != address) {
            self.violate("event record of an unknown recipient", now, record.to_string());
            return None;
        }
        let key = key?;
        self.name(key.message, id, now);
        self.check_tenant(key.message, record, now);
        let is_known = self.recipient(key).is_some_and(|recipient| recipient.accepted);
        if !is_known {
            self.violate("event record of a refused recipient", now, record.to_string());
        }
        Some(key)
    }

    /// Opportunistic TLS never costs an attempt where there could be none, and what a record says of TLS is what the host has seen.
    fn check_tls_of(&mut self, claim: &Claim<'_>) {
        let is_for_tls = matches!(text(claim.record, "stage"), "starttls" | "tls handshake");
        // A server that stops gives up what is under way.
        let is_stop =
            claim.record["reply"]["enhanced"] == "4.3.2" && claim.record["reply"]["code"].is_null();
        let remote = claim.record["remote"].as_str().and_then(|remote| remote.parse().ok());
        let comes_first = remote.is_some_and(|remote: SocketAddr| remote.port() == TLS_PORT);
        if is_for_tls && !is_stop && !comes_first && self.goes_without_tls(claim.key) {
            self.wrong("an attempt lost for want of TLS", claim);
        }
        let Some(recipient) = self.recipient(claim.key) else { return };
        if text(claim.record, "type") != "delivered" || recipient.confused {
            return;
        }
        let said = claim.record["tls_version"].as_str();
        let said = said.map(|_| claim.record["tls_verified"].as_bool() == Some(true));
        let mut takings =
            recipient.takings.iter().filter_map(|taking| self.takings.get(*taking)).peekable();
        // Of several copies, it is not known which one the server knows of.
        let is_seen = takings.peek().is_none() || takings.any(|taking| taking.tls == said);
        if !is_seen {
            self.wrong("a record of other TLS than there was", claim);
        }
    }

    fn delivered(&mut self, claim: &Claim<'_>) {
        self.end(claim, FateKind::Delivered);
        let Some(recipient) = self.recipient(claim.key) else { return };
        let has_copy = recipient.takings.iter().any(|taking| {
            self.takings.get(*taking).is_some_and(|taking| taking.told.is_some_and(is_good))
        });
        let is_confused = recipient.confused;
        let asked = recipient.asked().success;
        let mut good = recipient
            .takings
            .iter()
            .filter_map(|taking| self.takings.get(*taking))
            .filter(|taking| taking.told.is_some_and(is_good))
            .map(|taking| taking.reports);
        // Of several copies, it is not known which one the server knows of.
        let (any, all) = (good.clone().any(|reports| reports), good.all(|reports| reports));
        // A client that takes one reply for another may take one for that to the dot.
        if !has_copy && !is_confused {
            self.wrong("delivered without a copy", claim);
        }
        let Some(message) = self.message(claim.key.message) else { return };
        let may_report = asked && !message.reverse_path.is_empty();
        match claim.record["dsn_id"].as_str() {
            None if may_report && !any && !is_confused => {
                self.wrong("success without a report", claim);
            }
            Some(_) if !may_report || (all && !is_confused) => {
                self.wrong("report that nobody asked for", claim);
            }
            Some(id) => self.enter_report(claim, id, false),
            None => {}
        }
    }

    fn bounced(&mut self, claim: &Claim<'_>) {
        self.end(claim, FateKind::Bounced);
        self.reported(claim, true);
        if !self.has_cause(claim) {
            self.wrong("bounced without a cause", claim);
        }
    }

    fn expired(&mut self, claim: &Claim<'_>, expected: &Expected) {
        self.end(claim, FateKind::Expired);
        self.reported(claim, true);
        let Some(message) = self.message(claim.key.message) else { return };
        let least = if message.reverse_path.is_empty() {
            expected.bounce_lifetime_ms
        } else {
            expected.lifetime_ms
        };
        let queued = claim.record["queued_ms"].as_u64().unwrap_or_default();
        if queued + LIFETIME_SLACK_MS < least {
            self.wrong("expired before its time", claim);
        }
    }

    fn end(&mut self, claim: &Claim<'_>, kind: FateKind) {
        let Some(recipient) = self.recipient_mut(claim.key) else { return };
        let fate = *recipient.fate.get_or_insert(Fate { kind, at: claim.now });
        if fate.kind != kind {
            self.wrong("two ends of one recipient", claim);
        }
    }

    /// Whether anybody has given the server a reason to bounce.
    fn has_cause(&self, claim: &Claim<'_>) -> bool {
        let Some(recipient) = self.recipient(claim.key) else { return false };
        let Some(message) = self.message(claim.key.message) else { return false };
        if recipient.confused {
            return true;
        }
        let causes = &self.causes;
        let code = claim.record["reply"]["code"].as_u64().and_then(|code| u16::try_from(code).ok());
        if let Origin::Report { about, .. } = message.origin
            && (causes.reports.contains(&(about, None))
                || (code.is_some() && causes.reports.contains(&(about, code))))
        {
            return true;
        }
        if code.is_some_and(|code| causes.out_of_step.contains(&code)) {
            return true;
        }
        match (text(claim.record, "stage"), code) {
            ("greeting" | "ehlo", Some(code)) => causes.sessions.contains(&code),
            ("mail", Some(code)) if message.reverse_path.is_empty() => {
                causes.sessions.contains(&code) || recipient.refusals.contains(&code)
            }
            (_, Some(code)) => recipient.refusals.contains(&code),
            ("mail" | "idle", None) => {
                // The host's SIZE counts what the server has put in front as well.
                let least = causes.size_min.unwrap_or(usize::MAX);
                let size = claim.record["size"].as_u64().unwrap_or_default();
                let is_eight_bit = message.eight_bit || message.origin != Origin::Injector;
                size > least as u64
                    || (is_eight_bit && causes.lacks_eight_bit)
                    || (message.binary && causes.lacks_binary)
                    || (message.utf8 && causes.lacks_utf8)
                    || (message.requires_tls && causes.lacks_requiretls)
            }
            (_, None) => causes.has_no_way(recipient.domain()),
        }
    }

    /// Enters the report that a record speaks of.
    fn reported(&mut self, claim: &Claim<'_>, has_failed: bool) {
        let Some(message) = self.message(claim.key.message) else { return };
        let is_null = message.reverse_path.is_empty();
        let asked = self.recipient(claim.key).map_or(Notify::DEFAULT, Recipient::asked);
        let is_wanted = if has_failed { asked.failure } else { asked.delay };
        match claim.record["dsn_id"].as_str() {
            Some(_) if is_null => self.wrong("report on mail with the null reverse-path", claim),
            Some(_) if !is_wanted => self.wrong("report that nobody asked for", claim),
            None if !is_null && is_wanted => self.wrong("failure without a report", claim),
            None => {}
            Some(id) => self.enter_report(claim, id, has_failed),
        }
    }

    fn enter_report(&mut self, claim: &Claim<'_>, id: &str, has_failed: bool) {
        let number = self.report(id, claim.key.message, claim.now);
        let Some(report) = self.message_mut(number) else { return };
        let Origin::Report { about, expects, .. } = &mut report.origin else {
            return self.wrong("report with the queue id of a message", claim);
        };
        if *about != claim.key.message {
            return self.wrong("report on two messages", claim);
        }
        expects.insert(claim.key.recipient, has_failed);
    }

    fn wrong(&mut self, rule: &'static str, claim: &Claim<'_>) {
        let text = format!("{}: {}", claim.key, claim.record);
        self.violate(rule, claim.now, text);
    }
}

fn is_good(code: u16) -> bool {
    code / 100 == 2
}

fn text<'a>(record: &'a Value, field: &str) -> &'a str {
    record[field].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Taking;

    const KEY: Key = Key { message: 0, recipient: 1 };

    /// A message for two, of whom the server has taken the second only.
    fn ledger(originator: Option<&str>) -> Ledger {
        let mut ledger = Ledger::new(Instant::now());
        ledger.begin_life(ledger.start);
        ledger.begin(originator, &["a.test", "b.test"]);
        ledger.accepted(KEY);
        ledger.ack(0, ledger.start, "Q1");
        ledger
    }

    fn tell(ledger: &mut Ledger, kind: &str, more: &str) {
        let line = format!(
            "{{\"type\":\"{kind}\",\"id\":\"Q1\",\"record\":\"Q1.0.{kind}\",\
             \"forward_path\":\"m0.1@b.test\",\"queued_ms\":5000{more}}}\n"
        );
        let expected = Expected { lifetime_ms: 6000, bounce_lifetime_ms: 4000 };
        ledger.event_lines(line.as_bytes(), ledger.start, &expected);
    }

    fn rules(ledger: &Ledger) -> Vec<&'static str> {
        ledger.violations().iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn a_delivery_needs_a_copy_that_was_answered_well() {
        for (told, expected) in [(Some(250), vec![]), (Some(450), vec!["delivered without a copy"])]
        {
            let mut ledger = ledger(Some("home.test"));
            let now = ledger.start;
            ledger.take(Taking {
                message: 0,
                recipients: vec![1],
                life: 1,
                begun: now,
                at: now,
                told,
                confirmed: None,
                reports: false,
                tls: None,
            });
            tell(&mut ledger, "delivered", "");
            assert_eq!(rules(&ledger), expected);
        }
        let mut ledger = ledger(Some("home.test"));
        tell(&mut ledger, "delivered", "");
        assert_eq!(rules(&ledger), ["delivered without a copy"]);
    }

    #[test]
    fn a_bounce_needs_a_refusal_with_its_code() {
        let bounce = ",\"stage\":\"rcpt\",\"reply\":{\"code\":550},\"dsn_id\":\"Q2\"";
        let mut ledger = ledger(Some("home.test"));
        ledger.refuse(Party::Recipient(KEY), 550);
        tell(&mut ledger, "bounced", bounce);
        assert_eq!(rules(&ledger), [""; 0]);
        let mut ledger = self::ledger(Some("home.test"));
        ledger.refuse(Party::Recipient(KEY), 554);
        tell(&mut ledger, "bounced", bounce);
        assert_eq!(rules(&ledger), ["bounced without a cause"]);
        let route = ",\"stage\":\"route\",\"reply\":{\"text\":\"\"},\"dsn_id\":\"Q2\"";
        let mut ledger = self::ledger(Some("home.test"));
        ledger.causes().no_way("b.test");
        tell(&mut ledger, "bounced", route);
        assert_eq!(rules(&ledger), [""; 0]);
        let mut ledger = self::ledger(Some("home.test"));
        ledger.causes().no_way("a.test");
        tell(&mut ledger, "bounced", route);
        assert_eq!(rules(&ledger), ["bounced without a cause"]);
    }

    #[test]
    fn a_failure_is_reported_unless_the_reverse_path_is_null() {
        let code = ",\"stage\":\"rcpt\",\"reply\":{\"code\":550}";
        let mut from_null = ledger(None);
        from_null.refuse(Party::Recipient(KEY), 550);
        tell(&mut from_null, "bounced", code);
        assert_eq!(rules(&from_null), [""; 0]);
        let mut from_null = ledger(None);
        from_null.refuse(Party::Recipient(KEY), 550);
        tell(&mut from_null, "bounced", &format!("{code},\"dsn_id\":\"Q2\""));
        assert_eq!(rules(&from_null), ["report on mail with the null reverse-path"]);
        let mut from_some = ledger(Some("home.test"));
        from_some.refuse(Party::Recipient(KEY), 550);
        tell(&mut from_some, "bounced", code);
        assert_eq!(rules(&from_some), ["failure without a report"]);
    }

    #[test]
    fn nothing_expires_before_its_time_and_ends_twice() {
        let mut early = ledger(Some("home.test"));
        tell(&mut early, "expired", ",\"dsn_id\":\"Q2\"");
        assert_eq!(rules(&early), ["expired before its time"]);
        let mut ledger = ledger(None);
        tell(&mut ledger, "expired", "");
        assert_eq!(rules(&ledger), [""; 0]);
        ledger.refuse(Party::Recipient(KEY), 550);
        tell(&mut ledger, "bounced", ",\"stage\":\"rcpt\",\"reply\":{\"code\":550}");
        assert_eq!(rules(&ledger), ["two ends of one recipient"]);
    }

    #[test]
    fn a_record_may_come_twice_but_not_otherwise() {
        let mut ledger = ledger(None);
        tell(&mut ledger, "expired", "");
        tell(&mut ledger, "expired", "");
        assert_eq!(ledger.counts["expired"], 1);
        assert_eq!(rules(&ledger), [""; 0]);
        tell(&mut ledger, "expired", ",\"attempts\":3");
        assert_eq!(rules(&ledger), ["event record that says two things"]);
    }

    #[test]
    fn records_of_strangers_and_of_refused_recipients_are_wrong() {
        let mut ledger = ledger(None);
        let expected = Expected::default();
        let line = |to: &str, number: u32| {
            format!(
                "{{\"type\":\"deferred\",\"id\":\"Q1\",\"record\":\"Q1.{number}.{to}\",\
                 \"forward_path\":\"{to}\"}}\n"
            )
        };
        ledger.event_lines(line("m0.0@a.test", 0).as_bytes(), ledger.start, &expected);
        assert_eq!(rules(&ledger), ["event record of a refused recipient"]);
        ledger.event_lines(line("m9.0@a.test", 0).as_bytes(), ledger.start, &expected);
        ledger.event_lines(line("m0.1@b.test", 1).as_bytes(), ledger.start, &expected);
        let internal = br#"{"type":"received","id":"Q9","record":"Q9","protocol":"internal"}"#;
        ledger.event_lines(internal, ledger.start, &expected);
        assert_eq!(rules(&ledger)[2..], ["report without an outcome"]);
    }
}
