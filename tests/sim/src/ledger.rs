//! The account: what became of each recipient of each message.
