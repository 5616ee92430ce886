//! Addresses: mailboxes, domains, address literals and paths.
//!
//! The first octet chooses what is read and how closely, the rest is the text.

use std::fmt::Display;

use ringpost_protocol::address::{AddressLiteral, Domain, Host, Mailbox, Syntax};
use ringpost_protocol::error::AddressError;
use ringpost_protocol::limits::{DOMAIN_MAX, LABEL_MAX, LOCAL_PART_MAX, PATH_MAX};
use ringpost_protocol::path::{ForwardPath, ReversePath};

use super::{is_plain, is_text, seed};
use crate::input::Input;
use crate::{Target, Verdict, must};

/// The target.
pub const TARGET: Target = Target {
    name: "addr",
    check,
    seeds,
    words: &[
        "@",
        "\"",
        "\\",
        "<",
        ">",
        "[",
        "]",
        "[IPv6:",
        "::",
        "[192.0.2.1]",
        ".test",
        "Postmaster",
        "..",
        "_",
        "xn--",
        "@r.test:",
        "1.1.1.1",
        "ü",
        "例",
        "\u{3002}",
        "\u{200d}",
        "\u{2028}",
        "\u{9b}",
    ],
    size_max: 400,
    cost: 1,
};

type ReadMailbox = fn(&str, Syntax) -> Result<Mailbox, AddressError>;

fn seeds() -> Vec<Vec<u8>> {
    let long = format!("{}@{}.test", "a".repeat(64), ["b".repeat(60).as_str(); 3].join("."));
    let table: [(u8, &str); 29] = [
        (0, "a@b.test"),
        (0, "a.b.c@d-e.test"),
        (0, "\"a \\\"b\\\" @ c\"@d.test"),
        (0, "a@[192.0.2.1]"),
        (0, "a@[IPv6:2001:db8::1]"),
        (0, "A@B.TEST"),
        (0, "a..b@c.test"),
        (0, "a@1.1.1.1"),
        (0, &long),
        (1, "b.test"),
        (1, "xn--bcher-kva.test"),
        (1, "under_score.test"),
        (1, "-a.test"),
        (1, "b.test."),
        (2, "[192.0.2.1]"),
        (2, "[ipv6:::ffff:192.0.2.1]"),
        (2, "b.test"),
        (3, "<a@b.test>"),
        (3, "<@r.test,@s.test:a@b.test>"),
        (3, "<postmaster>"),
        (4, "<>"),
        (4, "<\"a>b\"@c.test>"),
        (0, "ü@b.test"),
        (0, "\"ü ö\"@b.test"),
        (0, "a@bücher.test"),
        (0, "用户@例え.テスト"),
        (0, "a\u{2028}@b.test"),
        (3, "<ü@BÜCHER.test>"),
        (4, "<u\u{308}@b.test>"),
    ];
    let both = |(kind, text): &(u8, &str)| [seed(&[*kind], text), seed(&[kind | 0x80], text)];
    table.iter().flat_map(both).collect()
}

/// Says whether the text is read as it must be.
pub fn check(octets: &[u8]) -> Verdict {
    check_with(octets, Mailbox::parse_with)
}

fn check_with(octets: &[u8], read_mailbox: ReadMailbox) -> Verdict {
    let mut input = Input::new(octets);
    let kind = input.octet();
    let syntax = if kind & 0x80 == 0 { Syntax::Strict } else { Syntax::Lenient };
    let Ok(text) = std::str::from_utf8(input.rest()) else { return Ok(()) };
    match kind & 0x7F {
        0 => {
            let read = |text: &str, syntax| read_mailbox(text, syntax);
            let mailbox = check_reader(text, syntax, read)?;
            let expected = syntax == Syntax::Strict && is_mailbox(text.as_bytes());
            let found = syntax == Syntax::Strict && mailbox.is_some();
            let host = text.rsplit('@').next().unwrap_or_default();
            // What of Unicode is a domain is not said here a second time.
            let is_told = host.is_ascii() || !expected;
            must!(found == expected || !is_told, "{text:?}: a mailbox? {expected}, not {found}");
            mailbox.map_or(Ok(()), |mailbox| check_mailbox(&mailbox, text))
        }
        1 => match check_reader(text, syntax, Domain::parse_with)? {
            Some(domain) => check_domain(&domain),
            None => Ok(()),
        },
        2 => {
            check_reader(text, syntax, Host::parse_with)?;
            check_reader(text, Syntax::Lenient, |text, _| AddressLiteral::parse(text)).map(drop)
        }
        3 => {
            let path = check_reader(text, Syntax::Lenient, |text, _| ForwardPath::parse(text))?;
            let Some(path) = path else { return Ok(()) };
            let bare = path.bare().to_string();
            must!(format!("<{bare}>") == path.to_string(), "{bare:?} and {path}");
            must!(path.to_string().len() <= PATH_MAX, "{path} is too long");
            must!(path != ForwardPath::Postmaster || bare == "Postmaster", "{bare}");
            Ok(())
        }
        _ => {
            let path = check_reader(text, Syntax::Lenient, |text, _| ReversePath::parse(text))?;
            let Some(path) = path else { return Ok(()) };
            must!(path.is_null() == (text == "<>"), "{text:?} is null, or is not");
            must!(path.to_string().len() <= PATH_MAX, "{path} is too long");
            Ok(())
        }
    }
}

