use proptest::prelude::*;

use super::*;
use crate::limits::{ENVELOPE_ID_MAX, ORIGINAL_RECIPIENT_MAX};

#[test]
fn xtext_is_read_to_the_letter() {
    let table: [(&str, Option<&str>); 15] = [
        ("", Some("")),
        ("abc", Some("abc")),
        ("a+2Bb+3Dc", Some("a+b=c")),
        ("+20+7E", Some(" ~")),
        ("a+2b", None),
        ("a+2", None),
        ("a+", None),
        ("+2G", None),
        ("a=b", None),
        ("a b", None),
        ("a+0Ab", None),
        ("a+0D+0Ab", None),
        ("a+00", None),
        ("a+7F", None),
        ("\u{fc}", None),
    ];
    for (text, expected) in table {
        assert_eq!(decode_xtext(text).as_deref(), expected, "{text:?}");
    }
}

#[test]
fn notify_is_never_alone_or_a_list() {
    let table = [
        ("NEVER", Some(0)),
        ("never", Some(0)),
        ("SUCCESS", Some(1)),
        ("Failure", Some(2)),
        ("DELAY", Some(4)),
        ("SUCCESS,FAILURE", Some(3)),
        ("delay,failure,success", Some(7)),
        // RFC 3461 §4.1 does not forbid to say a thing twice.
        ("DELAY,DELAY", Some(4)),
        ("", None),
        (",", None),
        ("SUCCESS,", None),
        (",SUCCESS", None),
        ("NEVER,SUCCESS", None),
        ("SUCCESS,NEVER", None),
        ("NEVER,NEVER", None),
        ("SUCCESS, FAILURE", None),
        ("FAIL", None),
    ];
    for (text, expected) in table {
        assert_eq!(Notify::parse(text).map(Notify::to_bits), expected, "{text:?}");
    }
    for bits in 0..=u8::MAX {
        let Some(notify) = Notify::from_bits(bits) else {
            assert!(bits > 7);
            continue;
        };
        assert_eq!(notify.to_bits(), bits);
        assert_eq!(Notify::parse(&notify.to_string()), Some(notify), "{notify}");
    }
    assert_eq!(Notify::DEFAULT.to_string(), "FAILURE,DELAY");
}

#[test]
fn ret_is_one_of_two() {
    for (text, expected) in [
        ("FULL", Some(Return::Full)),
        ("hdrs", Some(Return::Headers)),
        ("HEADERS", None),
        ("", None),
        ("FULL,HDRS", None),
    ] {
        assert_eq!(Return::from_keyword(text), expected, "{text:?}");
    }
    assert_eq!(Return::Full.to_string() + Return::Headers.keyword(), "FULLHDRS");
}

#[test]
fn envelope_ids_have_a_length() {
    let longest = "x".repeat(ENVELOPE_ID_MAX);
    assert_eq!(EnvelopeId::parse(&longest).unwrap().as_str(), longest);
    for bad in ["", "a b", "a=b", "a+0A", &format!("{longest}x")] {
        assert_eq!(EnvelopeId::parse(bad), None, "{bad:?}");
    }
    assert_eq!(EnvelopeId::parse("QQ+2B314159").unwrap().decoded(), "QQ+314159");
}

#[test]
fn original_recipients_have_a_type_and_an_address() {
    let room = ORIGINAL_RECIPIENT_MAX - "rfc822;".len();
    let longest = format!("rfc822;{}", "x".repeat(room));
    assert!(OriginalRecipient::parse(&longest).is_some());
    for bad in [
        "",
        ";",
        "rfc822",
        "rfc822;",
        ";bob@b.test",
        "rfc 822;bob",
        "rfc@822;bob",
        "a.b;bob",
        "rfc822;bob=x",
        "rfc822;b b",
        "rfc822;b+0Ab",
        "rfc822;b+2",
        &format!("{longest}x"),
    ] {
        assert_eq!(OriginalRecipient::parse(bad), None, "{bad:?}");
    }
    let one = OriginalRecipient::parse("X-Foo+1;a+2Bb;c@d.test").unwrap();
    assert_eq!((one.address_type(), &*one.address()), ("X-Foo+1", "a+b;c@d.test"));
    assert_eq!(one.to_string(), "X-Foo+1;a+2Bb;c@d.test");
}

/// RFC 6533 §3, and what Postfix sends.
#[test]
fn original_recipients_may_be_outside_of_ascii() {
    for (text, address, in_report) in [
        ("utf-8;ü@b.test", "ü@b.test", "utf-8 \\x{FC}@b.test"),
        ("UTF-8;\\x{FC}@b.test", "ü@b.test", "utf-8 \\x{FC}@b.test"),
        ("utf-8;a@b.test", "a@b.test", "utf-8 a@b.test"),
        ("rfc822;+C3+BC@b.test", "ü@b.test", "utf-8 \\x{FC}@b.test"),
    ] {
        let one = OriginalRecipient::parse(text).unwrap();
        assert_eq!((one.as_str(), &*one.address()), (text, address));
        assert_eq!(format!("{} {}", one.report_type(), one.ascii_address()), in_report);
        let ascii = one.to_ascii().unwrap().into_owned();
        assert!(ascii.is_ascii());
        assert_eq!(ascii.address(), address);
        assert_eq!(one.is_ascii(), ascii == one);
    }
    for bad in ["rfc822;ü@b.test", "rfc822;+C3", "rfc822;+C2+85", "utf-8;a b", "utf-8;+C3+BC"] {
        assert_eq!(OriginalRecipient::parse(bad), None, "{bad:?}");
    }
    assert_eq!(EnvelopeId::parse("+C3+BC"), None);
    // In ASCII it may be too long to be sent on.
    let long = OriginalRecipient::parse(&format!("utf-8;{}", "ü".repeat(200))).unwrap();
    assert_eq!(long.to_ascii(), None);
}

