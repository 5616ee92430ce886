use super::*;
use proptest::prelude::*;

#[test]
fn domains_are_stored_in_lower_case() {
    assert_eq!(Domain::parse("Mx-1.EXAMPLE.Test").unwrap().as_str(), "mx-1.example.test");
    assert_eq!(Domain::parse("localhost").unwrap().as_str(), "localhost");
}

#[test]
fn bad_domains_are_refused() {
    let long_label = format!("{}.test", "a".repeat(64));
    let long = format!("{}test", "abcdefg.".repeat(32));
    let table = [
        ("", AddressError::NoDomain),
        (".", AddressError::DomainSyntax),
        ("a.", AddressError::DomainSyntax),
        (".a", AddressError::DomainSyntax),
        ("a..b", AddressError::DomainSyntax),
        ("-a.test", AddressError::DomainSyntax),
        ("a-.test", AddressError::DomainSyntax),
        ("a_b.test", AddressError::DomainSyntax),
        ("a b.test", AddressError::DomainSyntax),
        ("10.1.1.1", AddressError::DomainSyntax),
        ("b\u{fc}cher.test", AddressError::NonAscii),
        (long_label.as_str(), AddressError::DomainTooLong),
        (long.as_str(), AddressError::DomainTooLong),
    ];
    for (text, error) in table {
        assert_eq!(Domain::parse(text), Err(error), "{text:?}");
    }
    assert!(Domain::parse_with("a_b.test", Syntax::Lenient).is_ok());
}

#[test]
fn labels_and_domains_at_their_limits_are_accepted() {
    assert!(Domain::parse(&format!("{}.test", "a".repeat(63))).is_ok());
    let full = format!("{}abcdef7", "abcdefg.".repeat(31));
    assert_eq!(full.len(), 255);
    assert!(Domain::parse(&full).is_ok());
    assert_eq!(Domain::parse(&format!("{full}x")), Err(AddressError::DomainTooLong));
}

#[test]
fn literals_round_trip() {
    for text in ["[192.0.2.1]", "[IPv6:2001:db8::1]", "[IPv6:::1]"] {
        assert_eq!(AddressLiteral::parse(text).unwrap().to_string(), text);
    }
    for text in [
        "[999.1.1.1]",
        "[192.0.2.1",
        "192.0.2.1",
        "[]",
        "[::1]",
        "[IPv6:]",
        "[IPv6:192.0.2.1]",
        "[x]",
    ] {
        assert_eq!(AddressLiteral::parse(text), Err(AddressError::LiteralSyntax), "{text:?}");
    }
}

#[test]
fn mailboxes_are_kept_exactly() {
    for text in [
        "a@b.test",
        "First.Last+tag@b.test",
        "!#$%&'*+-/=?^_`{|}~@b.test",
        "\"\"@b.test",
        "\"a b\"@b.test",
        "\"a@c\"@b.test",
        "\"a\\\"b\\\\\"@b.test",
        "a@[192.0.2.1]",
        "a%c@b.test",
    ] {
        assert_eq!(Mailbox::parse(text).unwrap().to_string(), text);
    }
    let mailbox = Mailbox::parse("MiXed@B.Test").unwrap();
    assert_eq!((mailbox.local_part(), mailbox.domain().unwrap().as_str()), ("MiXed", "b.test"));
}

#[test]
fn bad_mailboxes_are_refused() {
    let long = format!("{}@b.test", "a".repeat(65));
    let table = [
        ("", AddressError::Empty),
        ("bob", AddressError::NoDomain),
        ("bob@", AddressError::NoDomain),
        ("@b.test", AddressError::LocalPartSyntax),
        ("a@b@c.test", AddressError::DomainSyntax),
        (".a@b.test", AddressError::LocalPartSyntax),
        ("a.@b.test", AddressError::LocalPartSyntax),
        ("a..b@b.test", AddressError::LocalPartSyntax),
        ("a b@b.test", AddressError::LocalPartSyntax),
        ("a<b@b.test", AddressError::LocalPartSyntax),
        (";for i in x;do true;done;@a", AddressError::LocalPartSyntax),
        ("\"a@b.test", AddressError::LocalPartSyntax),
        ("\"a\"b@b.test", AddressError::LocalPartSyntax),
        ("\"a\rb\"@b.test", AddressError::LocalPartSyntax),
        ("a@10.1.1.1", AddressError::DomainSyntax),
        ("a@[999.1.1.1]", AddressError::LiteralSyntax),
        ("a@b.test.", AddressError::DomainSyntax),
        ("\u{fc}@b.test", AddressError::NonAscii),
        (long.as_str(), AddressError::LocalPartTooLong),
    ];
    for (text, error) in table {
        assert_eq!(Mailbox::parse(text), Err(error), "{text:?}");
    }
    for text in ["a..b@b.test", ".a@b.test", "a.@b_c.test"] {
        assert_eq!(Mailbox::parse_with(text, Syntax::Lenient).unwrap().to_string(), text);
    }
}

proptest! {
    /// What is parsed is what is written, whatever the case of the domain; and nothing panics.
    #[test]
    fn parse_and_display_agree(text in "[ -~]{0,20}@[a-zA-Z0-9.\\-_]{0,20}") {
        for syntax in [Syntax::Strict, Syntax::Lenient] {
            if let Ok(mailbox) = Mailbox::parse_with(&text, syntax) {
                let written = mailbox.to_string();
                prop_assert!(written.eq_ignore_ascii_case(&text));
                prop_assert_eq!(Mailbox::parse_with(&written, syntax), Ok(mailbox));
            }
        }
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in any::<String>()) {
        let _ = Mailbox::parse_with(&text, Syntax::Lenient);
        let _ = Host::parse_with(&text, Syntax::Lenient);
    }
}
