//! The runtime of one simulated host.
