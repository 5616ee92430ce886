//! Remote hosts that take mail, or do not.
