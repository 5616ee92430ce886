use proptest::prelude::*;

use super::*;
use crate::limits::{MIME_DEPTH_MAX, MIME_LINE_MAX, MIME_PARTS_MAX};

fn convert_in(content: &[u8], size: usize) -> Result<Vec<u8>, Inconvertible> {
    let mut survey = Survey::new();
    for piece in content.chunks(size) {
        survey.feed(piece);
    }
    let mut converter = Converter::new(survey.finish()?);
    let mut out = Vec::new();
    for piece in content.chunks(size) {
        converter.feed(piece, &mut out);
    }
    converter.finish(&mut out)?;
    Ok(out)
}

/// The converted content, which is the same however it comes.
fn convert(content: &str) -> Result<String, Inconvertible> {
    let whole = convert_in(content.as_bytes(), usize::MAX);
    for size in [1, 2, 7] {
        assert_eq!(convert_in(content.as_bytes(), size), whole, "in pieces of {size}");
    }
    whole.map(|out| String::from_utf8(out).unwrap())
}

fn crlf(text: &str) -> String {
    text.replace('\n', "\r\n")
}

#[test]
fn a_text_becomes_quoted_printable() {
    let table = [
        (
            "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\
             Content-Transfer-Encoding: 8bit\nSubject: x\n\ngrüße = and much more text \n.\n\nend",
            "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nSubject: x\n\
             Content-Transfer-Encoding: quoted-printable\n\ngr=C3=BC=C3=9Fe =3D and much more text=20\n.\n\nend",
        ),
        // Nobody has said what it is.
        (
            "Subject: x\n\nü and more text here\n",
            "Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n\
             Content-Transfer-Encoding: quoted-printable\n\n=C3=BC and more text here\n",
        ),
        // A folded field goes as a whole; `7bit` was wrong.
        (
            "Content-Transfer-Encoding:\n 7bit\nMIME-Version: 1.0\nContent-Type: text/html\n\nü and more text here\n",
            "MIME-Version: 1.0\nContent-Type: text/html\n\
             Content-Transfer-Encoding: quoted-printable\n\n=C3=BC and more text here\n",
        ),
        // A header section that a line of the body ends.
        (
            "Subject: x\nü and more text here\n",
            "Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n\
             Content-Transfer-Encoding: quoted-printable\n\n=C3=BC and more text here\n",
        ),
    ];
    for (content, expected) in table {
        assert_eq!(convert(&crlf(content)), Ok(crlf(expected)));
    }
}

#[test]
fn what_is_mostly_above_127_becomes_base64() {
    let content = "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\n例え\nテスト\n";
    assert_eq!(
        convert(&crlf(content)),
        Ok(crlf(
            "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\
             Content-Transfer-Encoding: base64\n\n5L6L44GIDQrjg4bjgrnjg4gNCg==\n"
        ))
    );
}

#[test]
fn only_the_parts_that_need_it_are_touched() {
    let content = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"=_a b\"\n\
        Content-Transfer-Encoding: 8bit\n\npreamble\n--=_a b\n\nplain\n--=_a b \n\
        Content-Type: multipart/alternative;\n\tboundary=in\n\n--in\n\ngrüße and some more text\n\
        --in\nContent-Type: text/html\nContent-Transfer-Encoding: base64\n\nPGI+\n--in--\n\n\
        --=_a b\nContent-Type: multipart/signed; boundary=s\n\n--s\n\nsigned\n--s--\n--=_a b\n\
        Content-Type: image/x\nContent-Transfer-Encoding: binary\n\nüüü\n--=_a b--\nepilogue\n";
    let expected = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"=_a b\"\n\
        Content-Transfer-Encoding: 7bit\n\npreamble\n--=_a b\n\nplain\n--=_a b \n\
        Content-Type: multipart/alternative;\n\tboundary=in\n\n--in\n\
        Content-Type: text/plain; charset=unknown-8bit\n\
        Content-Transfer-Encoding: quoted-printable\n\ngr=C3=BC=C3=9Fe and some more text\n\
        --in\nContent-Type: text/html\nContent-Transfer-Encoding: base64\n\nPGI+\n--in--\n\n\
        --=_a b\nContent-Type: multipart/signed; boundary=s\n\n--s\n\nsigned\n--s--\n--=_a b\n\
        Content-Type: image/x\nContent-Transfer-Encoding: base64\n\nw7zDvMO8\n--=_a b--\nepilogue\n";
    assert_eq!(convert(&crlf(content)), Ok(crlf(expected)));
}

