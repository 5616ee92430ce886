//! What must hold after every step, at rest and after each crash.
