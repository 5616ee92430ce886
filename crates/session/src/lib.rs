//! Both ends of an SMTP session as machines without I/O.
//!
//! [`server::ServerSession`] is the end that accepts mail, [`client::ClientSession`] the end that
//! delivers it. Neither knows a socket or a clock: octets and instants go in by `handle_*`, octets,
//! events and deadlines come out by `transmit` and `poll_*`. So every dialogue can be replayed in a
//! test, cut at every octet and at every deadline.
//!
//! # Ideas
//!
//! - **One buffer out.** All replies to what one read brought, and all commands of one pipelined
//!   group, lie in one buffer, so that the driver needs one write for them.
//! - **No message without a full account.** A server session that has announced content with
//!   [`server::ServerEvent::DataStarted`] goes on to say either that the message was received or that
//!   it was aborted. A client session that has started a transaction ends it with exactly one report,
//!   which has exactly one verdict for each recipient.
//! - **Doubt ends a session.** After anything that may have put the two ends out of step, nothing
//!   more is believed or sent, and the connection closes.
//! - **Deadlines are for steps, not reads.** A peer that sends an octet now and then is cut off like
//!   one that sends none; see [`timer`].

#![forbid(unsafe_code)]

pub mod client;
pub mod server;
pub mod timer;
