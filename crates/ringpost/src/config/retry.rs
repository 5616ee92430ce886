//! A retry schedule as it is written in the file: a list of delays, or a rule.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use super::units;

/// When a deferred recipient is tried again.
#[derive(Debug, Clone, PartialEq)]
pub enum Retry {
    /// The delays after the first, second, … attempt; the last one repeats.
    List(Vec<Duration>),
    /// Delays that grow by a factor.
    Exponential(Exponential),
}

/// Delays that grow by a factor.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exponential {
    /// The delay after the first attempt.
    #[serde(deserialize_with = "units::duration")]
    pub first: Duration,
    /// What each further one is multiplied by, from 1 to 100. Default: 2.
    #[serde(default = "doubling")]
    pub factor: f64,
    /// The longest delay.
    #[serde(deserialize_with = "units::duration")]
    pub max: Duration,
}

fn doubling() -> f64 {
    2.0
}

impl Default for Retry {
    fn default() -> Self {
        let minutes = [5, 10, 20, 40, 60, 120, 240];
        Self::List(minutes.into_iter().map(Duration::from_mins).collect())
    }
}

impl Retry {
    /// The delay after the first attempt; `None` when the list is empty.
    pub(super) fn first(&self) -> Option<Duration> {
        match self {
            Self::List(delays) => delays.first().copied(),
            Self::Exponential(rule) => Some(rule.first),
        }
    }
}

impl<'de> Deserialize<'de> for Retry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RetryVisitor;

        impl<'de> Visitor<'de> for RetryVisitor {
            type Value = Retry;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(
                    "a list of durations with units, such as [\"5m\", \"1h\"], or \
                     { first = \"5m\", factor = 2.0, max = \"4h\" }",
                )
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Retry, A::Error> {
                units::durations(SeqAccessDeserializer::new(list)).map(Retry::List)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Retry, A::Error> {
                let rule = MapAccessDeserializer::new(map);
                Exponential::deserialize(rule).map(Retry::Exponential)
            }
        }

        deserializer.deserialize_any(RetryVisitor)
    }
}
