//! Delivery status notifications (RFC 3464): writing them, and reading them back.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::Write as _;

use memchr::memmem;

use crate::limits::{DSN_HEADER_SIZE_MAX, REPLY_TEXT_MAX, TEXT_LINE_MAX};
use crate::notify::{EnvelopeId, OriginalRecipient};
use crate::path::{ForwardPath, ReversePath};
use crate::reply::Reply;
use crate::status::EnhancedStatusCode;
use crate::time::write_rfc5322;

mod read;
#[cfg(test)]
mod tests;

pub use read::{DeliveryStatus, RecipientStatus};

/// What became of a recipient (RFC 3464 §2.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// The message could not be delivered, and will not be tried again.
    Failed,
    /// The message could not be delivered yet.
    Delayed,
    /// The message was handed over to a host that does not report.
    Relayed,
}

impl Action {
    /// The value of the Action field.
    pub fn keyword(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Relayed => "relayed",
        }
    }
}

/// What a report says about one recipient.
#[derive(Debug, Clone, Copy)]
pub struct DsnRecipient<'a> {
    /// The recipient.
    pub forward_path: &'a ForwardPath,
    /// Whom the originator has written to, if the client said so (RFC 3461 §4.2).
    pub original: Option<&'a OriginalRecipient>,
    /// What became of it.
    pub action: Action,
    /// Why, as a code.
    pub status: EnhancedStatusCode,
    /// The host that refused, if one did.
    pub remote_mta: Option<&'a str>,
    /// What that host said.
    pub diagnostic: Option<&'a Reply>,
    /// Why, in words of ours; used when there is no diagnostic, and by humans.
    pub reason: &'a str,
    /// When delivery was last attempted.
    pub last_attempt_unix_seconds: Option<u64>,
    /// Until when it will be tried again; only with [`Action::Delayed`] (RFC 3464 §2.3.9).
    pub will_retry_until_unix_seconds: Option<u64>,
}

/// What of a message a report returns.
#[derive(Debug, Clone, Copy)]
pub enum Returned<'a> {
    /// Its header section, up to [`DSN_HEADER_SIZE_MAX`] octets of whole fields: out of the content, or
    /// the start of it.
    Header(&'a [u8]),
    /// All of it: the whole content, which has no lines above 998 octets and none that do not end with
    /// CRLF.
    Message(&'a [u8]),
}

/// A report to the originator on some recipients of a message: that it was not delivered, or not yet, or
/// went where nobody reports.
///
/// Its own envelope has to have the null reverse-path, and a message that has the null reverse-path is
/// never reported on (RFC 5321 §4.5.5): the caller sees to both.
#[derive(Debug, Clone, Copy)]
pub struct DeliveryReport<'a> {
    /// Our host name.
    pub reporting_mta: &'a str,
    /// The queue id of the message reported on.
    pub queue_id: &'a str,
    /// The queue id of the report itself; makes its Message-ID.
    pub report_id: &'a str,
    /// When the report is written.
    pub unix_seconds: u64,
    /// When the message was received.
    pub arrival_unix_seconds: u64,
    /// By when the message was to be delivered, if its client has said that (RFC 2852).
    pub deliver_by_unix_seconds: Option<u64>,
    /// The reverse-path of the message, to which the report goes.
    pub reverse_path: &'a ReversePath,
    /// What the client called the message, if it said so (RFC 3461 §4.4).
    pub envelope_id: Option<&'a EnvelopeId>,
    /// The recipients that it tells of.
    pub recipients: &'a [DsnRecipient<'a>],
    /// What it returns.
    pub returned: Returned<'a>,
    /// Whether the message had `SMTPUTF8` (RFC 6531): its header may have UTF-8.
    pub smtputf8: bool,
}

