//! Reports to the originator: what is written about recipients, whatever servers said.
//!
//! The first octet says how many recipients there are, the second how much is known of them. Then come
//! texts, ended by NUL: for each recipient its address, the host, its reply and our reason; at last the
//! header section of the message, in which a LF stands for CR LF.

use ringpost_protocol::data::stuff::{StuffState, stuff_into, terminator};
use ringpost_protocol::data::{ContentDecoder, ContentLimits, ContentProgress, Framing};
use ringpost_protocol::dsn::{Action, DeliveryReport, DeliveryStatus, DsnRecipient, Returned};
use ringpost_protocol::limits::{DSN_HEADER_SIZE_MAX, TEXT_LINE_MAX};
use ringpost_protocol::notify::{EnvelopeId, OriginalRecipient, decode_xtext, encode_xtext};
use ringpost_protocol::path::{ForwardPath, ReversePath};
use ringpost_protocol::reply::{Reply, ReplyCode};
use ringpost_protocol::status::EnhancedStatusCode;

use super::{is_text, seed};
use crate::input::{Input, expanded};
use crate::{Target, Verdict, must};

/// The target.
pub const TARGET: Target = Target {
    name: "dsn",
    check,
    seeds,
    words: &[
        "\n",
        "\0",
        "\r\n",
        "\r\n\r\n",
        "Subject: a\n",
        " folded\n",
        "--=_00a2_1700000000_0=",
        "--\n",
        ": x",
        "Content-Type: text/html",
        "Action: delivered",
        "\u{2028}",
        "<a@b.test>",
        "\"a b\"@c.test",
        "message/delivery-status",
        "Final-Recipient: rfc822; x@y.test",
    ],
    size_max: 800,
    cost: 1,
};

const HAS_REPLY: u8 = 1;
const HAS_HOST: u8 = 2;
const IS_LATE: u8 = 4;
const HAS_ATTEMPT: u8 = 8;
const IS_RELAYED: u8 = 16;
const HAS_ORIGINAL: u8 = 32;

/// A recipient as the report is told of it.
#[derive(Debug)]
struct Told {
    path: ForwardPath,
    host: Option<String>,
    reply: Option<Reply>,
    reason: String,
    is_late: bool,
    is_relayed: bool,
    original: Option<OriginalRecipient>,
    has_attempt: bool,
}

