//! Tests of the editor of header sections.

use super::ContentLimits;
use super::edit::{HeaderEditor, MissingFields, Origin};
use super::field::TakenField;
use super::header::HeaderScan;
use crate::limits::HEADER_SIZE_MAX;
use proptest::prelude::*;

const ORIGIN: Origin<'_> = Origin { unix_seconds: 0, id: "00a1", host: "mx.test" };
const DATE: &str = "Date: Thu, 01 Jan 1970 00:00:00 +0000\r\n";
const MESSAGE_ID: &str = "Message-ID: <00a1.0@mx.test>\r\n";

/// What becomes of content.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Edited {
    out: Vec<u8>,
    values: Vec<Option<Vec<u8>>>,
    removed: u64,
    added: u64,
    is_done: bool,
}

/// Edits content in these pieces.
fn edit<'a>(
    mut editor: HeaderEditor,
    names: usize,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Edited {
    let mut out = Vec::new();
    editor.set_origin(&ORIGIN, &mut out);
    for piece in pieces {
        editor.pass(piece, &mut out);
    }
    let is_done = editor.is_done();
    editor.finish(&mut out);
    let value = |number| match editor.field(number) {
        TakenField::Absent => None,
        TakenField::Value(value) => Some(value.to_vec()),
        TakenField::TooLong => Some(b"(too long)".to_vec()),
        TakenField::Repeated => Some(b"(repeated)".to_vec()),
    };
    let values = (0..names).map(value).collect();
    Edited { out, values, removed: editor.removed(), added: editor.added(), is_done }
}

/// As [`edit`], for one field that is taken out.
fn take<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Edited {
    edit(HeaderEditor::new(["X-Later"], HEADER_SIZE_MAX), 1, pieces)
}

/// As [`edit`], for fields that are added, and one that is taken out.
fn add<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Edited {
    let mut editor = HeaderEditor::new(["X-Later"], HEADER_SIZE_MAX);
    editor.add_missing();
    edit(editor, 1, pieces)
}

/// Whole, octet by octet, and cut at each place: nothing depends on it.
fn in_all_pieces(content: &[u8], edit: fn(&mut dyn Iterator<Item = &[u8]>) -> Edited) -> Edited {
    let expected = edit(&mut std::iter::once(content));
    assert_eq!(edit(&mut content.chunks(1)), expected, "{content:?}");
    for at in 0..=content.len() {
        let (head, tail) = content.split_at(at);
        assert_eq!(edit(&mut [head, tail].into_iter()), expected, "{content:?} cut at {at}");
    }
    expected
}

