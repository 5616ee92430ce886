//! What a server session has refused, and which limits it has held.

use ringpost_protocol::data::ContentViolation;

/// A limit that a client can run into; those that an operator sets are fields of
/// [`ServerConfig`](super::ServerConfig), the others constants of `ringpost_protocol::limits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServerLimit {
    /// `recipients_max`: a recipient was put off.
    Recipients,
    /// `size_max`: a message was declared larger, or was it.
    MessageSize,
    /// `errors_max`: the session was closed.
    Errors,
    /// `junk_commands_max`: the session was closed.
    JunkCommands,
    /// `transactions_max`: the session was closed.
    Transactions,
    /// `session_time_max`: the session was closed.
    SessionTime,
    /// `command_timeout`: the session was closed.
    CommandTimeout,
    /// There were too many TLS handshakes at once: STARTTLS was put off.
    TlsHandshakes,
    /// `tls_handshake_timeout`: the session was closed.
    TlsHandshakeTimeout,
    /// `auth.failures_max`: the session was closed.
    AuthFailures,
    /// `AUTH_LINE_MAX`: an authentication was given up.
    AuthLine,
    /// Too many passwords waited to be checked: AUTH was put off.
    PasswordQueue,
    /// A user has sent enough for now: MAIL was put off.
    UserRate,
    /// `data_block_timeout`: the session was closed.
    DataBlockTimeout,
    /// `data_rate_min`: the session was closed.
    DataRate,
    /// `output_timeout`: the session was closed, or will be.
    OutputTimeout,
    /// `COMMAND_LINE_MAX` or `ENDLESS_LINE_MAX`: a line was refused.
    CommandLine,
    /// `TEXT_LINE_MAX`: content was refused.
    TextLine,
    /// `header_size_max` or `header_fields_max`: content was refused.
    Header,
    /// `received_fields_max`: content was taken for a loop.
    ReceivedFields,
    /// `future_release_max`: a message was to be held for longer.
    FutureRelease,
    /// `mt_priority_max`: a message was to be more urgent, and is not.
    MtPriority,
    /// `deliver_by_min`: a message was to be delivered in less time.
    DeliverBy,
    /// `dsn_parameters_size_max`: a recipient was put off.
    DsnParameters,
    /// `REPLY_OUTPUT_MAX`: input had to wait until the client had read some replies.
    ReplyOutput,
}

impl ServerLimit {
    /// Every limit.
    pub const ALL: [Self; 25] = [
        Self::Recipients,
        Self::MessageSize,
        Self::Errors,
        Self::JunkCommands,
        Self::Transactions,
        Self::SessionTime,
        Self::CommandTimeout,
        Self::TlsHandshakes,
        Self::TlsHandshakeTimeout,
        Self::AuthFailures,
        Self::AuthLine,
        Self::PasswordQueue,
        Self::UserRate,
        Self::DataBlockTimeout,
        Self::DataRate,
        Self::OutputTimeout,
        Self::CommandLine,
        Self::TextLine,
        Self::Header,
        Self::ReceivedFields,
        Self::FutureRelease,
        Self::MtPriority,
        Self::DeliverBy,
        Self::DsnParameters,
        Self::ReplyOutput,
    ];
}

/// Why a transaction brought no message.
///
/// A client that gives a transaction up by RSET, EHLO or QUIT, though recipients were taken, has
/// been refused nothing; this is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionRefusal {
    /// No recipient was taken, at least one of them because the client may not relay.
    Relay,
    /// No recipient was taken, for other reasons.
    NoRecipient,
    /// The message was declared too large, or was it.
    Size,
    /// The content was malformed, or the driver refused it for good.
    Content,
    /// The content had too many `Received` fields.
    Loop,
    /// It was to be held for too long, or its header did not say clearly until when.
    Hold,
    /// There was too little time to deliver it in.
    DeliverBy,
    /// Its header did not say clearly whose it is, or what it is part of.
    Label,
    /// The user may not give that reverse-path.
    ReversePath,
    /// The user has sent enough for now.
    UserRate,
    /// There was no room for it.
    QueueFull,
    /// It could not be stored.
    Unavailable,
    /// The connection ended, or was closed for the client's fault, before the end of the content.
    Aborted,
    /// The server shuts down.
    Shutdown,
}

impl TransactionRefusal {
    /// Every reason.
    pub const ALL: [Self; 14] = [
        Self::Relay,
        Self::NoRecipient,
        Self::Size,
        Self::Content,
        Self::Loop,
        Self::Hold,
        Self::DeliverBy,
        Self::Label,
        Self::ReversePath,
        Self::UserRate,
        Self::QueueFull,
        Self::Unavailable,
        Self::Aborted,
        Self::Shutdown,
    ];
}