#[test]
fn what_may_not_be_changed_is_not() {
    let multipart = |kind: &str, part: &str| {
        format!("Content-Type: multipart/{kind}; boundary=b\n\n--b\n{part}\n--b--\n")
    };
    let deep = |depth: usize| {
        let levels = (0..depth).fold(String::new(), |levels, level| {
            let to = if level == 0 { String::new() } else { format!("--b{}\n", level - 1) };
            format!("{levels}{to}Content-Type: multipart/mixed; boundary=b{level}\n\n")
        });
        format!("{levels}--b{}\n\nü\n", depth - 1)
    };
    let parts = |count: usize| {
        format!("Content-Type: multipart/mixed; boundary=b\n\n{}ü\n", "--b\n\n".repeat(count))
    };
    let long = |len: usize| format!("a: b\n\nü{}\n", "x".repeat(len));
    let table = [
        ("Subject: ü\n\nx\n".to_owned(), Some(Inconvertible::Header)),
        (multipart("mixed", "Subject: ü\n\nx"), Some(Inconvertible::Header)),
        (multipart("signed", "\nü"), Some(Inconvertible::Signed)),
        (multipart("encrypted", "\nü"), Some(Inconvertible::Signed)),
        (
            multipart("signed", "Content-Type: multipart/mixed; boundary=c\n\n--c\n\nü\n--c--"),
            Some(Inconvertible::Signed),
        ),
        (
            multipart("mixed", "Content-Type: Message/RFC822\n\na: b\n\nü"),
            Some(Inconvertible::Message),
        ),
        (multipart("digest", "\na: b\n\nü"), Some(Inconvertible::Message)),
        (multipart("digest", "Content-Type: text/plain\n\nü"), None),
        (
            multipart("mixed", "Content-Transfer-Encoding: base64\n\nü"),
            Some(Inconvertible::Encoded),
        ),
        ("Content-Transfer-Encoding: x-own\n\nü\n".to_owned(), Some(Inconvertible::Encoded)),
        (
            "Content-Type: multipart/mixed; boundary=b\n\nü\n--b--\n".to_owned(),
            Some(Inconvertible::Around),
        ),
        (format!("{}ü\n", multipart("mixed", "\nx")), Some(Inconvertible::Around)),
        ("Content-Type: multipart/mixed\n\nü\n".to_owned(), Some(Inconvertible::Around)),
        (deep(MIME_DEPTH_MAX), None),
        (deep(MIME_DEPTH_MAX + 1), Some(Inconvertible::TooDeep)),
        (parts(MIME_PARTS_MAX - 1), None),
        (parts(MIME_PARTS_MAX), Some(Inconvertible::TooManyParts)),
        (long(MIME_LINE_MAX - 4), None),
        (long(MIME_LINE_MAX), Some(Inconvertible::TooLong)),
    ];
    for (content, expected) in table {
        let content = crlf(&content);
        let start = content.chars().take(120).collect::<String>();
        let found = convert_in(content.as_bytes(), usize::MAX);
        assert_eq!(found.as_ref().err().copied(), expected, "{start}");
        assert_eq!(convert_in(content.as_bytes(), 1000), found, "{start}");
        assert!(found.unwrap_or_default().is_ascii(), "{start}");
    }
}