#[test]
fn the_field_is_taken_wherever_it_stands() {
    let long = format!("X-Later:{}\r\n\r\n", "1".repeat(255));
    let fits = format!("X-Later:{}\r\n\r\n", "1".repeat(254));
    let table: [(&str, &str, Option<&str>); 25] = [
        ("", "", None),
        ("\r\n", "\r\n", None),
        ("X-Later: 1\r\n", "", Some("1")),
        ("X-Later: 1\r\n\r\ntext\r\n", "\r\ntext\r\n", Some("1")),
        ("A: b\r\nx-LATER:1 \r\nC: d\r\n\r\n", "A: b\r\nC: d\r\n\r\n", Some("1")),
        ("A: b\r\nX-Later \t : 1\r\n\r\n", "A: b\r\n\r\n", Some("1")),
        (
            "A: b\r\n c\r\nX-Later:\r\n 1\r\n\t2\r\nD: e\r\n f\r\n\r\n",
            "A: b\r\n c\r\nD: e\r\n f\r\n\r\n",
            Some("1\r\n\t2"),
        ),
        // A line of blanks continues a field; only the empty one ends the header section.
        ("X-Later: 1\r\n \r\nA: b\r\n\r\n", "A: b\r\n\r\n", Some("1")),
        ("A: b\r\n \r\nX-Later: 1\r\n\r\n", "A: b\r\n \r\n\r\n", Some("1")),
        ("X-Later: 1\r\nX-Later: 1\r\n\r\n", "\r\n", Some("(repeated)")),
        ("X-Later:\r\n\r\n", "\r\n", Some("")),
        (&fits, "\r\n", Some(&fits[8..262])),
        (&long, "\r\n", Some("(too long)")),
        // Names that are others.
        ("X-Later2: 1\r\n\r\n", "X-Later2: 1\r\n\r\n", None),
        ("X-Late: 1\r\n\r\n", "X-Late: 1\r\n\r\n", None),
        ("XX-Later: 1\r\n\r\n", "XX-Later: 1\r\n\r\n", None),
        ("A: X-Later: 1\r\n X-Later: 1\r\n\r\n", "A: X-Later: 1\r\n X-Later: 1\r\n\r\n", None),
        // Behind the header section it is text.
        ("A: b\r\n\r\nX-Later: 1\r\n", "A: b\r\n\r\nX-Later: 1\r\n", None),
        ("no field\r\nX-Later: 1\r\n", "no field\r\nX-Later: 1\r\n", None),
        ("X-Later\r\nX-Later: 1\r\n", "X-Later\r\nX-Later: 1\r\n", None),
        ("X-Later x: 1\r\nX-Later: 1\r\n", "X-Later x: 1\r\nX-Later: 1\r\n", None),
        ("X-La\r\nX-Later: 1\r\n", "X-La\r\nX-Later: 1\r\n", None),
        (": a\r\nX-Later: 1\r\n", ": a\r\nX-Later: 1\r\n", None),
        ("\u{e9}: a\r\nX-Later: 1\r\n", "\u{e9}: a\r\nX-Later: 1\r\n", None),
        ("X-Later: 1\r\ntext\r\nX-Later: 2\r\n", "text\r\nX-Later: 2\r\n", Some("1")),
    ];
    for (input, passed, value) in table {
        let found = in_all_pieces(input.as_bytes(), |pieces| take(pieces));
        assert_eq!(String::from_utf8_lossy(&found.out), passed, "{input:?}");
        assert_eq!(found.values[0].as_deref(), value.map(str::as_bytes), "{input:?}");
        assert_eq!(found.removed, (input.len() - passed.len()) as u64, "{input:?}");
        assert_eq!(found.added, 0, "{input:?}");
    }
}

#[test]
fn fields_of_several_names_are_taken_apart() {
    let content = b"X-B: 1\r\nA: b\r\nx-a: 2\r\n 3\r\nX-C: 4\r\n\r\nX-A: 5\r\n";
    for size in 1..=content.len() {
        let editor = HeaderEditor::new(["X-A", "X-B", "X-D"], HEADER_SIZE_MAX);
        let found = edit(editor, 3, content.chunks(size));
        assert_eq!(found.out, b"A: b\r\nX-C: 4\r\n\r\nX-A: 5\r\n");
        let expected = [Some(b"2\r\n 3".to_vec()), Some(b"1".to_vec()), None];
        assert_eq!(found.values, expected);
    }
}

#[test]
fn missing_fields_are_added_behind_the_others() {
    let both = format!("{DATE}{MESSAGE_ID}");
    let table = [
        // In front of the empty line.
        ("A: b\r\n\r\ntext\r\n", format!("A: b\r\n{both}\r\ntext\r\n")),
        ("A: b\r\n c\r\n\r\n", format!("A: b\r\n c\r\n{both}\r\n")),
        ("dAtE: x\r\n\r\ntext\r\n", format!("dAtE: x\r\n{MESSAGE_ID}\r\ntext\r\n")),
        ("Message-Id \t: x\r\n\r\n\r\n", format!("Message-Id \t: x\r\n{DATE}\r\n\r\n")),
        ("Date:\r\nMessage-ID:\r\n\r\n", "Date:\r\nMessage-ID:\r\n\r\n".to_owned()),
        ("A: b\r\n Date: x\r\n\r\n", format!("A: b\r\n Date: x\r\n{both}\r\n")),
        ("Resent-Date: x\r\n\r\n", format!("Resent-Date: x\r\n{both}\r\n")),
        ("Dat: x\r\nDates: x\r\n\r\n", format!("Dat: x\r\nDates: x\r\n{both}\r\n")),
        ("\r\ntext\r\n", format!("{both}\r\ntext\r\n")),
        ("\r\nDate: x\r\n", format!("{both}\r\nDate: x\r\n")),
        // What is taken out does not count, nor does it stay.
        ("X-Later: Date:\r\n Date: x\r\n\r\n", format!("{both}\r\n")),
        // At the end of what is all header section.
        ("", both.clone()),
        ("A: b\r\n", format!("A: b\r\n{both}")),
        ("Date: x\r\n", format!("Date: x\r\n{MESSAGE_ID}")),
        ("X-Later: 1\r\n", both.clone()),
        // In front of a line that is none of a header section, with an empty line.
        ("text\r\n", format!("{both}\r\ntext\r\n")),
        ("some text\r\nDate: x\r\n", format!("{both}\r\nsome text\r\nDate: x\r\n")),
        ("\u{e9}: x\r\n", format!("{both}\r\n\u{e9}: x\r\n")),
        (": x\r\n", format!("{both}\r\n: x\r\n")),
        ("Date\r\n", format!("{both}\r\nDate\r\n")),
        ("A: b\r\ntext\r\n\r\n", format!("A: b\r\n{both}\r\ntext\r\n\r\n")),
        ("Date: x\r\ntext\r\n", format!("Date: x\r\n{MESSAGE_ID}\r\ntext\r\n")),
        // Where nothing is missing, nothing is mended.
        ("Date: x\r\nMessage-ID: y\r\ntext\r\n", "Date: x\r\nMessage-ID: y\r\ntext\r\n".to_owned()),
    ];
    for (input, passed) in table {
        let found = in_all_pieces(input.as_bytes(), |pieces| add(pieces));
        assert_eq!(String::from_utf8_lossy(&found.out), passed, "{input:?}");
        assert_eq!(found.added + input.len() as u64 - found.removed, passed.len() as u64);
    }
}