impl DeliveryReport<'_> {
    /// Appends the report as the content of a message: lines end with CRLF and have at most 998
    /// octets, and dots are not stuffed. No octet is above 127 but those of what it returns, and those
    /// of addresses: the report is one of RFC 6533 then. Its header section has such octets only when the
    /// reverse-path has.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (header, original) = match self.returned {
            Returned::Header(content) => (original_header(content), original_header(content)),
            Returned::Message(content) => (original_header(content), content),
        };
        let is_global = self.smtputf8 && !header.is_ascii();
        let content_type = match (self.returned, is_global) {
            (Returned::Header(_), false) => "text/rfc822-headers",
            (Returned::Header(_), true) => "message/global-headers",
            (Returned::Message(_), false) => "message/rfc822",
            (Returned::Message(_), true) => "message/global",
        };
        let boundary = self.boundary(original);
        let has_utf8 = self.has_utf8();
        self.write_header(&boundary, original.is_ascii() && !has_utf8, out);
        open_part(&boundary, "text/plain; charset=utf-8", has_utf8, out);
        self.write_explanation(out);
        let status = if has_utf8 { "global-delivery-status" } else { "delivery-status" };
        open_part(&boundary, &format!("message/{status}"), has_utf8, out);
        self.write_status(has_utf8, out);
        line(out, format_args!("\r\n--{boundary}"));
        if !original.is_ascii() {
            line(out, "Content-Transfer-Encoding: 8bit");
        }
        line(out, format_args!("Content-Type: {content_type}\r\n"));
        out.extend_from_slice(original);
        line(out, format_args!("\r\n--{boundary}--"));
    }

    /// Whether an address in it is not ASCII. Whoever wrote to or from such a one takes reports of RFC 6533.
    fn has_utf8(&self) -> bool {
        let mut paths = self.recipients.iter().map(|one| one.forward_path);
        !self.reverse_path.is_ascii() || paths.any(|path| !path.is_ascii())
    }

    /// A text that is nowhere in what is returned. Id and time make it our own, but
    /// whoever has sent mail before can guess them.
    fn boundary(&self, original: &[u8]) -> String {
        let base = format!("=_{}_{}", word(self.report_id), self.unix_seconds);
        let numbers: BTreeSet<usize> = memmem::find_iter(original, base.as_bytes())
            .filter_map(|at| number_behind(original.get(at + base.len()..)?))
            .collect();
        // Of so many numbers one more than there are is not among them.
        let free = (0..=numbers.len()).find(|number| !numbers.contains(number)).unwrap_or_default();
        format!("{base}_{free}=")
    }

    fn write_header(&self, boundary: &str, seven_bit: bool, out: &mut Vec<u8>) {
        let host = word(self.reporting_mta);
        line(out, format_args!("From: Mail Delivery System <MAILER-DAEMON@{host}>"));
        line(out, format_args!("To: {}", self.reverse_path));
        let subject = if self.any(Action::Failed) {
            "Undelivered Mail Returned to Sender"
        } else if self.any(Action::Delayed) {
            "Delayed Mail (still being tried)"
        } else {
            "Mail Relayed"
        };
        line(out, format_args!("Subject: {subject}"));
        date(out, "Date", self.unix_seconds);
        line(out, format_args!("Message-ID: <{}.dsn@{host}>", word(self.report_id)));
        line(out, format_args!("MIME-Version: 1.0"));
        // RFC 3834 §5: keeps responders from answering.
        line(out, format_args!("Auto-Submitted: auto-replied"));
        line(out, format_args!("Content-Type: multipart/report; report-type=delivery-status;"));
        line(out, format_args!("\tboundary=\"{boundary}\""));
        if !seven_bit {
            line(out, format_args!("Content-Transfer-Encoding: 8bit"));
        }
        line(out, format_args!("\r\nThis is a delivery status notification in MIME format."));
    }

    fn write_explanation(&self, out: &mut Vec<u8>) {
        let host = word(self.reporting_mta);
        line(out, format_args!("This is the mail system at host {host}."));
        if self.any(Action::Failed) {
            line(out, format_args!("\r\nYour message could not be delivered to these recipients:"));
            self.explain(Action::Failed, out);
        }
        if self.any(Action::Delayed) {
            line(
                out,
                format_args!(
                    "\r\nYour message could not yet be delivered to these recipients. It is still being\r\n\
                     tried, and you need not send it again:"
                ),
            );
            self.explain(Action::Delayed, out);
        }
        if self.any(Action::Relayed) {
            line(
                out,
                format_args!(
                    "\r\nYour message was handed over for these recipients, to a host that does not\r\n\
                     report on deliveries. You may hear no more of it:"
                ),
            );
            self.explain(Action::Relayed, out);
        }
    }

    fn any(&self, action: Action) -> bool {
        self.recipients.iter().any(|recipient| recipient.action == action)
    }

    fn explain(&self, action: Action, out: &mut Vec<u8>) {
        for recipient in self.recipients.iter().filter(|one| one.action == action) {
            line(out, format_args!("\r\n{}", recipient.forward_path));
            let reason = escape(recipient.reason);
            match (recipient.remote_mta, recipient.diagnostic) {
                (Some(host), Some(reply)) => {
                    folded(
                        out,
                        "    ",
                        &format!("host {} said: {}", word(host), escape(&reply.to_string())),
                    );
                }
                (None, Some(reply)) => folded(out, "    ", &escape(&reply.to_string())),
                (_, None) => folded(out, "    ", &reason),
            }
        }
    }

    /// RFC 3464 §2.2 and §2.3.
    fn write_status(&self, has_utf8: bool, out: &mut Vec<u8>) {
        if let Some(id) = self.envelope_id {
            line(out, format_args!("Original-Envelope-Id: {}", id.decoded()));
        }
        line(out, format_args!("Reporting-MTA: dns; {}", word(self.reporting_mta)));
        line(out, format_args!("X-Queue-ID: {}", word(self.queue_id)));
        date(out, "Arrival-Date", self.arrival_unix_seconds);
        // RFC 2852 adds it to the fields of RFC 3464.
        if let Some(seconds) = self.deliver_by_unix_seconds {
            date(out, "Deliver-By-Date", seconds);
        }
        for recipient in self.recipients {
            line(out, "");
            if let Some(original) = recipient.original {
                let kind = original.report_type();
                let address = if has_utf8 { original.address() } else { original.ascii_address() };
                line(out, format_args!("Original-Recipient: {kind}; {address}"));
            }
            let kind = if recipient.forward_path.is_ascii() { "rfc822" } else { "utf-8" };
            line(out, format_args!("Final-Recipient: {kind}; {}", recipient.forward_path.bare()));
            line(out, format_args!("Action: {}", recipient.action.keyword()));
            line(out, format_args!("Status: {}", recipient.status));
            if let Some(host) = recipient.remote_mta {
                line(out, format_args!("Remote-MTA: dns; {}", word(host)));
            }
            match recipient.diagnostic {
                Some(reply) => field(out, "Diagnostic-Code: smtp;", &escape(&reply.to_string())),
                None => field(out, "Diagnostic-Code: x-ringpost;", &escape(recipient.reason)),
            }
            if let Some(unix_seconds) = recipient.last_attempt_unix_seconds {
                date(out, "Last-Attempt-Date", unix_seconds);
            }
            if let Some(unix_seconds) = recipient.will_retry_until_unix_seconds {
                date(out, "Will-Retry-Until", unix_seconds);
            }
        }
    }
}