/// What is read is written plainly, and is read back as the same.
fn check_reader<T: Display + PartialEq>(
    text: &str,
    syntax: Syntax,
    read: impl Fn(&str, Syntax) -> Result<T, AddressError>,
) -> Result<Option<T>, String> {
    let Ok(value) = read(text, syntax) else { return Ok(None) };
    let written = value.to_string();
    must!(is_text(&written), "{written:?} cannot go to a log");
    must!(read(&written, syntax).as_ref() == Ok(&value), "{text:?} becomes {written:?}");
    let lenient = read(text, Syntax::Lenient);
    must!(lenient.as_ref() == Ok(&value), "{text:?}: lenient is not more than strict");
    Ok(Some(value))
}

fn check_mailbox(mailbox: &Mailbox, text: &str) -> Verdict {
    let local_part = mailbox.local_part();
    must!((1..=LOCAL_PART_MAX).contains(&local_part.len()), "{local_part:?} is too long");
    must!(text.starts_with(local_part), "{local_part:?} is not as it came");
    let is_same = mailbox.to_string() == text || mailbox.is_ascii() || text.ends_with(']');
    must!(is_same || mailbox.to_string().eq_ignore_ascii_case(text), "{text:?} is not as it came");
    must!(mailbox.is_ascii() == mailbox.to_string().is_ascii(), "{text:?} is ASCII, or is not");
    mailbox.domain().map_or(Ok(()), check_domain)
}

fn check_domain(domain: &Domain) -> Verdict {
    let text = domain.as_str();
    must!(text.len() <= DOMAIN_MAX && is_plain(text), "{text} is no domain");
    must!(text == text.to_ascii_lowercase(), "{text} is not in lower case");
    for label in text.split('.') {
        must!((1..=LABEL_MAX).contains(&label.len()), "{text} has a label that is none");
    }
    must!(text.parse::<std::net::Ipv4Addr>().is_err(), "{text} is an address");
    Ok(())
}

/// RFC 5321 §4.1.2, written down once more and slowly.
fn is_mailbox(text: &[u8]) -> bool {
    // The last `@` of a mailbox is the one: there is none in a domain, or in a literal.
    let Some(at) = text.iter().rposition(|&b| b == b'@') else { return false };
    let (local_part, host) = (&text[..at], &text[at + 1..]);
    let atom = |atom: &[u8]| {
        !atom.is_empty()
            && atom.iter().all(|b| {
                b.is_ascii_alphanumeric() || !b.is_ascii() || b"!#$%&'*+-/=?^_`{|}~".contains(b)
            })
    };
    let is_local_part = local_part.len() <= 64
        && std::str::from_utf8(local_part).is_ok_and(is_text)
        && (local_part.split(|&b| b == b'.').all(atom) || is_quoted(local_part));
    is_local_part && (!host.is_ascii() || is_domain(host) || is_literal(host))
}

fn is_quoted(text: &[u8]) -> bool {
    let [b'"', inner @ .., b'"'] = text else { return false };
    let mut at = 0;
    while let Some(b) = inner.get(at) {
        at += match (b, inner.get(at + 1)) {
            (b'\\', Some(b' '..=b'~')) => 2,
            (b'\\' | b'"', _) => return false,
            (b' '..=b'~' | 0x80.., _) => 1,
            _ => return false,
        };
    }
    true
}

fn is_domain(text: &[u8]) -> bool {
    let label = |label: &&[u8]| {
        (1..=63).contains(&label.len())
            && label.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
            && label[0] != b'-'
            && label[label.len() - 1] != b'-'
    };
    let labels: Vec<&[u8]> = text.split(|&b| b == b'.').collect();
    let is_number = labels.last().is_some_and(|last| last.iter().all(u8::is_ascii_digit));
    text.len() <= 255 && labels.iter().all(label) && !is_number
}

fn is_literal(text: &[u8]) -> bool {
    let [b'[', inner @ .., b']'] = text else { return false };
    let Ok(inner) = std::str::from_utf8(inner) else { return false };
    match inner.split_at_checked(5) {
        Some((tag, address)) if tag.eq_ignore_ascii_case("ipv6:") => {
            address.parse::<std::net::Ipv6Addr>().is_ok()
        }
        _ => inner.parse::<std::net::Ipv4Addr>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_found(read: ReadMailbox) -> bool {
        seeds().iter().any(|octets| check_with(octets, read).is_err())
    }

    #[test]
    fn wrong_readers_are_found() {
        assert!(!is_found(Mailbox::parse_with));
        // Lets dots in a row pass.
        assert!(is_found(|text, _| Mailbox::parse_with(text, Syntax::Lenient)));
        // Drops the quotes.
        assert!(is_found(|text, syntax| Mailbox::parse_with(&text.replace('"', ""), syntax)));
        // Takes the part behind the first `@` for the host.
        assert!(is_found(|text, syntax| {
            let host = text.split('@').nth(1).unwrap_or_default();
            Mailbox::parse_with(&format!("x@{host}"), syntax)
        }));
    }
}
