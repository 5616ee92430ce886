//! Name, kind, unit, help text and labels of every metric.

use std::fmt::Write as _;

use crate::control::CONTROL_ROWS;
use crate::listener::LISTENER_ROWS;
use crate::shard::SHARD_ROWS;

/// The Prometheus type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; starts at 0 with the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts of observations in fixed buckets, with their sum.
    Histogram,
}

impl Kind {
    /// The word used in the exposition and in the documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The base unit of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// Bytes.
    Bytes,
    /// Seconds, with fractions.
    Seconds,
}

impl Unit {
    /// The word used in the documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Bytes => "bytes",
            Self::Seconds => "seconds",
        }
    }

    fn facade(self) -> metrics::Unit {
        match self {
            Self::Count => metrics::Unit::Count,
            Self::Bytes => metrics::Unit::Bytes,
            Self::Seconds => metrics::Unit::Seconds,
        }
    }
}

/// Whose number it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One series for each core, told apart by the label `core`.
    Core,
    /// One series for each core and listener, told apart by the labels `core` and `listener`.
    Listener,
    /// One series for the process.
    Process,
}

/// One row of the catalog.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The full name, with unit and `_total` where they apply.
    pub name: &'static str,
    /// One sentence for the operator.
    pub help: &'static str,
    /// The base unit.
    pub unit: Unit,
    /// The Prometheus type.
    pub kind: Kind,
    /// Which of the labels `core` and `listener` the series carry.
    pub scope: Scope,
    /// Name and closed set of values of the metric's own label, if it has one.
    pub label: Option<(&'static str, &'static [&'static str])>,
}

/// Upper bounds for what happens within a core: 100 µs to 10 s.
const LATENCY_BUCKETS: &[f64] = &[
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0,
];
/// Upper bounds for what waits for the world: 10 ms to 5 days.
const TRANSIT_BUCKETS: &[f64] = &[
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0,
    86_400.0, 172_800.0, 432_000.0,
];
/// Upper bounds for records in a batch.
const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// The bucket bounds of a histogram, ascending, without the final `+Inf`.
pub fn buckets(name: &str) -> &'static [f64] {
    match name {
        "ringpost_commit_records" => BATCH_BUCKETS,
        "ringpost_delivery_duration_seconds" | "ringpost_transaction_duration_seconds" => {
            TRANSIT_BUCKETS
        }
        _ => LATENCY_BUCKETS,
    }
}

/// Every metric, in the order of the documentation.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    LISTENER_ROWS.iter().chain(SHARD_ROWS).chain(CONTROL_ROWS)
}

/// The row of a metric.
pub fn find(name: &str) -> Option<&'static Metric> {
    all().find(|metric| metric.name == name)
}

/// Tells the current recorder the help text and the unit of every metric.
pub fn describe_all() {
    metrics::with_recorder(|recorder| {
        for metric in all() {
            let unit = Some(metric.unit.facade());
            match metric.kind {
                Kind::Counter => {
                    recorder.describe_counter(metric.name.into(), unit, metric.help.into());
                }
                Kind::Gauge => {
                    recorder.describe_gauge(metric.name.into(), unit, metric.help.into());
                }
                Kind::Histogram => {
                    recorder.describe_histogram(metric.name.into(), unit, metric.help.into());
                }
            }
        }
    });
}

/// The catalog as a Markdown page; `docs/METRICS.md` is this text.
pub fn markdown() -> String {
    let mut page = String::from(INTRODUCTION);
    section(&mut page, "Per core and listener", LISTENER_ROWS);
    section(&mut page, "Per core", SHARD_ROWS);
    section(&mut page, "Per process", CONTROL_ROWS);
    page.push_str("\n## Label values\n\n");
    for metric in all() {
        if let Some((label, values)) = metric.label {
            let _ = writeln!(page, "- `{}`, `{label}`: {}", metric.name, values.join(", "));
        }
    }
    page.push_str("\n## Buckets\n\n");
    for metric in all().filter(|metric| metric.kind == Kind::Histogram) {
        let bounds: Vec<String> = buckets(metric.name).iter().map(f64::to_string).collect();
        let _ = writeln!(page, "- `{}`: {}", metric.name, bounds.join(", "));
    }
    page
}

const INTRODUCTION: &str = "# Metrics

Served in the Prometheus text format at `/metrics` of the `[control]` listener. This page is written
from the catalog in `crates/metrics` by its tests
(`RINGPOST_BLESS=1 cargo test -p ringpost-metrics`); do not edit it by hand.

Series are per core: sum over `core` for the server. Label values come from closed sets, or are names
of listeners in the configuration; no domain, address or other text chosen by a peer is ever a label.
";

fn section(page: &mut String, title: &str, rows: &[Metric]) {
    let _ = write!(page, "\n## {title}\n\n| metric | type | unit | label | meaning |\n");
    page.push_str("|---|---|---|---|---|\n");
    for metric in rows {
        let label = metric.label.map_or(String::new(), |(name, _)| format!("`{name}`"));
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {label} | {} |",
            metric.name,
            metric.kind.as_str(),
            metric.unit.as_str(),
            metric.help,
        );
    }
}
