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
        (long.as_str(), AddressError::LocalPartTooLong),
    ];
    for (text, error) in table {
        assert_eq!(Mailbox::parse(text), Err(error), "{text:?}");
    }
    for text in ["a..b@b.test", ".a@b.test", "a.@b_c.test"] {
        assert_eq!(Mailbox::parse_with(text, Syntax::Lenient).unwrap().to_string(), text);
    }
}

/// RFC 6531 §3.3: any UTF-8 in local-parts, U-labels in domains.
#[test]
fn addresses_outside_of_ascii_are_kept_exactly() {
    let local = format!("{}@b.test", "ü".repeat(32));
    for (text, domain) in [
        ("ü@b.test", "b.test"),
        ("\"ü ü\"@b.test", "b.test"),
        ("a@bücher.test", "xn--bcher-kva.test"),
        ("用户@例え.テスト", "xn--r8jz45g.xn--zckzah"),
        ("a@ü.xn--bcher-kva.test", "xn--tda.xn--bcher-kva.test"),
        ("a@BÜCHER.test", "xn--bcher-kva.test"),
        // Not normalised: what is composed, and what is not, are two local-parts.
        ("u\u{308}@b.test", "b.test"),
        (local.as_str(), "b.test"),
    ] {
        let mailbox = Mailbox::parse(text).unwrap();
        assert_eq!(mailbox.to_string(), text);
        assert_eq!(mailbox.domain().unwrap().as_str(), domain);
        assert!(!mailbox.is_ascii());
    }
    assert!(Mailbox::parse("a@xn--bcher-kva.test").unwrap().is_ascii());
    assert_ne!(Mailbox::parse("u\u{308}@b.test"), Mailbox::parse("ü@b.test"));
}

#[test]
fn what_is_no_address_outside_of_ascii_either_is_refused() {
    let long_local = format!("{}a@b.test", "ü".repeat(32));
    let long_label = format!("a@{}.test", "ü".repeat(63));
    let long_domain = format!("a@{}.test", "üü.".repeat(51));
    let table = [
        ("\u{85}@b.test", AddressError::LocalPartSyntax),
        ("\"\u{9b}1m\"@b.test", AddressError::LocalPartSyntax),
        ("a\u{2028}b@b.test", AddressError::LocalPartSyntax),
        ("\"a\\ü\"@b.test", AddressError::LocalPartSyntax),
        ("ü b@b.test", AddressError::LocalPartSyntax),
        ("ü..b@b.test", AddressError::LocalPartSyntax),
        ("ü", AddressError::NoDomain),
        ("ü@", AddressError::NoDomain),
        (long_local.as_str(), AddressError::LocalPartTooLong),
        (long_label.as_str(), AddressError::DomainSyntax),
        (long_domain.as_str(), AddressError::DomainTooLong),
        ("a@ü..test", AddressError::DomainSyntax),
        ("a@.ü", AddressError::DomainSyntax),
        ("a@ü.", AddressError::DomainSyntax),
        ("a@-ü.test", AddressError::DomainSyntax),
        ("a@ü_b.test", AddressError::DomainSyntax),
        ("a@ü@b.test", AddressError::DomainSyntax),
        ("a@[ü]", AddressError::DomainSyntax),
        ("a@b\u{300}\u{200d}.test", AddressError::DomainSyntax),
        // Dots, letters and numbers that only look like those of ASCII.
        ("a@例。test", AddressError::DomainSyntax),
        ("a@ü.ｔｅｓｔ", AddressError::DomainSyntax),
        ("a@１９２.１.１.１", AddressError::DomainSyntax),
        ("a@ü\u{0}.test", AddressError::DomainSyntax),
        ("a@xn--a.ü", AddressError::DomainSyntax),
    ];
    for (text, error) in table {
        for syntax in [Syntax::Strict, Syntax::Lenient] {
            let strict_only = syntax == Syntax::Lenient && text.contains("..b");
            if !strict_only {
                assert_eq!(Mailbox::parse_with(text, syntax), Err(error), "{text:?}");
            }
        }
    }
}

proptest! {
    /// Outside of ASCII nothing at all changes, and the domain is one that the DNS can be asked for.
    #[test]
    fn utf8_is_kept_and_looked_up(
        text in "[a-zü例\u{308}\u{5d0}\u{200d}ß😀.\"]{0,12}@[a-zA-Zü例\u{308}\u{5d0}\u{200d}ß.\\-]{0,12}",
    ) {
        if let Ok(mailbox) = Mailbox::parse(&text) {
            let written = mailbox.to_string();
            if !mailbox.is_ascii() && mailbox.to_string() != text {
                prop_assert!(written.eq_ignore_ascii_case(&text), "{written:?}");
            }
            prop_assert_eq!(Mailbox::parse_with(&written, Syntax::Lenient), Ok(mailbox.clone()));
            let domain = mailbox.domain().unwrap().as_str();
            prop_assert!(Domain::parse(domain).is_ok_and(|again| again.as_str() == domain));
            prop_assert!(!written.contains(char::is_control));
        }
    }

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