type Write = fn(&DeliveryReport<'_>, &mut Vec<u8>);

fn seeds() -> Vec<Vec<u8>> {
    let header = "From: <a@b.test>\nSubject: a\n folded\n\nThe body\n";
    let one = "b@c.test\0mx.c.test\0No such mailbox\nhere\0refused\0";
    let two = "\"c d\"@e.test\0\0\0the domain does not exist\0";
    let words = format!("x@y.test\0h\0{}\0r\0", "word ".repeat(40));
    vec![
        seed(&[1, HAS_REPLY | HAS_HOST | HAS_ATTEMPT], format!("{one}{header}")),
        seed(&[2, IS_LATE], format!("{one}{two}{header}")),
        seed(&[2, HAS_REPLY], format!("{words}{two}{header}")),
        seed(&[1, HAS_REPLY], "x@y.test\0\0aaaa\x1a\x7f\0\0Subject: \u{fc}\n\n"),
        seed(&[1, 0], "x@y.test\0\0\0\r\nAction: x\r\n\r\n\0no header\n"),
        seed(&[1, 0], "x@y.test\0\0\0\0--=_00a2_1700000000_0=: x\nSubject: b\n"),
        seed(&[1, HAS_REPLY | IS_RELAYED | HAS_ORIGINAL], format!("{one}{header}")),
        seed(&[2, HAS_ORIGINAL], format!("{two}{one}{header}")),
        seed(&[0, 0], header),
        seed(&[2, HAS_ORIGINAL], format!("ü@c.test\0\0\0ö@c.test\0{two}{header}")),
    ]
}

/// Says whether the report is as RFC 3464 and MIME want it, and says no more than it was told.
pub fn check(octets: &[u8]) -> Verdict {
    check_with(octets, write_report)
}

fn write_report(report: &DeliveryReport<'_>, out: &mut Vec<u8>) {
    report.write(out);
}

fn check_with(octets: &[u8], write: Write) -> Verdict {
    let mut input = Input::new(octets);
    let (count, known) = (input.octet() % 4, input.octet());
    let told: Vec<Told> =
        (0..count).map(|at| read(&mut input, known.rotate_left(at.into()))).collect();
    let mut original = Vec::new();
    for line in expanded(input.rest()).split_inclusive(|&b| b == b'\n') {
        // Content that was accepted has no other line ends, no NUL and no line that is longer.
        let text = line.iter().filter(|&&b| b != b'\r' && b != b'\n' && b != 0).take(TEXT_LINE_MAX);
        original.extend(text);
        original.extend_from_slice(if line.ends_with(b"\n") { b"\r\n" } else { b"" });
    }
    let recipients: Vec<DsnRecipient<'_>> = told.iter().map(Told::recipient).collect();
    let envelope_id = told.first().and_then(|one| id_of(&one.reason));
    let report = DeliveryReport {
        reporting_mta: "mx.test",
        queue_id: "00a1",
        report_id: "00a2",
        unix_seconds: 1_700_000_000,
        arrival_unix_seconds: 1_699_990_000,
        deliver_by_unix_seconds: None,
        reverse_path: &ReversePath::Null,
        envelope_id: envelope_id.as_ref(),
        recipients: &recipients,
        returned: Returned::Header(&original),
        smtputf8: false,
    };
    let mut content = Vec::new();
    write(&report, &mut content);
    let is_global = told.iter().any(|one| !one.path.is_ascii());
    check_content(&content, original.is_ascii() && !is_global)?;
    for told in &told {
        // What is written as xtext is read as what it was, if it may be read at all.
        let mut text = String::new();
        encode_xtext(&told.reason, &mut text);
        let is_printable = told.reason.bytes().all(|b| matches!(b, b' '..=b'~'));
        let read = decode_xtext(&text);
        must!(read == is_printable.then(|| told.reason.clone()), "{text:?} is read as {read:?}");
    }
    let parts = parts(&content)?;
    check_status(parts[1], &told, envelope_id.is_some(), is_global)?;
    check_original(parts[2], &original)?;
    // Nothing is said of what we are told by others, but it must not stop us.
    let _ = DeliveryStatus::parse(&original);
    let status = DeliveryStatus::parse(&content).ok_or("the report cannot be read")?;
    must!(status.recipients.len() == told.len(), "{} recipients read", status.recipients.len());
    for (read, told) in status.recipients.iter().zip(&told) {
        must!(read.final_recipient == told.path.bare().to_string(), "{read:?} is another");
        let action = told.recipient().action.keyword();
        let named = told.original.as_ref().map(|original| {
            let address = if is_global { original.address() } else { original.ascii_address() };
            address.trim().to_owned()
        });
        must!(read.original_recipient == named, "{read:?} is not {named:?}");
        must!(read.action == action, "{read:?} is not {action}");
    }
    Ok(())
}

fn read(input: &mut Input<'_>, known: u8) -> Told {
    let (path, host, said, reason) = (input.text(), input.text(), input.text(), input.text());
    let said = String::from_utf8_lossy(&expanded(said.as_bytes())).into_owned();
    let code = ReplyCode::new(550).filter(|_| known & HAS_REPLY != 0);
    let enhanced = EnhancedStatusCode::new(5, 1, 1);
    let path = ForwardPath::parse(&format!("<{path}>")).unwrap_or(ForwardPath::Postmaster);
    let original = original_of(&path, &reason);
    Told {
        path,
        original: original.filter(|_| known & HAS_ORIGINAL != 0),
        is_relayed: known & IS_RELAYED != 0,
        host: (known & HAS_HOST != 0).then_some(host),
        reply: code.map(|code| Reply::new(code, Some(enhanced), &said)),
        reason,
        is_late: known & IS_LATE != 0,
        has_attempt: known & HAS_ATTEMPT != 0,
    }
}

/// An original recipient whose address is the reason, if it can be one; it must be read back as written.
fn original_of(path: &ForwardPath, reason: &str) -> Option<OriginalRecipient> {
    let mut text = String::from("rfc822;");
    encode_xtext(reason, &mut text);
    OriginalRecipient::parse(&text)
        .filter(|original| !original.address().trim().is_empty())
        .or_else(|| Some(OriginalRecipient::of(path)))
}

fn id_of(reason: &str) -> Option<EnvelopeId> {
    let mut text = String::new();
    encode_xtext(reason, &mut text);
    EnvelopeId::parse(&text)
}

impl Told {
    fn recipient(&self) -> DsnRecipient<'_> {
        DsnRecipient {
            forward_path: &self.path,
            original: self.original.as_ref(),
            action: match (self.is_late, self.is_relayed) {
                (true, _) => Action::Delayed,
                (false, true) => Action::Relayed,
                (false, false) => Action::Failed,
            },
            status: EnhancedStatusCode::new(if self.is_late { 4 } else { 5 }, 0, 0),
            remote_mta: self.host.as_deref(),
            diagnostic: self.reply.as_ref(),
            reason: &self.reason,
            last_attempt_unix_seconds: self.has_attempt.then_some(1_699_999_000),
            will_retry_until_unix_seconds: self.is_late.then_some(1_700_999_000),
        }
    }
}

