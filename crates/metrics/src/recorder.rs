//! The recorder: the exporter's counters and gauges, and histograms of our own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Metadata, Recorder, SharedString, Unit,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use crate::catalog;
use crate::exposition::Exposition;
use crate::histogram::FixedHistogram;

/// Name, then rendered labels, then the histogram: the order of the exposition.
type Series = BTreeMap<&'static str, BTreeMap<String, Arc<FixedHistogram>>>;

/// All histograms; locked to register and to render, never to record.
#[derive(Debug, Default)]
pub(crate) struct Histograms {
    series: Mutex<Series>,
}

impl Histograms {
    fn register(&self, key: &Key) -> Histogram {
        // A name outside the catalog has no help text and no buckets, so it has no series either.
        let Some(metric) = catalog::find(key.name()) else { return Histogram::noop() };
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let histogram = series
            .entry(metric.name)
            .or_default()
            .entry(render_labels(key.labels()))
            .or_insert_with(|| Arc::new(FixedHistogram::new(catalog::buckets(metric.name))));
        Histogram::from_arc(Arc::clone(histogram))
    }

    pub(crate) fn render(&self, page: &mut String) {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, by_labels) in &*series {
            let help = catalog::find(name).map_or("", |metric| metric.help);
            let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} histogram");
            for (labels, histogram) in by_labels {
                render_one(page, name, labels, histogram);
            }
            page.push('\n');
        }
    }
}

fn render_one(page: &mut String, name: &str, labels: &str, histogram: &FixedHistogram) {
    let separator = if labels.is_empty() { "" } else { "," };
    let bounds = histogram.bounds().iter().map(f64::to_string).chain([String::from("+Inf")]);
    let mut total = 0_u64;
    for (bound, count) in bounds.zip(histogram.counts()) {
        total = total.saturating_add(count);
        let _ = writeln!(page, "{name}_bucket{{{labels}{separator}le=\"{bound}\"}} {total}");
    }
    let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    let _ = writeln!(page, "{name}_sum{braces} {}", histogram.sum());
    let _ = writeln!(page, "{name}_count{braces} {total}");
}

fn render_labels<'a>(labels: impl Iterator<Item = &'a Label>) -> String {
    let mut rendered = String::new();
    for label in labels {
        if !rendered.is_empty() {
            rendered.push(',');
        }
        let _ = write!(rendered, "{}=\"", label.key());
        for character in label.value().chars() {
            match character {
                '"' => rendered.push_str("\\\""),
                '\\' => rendered.push_str("\\\\"),
                '\n' => rendered.push_str("\\n"),
                other => rendered.push(other),
            }
        }
        rendered.push('"');
    }
    rendered
}

/// The recorder behind every handle of this crate.
#[derive(Debug)]
pub struct MetricsRecorder {
    prometheus: PrometheusRecorder,
    histograms: Arc<Histograms>,
}

impl MetricsRecorder {
    /// A recorder and the exposition that reads it, not installed anywhere.
    ///
    /// For tests, with `metrics::with_local_recorder`; the server calls [`crate::install`].
    pub fn new() -> (Self, Exposition) {
        let prometheus = PrometheusBuilder::new().build_recorder();
        let histograms = Arc::new(Histograms::default());
        let exposition = Exposition::new(prometheus.handle(), Arc::clone(&histograms));
        (Self { prometheus, histograms }, exposition)
    }
}

impl Recorder for MetricsRecorder {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.prometheus.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.prometheus.describe_gauge(key, unit, description);
    }

    /// Nothing to keep: the catalog holds the help text of every histogram.
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.prometheus.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.prometheus.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.histograms.register(key)
    }
}

#[cfg(test)]
mod tests {
    use metrics::HistogramFn as _;
    use proptest::prelude::*;

    use super::*;

    /// Reads the value of one label back, as a scraper does.
    fn value(rendered: &str) -> Option<String> {
        let mut characters = rendered.strip_prefix("name=\"")?.strip_suffix('"')?.chars();
        let mut value = String::new();
        while let Some(character) = characters.next() {
            value.push(match character {
                '\\' => match characters.next()? {
                    'n' => '\n',
                    escaped @ ('"' | '\\') => escaped,
                    _ => return None,
                },
                '"' | '\n' => return None,
                plain => plain,
            });
        }
        Some(value)
    }

    proptest! {
        #[test]
        fn any_label_comes_back(text in any::<String>(), odd in "[\"\\\\\na]{0,9}") {
            for text in [text, odd] {
                let rendered = render_labels([Label::new("name", text.clone())].iter());
                prop_assert_eq!(value(&rendered), Some(text));
            }
        }

        /// Each line of a page is a comment or a sample with a number.
        #[test]
        fn a_page_is_made_of_samples(values in prop::collection::vec(0.0..1e9_f64, 1..20)) {
            let histogram = FixedHistogram::new(&[0.1, 1.0, 10.0]);
            for value in &values {
                histogram.record(*value);
            }
            let mut page = String::new();
            render_one(&mut page, "x", "core=\"0\"", &histogram);
            let mut before = 0;
            for line in page.lines() {
                let (name, number) = line.rsplit_once(' ').unwrap();
                prop_assert!(number.parse::<f64>().unwrap() >= 0.0);
                if name.starts_with("x_bucket") {
                    let count: u64 = number.parse().unwrap();
                    prop_assert!(count >= before, "buckets add up");
                    before = count;
                }
            }
            prop_assert_eq!(before, values.len() as u64);
        }
    }
}
