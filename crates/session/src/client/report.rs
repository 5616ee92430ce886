//! What became of a transaction and of a session, as the client saw it.

use std::fmt;

use ringpost_protocol::error::ReplyError;
use ringpost_protocol::reply::Reply;
use ringpost_protocol::status::EnhancedStatusCode;
use thiserror::Error;

use super::auth::AuthProblem;
use super::tls::{ClientTlsInfo, TlsProblem};

/// The step of a session at which something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The connection was being made; no session saw this.
    Connect,
    /// Waiting for the greeting.
    Greeting,
    /// Waiting for the reply to EHLO or HELO.
    Ehlo,
    /// Waiting for the reply to STARTTLS.
    StartTls,
    /// Shaking hands over TLS.
    Handshake,
    /// Logging in, by AUTH.
    Auth,
    /// No transaction, or RSET before the next one: nothing of a message has been said.
    Idle,
    /// Waiting for the reply to MAIL.
    Mail,
    /// Waiting for the reply to RCPT.
    Rcpt,
    /// Waiting for the reply to DATA.
    Data,
    /// Sending the content. The final dot has not been sent as far as the session knows.
    Content,
    /// Waiting for the reply to the final dot. If the session fails here, nobody knows whether the
    /// message was accepted (RFC 1047).
    FinalReply,
    /// Waiting for the reply to QUIT.
    Quit,
}

impl Stage {
    /// A word for logs and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Ehlo => "ehlo",
            Self::StartTls => "starttls",
            Self::Handshake => "tls handshake",
            Self::Auth => "auth",
            Self::Idle => "idle",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Content => "content",
            Self::FinalReply => "final reply",
            Self::Quit => "quit",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a server did that no SMTP server may do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum ProtocolViolation {
    /// It sent something that is not a reply.
    #[error("not an SMTP reply")]
    Reply(#[source] ReplyError),
    /// It sent a reply that nothing had asked for.
    #[error("reply without a command: {0}")]
    UnexpectedReply(Reply),
    /// It sent a reply of a kind that the command does not have.
    #[error("reply that does not fit the command: {0}")]
    UnexpectedCode(Reply),
}

/// Why a session ended before its QUIT.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SessionFailure {
    /// The server ended it with a reply: 421, or a refusal in the greeting or of HELO.
    Reply {
        /// Where.
        stage: Stage,
        /// What it said.
        reply: Reply,
    },
    /// The server closed the connection, or the connection broke.
    Closed {
        /// Where.
        stage: Stage,
    },
    /// The server took too long.
    TimedOut {
        /// Where.
        stage: Stage,
    },
    /// The server broke the protocol.
    Protocol {
        /// Where.
        stage: Stage,
        /// How.
        violation: ProtocolViolation,
    },
    /// There is no TLS, or none that we take.
    Tls {
        /// Where.
        stage: Stage,
        /// Why.
        problem: TlsProblem,
    },
    /// We could not log in, for a reason other than a reply.
    Auth {
        /// Why.
        problem: AuthProblem,
    },
    /// We ended it, by [`ClientSession::abort`](super::ClientSession::abort).
    Aborted {
        /// Where.
        stage: Stage,
    },
}

impl SessionFailure {
    /// The step at which the session ended.
    pub fn stage(&self) -> Stage {
        match self {
            Self::Reply { stage, .. }
            | Self::Closed { stage }
            | Self::TimedOut { stage }
            | Self::Protocol { stage, .. }
            | Self::Tls { stage, .. }
            | Self::Aborted { stage } => *stage,
            Self::Auth { .. } => Stage::Auth,
        }
    }

    /// Whether it failed on the way to TLS. Without STARTTLS it might have gone well.
    pub fn is_on_the_way_to_tls(&self) -> bool {
        !matches!(self, Self::Aborted { .. })
            && matches!(self.stage(), Stage::StartTls | Stage::Handshake)
    }

    /// The reply that ended the session, if one did.
    pub fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Reply { reply, .. } => Some(reply),
            Self::Closed { .. }
            | Self::TimedOut { .. }
            | Self::Protocol { .. }
            | Self::Tls { .. }
            | Self::Auth { .. }
            | Self::Aborted { .. } => None,
        }
    }
}

/// One line for logs and reports.
impl fmt::Display for SessionFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reply { stage, reply } => write!(f, "session ended at {stage}: {reply}"),
            Self::Closed { stage } => write!(f, "connection closed at {stage}"),
            Self::TimedOut { stage } => write!(f, "timed out at {stage}"),
            Self::Protocol { stage, violation } => write!(f, "{violation} at {stage}"),
            Self::Tls { problem, .. } => problem.fmt(f),
            Self::Auth { problem } => problem.fmt(f),
            Self::Aborted { stage } => write!(f, "session given up at {stage}"),
        }
    }
}