/// It is content that any server takes, ours too.
fn check_content(content: &[u8], is_ascii: bool) -> Verdict {
    must!(content.is_ascii() || !is_ascii, "8-bit content out of nothing");
    let (mut wire, mut state) = (Vec::new(), StuffState::default());
    stuff_into(content, &mut state, &mut wire);
    must!(state == StuffState::LineStart, "the last line is open");
    wire.extend_from_slice(terminator(state));
    let mut decoder = ContentDecoder::new(ContentLimits::default(), Framing::Dots);
    let (taken, progress) = decoder.decode(&wire, &mut Vec::new());
    must!(progress == ContentProgress::End && taken == wire.len(), "refused: {progress:?}");
    must!(decoder.received_fields() == 0, "it has been received already");
    Ok(())
}

/// The three parts behind the header section, which has just the fields that it should.
fn parts(content: &[u8]) -> Result<[&[u8]; 3], String> {
    let mut lines = Vec::new();
    let mut rest = content;
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        lines.push((&rest[..end], content.len() - rest.len()));
        rest = &rest[end + 2..];
    }
    let head: Vec<String> = lines
        .iter()
        .map(|(line, _)| String::from_utf8_lossy(line).into_owned())
        .take_while(|line| !line.is_empty())
        .collect();
    let names: Vec<&str> = head
        .iter()
        .filter(|line| !line.starts_with('\t'))
        .map(|line| line.split(':').next().unwrap_or_default())
        .collect();
    let expected = [
        "From",
        "To",
        "Subject",
        "Date",
        "Message-ID",
        "MIME-Version",
        "Auto-Submitted",
        "Content-Type",
    ];
    let is_eight_bit = names.last() == Some(&"Content-Transfer-Encoding");
    let wanted = &names[..names.len() - usize::from(is_eight_bit)];
    must!(wanted == expected, "the header section has {names:?}");
    must!(is_eight_bit != content.is_ascii(), "8-bit: {is_eight_bit}");
    let boundary =
        head.iter().find_map(|line| line.strip_prefix("\tboundary=\"")?.strip_suffix('"'));
    let boundary = format!("--{}", boundary.ok_or("there is no boundary")?);
    // Readers differ in what they take for a delimiter: it is all that begins like one.
    let places: Vec<(&[u8], usize)> =
        lines.into_iter().filter(|(line, _)| line.starts_with(boundary.as_bytes())).collect();
    let [(a, one), (b, two), (c, three), (d, four)] = places[..] else {
        return Err(format!("{} delimiters", places.len()));
    };
    let is_open = |line: &[u8]| line == boundary.as_bytes();
    must!(is_open(a) && is_open(b) && is_open(c), "a delimiter has a tail");
    must!(d == format!("{boundary}--").as_bytes(), "the last delimiter is none");
    must!(four + d.len() + 2 == content.len(), "there is something behind the end");
    let part = |from: usize, to: usize| &content[from + boundary.len() + 2..to];
    Ok([part(one, two), part(two, three), part(three, four)])
}

/// Splits a part into its header section and the rest.
fn body<'a>(part: &'a [u8], content_type: &str) -> Result<&'a [u8], String> {
    let head = format!("Content-Type: {content_type}\r\n\r\n");
    part.strip_prefix(head.as_bytes()).ok_or_else(|| format!("a part is not {content_type}"))
}

