//! Tests of the crate as a whole.

mod catalog;
mod event;