/// The line that mailbox files put in front of a message does not cut its fields off.
#[test]
fn the_line_of_a_mailbox_file_becomes_a_field() {
    let both = format!("{DATE}{MESSAGE_ID}");
    let line = "From a@a.test Thu Jan  1 00:00:00 1970\r\n";
    let named = format!("X-Mailbox-Line: {line}");
    let table = [
        (format!("{line}A: b\r\n\r\ntext\r\n"), format!("{named}A: b\r\n{both}\r\ntext\r\n")),
        (format!(">{line}\r\ntext\r\n"), format!("X-Mailbox-Line: >{line}{both}\r\ntext\r\n")),
        (
            format!("{line} c\r\nDate: x\r\n\r\n"),
            format!("{named} c\r\nDate: x\r\n{MESSAGE_ID}\r\n"),
        ),
        (format!("{line}X-Later: 1\r\ntext\r\n"), format!("{named}{both}\r\ntext\r\n")),
        // Where nothing is missing it is mended all the same: there is a Received field in front.
        (
            format!("{line}Date: x\r\nMessage-ID: y\r\n\r\n"),
            format!("{named}Date: x\r\nMessage-ID: y\r\n\r\n"),
        ),
        (line.to_owned(), format!("{named}{both}")),
        ("From \r\n\r\n".to_owned(), format!("X-Mailbox-Line: From \r\n{both}\r\n")),
        // These are others, or stand elsewhere.
        ("From: a\r\n\r\n".to_owned(), format!("From: a\r\n{both}\r\n")),
        ("From : a\r\n\r\n".to_owned(), format!("From : a\r\n{both}\r\n")),
        ("From\r\nx\r\n".to_owned(), format!("{both}\r\nFrom\r\nx\r\n")),
        ("from a\r\n".to_owned(), format!("{both}\r\nfrom a\r\n")),
        (">>From a\r\n".to_owned(), format!("{both}\r\n>>From a\r\n")),
        (format!("A: b\r\n{line}"), format!("A: b\r\n{both}\r\n{line}")),
        (format!("{line}{line}"), format!("{named}{both}\r\n{line}")),
        (format!("\r\n{line}"), format!("{both}\r\n{line}")),
    ];
    for (input, passed) in table {
        let found = in_all_pieces(input.as_bytes(), |pieces| add(pieces));
        assert_eq!(String::from_utf8_lossy(&found.out), passed, "{input:?}");
        assert_eq!(found.added + input.len() as u64 - found.removed, passed.len() as u64);
        // Mended once it is a message like others.
        let again = add(std::iter::once(&found.out[..]));
        assert_eq!((again.out, again.added), (found.out, 0), "{input:?}");
    }
    // Who is not told to add changes nothing.
    let content = format!("{line}A: b\r\n\r\n");
    let found = in_all_pieces(content.as_bytes(), |pieces| take(pieces));
    assert_eq!((String::from_utf8(found.out).unwrap(), found.added), (content, 0));
}

/// The twin of the tests above: who is not told to add adds nothing.
#[test]
fn nothing_is_added_unasked() {
    for input in ["", "\r\n", "text\r\n", "A: b\r\n\r\n"] {
        let found = in_all_pieces(input.as_bytes(), |pieces| take(pieces));
        assert_eq!(found.out, input.as_bytes());
    }
}

