//! The replies of a server session that have a fixed text.

use ringpost_protocol::reply::FixedReply;

pub(super) const OK: FixedReply = FixedReply::new("250 2.0.0 Ok");
pub(super) const MAIL_OK: FixedReply = FixedReply::new("250 2.1.0 Ok");
pub(super) const RCPT_OK: FixedReply = FixedReply::new("250 2.1.5 Ok");
pub(super) const GO_AHEAD: FixedReply = FixedReply::new("354 End data with <CR><LF>.<CR><LF>");
pub(super) const BYE: FixedReply = FixedReply::new("221 2.0.0 Bye");
pub(super) const NO_SUCH_TOPIC: FixedReply = FixedReply::new("504 5.5.4 No help on that");
pub(super) const CANNOT_VERIFY: FixedReply =
    FixedReply::new("252 2.5.2 Cannot verify, send some mail and see");
pub(super) const NOT_IMPLEMENTED: FixedReply = FixedReply::new("502 5.5.1 Command not implemented");
pub(super) const NOT_AUTHORIZED: FixedReply = FixedReply::new("550 5.7.0 Not authorized");

pub(super) const READY_FOR_TLS: FixedReply = FixedReply::new("220 2.0.0 Ready to start TLS");
pub(super) const TLS_UNAVAILABLE: FixedReply =
    FixedReply::new("454 4.7.0 TLS is not available now, try again later");
pub(super) const TLS_REQUIRED: FixedReply = FixedReply::new("530 5.7.0 STARTTLS is needed first");
pub(super) const TLS_IS_ACTIVE: FixedReply = FixedReply::new("554 5.5.1 TLS is active already");
pub(super) const TLS_IN_TRANSACTION: FixedReply =
    FixedReply::new("503 5.5.1 STARTTLS is not for within a transaction");
pub(super) const XCLIENT_IN_TRANSACTION: FixedReply =
    FixedReply::new("503 5.5.1 XCLIENT is not for within a transaction");
pub(super) const ETRN_IN_TRANSACTION: FixedReply =
    FixedReply::new("503 5.5.1 ETRN is not for within a transaction");
pub(super) const TOO_MANY_CONNECTIONS: FixedReply =
    FixedReply::new("421 4.7.0 Too many connections, try again later");

pub(super) const AUTHENTICATED: FixedReply = FixedReply::new("235 2.7.0 Authentication successful");
pub(super) const AUTH_FAILED: FixedReply =
    FixedReply::new("535 5.7.8 Authentication credentials invalid");
pub(super) const BINDING_FAILED: FixedReply = FixedReply::new(
    "535 5.7.8 Authentication failed, channel binding does not fit this connection",
);
pub(super) const AUTH_UNAVAILABLE: FixedReply =
    FixedReply::new("454 4.7.0 Cannot check credentials now, try again later");
pub(super) const AUTH_NEEDS_TLS: FixedReply =
    FixedReply::new("538 5.7.11 Authentication is for encrypted sessions");
pub(super) const AUTH_REQUIRED: FixedReply = FixedReply::new("530 5.7.0 Authentication required");
pub(super) const AUTH_IS_DONE: FixedReply = FixedReply::new("503 5.5.1 Authenticated already");
pub(super) const AUTH_IN_TRANSACTION: FixedReply =
    FixedReply::new("503 5.5.1 AUTH is not for within a transaction");
pub(super) const NO_SUCH_MECHANISM: FixedReply =
    FixedReply::new("504 5.5.4 This mechanism is not offered");
pub(super) const AUTH_CANCELLED: FixedReply = FixedReply::new("501 5.7.0 Authentication cancelled");
pub(super) const BAD_BASE64: FixedReply = FixedReply::new("501 5.5.2 Not base64");
pub(super) const BAD_RESPONSE: FixedReply =
    FixedReply::new("501 5.5.2 Not a response of this mechanism");
pub(super) const AUTH_LINE_TOO_LONG: FixedReply =
    FixedReply::new("500 5.5.6 Authentication line too long");
pub(super) const REVERSE_PATH_DENIED: FixedReply =
    FixedReply::new("553 5.7.1 This user may not send from there");
pub(super) const USER_OVER_RATE: FixedReply =
    FixedReply::new("451 4.7.1 This user has sent enough for now, try again later");

