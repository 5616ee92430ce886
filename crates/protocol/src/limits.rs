//! Named bounds on what peers may send, with their defaults.
//!
//! A bound that an operator can change is the default of a configuration field; the others are used
//! as they are.

/// Octets in a command line, its CRLF included. RFC 5321 §4.5.3.1.4 asks for 512 and leaves room
/// for extensions.
pub const COMMAND_LINE_MAX: usize = 2048;

/// Octets in a line of an authentication, its CRLF included. RFC 4954 §4 asks for 12288.
pub const AUTH_LINE_MAX: usize = 12_288;

/// Octets in the name of a user.
pub const AUTH_NAME_MAX: usize = 255;

/// Octets in a password.
pub const AUTH_PASSWORD_MAX: usize = 1024;

/// Authentications that may fail in one session before it is closed.
pub const AUTH_FAILURES_MAX: u32 = 3;

/// Octets in the value of `AUTH=` of MAIL. RFC 4954 §5 adds 500 to the command line for it.
pub const AUTH_PARAMETER_MAX: usize = 500;

/// Octets without a CRLF after which a command line is given up and the session closed.
pub const ENDLESS_LINE_MAX: usize = 64 * 1024;

/// Over-long command lines a session may send before it is closed.
pub const LONG_LINES_MAX: u32 = 3;

/// Octets in one line of a reply, its line ending included. RFC 5321 §4.5.3.1.5 asks for 512.
pub const REPLY_LINE_MAX: usize = 2048;

/// Lines in one reply.
pub const REPLY_LINES_MAX: usize = 128;

/// Octets in one reply, all lines together.
pub const REPLY_SIZE_MAX: usize = 64 * 1024;

/// Octets of reply text that are kept; the rest is dropped.
pub const REPLY_TEXT_MAX: usize = 2048;

/// Octets in a text line of the content, without its CRLF. RFC 5321 §4.5.3.1.6.
pub const TEXT_LINE_MAX: usize = 998;

/// Octets in the header section of a message.
pub const HEADER_SIZE_MAX: usize = 64 * 1024;

/// Octets behind the colon of a header field that is taken out, its folding and CRLF included.
pub const TAKEN_FIELD_SIZE_MAX: usize = 256;

/// Octets in the name of a tenant or a campaign that a header field has.
pub const LABEL_FIELD_MAX: usize = 64;

/// Octets in the name of a tenant that an operator has written.
pub const LABEL_TEXT_MAX: usize = 128;

/// Multiparts within each other in content that is made 7-bit.
pub const MIME_DEPTH_MAX: usize = 20;

/// Header sections in content that is made 7-bit: that of the message, and those of its parts.
pub const MIME_PARTS_MAX: usize = 1000;

/// Octets in a line of content that is made 7-bit, its CRLF included.
pub const MIME_LINE_MAX: usize = 64 * 1024;

/// Fields in the header section of a message.
pub const HEADER_FIELDS_MAX: usize = 1000;

/// `Received` fields in a message before it is taken for a loop. RFC 5321 §6.3.
pub const RECEIVED_FIELDS_MAX: usize = 50;

/// Octets in the content of a message.
pub const MESSAGE_SIZE_MAX: u64 = 50 * 1024 * 1024;

/// Octets in one chunk of BDAT; a number above is taken for no number.
pub const CHUNK_SIZE_MAX: u64 = u32::MAX as u64;

/// Octets in a chunk of BDAT below which it counts as a command that does not help a message along,
/// unless it is the last of its message.
pub const CHUNK_SIZE_USEFUL: u64 = 512;

/// Octets in a header of version 1 of the PROXY protocol, its CRLF included, as its specification says.
pub const PROXY_LINE_MAX: usize = 107;

/// Octets in a header of version 2 of the PROXY protocol. Its length field could say 65,551; with all
/// that balancers add, a certificate's name included, a few hundred are usual.
pub const PROXY_HEADER_SIZE_MAX: usize = 4096;

/// Octets of the LOGIN that XCLIENT tells of.
pub const XCLIENT_LOGIN_MAX: usize = 255;

/// Recipients in one transaction. RFC 5321 §4.5.3.1.8 asks for at least 100.
pub const RECIPIENTS_MAX: usize = 1000;

/// Refused commands in one session.
pub const ERRORS_MAX: u32 = 20;

/// Commands in one session that do not help a message along, counted from the last message.
pub const JUNK_COMMANDS_MAX: u32 = 100;

/// Transactions in one session.
pub const TRANSACTIONS_MAX: u32 = 1000;

/// Seconds for which a message can be held at most: RFC 4865 §3 has nine digits for them.
pub const HOLD_SECONDS_MAX: u32 = 999_999_999;

/// Seconds, either way, that `BY=` of MAIL can say: nine digits (RFC 2852 §4).
pub const BY_SECONDS_MAX: i32 = 999_999_999;

/// Unsent octets of replies above which a session takes no more input.
pub const REPLY_OUTPUT_MAX: usize = 64 * 1024;

/// Mailboxes that one alias stands for.
pub const ALIAS_MEMBERS_MAX: usize = 100;

/// Aliases that stand for one another, in a row.
pub const ALIAS_DEPTH_MAX: usize = 10;

/// Aliases in a configuration.
pub const ALIASES_MAX: usize = 10_000;

/// Octets in a local-part. RFC 5321 §4.5.3.1.1.
pub const LOCAL_PART_MAX: usize = 64;

/// Octets in a domain. RFC 5321 §4.5.3.1.2.
pub const DOMAIN_MAX: usize = 255;

/// Octets in one label of a domain. RFC 1035 §2.3.4.
pub const LABEL_MAX: usize = 63;

/// Octets in a path, its angle brackets included. RFC 5321 §4.5.3.1.3.
pub const PATH_MAX: usize = 256;

/// Octets in the value of `ENVID=`. RFC 3461 §4.4.
pub const ENVELOPE_ID_MAX: usize = 100;

/// Octets in the value of `ORCPT=`. RFC 3461 §4.2.
pub const ORIGINAL_RECIPIENT_MAX: usize = 500;

/// Octets of what RCPT commands of one transaction ask for by the DSN extension, as it is stored.
pub const DSN_PARAMETERS_SIZE_MAX: usize = 1024 * 1024;

/// Octets of a message that a delivery status notification returns as a whole.
pub const DSN_RETURN_SIZE_MAX: u64 = 256 * 1024;

/// Octets of the original header section that a delivery status notification repeats.
pub const DSN_HEADER_SIZE_MAX: usize = 50_000;

// The reply to EXPN is one that we would take ourselves.
const _: () = assert!(ALIAS_MEMBERS_MAX <= REPLY_LINES_MAX);
const _: () = assert!(AUTH_LINE_MAX < ENDLESS_LINE_MAX);
const _: () = assert!(COMMAND_LINE_MAX < ENDLESS_LINE_MAX);
const _: () = assert!(REPLY_LINE_MAX <= REPLY_SIZE_MAX);