/// Counts of one session, from its start.
///
/// Shape: some two dozen `u32`. None of them wraps; a count stays at its largest value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServerStats {
    /// Lines that were answered by 4xx or 5xx where a command was due. The reply to content is none
    /// of them; see [`transactions_refused`](Self::transactions_refused).
    pub command_errors: u32,
    /// RCPT commands among them.
    pub recipients_refused: u32,
    /// RCPT commands whose recipient was an alias, and was taken.
    pub aliases_expanded: u32,
    transactions_refused: [u32; TransactionRefusal::ALL.len()],
    limit_hits: [u32; ServerLimit::ALL.len()],
}

impl ServerStats {
    /// Transactions that brought no message, for this reason. Each is counted once, when it ends.
    pub fn transactions_refused(&self, refusal: TransactionRefusal) -> u32 {
        self.transactions_refused.get(refusal as usize).copied().unwrap_or(0)
    }

    /// Times that this limit was held.
    pub fn limit_hits(&self, limit: ServerLimit) -> u32 {
        self.limit_hits.get(limit as usize).copied().unwrap_or(0)
    }

    /// What has been counted since `earlier` was taken, of the same session.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        fn less<const N: usize>(now: [u32; N], mut then: [u32; N]) -> [u32; N] {
            for (then, now) in then.iter_mut().zip(now) {
                *then = now.saturating_sub(*then);
            }
            then
        }
        Self {
            command_errors: self.command_errors.saturating_sub(earlier.command_errors),
            recipients_refused: self.recipients_refused.saturating_sub(earlier.recipients_refused),
            aliases_expanded: self.aliases_expanded.saturating_sub(earlier.aliases_expanded),
            transactions_refused: less(self.transactions_refused, earlier.transactions_refused),
            limit_hits: less(self.limit_hits, earlier.limit_hits),
        }
    }

    #[cold]
    pub(super) fn count_command_error(&mut self, is_rcpt: bool) {
        self.command_errors = self.command_errors.saturating_add(1);
        self.recipients_refused = self.recipients_refused.saturating_add(is_rcpt.into());
    }

    #[cold]
    pub(super) fn count_alias(&mut self) {
        self.aliases_expanded = self.aliases_expanded.saturating_add(1);
    }

    #[cold]
    pub(super) fn count_refusal(&mut self, refusal: TransactionRefusal) {
        if let Some(count) = self.transactions_refused.get_mut(refusal as usize) {
            *count = count.saturating_add(1);
        }
    }

    /// Counts content that breaks a rule of its format, and the limit that it goes beyond, if any.
    #[cold]
    pub(super) fn count_violation(&mut self, violation: ContentViolation) {
        let (refusal, limit) = match violation {
            ContentViolation::TooLarge | ContentViolation::FarTooLarge => {
                (TransactionRefusal::Size, Some(ServerLimit::MessageSize))
            }
            ContentViolation::LineTooLong { .. } => {
                (TransactionRefusal::Content, Some(ServerLimit::TextLine))
            }
            ContentViolation::HeaderTooLarge | ContentViolation::TooManyFields => {
                (TransactionRefusal::Content, Some(ServerLimit::Header))
            }
            _ => (TransactionRefusal::Content, None),
        };
        self.count_refusal(refusal);
        if let Some(limit) = limit {
            self.count_limit(limit);
        }
    }

    #[cold]
    pub(super) fn count_limit(&mut self, limit: ServerLimit) {
        if let Some(count) = self.limit_hits.get_mut(limit as usize) {
            *count = count.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The arrays are indexed by the variants.
    #[test]
    fn every_reason_and_limit_has_its_place() {
        let mut stats = ServerStats::default();
        for (index, refusal) in TransactionRefusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, index);
            stats.count_refusal(refusal);
        }
        for (index, limit) in ServerLimit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, index);
            stats.count_limit(limit);
        }
        assert!(
            TransactionRefusal::ALL.map(|it| stats.transactions_refused(it))
                == [1; TransactionRefusal::ALL.len()]
        );
        assert!(ServerLimit::ALL.map(|it| stats.limit_hits(it)) == [1; ServerLimit::ALL.len()]);
    }

    #[test]
    fn differences_are_what_came_later() {
        let mut stats = ServerStats::default();
        stats.count_command_error(true);
        stats.count_limit(ServerLimit::Errors);
        let earlier = stats;
        stats.count_command_error(false);
        stats.count_refusal(TransactionRefusal::Loop);
        let mut expected = ServerStats { command_errors: 1, ..ServerStats::default() };
        expected.count_refusal(TransactionRefusal::Loop);
        assert_eq!(stats.since(&earlier), expected);
        assert_eq!(stats.since(&stats), ServerStats::default());
    }
}