pub(super) const SEND_EHLO: FixedReply = FixedReply::new("503 5.5.1 Send EHLO first");
pub(super) const SEND_HELO: FixedReply = FixedReply::new("503 5.5.1 Send EHLO or HELO first");
pub(super) const NESTED_MAIL: FixedReply = FixedReply::new("503 5.5.1 Nested MAIL command");
pub(super) const NEED_MAIL: FixedReply = FixedReply::new("503 5.5.1 Need MAIL command");
pub(super) const NEED_RCPT: FixedReply = FixedReply::new("503 5.5.1 Need RCPT command");
pub(super) const NO_VALID_RECIPIENTS: FixedReply = FixedReply::new("554 5.5.1 No valid recipients");
pub(super) const MESSAGE_FAILED: FixedReply =
    FixedReply::new("503 5.5.1 The message has failed, begin anew");
pub(super) const DATA_AFTER_BDAT: FixedReply =
    FixedReply::new("503 5.5.1 DATA after BDAT, begin anew");
pub(super) const RCPT_AFTER_BDAT: FixedReply = FixedReply::new("503 5.5.1 RCPT after BDAT");
pub(super) const BINARY_NEEDS_BDAT: FixedReply =
    FixedReply::new("503 5.5.1 BODY=BINARYMIME needs BDAT");

pub(super) const TOO_LARGE: FixedReply =
    FixedReply::new("552 5.3.4 Message size exceeds the limit");
pub(super) const HOLD_TOO_LONG: FixedReply =
    FixedReply::new("501 5.5.4 Messages are not held for so long here");
pub(super) const BY_TOO_SHORT: FixedReply =
    FixedReply::new("555 5.5.4 Less time than DELIVERBY offers here");
pub(super) const BY_WHILE_HELD: FixedReply =
    FixedReply::new("501 5.5.4 The time for delivery is over before the message is let go");
pub(super) const TOO_MANY_RECIPIENTS: FixedReply = FixedReply::new("452 4.5.3 Too many recipients");
pub(super) const RELAY_DENIED: FixedReply = FixedReply::new("550 5.7.1 Relaying denied");
pub(super) const NO_POSTMASTER: FixedReply =
    FixedReply::new("550 5.1.1 No postmaster is configured");
pub(super) const NO_SUCH_MAILBOX: FixedReply = FixedReply::new("550 5.1.1 No such mailbox here");
pub(super) const NOT_A_LIST: FixedReply = FixedReply::new("550 5.1.1 Not a list of ours");
pub(super) const NOT_A_MAILBOX: FixedReply = FixedReply::new("553 5.1.3 Not a mailbox");
pub(super) const LITERAL_DENIED: FixedReply =
    FixedReply::new("550 5.1.2 Address literals are not accepted");
pub(super) const LOOP: FixedReply =
    FixedReply::new("554 5.4.6 Too many hops, this message is looping");

pub(super) const UNAVAILABLE: FixedReply =
    FixedReply::new("451 4.3.0 Cannot store messages now, try again later");
pub(super) const RECOVERING: FixedReply =
    FixedReply::new("451 4.3.0 Still reading the queue after a start, try again later");
pub(super) const FULL: FixedReply =
    FixedReply::new("452 4.3.1 No room for messages now, try again later");
pub(super) const REJECTED: FixedReply = FixedReply::new("554 5.0.0 Message rejected");

pub(super) const SHUTTING_DOWN: FixedReply =
    FixedReply::new("421 4.3.2 Service shutting down, try again later");
pub(super) const ELSEWHERE: FixedReply =
    FixedReply::new("421 4.3.0 Cannot store messages over this connection, try a new one");
pub(super) const TIMED_OUT: FixedReply = FixedReply::new("421 4.4.2 Timed out, closing");
pub(super) const TOO_MANY_ERRORS: FixedReply =
    FixedReply::new("421 4.7.0 Too many errors, closing");
pub(super) const TOO_MANY_AUTH_FAILURES: FixedReply =
    FixedReply::new("421 4.7.0 Too many failed authentications, closing");
pub(super) const TOO_MANY_JUNK_COMMANDS: FixedReply =
    FixedReply::new("421 4.7.0 Too many commands without a message, closing");
pub(super) const TOO_MANY_TRANSACTIONS: FixedReply =
    FixedReply::new("421 4.7.0 Too many messages in one session, closing");
pub(super) const SESSION_TOO_LONG: FixedReply =
    FixedReply::new("421 4.7.0 This session has lasted too long, closing");
pub(super) const FOREIGN: FixedReply = FixedReply::new("421 4.7.0 This is an SMTP server, closing");
pub(super) const EARLY_INPUT: FixedReply =
    FixedReply::new("554 5.5.0 You spoke before it was your turn, closing");
pub(super) const BAD_LINE_END: FixedReply =
    FixedReply::new("500 5.5.2 Lines must end with <CR><LF>, closing");
pub(super) const BINARY: FixedReply = FixedReply::new("500 5.5.2 Not an SMTP command, closing");
pub(super) const LINE_TOO_LONG: FixedReply = FixedReply::new("500 5.5.6 Line too long");