/// Where the end of the content comes before anybody knows what the fields say.
#[test]
fn fields_of_empty_content_can_come_late() {
    let mut editor = HeaderEditor::new([], HEADER_SIZE_MAX);
    editor.add_missing();
    let mut out = Vec::new();
    editor.finish(&mut out);
    assert_eq!((out.len(), editor.added()), (0, 0));
    for _ in 0..2 {
        editor.set_origin(&ORIGIN, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), format!("{DATE}{MESSAGE_ID}"));
    }
    assert_eq!(editor.added(), out.len() as u64);
    assert_eq!(editor.missing(), MissingFields { date: true, message_id: true });
}

#[test]
fn no_more_is_held_back_than_a_header_section_may_have() {
    let mut editor = HeaderEditor::new(["X-Later"], 1000);
    let mut out = Vec::new();
    editor.pass(b"X-Later", &mut out);
    assert!(out.is_empty());
    for _ in 0..2000 {
        editor.pass(b" ", &mut out);
    }
    assert!(editor.is_done());
    // The decoder refuses such a field.
    editor.pass(b": 1\r\n", &mut out);
    assert_eq!((out.len(), editor.field(0)), (2012, TakenField::Absent));
}

proptest! {
    /// Nothing but the field is taken, and nothing is passed out of order, however it is cut.
    #[test]
    fn what_is_passed_does_not_depend_on_the_pieces(
        lines in prop::collection::vec("(X-Later|x-later|Date|Message-ID|X-La|A|)[ :]{0,2}[ab\\t ]{0,3}", 0..8),
        sizes in prop::collection::vec(1..9_usize, 1..99),
    ) {
        let lines_of = lines.iter().flat_map(|line| [line.as_str(), "\r\n"]);
        let content: String = lines_of.collect();
        let mut rest = content.as_bytes();
        let pieces = sizes.iter().map(|size| {
            let (piece, behind) = rest.split_at((*size).min(rest.len()));
            rest = behind;
            piece
        });
        let mut pieces: Vec<_> = pieces.collect();
        pieces.push(rest);
        let taken = take(std::iter::once(content.as_bytes()));
        prop_assert_eq!(&take(pieces.iter().copied()), &taken);
        prop_assert_eq!(taken.out.len() as u64 + taken.removed, content.len() as u64);
        let added = add(std::iter::once(content.as_bytes()));
        prop_assert_eq!(&add(pieces.into_iter()), &added);
        // With what was added cut out again, it is the same.
        let text = String::from_utf8(added.out.clone()).unwrap();
        let start = [DATE, MESSAGE_ID].iter().filter_map(|field| text.find(field)).min();
        let start = start.unwrap_or(text.len());
        let (front, behind) = text.split_at(start);
        let rest = behind.get(added.added as usize..).unwrap();
        prop_assert_eq!(format!("{front}{rest}").into_bytes(), taken.out);
    }

    /// Content that has been mended needs no more of it.
    #[test]
    fn mending_is_done_once(
        lines in prop::collection::vec("(Date|Message-ID|A|)[ :]{0,2}[ab\\t ]{0,3}", 0..8),
    ) {
        let lines_of = lines.iter().flat_map(|line| [line.as_str(), "\r\n"]);
        let content: String = lines_of.collect();
        // What begins with white space is refused.
        prop_assume!(!content.starts_with([' ', '\t']));
        let once = add(std::iter::once(content.as_bytes())).out;
        let twice = add(std::iter::once(&once[..]));
        prop_assert_eq!((twice.out, twice.added), (once, 0));
    }

    /// The header section ends where the decoder thinks it does.
    #[test]
    fn the_end_of_the_header_section_is_that_of_the_decoder(
        lines in prop::collection::vec("[A: \\t\\x01\u{e9}]{0,5}", 0..8),
    ) {
        let mut scan = HeaderScan::default();
        let lines_of = lines.iter().flat_map(|line| [line.as_str(), "\r\n"]);
        let content: String = lines_of.collect();
        for line in &lines {
            if scan.is_open() {
                scan.scan(line.as_bytes());
                let _ = scan.end_line(line.len(), &ContentLimits::default());
            }
        }
        prop_assert_eq!(take(content.as_bytes().chunks(1)).is_done, !scan.is_open());
    }
}
