//! The `ringpost-load` binary.
fn main() {}
