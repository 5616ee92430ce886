//! The wire grammar of SMTP and the vocabulary of mail.
//!
//! Everything here is a value, a parser or a writer. There is no clock, socket, file, thread, global
//! or random source: time and entropy are arguments. Other crates decide what to do with what this
//! crate understands.
//!
//! # Ideas
//!
//! - **A parsed type is the only carrier of a peer's text.** An [`address::Mailbox`] or
//!   [`path::ForwardPath`] can be written to the wire, the log or the queue without escaping, because
//!   nothing that would need escaping can be in one. Reply texts are escaped when they are decoded.
//! - **Decoders take any split of the input.** [`line::LineDecoder`], [`data::ContentDecoder`] and
//!   [`reply::ReplyDecoder`] give the same answer whether the octets come one by one or all at once,
//!   and hold no more than the limits in [`limits`] say.
//! - **Strict by default.** Only CR LF ends a line, only CR LF . CR LF ends the content. What a
//!   listener may tolerate for the sake of old injectors is named by [`address::Syntax::Lenient`].
//!
//! # Modules
//!
//! - vocabulary: [`address`], [`path`], [`envelope`], [`hold`], [`label`], [`deliver_by`], [`priority`], [`notify`], [`status`], [`limits`], [`error`]
//! - in front of it: [`proxy`]
//! - dialogue: [`command`], [`parameter`], [`reply`], [`extension`], [`sasl`], [`mod@line`], [`xclient`]
//! - content: [`data`], [`chunking`], [`seven_bit`], [`trace`], [`dsn`], [`time`]

#![forbid(unsafe_code)]

pub mod address;
pub mod chunking;
pub mod command;
pub mod data;
pub mod deliver_by;
pub mod dsn;
pub mod envelope;
pub mod error;
pub mod etrn;
pub mod extension;
pub mod hold;
pub mod label;
pub mod limits;
pub mod line;
pub mod notify;
pub mod parameter;
pub mod path;
pub mod priority;
pub mod proxy;
pub mod reply;
pub mod sasl;
pub mod seven_bit;
pub mod status;
pub mod time;
pub mod trace;
pub mod xclient;
