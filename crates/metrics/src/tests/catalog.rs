//! The catalog against the names rules, the exposition and the documentation.

use std::collections::BTreeSet;
use std::path::Path;

use crate::catalog::{self, Kind, Scope, Unit};
use crate::label::{Limit, Outcome, QueueState};
use crate::{ControlMetrics, Exposition, ListenerMetrics, MetricsRecorder, ShardMetrics};

fn with_recorder<T>(body: impl FnOnce() -> T) -> (T, Exposition) {
    let (recorder, exposition) = MetricsRecorder::new();
    let value = metrics::with_local_recorder(&recorder, || {
        catalog::describe_all();
        body()
    });
    (value, exposition)
}

#[test]
fn names_follow_the_rules() {
    let mut seen = BTreeSet::new();
    for metric in catalog::all() {
        let name = metric.name;
        assert!(seen.insert(name), "{name} twice");
        assert!(name.starts_with("ringpost_"), "{name}");
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
        assert_eq!(metric.kind == Kind::Counter, name.ends_with("_total"), "{name}");
        let base = name.trim_end_matches("_total").trim_end_matches("_max");
        assert_eq!(metric.unit == Unit::Seconds, base.ends_with("_seconds"), "{name}");
        assert_eq!(metric.unit == Unit::Bytes, base.contains("_bytes"), "{name}");
        assert!(metric.help.ends_with('.'), "{name}: {}", metric.help);
    }
}

#[test]
fn bucket_bounds_ascend() {
    for metric in catalog::all().filter(|metric| metric.kind == Kind::Histogram) {
        let bounds = catalog::buckets(metric.name);
        assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]), "{}", metric.name);
    }
}

#[test]
fn registering_makes_exactly_the_catalog_visible() {
    let ((), exposition) = with_recorder(|| {
        ShardMetrics::register(0);
        ShardMetrics::register(1);
        ListenerMetrics::register(0, "a");
        ListenerMetrics::register(1, "b");
        ControlMetrics::register();
    });
    let page = exposition.render();
    let shown: BTreeSet<(&str, &str)> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|rest| rest.split_once(' '))
        .collect();
    let known: BTreeSet<(&str, &str)> =
        catalog::all().map(|metric| (metric.name, metric.kind.as_str())).collect();
    assert_eq!(shown, known);
    for metric in catalog::all() {
        assert!(page.contains(&format!("# HELP {} {}\n", metric.name, metric.help)), "{metric:?}");
        let per_core = page.contains(&format!("{}{{core=\"1\"", metric.name))
            || page.contains(&format!("{}_bucket{{core=\"1\"", metric.name));
        assert_eq!(per_core, metric.scope != Scope::Process, "{}", metric.name);
        let per_listener = page.contains(&format!("{}{{core=\"1\",listener=\"b\"", metric.name))
            || page.contains(&format!("{}_bucket{{core=\"1\",listener=\"b\"", metric.name));
        assert_eq!(per_listener, metric.scope == Scope::Listener, "{}", metric.name);
        for value in metric.label.map_or(&[][..], |(_, values)| values) {
            let label = format!("{}{{core=\"1\",", metric.name);
            assert!(
                page.lines()
                    .any(|line| line.starts_with(&label)
                        && line.contains(&format!("=\"{value}\"}} 0"))),
                "{} {value}",
                metric.name
            );
        }
    }
}

#[test]
fn handles_count_into_their_own_series() {
    let (shards, exposition) =
        with_recorder(|| [ShardMetrics::register(0), ShardMetrics::register(1)]);
    shards[0].messages_held.increment(3);
    shards[1].messages_held.increment(4);
    shards[1].outcomes.increment(Outcome::Bounced);
    shards[1].limit_hits.with(Limit::Descriptors).increment(2);
    shards[0].queue_state.set_only(QueueState::Open);
    shards[0].queue_state.set_only(QueueState::Poisoned);
    shards[0].commit_bytes.absolute(9);
    shards[0].commit_bytes.absolute(9);
    let page = exposition.render();
    for line in [
        "ringpost_messages_held_total{core=\"0\"} 3",
        "ringpost_messages_held_total{core=\"1\"} 4",
        "ringpost_outcomes_total{core=\"1\",outcome=\"bounced\"} 1",
        "ringpost_outcomes_total{core=\"0\",outcome=\"bounced\"} 0",
        "ringpost_limit_hits_total{core=\"1\",limit=\"descriptors\"} 2",
        "ringpost_queue_state{core=\"0\",state=\"open\"} 0",
        "ringpost_queue_state{core=\"0\",state=\"poisoned\"} 1",
        "ringpost_commit_bytes_total{core=\"0\"} 9",
    ] {
        assert!(page.lines().any(|shown| shown == line), "{line}\n{page}");
    }
}

#[test]
fn histograms_accumulate_over_buckets() {
    let (shard, exposition) = with_recorder(|| ShardMetrics::register(7));
    for value in [1.0, 2.0, 2.5, 5000.0, f64::NAN] {
        shard.commit_records.record(value);
    }
    let page = exposition.render();
    for line in [
        "ringpost_commit_records_bucket{core=\"7\",le=\"1\"} 1",
        "ringpost_commit_records_bucket{core=\"7\",le=\"2\"} 2",
        "ringpost_commit_records_bucket{core=\"7\",le=\"4\"} 3",
        "ringpost_commit_records_bucket{core=\"7\",le=\"1024\"} 3",
        "ringpost_commit_records_bucket{core=\"7\",le=\"+Inf\"} 4",
        "ringpost_commit_records_sum{core=\"7\"} 5005.5",
        "ringpost_commit_records_count{core=\"7\"} 4",
    ] {
        assert!(page.lines().any(|shown| shown == line), "{line}\n{page}");
    }
}

#[test]
fn the_metrics_page_is_the_catalog() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/METRICS.md");
    let generated = catalog::markdown();
    if std::env::var_os("RINGPOST_BLESS").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(
        written == generated,
        "docs/METRICS.md is out of date: RINGPOST_BLESS=1 cargo test -p ringpost-metrics"
    );
}

/// Every word of a text that looks like a metric of ours.
fn metric_words(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("ringpost_"))
        .collect()
}

#[test]
fn alert_rules_use_metrics_and_label_values_that_exist() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/prometheus-alerts.yaml");
    let rules = std::fs::read_to_string(path).unwrap();
    let words = metric_words(&rules);
    assert!(words.len() > 5, "{words:?}");
    for word in words {
        let histogram = word.strip_suffix("_bucket").and_then(catalog::find);
        let known = match histogram {
            Some(metric) => metric.kind == Kind::Histogram,
            None => catalog::find(word).is_some_and(|metric| metric.kind != Kind::Histogram),
        };
        assert!(known, "{word}");
    }
    for selector in rules.split('{').skip(1).filter(|rest| rest.contains("=\"")) {
        let (label, rest) = selector.split_once("=\"").unwrap();
        let (value, _) = rest.split_once('"').unwrap();
        let exists = catalog::all()
            .filter_map(|metric| metric.label)
            .any(|(name, values)| name == label && values.contains(&value));
        assert!(exists, "{label}={value}");
    }
}
