//! Header sections with more or less in them.

use crate::random::Random;

/// What some messages say of themselves, others leave to the server.
const FIELDS: [&[u8]; 2] =
    [b"Date: Mon, 01 Jan 2024 00:00:00 +0000\r\n", b"Message-ID: <1@app.test>\r\n"];

/// The field that says on whose behalf a message is sent.
pub const TENANT_FIELD: &str = "X-Tenant";

/// Puts the field in front that names a tenant.
pub(super) fn with_tenant(content: &[u8], tenant: &str) -> Vec<u8> {
    [format!("{TENANT_FIELD}: {tenant}\r\n").as_bytes(), content].concat()
}

/// Puts the field in front by which a message may go on without TLS (RFC 8689), if it begins with a field.
pub(super) fn with_waiver(content: &[u8]) -> Option<Vec<u8>> {
    let begins_with_field =
        content.starts_with(b"Subject: ") || FIELDS.iter().any(|field| content.starts_with(field));
    begins_with_field.then(|| [b"TLS-Required: No\r\n", content].concat())
}

/// Puts some fields in front of content that begins with a field, as long as it may have so many octets.
pub(super) fn with_fields(content: Vec<u8>, random: &mut Random, size_max: u64) -> Vec<u8> {
    let fields: Vec<&[u8]> = FIELDS.into_iter().filter(|_| random.percent(30)).collect();
    let size = content.len() + fields.iter().map(|field| field.len()).sum::<usize>();
    if !content.starts_with(b"Subject: ") || size as u64 > size_max {
        return content;
    }
    [fields.concat(), content].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_in_front_where_there_is_room() {
        let mut random = Random::new(1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let content = with_fields(b"Subject: a\r\n\r\n".to_vec(), &mut random, 1000);
            assert!(content.ends_with(b"Subject: a\r\n\r\n"));
            seen.insert(content);
        }
        assert_eq!(seen.len(), 4);
        let text = b"Subject: a\r\n".to_vec();
        assert!((0..50).all(|_| with_fields(text.clone(), &mut random, 12) == text));
        assert!((0..50).all(|_| with_fields(b"a\r\n".to_vec(), &mut random, 99) == b"a\r\n"));
    }
}