/// Appends a line and its CRLF.
fn line(out: &mut Vec<u8>, text: impl Display) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "{text}\r\n");
}

fn date(out: &mut Vec<u8>, name: &str, unix_seconds: u64) {
    let _ = write!(out, "{name}: ");
    write_rfc5322(unix_seconds, out);
    out.extend_from_slice(b"\r\n");
}

fn open_part(boundary: &str, content_type: &str, eight_bit: bool, out: &mut Vec<u8>) {
    line(out, format_args!("\r\n--{boundary}"));
    if eight_bit {
        line(out, "Content-Transfer-Encoding: 8bit");
    }
    line(out, format_args!("Content-Type: {content_type}\r\n"));
}

/// The number in a text that begins like `_7=`.
fn number_behind(text: &[u8]) -> Option<usize> {
    let digits = text.strip_prefix(b"_")?;
    let end = memchr::memchr(b'=', digits.get(..digits.len().min(20))?)?;
    std::str::from_utf8(digits.get(..end)?).ok()?.parse().ok()
}

/// Keeps what belongs into host names and ids.
fn word(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || "-._:[]=".contains(*c)).collect()
}

/// Turns what is not printable ASCII into `?`, and bounds the length.
fn escape(text: &str) -> String {
    let printable = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
    text.chars().take(REPLY_TEXT_MAX).map(printable).collect()
}

/// Where a line is folded at a space when there is one; and where it is when there is none.
const FOLD_AT: usize = 76;
const FOLD_MAX: usize = 400;

const _: () = assert!(FOLD_AT < FOLD_MAX && FOLD_MAX < TEXT_LINE_MAX);

/// Appends a field whose body is folded. A body that is empty would end the group of fields early
/// when folded, so it is never folded at its start.
fn field(out: &mut Vec<u8>, start: &str, text: &str) {
    let start = format!("{start} {text}");
    let mut lines = fold(&start);
    if let Some(first) = lines.next() {
        line(out, first);
    }
    for rest in lines {
        line(out, format_args!("    {rest}"));
    }
}

/// Appends lines of text, each behind an indentation.
fn folded(out: &mut Vec<u8>, indent: &str, text: &str) {
    for part in fold(text) {
        line(out, format_args!("{indent}{part}"));
    }
}

/// Cuts an ASCII text into parts that fit on a line; none of them is blank.
fn fold(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text.trim();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = if rest.len() <= FOLD_AT {
            rest.len()
        } else {
            let near = rest.get(..FOLD_AT).and_then(|start| start.rfind(' '));
            let far = || rest.get(..FOLD_MAX.min(rest.len())).and_then(|start| start.find(' '));
            near.or_else(far).unwrap_or(FOLD_MAX.min(rest.len()))
        };
        let (part, after) = rest.split_at_checked(at)?;
        rest = after.trim_start();
        Some(part.trim_end())
    })
}

/// The header section at the start of some content: whole fields, as many as the limit allows.
fn original_header(content: &[u8]) -> &[u8] {
    let mut kept = 0;
    let mut at = 0;
    for text in content.split_inclusive(|&b| b == b'\n') {
        let next = at + text.len();
        let continues = matches!(text.first(), Some(b' ' | b'\t'));
        if !continues {
            kept = at;
        }
        let ends = text == b"\r\n" || !text.ends_with(b"\r\n") || next > DSN_HEADER_SIZE_MAX;
        let is_field = continues || memchr::memchr(b':', text).is_some();
        if ends || !is_field {
            return content.get(..kept).unwrap_or_default();
        }
        at = next;
    }
    content.get(..at).unwrap_or_default()
}
