//! What a server session and its driver tell each other.

use std::fmt;
use std::net::IpAddr;

use ringpost_protocol::reply::FixedReply;

use super::replies;
use super::stats::TransactionRefusal;

/// What a server session tells its driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerEvent {
    /// Content follows. The driver puts the trace fields into its buffer of content; the session
    /// appends to that buffer from now on. The driver also tells what added fields say, by
    /// [`ServerSession::set_origin`](super::ServerSession::set_origin). The envelope is known: see
    /// [`ServerSession::envelope`](super::ServerSession::envelope).
    DataStarted,
    /// The content is complete and good. The driver takes the envelope, makes the message durable,
    /// and answers by `message_accepted` or `message_refused`; until then no input is taken.
    MessageReceived {
        /// Octets of content, without what the driver put in front.
        size: u64,
        /// `Received` fields in it.
        received_fields: usize,
        /// Whether it has octets above 127.
        eight_bit: bool,
    },
    /// The driver writes what is to be transmitted, performs a TLS handshake as server on the octets
    /// that the client sends from now on, and answers by `handle_tls` or `handle_tls_failure`; until
    /// then no input is taken. What it had read before is not part of the handshake, and there is
    /// nothing of it. Later input and output pass through TLS.
    StartTls,
    /// The client speaks for another one, at `ip`; 0.0.0.0 when it does not know where. The driver says
    /// at once what that one may do, by `handle_client`; until then no input is taken.
    ClientNamed {
        /// The address of that client, or the one that was known if nothing was said of it.
        ip: IpAddr,
    },
    /// The driver takes the question with
    /// [`take_auth_question`](super::ServerSession::take_auth_question), and answers by `auth_challenge`,
    /// `auth_accepted` or `auth_refused`; until then no input is taken.
    Authenticate,
    /// The client has mail tried now, that for the node of
    /// [`flush_node`](super::ServerSession::flush_node). The driver sees to it, and answers by `handle_flush`;
    /// until then no input is taken.
    Flush,
    /// What has come since [`DataStarted`](Self::DataStarted) is worthless: the content was refused,
    /// or did not come to its end. Why is counted in
    /// [`ServerSession::stats`](super::ServerSession::stats).
    TransactionAborted,
    /// The session is over. The driver writes what is left of
    /// [`transmit`](super::ServerSession::transmit) and closes the connection.
    Closed(CloseReason),
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client said QUIT.
    Quit,
    /// The client closed the connection, or it broke.
    PeerClosed,
    /// The client was too slow, or silent for too long.
    TimedOut,
    /// The client sent bare CR or LF, a line without an end, or a BDAT whose octets cannot be told from
    /// commands.
    BadLine,
    /// The client sent octets where it had to wait.
    EarlyInput,
    /// The client is none of SMTP: a browser, a TLS client, a header.
    Foreign,
    /// There was no TLS handshake, or it failed.
    TlsFailed,
    /// Too many commands were refused.
    TooManyErrors,
    /// Too many commands came without a message.
    TooManyJunkCommands,
    /// The client that it was said to be for has too many sessions.
    TooManyConnections,
    /// The session has had its share of transactions.
    TooManyTransactions,
    /// The session has lasted as long as one may.
    SessionTooLong,
    /// The content went far beyond the limit.
    TooLarge,
    /// The server shuts down.
    ShuttingDown,
    /// Messages cannot be stored here, and can over a new connection.
    Elsewhere,
}

impl CloseReason {
    /// A word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quit => "quit",
            Self::PeerClosed => "peer_closed",
            Self::TimedOut => "timed_out",
            Self::BadLine => "bad_line",
            Self::EarlyInput => "early_input",
            Self::Foreign => "foreign",
            Self::TlsFailed => "tls_failed",
            Self::TooManyErrors => "too_many_errors",
            Self::TooManyJunkCommands => "too_many_junk_commands",
            Self::TooManyConnections => "too_many_connections",
            Self::TooManyTransactions => "too_many_transactions",
            Self::SessionTooLong => "session_too_long",
            Self::TooLarge => "too_large",
            Self::ShuttingDown => "shutting_down",
            Self::Elsewhere => "elsewhere",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether new transactions are let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Admission {
    /// They are.
    #[default]
    Open,
    /// It takes the driver a while to find out, or it wants clients to slow down: MAIL is held without
    /// a reply, see [`awaits_admission`](super::ServerSession::awaits_admission).
    Pending,
    /// The queue has no room: MAIL is put off with 452.
    Full,
    /// Messages cannot be stored: MAIL is put off with 451.
    Unavailable,
    /// The queue is still being read after a start: MAIL is put off with 451.
    Recovering,
    /// The server shuts down: MAIL is answered by 421, and the session ends.
    ShuttingDown,
    /// Messages cannot be stored here, and can over a new connection: MAIL is answered by 421, and the
    /// session ends, so that the client makes one.
    Elsewhere,
}

impl Admission {
    /// How a session ends that takes nothing more; `None` while it may go on.
    pub(super) fn ends_with(self) -> Option<(FixedReply, CloseReason)> {
        match self {
            Self::ShuttingDown => Some((replies::SHUTTING_DOWN, CloseReason::ShuttingDown)),
            Self::Elsewhere => Some((replies::ELSEWHERE, CloseReason::Elsewhere)),
            _ => None,
        }
    }
}

/// Why a message that was received is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// It could not be stored: 451.
    Unavailable,
    /// There is no room for it: 452.
    Full,
    /// Its user has sent enough for now: 451.
    UserRate,
    /// It is refused for good: 554.
    Rejected,
}

impl Refusal {
    pub(super) fn reply(self) -> FixedReply {
        match self {
            Self::Unavailable => replies::UNAVAILABLE,
            Self::Full => replies::FULL,
            Self::UserRate => replies::USER_OVER_RATE,
            Self::Rejected => replies::REJECTED,
        }
    }

    pub(super) fn counted_as(self) -> TransactionRefusal {
        match self {
            Self::Unavailable => TransactionRefusal::Unavailable,
            Self::Full => TransactionRefusal::QueueFull,
            Self::UserRate => TransactionRefusal::UserRate,
            Self::Rejected => TransactionRefusal::Content,
        }
    }
}
