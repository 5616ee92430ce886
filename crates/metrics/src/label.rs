//! The closed sets that label values come from.
//!
//! Every set is an enum, so that a value nobody thought of cannot become a time series.

/// A closed set of values of one label.
pub trait ClosedLabel: Copy + 'static {
    /// The label's name in the exposition.
    const NAME: &'static str;
    /// All values, in the order of [`ClosedLabel::index`].
    const VALUES: &'static [&'static str];

    /// The position of this value in [`ClosedLabel::VALUES`].
    fn index(self) -> usize;

    /// The text of this value in the exposition.
    fn value(self) -> &'static str {
        Self::VALUES.get(self.index()).copied().unwrap_or("other")
    }
}

macro_rules! closed_label {
    ($(
        $(#[$meta:meta])*
        $name:ident as $label:literal {
            $( $(#[$variant_meta:meta])* $variant:ident = $value:literal, )+
        }
    )+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $( $(#[$variant_meta])* $variant, )+
        }

        impl $name {
            /// Every value of the set.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
        }

        impl ClosedLabel for $name {
            const NAME: &'static str = $label;
            const VALUES: &'static [&'static str] = &[$($value),+];

            fn index(self) -> usize {
                self as usize
            }
        }
    )+};
}

closed_label! {
    /// Why an inbound session ended.
    SessionEnd as "reason" {
        /// The client said QUIT.
        Quit = "quit",
        /// The client closed the connection without QUIT.
        Eof = "eof",
        /// A deadline of ours passed.
        Timeout = "timeout",
        /// The client broke the protocol beyond repair, or made too many errors.
        Protocol = "protocol",
        /// The client used up what one session may do.
        Limit = "limit",
        /// We are stopping.
        Shutdown = "shutdown",
        /// The log of its core cannot be written, and other cores take the mail.
        Storage = "storage",
        /// Reading or writing the connection failed.
        Network = "network",
        /// A panic inside the session, contained.
        Panic = "panic",
    }

    /// Why a message was not accepted.
    Refusal as "reason" {
        /// No recipient was accepted, because the client may not relay.
        Relay = "relay",
        /// Declared larger than `message_size_max`, or larger.
        Size = "size",
        /// The content breaks RFC 5321 or 5322: bare CR or LF, NUL, over-long lines.
        Content = "content",
        /// Too many `Received` fields.
        Loop = "loop",
        /// To be held for longer than `future_release_max`, or until a time that cannot be read.
        Hold = "hold",
        /// There was too little time to deliver it in (DELIVERBY).
        DeliverBy = "deliver_by",
        /// The header does not say clearly which tenant or campaign it belongs to.
        Label = "label",
        /// The user may not give that reverse-path.
        ReversePath = "reverse_path",
        /// The user has sent enough for now.
        UserRate = "user_rate",
        /// The log of the shard is full.
        QueueFull = "queue_full",
        /// The shard is recovering, poisoned, or the commit failed.
        Unavailable = "unavailable",
        /// No recipient was accepted, for other reasons.
        NoRecipient = "no_recipient",
        /// The connection ended before the end of data, through the client.
        Aborted = "aborted",
        /// We are stopping.
        Shutdown = "shutdown",
    }

    /// What the queue of a shard can do now.
    QueueState as "state" {
        /// Accepts and delivers.
        Open = "open",
        /// Delivers, accepts nothing: no room in the log, on the file system, or in memory.
        Full = "full",
        /// A write or a sync failed: neither accepts nor starts deliveries until restarted.
        Poisoned = "poisoned",
        /// Reads its log after a start.
        Recovering = "recovering",
        /// Its log could not be opened: stopped until it is repaired and the server restarted.
        Damaged = "damaged",
    }

    /// The four outcomes of an attempt for one recipient.
    Outcome as "outcome" {
        /// The remote took responsibility.
        Delivered = "delivered",
        /// Failed for now; will be tried again.
        Deferred = "deferred",
        /// Failed for good.
        Bounced = "bounced",
        /// Still undelivered when its lifetime ended.
        Expired = "expired",
    }

    /// What a report tells; of several things the first of these.
    ReportAction as "action" {
        /// That a recipient failed for good.
        Failed = "failed",
        /// That a recipient is late.
        Delayed = "delayed",
        /// That a recipient went to a host that does not report.
        Relayed = "relayed",
    }

    /// Why an outbound connection could not be opened.
    ConnectFailure as "reason" {
        /// The remote refused the connection.
        Refused = "refused",
        /// No answer in time.
        TimedOut = "timed_out",
        /// No route to the host or network.
        Unreachable = "unreachable",
        /// Closed or reset before the greeting was complete.
        Reset = "reset",
        /// The greeting or EHLO was answered with a negative reply.
        Greeting = "greeting",
        /// A local resource was missing: descriptors, ports, memory.
        Local = "local",
        /// Anything else.
        Other = "other",
    }

    /// The version of TLS.
    TlsVersion as "version" {
        /// TLS 1.2.
        V1_2 = "1.2",
        /// TLS 1.3.
        V1_3 = "1.3",
    }

    /// What clients show that are asked for a certificate.
    ClientCertificate as "result" {
        /// One that is good.
        Good = "good",
        /// One that is not: nobody known vouches for it, it is not of this time, or it was revoked.
        Bad = "bad",
        /// None.
        Absent = "absent",
    }

    /// By what a client authenticates.
    AuthMechanism as "mechanism" {
        /// EXTERNAL, by a certificate.
        External = "external",
        /// SCRAM-SHA-256-PLUS, with channel binding.
        ScramSha256Plus = "scram-sha-256-plus",
        /// SCRAM-SHA-256 (RFC 7677).
        ScramSha256 = "scram-sha-256",
        /// PLAIN (RFC 4616).
        Plain = "plain",
        /// LOGIN.
        Login = "login",
    }

    /// A header field that is added to messages that have none.
    AddedField as "field" {
        /// `Date`.
        Date = "date",
        /// `Message-ID`.
        MessageId = "message_id",
    }

    /// What a message is known by.
    MessageLabel as "label" {
        /// On whose behalf it is sent.
        Tenant = "tenant",
        /// What it is part of.
        Campaign = "campaign",
    }

    /// Why a TLS handshake failed.
    TlsFailure as "reason" {
        /// What the client sent is not TLS.
        NotTls = "not_tls",
        /// The client speaks neither TLS 1.2 nor 1.3.
        Version = "version",
        /// There is no cipher suite, group or signature scheme that both know.
        Parameters = "parameters",
        /// The client does not trust the certificate, or cannot use it.
        CertificateRejected = "certificate_rejected",
        /// The client has to show a certificate, and has none that is good.
        ClientCertificate = "client_certificate",
        /// The client gave up with another alert.
        Alert = "alert",
        /// The client broke the protocol of TLS.
        Protocol = "protocol",
        /// The client closed the connection.
        Closed = "closed",
        /// The connection failed.
        Network = "network",
        /// The handshake took too long.
        Timeout = "timeout",
        /// There were too many handshakes at once.
        Limit = "limit",
        /// The server shut down.
        Shutdown = "shutdown",
    }

    /// Why there was no TLS towards a next hop that offers it, or has to have it.
    RemoteTlsFailure as "reason" {
        /// It answered STARTTLS with a negative reply, and mail goes on in plain text.
        Refused = "refused",
        /// What it sent is not TLS.
        NotTls = "not_tls",
        /// It speaks no version that we do.
        Version = "version",
        /// There is no cipher suite, group or signature scheme that both know, or nothing to shake
        /// hands with.
        Parameters = "parameters",
        /// Its certificate is not one that we take.
        Certificate = "certificate",
        /// It does not take our certificate.
        OwnCertificate = "own_certificate",
        /// It gave up with another alert.
        Alert = "alert",
        /// It broke the protocol of TLS.
        Protocol = "protocol",
        /// It closed the connection.
        Closed = "closed",
        /// The connection failed.
        Network = "network",
        /// The handshake took too long.
        Timeout = "timeout",
    }

    /// What came of logging in at a smarthost.
    OutboundAuth as "result" {
        /// We are in.
        Success = "success",
        /// It does not take the credentials.
        Refused = "refused",
        /// It answered with 4xx, or ended the session with 421.
        Temporary = "temporary",
        /// It does not offer AUTH.
        NotOffered = "not_offered",
        /// It offers none of the mechanisms that may be used, or only ones that need TLS, which there is
        /// none of.
        NoMechanism = "no_mechanism",
        /// It has not shown that it knows the password.
        NotProven = "not_proven",
        /// What it said does not belong to AUTH, or asks for too many or too few rounds.
        Protocol = "protocol",
        /// The connection ended, or the reply took too long.
        Connection = "connection",
        /// A reason of our own: too many passwords waited.
        Unavailable = "unavailable",
    }

    /// What followed from a rule on replies.
    RuleAction as "action" {
        /// Recipients were deferred.
        Defer = "defer",
        /// Recipients were given up.
        Bounce = "bounce",
        /// The session was ended, and its mail went on over another one.
        EndSession = "end_session",
        /// Recipients were given another time.
        RetryAfter = "retry_after",
        /// The site was spared.
        BackOff = "back_off",
        /// The host was skipped.
        SkipHost = "skip_host",
    }

    /// What came of the header of the PROXY protocol that a proxy had to send.
    ProxyHeader as "result" {
        /// It tells of a client.
        Client = "client",
        /// The proxy speaks for itself, or does not know for whom.
        Own = "own",
        /// Something else came.
        Absent = "absent",
        /// It is longer than any that is read.
        TooLong = "too_long",
        /// It is none of its version.
        Malformed = "malformed",
        /// It is about datagrams or local sockets.
        NotTcp = "not_tcp",
        /// It did not come in time.
        Timeout = "timeout",
        /// The connection ended before it was complete, or the server shut down.
        Closed = "closed",
    }

    /// What a core is short of when it is under stress.
    StressCause as "cause" {
        /// Connections of a listener.
        Connections = "connections",
        /// Descriptors for clients.
        Descriptors = "descriptors",
        /// Memory of the process.
        Memory = "memory",
        /// Free space or inodes of the queue's file system.
        Disk = "disk",
        /// Time that a durable write takes.
        CommitLatency = "commit_latency",
    }

    /// A limit that was hit; the values are named after the configuration keys.
    Limit as "limit" {
        /// `listener.connections_per_core_max`
        Connections = "connections_per_core_max",
        /// `listener.connections_per_client_per_core_max`
        ConnectionsPerClient = "connections_per_client_per_core_max",
        /// `listener.new_connections_per_client_per_core_max`
        NewConnectionsPerClient = "new_connections_per_client_per_core_max",
        /// `listener.session_time_max`
        SessionTime = "session_time_max",
        /// `listener.recipients_max`
        Recipients = "recipients_max",
        /// `listener.message_size_max`
        MessageSize = "message_size_max",
        /// `listener.errors_max`
        Errors = "errors_max",
        /// `listener.junk_commands_max`
        JunkCommands = "junk_commands_max",
        /// `listener.transactions_max`
        Transactions = "transactions_max",
        /// `listener.command_timeout`
        CommandTimeout = "command_timeout",
        /// `listener.tls_handshakes_per_core_max`
        TlsHandshakes = "tls_handshakes_per_core_max",
        /// `listener.tls_handshake_timeout`
        TlsHandshakeTimeout = "tls_handshake_timeout",
        /// `listener.proxy_timeout`
        ProxyTimeout = "proxy_timeout",
        /// The longest header of the PROXY protocol.
        ProxyHeader = "proxy_header",
        /// `listener.auth_failures_max`
        AuthFailures = "auth_failures_max",
        /// The longest line of an authentication.
        AuthLine = "auth_line",
        /// Orders to try mail now, at a time.
        Flushes = "flushes_max",
        /// `auth.password_queue_max`
        PasswordQueue = "password_queue_max",
        /// `rate` of a user.
        UserRate = "user_rate",
        /// `listener.data_block_timeout`
        DataBlockTimeout = "data_block_timeout",
        /// `listener.data_rate_min`
        DataRate = "data_rate_min",
        /// `listener.output_timeout`
        OutputTimeout = "output_timeout",
        /// Replies that may wait for a client to read them before it is read from again.
        ReplyOutput = "reply_output",
        /// The longest command line.
        CommandLine = "command_line",
        /// The longest line of content.
        TextLine = "text_line",
        /// `listener.header_size_max`, or `listener.header_fields_max`
        Header = "header",
        /// `listener.received_fields_max`
        ReceivedFields = "received_fields_max",
        /// `listener.future_release_max`
        FutureRelease = "future_release_max",
        /// `listener.mt_priority_max`: a message was to be more urgent, and is not.
        MtPriority = "mt_priority_max",
        /// `listener.deliver_by_min`: a message was to be delivered in less time, and was refused.
        DeliverBy = "deliver_by_min",
        /// What RCPT commands of one transaction ask for by the DSN extension.
        DsnParameters = "dsn_parameters_size_max",
        /// `queue.return_size_max`
        ReturnSize = "return_size_max",
        /// `queue.size_max`
        QueueSize = "size_max",
        /// `queue.free_space_min_percent`, or two segments
        FreeSpace = "free_space_min_percent",
        /// `queue.free_inodes_min`
        FreeInodes = "free_inodes_min",
        /// `queue.messages_per_core_max`
        QueuedMessages = "messages_per_core_max",
        /// `queue.recipients_per_core_max`
        QueuedRecipients = "recipients_per_core_max",
        /// `server.memory_max`: four fifths of it
        Memory = "memory_max",
        /// A MAIL that waited for `queue.slow_delay`, because a limit is near.
        SlowIntake = "slow_delay",
        /// `queue.content_cache_size_max`
        ContentCache = "content_cache_size_max",
        /// `delivery.connections_per_site_max`: a site could use a connection more.
        ConnectionsPerSite = "connections_per_site_max",
        /// The bounded channel of event records.
        EventChannel = "event_channel",
        /// `delivery.tls_broken_per_core_max`
        TlsBrokenMax = "tls_broken_per_core_max",
        /// `events.held_segments_max`.
        HeldSegmentsMax = "held_segments_max",
        /// A step of a session that waited until deliveries had had their turn.
        IntakeTurns = "intake_turns",
        /// A connection of a client that may not relay, under stress.
        Stress = "stress",
        /// File descriptors of the process.
        Descriptors = "descriptors",
    }
}
