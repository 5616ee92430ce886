//! The one source of randomness.