/// RFC 3464 §2.1: groups of fields, one for the message and one for each recipient.
fn check_status(part: &[u8], told: &[Told], has_id: bool, is_global: bool) -> Verdict {
    let encoding = b"Content-Transfer-Encoding: 8bit\r\n";
    let part = part.strip_prefix(encoding).unwrap_or(part);
    let kind = if is_global { "global-delivery-status" } else { "delivery-status" };
    let fields = body(part, &format!("message/{kind}"))?;
    must!(fields.is_ascii() || is_global, "8-bit fields");
    let text = std::str::from_utf8(fields).map_err(|_| "not UTF-8")?;
    // What stands in front of a delimiter belongs to it: one line end. The other ends the last field.
    let text = text.strip_suffix("\r\n\r\n").ok_or("the last field has no end")?;
    let groups: Vec<&str> = text.split("\r\n\r\n").collect();
    must!(groups.len() == told.len() + 1, "{} groups of fields", groups.len());
    let of_message = ["Original-Envelope-Id", "Reporting-MTA", "X-Queue-ID", "Arrival-Date"];
    check_group(groups[0], &of_message[usize::from(!has_id)..])?;
    for (group, told) in groups[1..].iter().zip(told) {
        let mut names = Vec::new();
        names.extend(told.original.as_ref().map(|_| "Original-Recipient"));
        names.extend(["Final-Recipient", "Action", "Status"]);
        names.extend(told.host.as_ref().map(|_| "Remote-MTA"));
        names.push("Diagnostic-Code");
        names.extend(told.has_attempt.then_some("Last-Attempt-Date"));
        names.extend(told.is_late.then_some("Will-Retry-Until"));
        check_group(group, &names)?;
    }
    Ok(())
}

fn check_group(group: &str, names: &[&str]) -> Verdict {
    let mut found = Vec::new();
    for line in group.split("\r\n") {
        must!(is_text(line) && !line.trim().is_empty(), "{line:?} is no line of a field");
        must!(line.len() <= TEXT_LINE_MAX, "a line of {} octets", line.len());
        if !line.starts_with(' ') {
            found.push(line.split(':').next().unwrap_or_default());
        }
    }
    must!(found == names, "fields {found:?}, not {names:?}");
    Ok(())
}

/// Of the message only whole fields are repeated, from its start.
fn check_original(part: &[u8], original: &[u8]) -> Verdict {
    let encoding = b"Content-Transfer-Encoding: 8bit\r\n";
    let kept = body(part.strip_prefix(encoding).unwrap_or(part), "text/rfc822-headers")?;
    must!(part.starts_with(encoding) != kept.is_ascii(), "the part is not what its head says");
    let kept = kept.strip_suffix(b"\r\n").ok_or("a delimiter does not begin a line")?;
    must!(original.starts_with(kept), "the header section is another");
    must!(kept.len() <= DSN_HEADER_SIZE_MAX, "{} octets are kept", kept.len());
    must!(kept.is_empty() || kept.ends_with(b"\r\n"), "the last field is cut");
    must!(!kept.windows(4).any(|four| four == b"\r\n\r\n"), "a part of the body is kept");
    must!(
        !matches!(original.get(kept.len()), Some(b' ' | b'\t')) || kept.is_empty(),
        "a field is cut"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_found(wrong: Write) -> bool {
        seeds().iter().any(|octets| check_with(octets, wrong).is_err())
    }

    /// Writes the report with one text in the place of another.
    fn replaced(report: &DeliveryReport<'_>, out: &mut Vec<u8>, from: &str, to: &str) {
        let mut content = Vec::new();
        report.write(&mut content);
        out.extend_from_slice(String::from_utf8_lossy(&content).replace(from, to).as_bytes());
    }

    #[test]
    fn wrong_writers_are_found() {
        assert!(!is_found(write_report));
        assert!(is_found(|report, out| replaced(report, out, "failed", "failed\r\nX-More: x")));
        assert!(is_found(|report, out| replaced(
            report,
            out,
            "Status: 5",
            "Status: 5.1.1\r\n\r\nStatus: 5"
        )));
        assert!(is_found(|report, out| replaced(
            report,
            out,
            "\r\nDate:",
            "\r\nBcc: x@y.test\r\nDate:"
        )));
        assert!(is_found(|report, out| replaced(report, out, "Subject: a\r\n", "")));
        assert!(is_found(|report, out| replaced(report, out, "\r\n folded", "\r\nfolded")));
        assert!(is_found(|report, out| replaced(report, out, "--\r\n", "\r\n")));
        assert!(is_found(|report, out| replaced(report, out, "failed", "delivered")));
        assert!(is_found(|report, out| replaced(report, out, " ", "\u{e9}")));
        assert!(is_found(|report, out| replaced(report, out, "word word", &"word".repeat(300))));
        assert!(is_found(|report, out| {
            let fewer = DeliveryReport { recipients: &[], ..*report };
            fewer.write(out);
        }));
        // A header section that is repeated as a whole can be ended from within.
        assert!(is_found(|report, out| {
            replaced(report, out, "Subject: a\r\n", "--=_00a2_1700000000_0=: x\r\nSubject: a\r\n");
        }));
    }
}
