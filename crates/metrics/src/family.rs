//! Handles of one metric for every value of a closed label.

use std::marker::PhantomData;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata};

use crate::catalog::Kind;
use crate::label::ClosedLabel;

/// One handle for each value of the label `L`, all registered at start.
///
/// Shape: `L::VALUES.len()` handles of type `H`. Picking one is an array index.
#[derive(Debug, Clone)]
pub struct Family<L, H> {
    handles: Box<[H]>,
    fallback: H,
    label: PhantomData<L>,
}

impl<L: ClosedLabel, H> Family<L, H> {
    /// The handle of one label value.
    pub fn with(&self, value: L) -> &H {
        self.handles.get(value.index()).unwrap_or(&self.fallback)
    }
}

impl<L: ClosedLabel> Family<L, Counter> {
    /// Adds one to the counter of a label value.
    pub fn increment(&self, value: L) {
        self.with(value).increment(1);
    }
}

impl<L: ClosedLabel> Family<L, Gauge> {
    /// Makes `value` 1 and every other label value 0: a state set.
    pub fn set_only(&self, value: L) {
        for (index, gauge) in self.handles.iter().enumerate() {
            gauge.set(if index == value.index() { 1.0 } else { 0.0 });
        }
    }
}

/// What the tables of metrics can hold.
pub(crate) trait Handle: Sized {
    /// The Prometheus type.
    const KIND: Kind;
    /// Name and values of the label this handle adds, if any.
    const LABEL: Option<(&'static str, &'static [&'static str])>;

    /// Registers with the current recorder.
    fn register(name: &'static str, labels: Vec<Label>) -> Self;

    /// A handle that counts nothing.
    fn noop() -> Self;
}

const METADATA: Metadata<'static> = Metadata::new("ringpost", Level::INFO, None);

impl Handle for Counter {
    const KIND: Kind = Kind::Counter;
    const LABEL: Option<(&'static str, &'static [&'static str])> = None;

    fn register(name: &'static str, labels: Vec<Label>) -> Self {
        let key = Key::from_parts(name, labels);
        metrics::with_recorder(|recorder| recorder.register_counter(&key, &METADATA))
    }

    fn noop() -> Self {
        Self::noop()
    }
}

impl Handle for Gauge {
    const KIND: Kind = Kind::Gauge;
    const LABEL: Option<(&'static str, &'static [&'static str])> = None;

    fn register(name: &'static str, labels: Vec<Label>) -> Self {
        let key = Key::from_parts(name, labels);
        metrics::with_recorder(|recorder| recorder.register_gauge(&key, &METADATA))
    }

    fn noop() -> Self {
        Self::noop()
    }
}

impl Handle for Histogram {
    const KIND: Kind = Kind::Histogram;
    const LABEL: Option<(&'static str, &'static [&'static str])> = None;

    fn register(name: &'static str, labels: Vec<Label>) -> Self {
        let key = Key::from_parts(name, labels);
        metrics::with_recorder(|recorder| recorder.register_histogram(&key, &METADATA))
    }

    fn noop() -> Self {
        Self::noop()
    }
}

impl<L: ClosedLabel, H: Handle> Handle for Family<L, H> {
    const KIND: Kind = H::KIND;
    const LABEL: Option<(&'static str, &'static [&'static str])> = Some((L::NAME, L::VALUES));

    fn register(name: &'static str, labels: Vec<Label>) -> Self {
        let with_value = |value: &'static str| {
            let mut all = labels.clone();
            all.push(Label::from_static_parts(L::NAME, value));
            H::register(name, all)
        };
        Self {
            handles: L::VALUES.iter().map(|value| with_value(value)).collect(),
            fallback: H::noop(),
            label: PhantomData,
        }
    }

    fn noop() -> Self {
        Self { handles: Box::default(), fallback: H::noop(), label: PhantomData }
    }
}
