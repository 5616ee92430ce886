//! Finds the line of a key in the text of the file.

use toml::de::{DeTable, DeValue};

/// The line, from 1, of a byte offset.
pub(crate) fn line_at(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    1 + memchr::memchr_iter(b'\n', before).count()
}

/// The line, from 1, of a key given by its path; array positions are numbers.
///
/// A key that is not in the file is reported at the innermost section of its path that is, and at line 1 if
/// there is none.
pub(super) fn line_of(text: &str, place: &[String]) -> usize {
    let Ok(document) = DeTable::parse(text) else { return 1 };
    let mut line = 1;
    let mut table = Some(document.get_ref());
    let mut value: Option<&DeValue<'_>> = None;
    for part in place {
        if let Some(inside) = table {
            let Some((key, found)) = inside.iter().find(|(key, _)| key.get_ref() == part) else {
                break;
            };
            line = line_at(text, key.span().start);
            value = Some(found.get_ref());
        } else {
            let element = value
                .and_then(DeValue::as_array)
                .and_then(|array| part.parse().ok().and_then(|index: usize| array.get(index)));
            let Some(found) = element else { break };
            line = line_at(text, found.span().start);
            value = Some(found.get_ref());
        }
        table = value.and_then(DeValue::as_table);
    }
    line
}
