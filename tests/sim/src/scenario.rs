//! From a seed to a whole run and its report.
