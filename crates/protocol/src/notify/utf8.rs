//! Addresses of the type `utf-8` in parameters and reports (RFC 6533 §3).

use std::fmt::Write as _;

/// What stands in the parameter ORCPT for an address of the type `utf-8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// ASCII only, for whoever has not said that it takes UTF-8.
    Xtext,
    /// UTF-8 as it is, for transactions with SMTPUTF8.
    Unitext,
}

/// Appends an address: spaces, controls, `\`, `+` and `=` become `\x{20}` and the like, and with
/// [`Form::Xtext`] all that is not ASCII.
pub(crate) fn encode(address: &str, form: Form, out: &mut String) {
    for c in address.chars() {
        let is_plain = match c {
            '\\' | '+' | '=' => false,
            '!'..='~' => true,
            _ => form == Form::Unitext && !c.is_ascii(),
        };
        if is_plain {
            out.push(c);
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "\\x{{{:02X}}}", u32::from(c));
        }
    }
}

/// Reads either form; `None` for what is none, or has control characters.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (c, len) = match c {
            '\\' => embedded(rest)?,
            '+' | '=' | ' ' => return None,
            _ => (c, c.len_utf8()),
        };
        decoded.push(c);
        rest = rest.get(len..)?;
    }
    is_text(&decoded).then_some(decoded)
}

/// Whether a text can be written to a report: it has no control characters, and nothing that ends a line
/// or a paragraph.
pub(crate) fn is_text(text: &str) -> bool {
    !text.contains(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
}

/// Reads `\x{HEX}` at the front of a text: the character, and how long it is. Only what has no shorter
/// form is written so, in upper case and without zeros in front.
fn embedded(text: &str) -> Option<(char, usize)> {
    let (digits, _) = text.strip_prefix("\\x{")?.split_once('}')?;
    let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'A'..=b'F');
    if !(2..=6).contains(&digits.len()) || !digits.bytes().all(is_digit) {
        return None;
    }
    let number = u32::from_str_radix(digits, 16).ok()?;
    let c = char::from_u32(number)?;
    let is_shortest = digits.len() == 2 || !digits.starts_with('0');
    let is_needed = !matches!(c, '!'..='~') || matches!(c, '\\' | '+' | '=');
    (is_shortest && is_needed).then_some((c, digits.len() + 4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_forms_are_those_of_the_rfc() {
        for (address, unitext, xtext) in [
            ("a@b.test", "a@b.test", "a@b.test"),
            ("ü@b.test", "ü@b.test", "\\x{FC}@b.test"),
            ("\"a b\"@b.test", "\"a\\x{20}b\"@b.test", "\"a\\x{20}b\"@b.test"),
            (
                "a+b=c\\@例.test",
                "a\\x{2B}b\\x{3D}c\\x{5C}@例.test",
                "a\\x{2B}b\\x{3D}c\\x{5C}@\\x{4F8B}.test",
            ),
            ("😀@b.test", "😀@b.test", "\\x{1F600}@b.test"),
        ] {
            for (form, expected) in [(Form::Unitext, unitext), (Form::Xtext, xtext)] {
                let mut out = String::new();
                encode(address, form, &mut out);
                assert_eq!(out, expected);
                assert_eq!(decode(&out).as_deref(), Some(address));
            }
        }
    }

    #[test]
    fn other_texts_are_none() {
        for text in [
            "a+20b",
            "a b",
            "a=b",
            "\\",
            "\\x",
            "\\x{",
            "\\x{}",
            "\\x{4}",
            "\\x{41}",
            "\\x{0FC}",
            "\\x{fc}",
            "\\x{D800}",
            "\\x{110000}",
            "\\x{0A}",
            "\\x{7F}",
            "\\x{85}",
            "\\x{2028}",
            "a\u{85}",
            "\\x{+F}",
        ] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn addresses_round_trip(address in "\\PC{0,40}") {
            for form in [Form::Unitext, Form::Xtext] {
                let mut out = String::new();
                encode(&address, form, &mut out);
                prop_assert!(form == Form::Unitext || out.is_ascii());
                let decoded = decode(&out);
                let is_text = !address.contains(|c: char| {
                    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
                });
                prop_assert_eq!(decoded, is_text.then_some(address.clone()));
            }
        }

        #[test]
        fn whatever_is_read_is_a_text(text in any::<String>()) {
            if let Some(decoded) = decode(&text) {
                prop_assert!(!decoded.contains(char::is_control));
            }
        }
    }
}
