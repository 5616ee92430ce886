//! The vocabulary of everything Ringpost counts, measures and reports.
//!
//! Three things live here and nowhere else:
//!
//! - the [`catalog`]: name, kind, unit, help text and labels of every metric;
//! - the handles that count: [`ShardMetrics`] for the mail path of one core, [`ControlMetrics`]
//!   for the process. A shard registers its handles once, at start, and then only increments:
//!   no lookup by name, no lock, no allocation, no cache line shared with another core;
//! - the [`event`] records, one JSON line per thing that happened to a recipient.
//!
//! Labels come from closed sets ([`label`]): a domain, an address or any other text chosen by a
//! peer never becomes a label value.
//!
//! Counters and gauges are kept by `metrics-exporter-prometheus`. Histograms are kept by
//! [`MetricsRecorder`] itself, in fixed buckets: the exporter's own keep every sample until somebody
//! drains them, so they would grow without bound if the control thread stalled.

pub mod catalog;
pub mod event;
pub mod json;
pub mod label;

mod control;
mod exposition;
mod family;
mod histogram;
mod listener;
mod recorder;
mod shard;
mod table;

#[cfg(test)]
mod tests;

pub use control::ControlMetrics;
pub use exposition::{Exposition, InstallError, install};
pub use family::Family;
pub use listener::ListenerMetrics;
pub use metrics::{Counter, Gauge, Histogram, with_local_recorder};
pub use recorder::MetricsRecorder;
pub use shard::ShardMetrics;