#[test]
fn any_path_makes_an_original_recipient() {
    for (path, expected) in [
        ("<bob@b.test>", "rfc822;bob@b.test"),
        ("<a+b=c@d.test>", "rfc822;a+2Bb+3Dc@d.test"),
        ("<\"c d\"@e.test>", "rfc822;\"c+20d\"@e.test"),
        ("<Postmaster>", "rfc822;Postmaster"),
        ("<x@[127.0.0.1]>", "rfc822;x@[127.0.0.1]"),
    ] {
        let original = OriginalRecipient::of(&ForwardPath::parse(path).unwrap());
        assert_eq!(original.as_str(), expected);
        assert_eq!(OriginalRecipient::parse(expected), Some(original));
    }
    // The longest that there is.
    let labels = ["a".repeat(63), "b".repeat(63), "c".repeat(63)].join(".");
    let path = format!("<{}@{}>", "=".repeat(64), &labels[..188]);
    let original = OriginalRecipient::of(&ForwardPath::parse(&path).unwrap());
    assert!(OriginalRecipient::parse(original.as_str()).is_some(), "{original}");
}

#[test]
fn what_is_given_for_the_next_hop_follows_what_was_given() {
    let path = ForwardPath::parse("<bob@b.test>").unwrap();
    let original = OriginalRecipient::parse("rfc822;al@a.test");
    let text = |dsn: &RecipientDsn| dsn.original_for(&path).map(|one| one.to_string());
    assert_eq!(text(&RecipientDsn::default()), None);
    let asks = RecipientDsn::new(Some(Notify::NEVER), None);
    assert_eq!(text(&asks).as_deref(), Some("rfc822;bob@b.test"));
    let names = RecipientDsn::new(None, original);
    assert_eq!(text(&names).as_deref(), Some("rfc822;al@a.test"));
}

#[test]
fn parameters_that_say_nothing_are_none() {
    let mut parameters = DsnParameters::default();
    parameters.set_message(None, None);
    parameters.set_recipient(3, RecipientDsn::default());
    assert!(parameters.is_empty() && parameters.memory_size() == 0);
    assert_eq!((parameters.ret(), parameters.envelope_id()), (None, None));
    assert_eq!(parameters.notify(3), Notify::DEFAULT);
    assert_eq!(size_of::<DsnParameters>(), size_of::<usize>());

    parameters.set_recipient(2, RecipientDsn::new(Some(Notify::NEVER), None));
    assert!(!parameters.is_empty() && parameters.memory_size() > 0);
    assert_eq!((parameters.notify(2), parameters.notify(1)), (Notify::NEVER, Notify::DEFAULT));
    parameters.move_recipients(|at| (at != 2).then_some(at));
    assert!(parameters.is_empty());

    parameters.set_message(Some(Return::Full), EnvelopeId::parse("e"));
    for at in 0..4 {
        let original = OriginalRecipient::parse(&format!("rfc822;r{at}"));
        parameters.set_recipient(at, RecipientDsn::new(None, original));
    }
    // The second of them was the first once more.
    parameters.move_recipients(|at| (at != 1).then(|| at - usize::from(at > 1)));
    let left: Vec<_> = parameters
        .recipients()
        .map(|(at, one)| (at, one.original.as_ref().unwrap().address()))
        .collect();
    assert_eq!(left, [(0, "r0".to_owned()), (1, "r2".to_owned()), (2, "r3".to_owned())]);
    assert_eq!(parameters.ret(), Some(Return::Full));
    assert_eq!(parameters.envelope_id().unwrap().to_string(), "e");
}

proptest! {
    #[test]
    fn xtext_round_trips(text in "[ -~]{0,200}") {
        let mut encoded = String::new();
        encode_xtext(&text, &mut encoded);
        prop_assert!(encoded.bytes().all(|b| matches!(b, b'!'..=b'~') && b != b'='));
        prop_assert_eq!(decode_xtext(&encoded), Some(text));
    }

    /// What is read is what is written again, and nothing in it can end a line or a word.
    #[test]
    fn whatever_is_read_is_safe(text in any::<String>(), near in "([a-z0-9;+=, -~]|\\+[0-9A-F]{2}|\\+C[23]\\+[89AB][0-9A-F]|\\+E2\\+80\\+A[0-9A-F]){0,40}") {
        for text in [text, near] {
            if let Some(id) = EnvelopeId::parse(&text) {
                prop_assert_eq!(id.as_str(), &text);
                prop_assert!(id.decoded().bytes().all(|b| matches!(b, b' '..=b'~')));
            }
            if let Some(original) = OriginalRecipient::parse(&text) {
                prop_assert_eq!(original.as_str(), &text);
                prop_assert!(!text.contains([' ', '\r', '\n', '=']));
                // Beyond ASCII since addresses may be; U+0080 to U+009F control terminals too.
                let is_safe = |c| matches!(c, ' '..='~' | '\u{a0}'..) && !"\u{2028}\u{2029}".contains(c);
                prop_assert!(original.address().chars().all(is_safe));
            }
            if let Some(notify) = Notify::parse(&text) {
                prop_assert_eq!(Notify::parse(&notify.to_string()), Some(notify));
            }
        }
    }
}