/// Why a message is not even offered to a server that lacks what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LocalRefusal {
    /// The message is larger than the server's SIZE.
    TooLarge,
    /// The content has octets above 127, and the server lacks 8BITMIME.
    NeedsEightBitMime,
    /// The content is binary, and the server lacks BINARYMIME or CHUNKING.
    NeedsBinaryMime,
    /// An address is not ASCII, and the server lacks SMTPUTF8.
    NeedsUtf8Address,
    /// The header section is not ASCII, by SMTPUTF8, and the server lacks that.
    NeedsUtf8Header,
    /// The message may only travel under TLS, and the server is not known to be the right one by its
    /// certificate, or there is no TLS. It may be otherwise another time.
    NeedsTls,
    /// The server takes fewer recipients in a transaction (RFC 9422); these go in a further one.
    TooManyRecipients,
    /// The message may only go to servers that see to TLS on its further way, and the server lacks
    /// REQUIRETLS.
    NeedsRequireTls,
    /// The message is to be returned when its time is over, and the server lacks DELIVERBY.
    NeedsDeliverBy,
    /// It is too late to deliver the message, or to hand it to a server that asks for more time.
    TimeOver,
}

impl LocalRefusal {
    /// The code for it.
    pub fn status(self) -> EnhancedStatusCode {
        match self {
            Self::TooLarge => EnhancedStatusCode::new(5, 3, 4),
            // RFC 3463 §3.7: conversion is required, and not supported.
            Self::NeedsEightBitMime | Self::NeedsBinaryMime => EnhancedStatusCode::new(5, 6, 3),
            // RFC 6531 §4.2.
            Self::NeedsUtf8Address => EnhancedStatusCode::new(5, 6, 7),
            Self::NeedsUtf8Header => EnhancedStatusCode::new(5, 6, 9),
            Self::TooManyRecipients => EnhancedStatusCode::new(4, 5, 3),
            // RFC 7817, RFC 8689 §6.
            Self::NeedsTls => EnhancedStatusCode::new(4, 7, 10),
            Self::NeedsRequireTls => EnhancedStatusCode::new(5, 7, 30),
            // RFC 3463 §3.4: not capable of selected features. §3.5: delivery time expired.
            Self::NeedsDeliverBy => EnhancedStatusCode::new(5, 3, 3),
            Self::TimeOver => EnhancedStatusCode::new(5, 4, 7),
        }
    }

    /// The reason in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "the message is larger than the receiving server allows",
            Self::NeedsEightBitMime => {
                "the message has 8-bit content, which the receiving server does not take"
            }
            Self::NeedsBinaryMime => {
                "the message has binary content, which the receiving server does not take"
            }
            Self::NeedsUtf8Address => {
                "an address is not in ASCII, which the receiving server does not take"
            }
            Self::NeedsUtf8Header => {
                "the header of the message is not in ASCII, which the receiving server does not take"
            }
            Self::NeedsTls => {
                "the message requires TLS, and the receiving server was not verified by it"
            }
            Self::TooManyRecipients => {
                "the receiving server takes fewer recipients in one transaction"
            }
            Self::NeedsRequireTls => {
                "REQUIRETLS support required, which the receiving server does not have"
            }
            Self::NeedsDeliverBy => {
                "the message is to be delivered in time or not at all, which the receiving server does not \
                 see to"
            }
            Self::TimeOver => "too little time is left to deliver the message",
        }
    }
}

/// What was decided about one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The server replied. Only a 2xx at [`Stage::FinalReply`] means delivery.
    Reply(Reply),
    /// The session failed before the server had decided.
    Failed(SessionFailure),
    /// The message was not offered.
    Refused(LocalRefusal),
}

/// The verdict on one recipient, and the step that brought it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RecipientReport {
    /// The step.
    pub stage: Stage,
    /// The verdict.
    pub verdict: Verdict,
}

impl RecipientReport {
    /// Of a recipient that was not named to the server.
    pub(super) fn refused(refusal: LocalRefusal) -> Self {
        Self { stage: Stage::Idle, verdict: Verdict::Refused(refusal) }
    }

    /// Whether the server has taken the message for this recipient.
    pub fn is_delivered(&self) -> bool {
        match &self.verdict {
            Verdict::Reply(reply) => {
                self.stage == Stage::FinalReply && reply.is_positive_completion()
            }
            Verdict::Failed(_) | Verdict::Refused(_) => false,
        }
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is so or not, whatever the others are")]
pub struct TransactionReport {
    /// One report for each recipient, in the order of the request.
    pub recipients: Vec<RecipientReport>,
    /// Whether the server has replied to any command of the transaction. When it has not, and the
    /// session had been kept from earlier, the message can be tried again at once: the server had
    /// closed the idle connection.
    pub is_answered: bool,
    /// Whether the session can take another transaction.
    pub session_usable: bool,
    /// Whether the server offers DSN (RFC 3461): what was asked for of reports was passed on to it, and
    /// what it has taken it reports on.
    pub dsn_offered: bool,
    /// Whether the server offers DELIVERBY (RFC 2852): it sees to the time that was passed on to it.
    pub deliver_by_offered: bool,
    /// What TLS had come to; `None` in plain text.
    pub tls: Option<ClientTlsInfo>,
}