#[test]
fn lines_are_short_and_no_soft_break_makes_a_delimiter() {
    let text = format!("{}--b--\nü\n{}\n", "x".repeat(75), "-".repeat(400));
    let content = format!("Content-Type: multipart/mixed; boundary=b\n\n--b\n\n{text}--b--\n");
    let out = convert(&crlf(&content)).unwrap();
    assert_eq!(out.lines().filter(|line| line.starts_with("--b")).count(), 2, "{out}");
    assert!(out.lines().all(|line| line.len() <= 76), "{out}");
}

/// A part's text, decoded.
fn decoded(encoding: &str, body: &str) -> Vec<u8> {
    if encoding == "base64" {
        let symbols = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut bits = (0_u32, 0);
        let mut out = Vec::new();
        for digit in body.chars().filter_map(|c| symbols.find(c)) {
            bits = (bits.0 << 6 | digit as u32, bits.1 + 6);
            if bits.1 >= 8 {
                out.push((bits.0 >> (bits.1 - 8)) as u8);
                bits = (bits.0 & ((1 << (bits.1 - 8)) - 1), bits.1 - 8);
            }
        }
        return out;
    }
    let joined = body.replace("=\r\n", "");
    let mut out = Vec::new();
    let mut octets = joined.bytes();
    while let Some(b) = octets.next() {
        if encoding == "quoted-printable" && b == b'=' {
            let hex = [octets.next().unwrap(), octets.next().unwrap()];
            out.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
        } else {
            out.push(b);
        }
    }
    out
}

proptest! {
    /// Whatever text: it is 7-bit then, in short lines, stands for the same, and is left alone the
    /// second time.
    #[test]
    fn parts_stand_for_what_they_did(
        bodies in prop::collection::vec("([a-z =.\\t-]{0,90}|[ü例a-]{0,50}|[ -~üßä]{0,90}\r\n){0,6}", 1..4),
        size in 1usize..40,
    ) {
        let mut content = String::from("A: b\r\nContent-Type: multipart/mixed; boundary=\"=_\"\r\n\r\n");
        for body in &bodies {
            content.extend(["--=_\r\nContent-Type: text/x\r\n\r\n", body, "\r\n"]);
        }
        content += "--=_--\r\n";
        let out = convert_in(content.as_bytes(), usize::MAX).unwrap();
        prop_assert_eq!(&convert_in(content.as_bytes(), size), &Ok(out.clone()));
        prop_assert_eq!(&convert_in(&out, size), &Ok(out.clone()), "a second time");
        let out = String::from_utf8(out).unwrap();
        prop_assert!(out.is_ascii());
        let parts: Vec<&str> = out.split("--=_\r\n").skip(1).collect();
        prop_assert_eq!(parts.len(), bodies.len());
        for (part, body) in parts.iter().zip(&bodies) {
            let part = part.strip_suffix("--=_--\r\n").unwrap_or(part);
            let (head, text) = part.split_once("\r\n\r\n").unwrap();
            let text = text.strip_suffix("\r\n").unwrap();
            let encoding = head.split("Encoding: ").nth(1).unwrap_or("7bit");
            prop_assert_eq!(encoding == "7bit", body.is_ascii());
            prop_assert!(encoding == "7bit" || text.lines().all(|line| line.len() <= 76));
            let expected = if encoding == "7bit" { text.as_bytes().to_vec() } else { decoded(encoding, text) };
            prop_assert_eq!(String::from_utf8(expected).unwrap(), body.clone());
        }
    }

    /// Whatever it is: nothing panics, and what comes out is 7-bit.
    #[test]
    fn any_content_is_converted_or_not(
        content in "(Content-Type: (multipart/(mixed|signed|digest); boundary=\"?b|text/x|message/x)\"?\r\n|\
            Content-Transfer-Encoding: (8bit|base64)\r\n| x\r\n|a: ü?\r\n|\r\n|--b(--)?\r\n|ü\r\n|x){0,20}",
        size in 1usize..9,
    ) {
        let whole = convert_in(content.as_bytes(), usize::MAX);
        prop_assert_eq!(&convert_in(content.as_bytes(), size), &whole);
        prop_assert!(whole.unwrap_or_default().is_ascii());
    }
}
