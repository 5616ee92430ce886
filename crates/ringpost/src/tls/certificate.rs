//! What a certificate says (RFC 5280), as far as we have to know. Whether it is true is found out by
//! others, who read it with a library of their own.

use ring::digest::{self, SHA256, SHA384, SHA512};

use super::der::{
    BOOLEAN, Der, IA5_STRING, INTEGER, OCTET_STRING, OID, PRINTABLE_STRING, SEQUENCE, SET,
    UTF8_STRING, unix_seconds,
};

/// `subjectAltName`, 2.5.29.17.
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

/// Names of more than these are not looked at.
const NAMES_MAX: usize = 256;

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// From when it holds, in seconds since 1970.
    pub not_before_unix: i64,
    /// Until when it holds, in seconds since 1970.
    pub not_after_unix: i64,
    /// Its subject as RFC 4514 writes it, such as `CN=a.test,O=A`; `None` when it is empty, or has what
    /// we have no name for.
    pub subject: Option<String>,
    /// Its mailboxes, as they are written; 256 at most, with the names of hosts.
    pub mailboxes: Vec<String>,
    /// Its names of hosts, in lower case, those for all names of a domain with `*.` in front.
    pub host_names: Vec<String>,
    /// The hash that RFC 5929 §4.1 takes for it.
    end_point_hash: Option<EndPointHash>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndPointHash {
    Sha256,
    Sha384,
    Sha512,
}

impl CertificateFacts {
    /// Reads a certificate in DER; `None` if it is none.
    pub fn parse(certificate: &[u8]) -> Option<Self> {
        let mut outer = Der(certificate);
        let mut whole = outer.enter(SEQUENCE)?;
        let mut signed = whole.enter(SEQUENCE)?;
        let algorithm = whole.enter(SEQUENCE)?.expect(OID)?;
        // The version, the number, the algorithm again, the issuer.
        signed.optional(0xa0);
        signed.expect(INTEGER)?;
        signed.expect(SEQUENCE)?;
        signed.expect(SEQUENCE)?;
        let mut validity = signed.enter(SEQUENCE)?;
        let mut time = || validity.next().and_then(|(tag, value)| unix_seconds(tag, value));
        let (not_before_unix, not_after_unix) = (time()?, time()?);
        let subject = subject(signed.enter(SEQUENCE)?);
        signed.expect(SEQUENCE)?;
        let mut facts = Self {
            not_before_unix,
            not_after_unix,
            subject,
            mailboxes: Vec::new(),
            host_names: Vec::new(),
            end_point_hash: end_point_hash(algorithm),
        };
        signed.optional(0x81);
        signed.optional(0x82);
        if let Some(extensions) = signed.optional(0xa3) {
            facts.read_extensions(Der(extensions).enter(SEQUENCE)?)?;
        }
        Some(facts)
    }

    fn read_extensions(&mut self, mut extensions: Der<'_>) -> Option<()> {
        while let Some(mut extension) = extensions.enter(SEQUENCE) {
            let kind = extension.expect(OID)?;
            extension.optional(BOOLEAN);
            let value = extension.expect(OCTET_STRING)?;
            if kind == ALTERNATIVE_NAMES {
                self.read_names(Der(value).enter(SEQUENCE)?);
            }
        }
        Some(())
    }

    fn read_names(&mut self, mut names: Der<'_>) {
        for _ in 0..NAMES_MAX {
            let Some((tag, value)) = names.next() else { return };
            let text = std::str::from_utf8(value).ok().filter(|text| is_plain(text));
            match (tag, text) {
                (0x81, Some(text)) => self.mailboxes.push(text.to_owned()),
                (0x82, Some(text)) => self.host_names.push(text.to_ascii_lowercase()),
                _ => {}
            }
        }
    }

    /// What a channel is bound to by `tls-server-end-point`: the hash of the certificate, of which these
    /// are the facts. `None` where RFC 5929 §4.1 does not say which hash.
    pub fn end_point(&self, certificate: &[u8]) -> Option<Box<[u8]>> {
        let algorithm = match self.end_point_hash? {
            EndPointHash::Sha256 => &SHA256,
            EndPointHash::Sha384 => &SHA384,
            EndPointHash::Sha512 => &SHA512,
        };
        Some(digest::digest(algorithm, certificate).as_ref().into())
    }
}

/// ASCII that can be shown: nothing that would cut a name short or change a line.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_graphic())
}

/// The hash of an algorithm of signatures; SHA-256 in place of MD5 and SHA-1.
fn end_point_hash(algorithm: &[u8]) -> Option<EndPointHash> {
    /// 1.2.840.113549.1.1: RSA with PKCS #1 padding.
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    /// 1.2.840.10045.4: ECDSA.
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];

    if let Some(rest) = algorithm.strip_prefix(RSA) {
        return match rest {
            [4 | 5 | 11] => Some(EndPointHash::Sha256),
            [12] => Some(EndPointHash::Sha384),
            [13] => Some(EndPointHash::Sha512),
            _ => None,
        };
    }
    match algorithm.strip_prefix(ECDSA)? {
        [1] | [3, 2] => Some(EndPointHash::Sha256),
        [3, 3] => Some(EndPointHash::Sha384),
        [3, 4] => Some(EndPointHash::Sha512),
        _ => None,
    }
}

/// Writes a subject; the last of its parts first (RFC 4514 §2.1).
fn subject(mut names: Der<'_>) -> Option<String> {
    let mut parts = Vec::new();
    while !names.0.is_empty() {
        let mut set = names.enter(SET)?;
        let mut together = Vec::new();
        while !set.0.is_empty() {
            let mut pair = set.enter(SEQUENCE)?;
            let kind = attribute(pair.expect(OID)?)?;
            let (tag, value) = pair.next()?;
            let is_text = [UTF8_STRING, PRINTABLE_STRING, IA5_STRING].contains(&tag);
            let value = std::str::from_utf8(value).ok().filter(|_| is_text)?;
            together.push(format!("{kind}={}", escaped(value)));
        }
        parts.push(together.join("+"));
    }
    parts.reverse();
    (!parts.is_empty()).then(|| parts.join(","))
}

/// The short name of an attribute (RFC 4514 §3, and what everybody calls an address).
fn attribute(kind: &[u8]) -> Option<&'static str> {
    /// 0.9.2342.19200300.100.1
    const PILOT: &[u8] = &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01];
    /// 1.2.840.113549.1.9.1
    const EMAIL: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01];

    match kind {
        [0x55, 0x04, 3] => Some("CN"),
        [0x55, 0x04, 6] => Some("C"),
        [0x55, 0x04, 7] => Some("L"),
        [0x55, 0x04, 8] => Some("ST"),
        [0x55, 0x04, 9] => Some("STREET"),
        [0x55, 0x04, 10] => Some("O"),
        [0x55, 0x04, 11] => Some("OU"),
        EMAIL => Some("emailAddress"),
        _ => match kind.strip_prefix(PILOT)? {
            [1] => Some("UID"),
            [25] => Some("DC"),
            _ => None,
        },
    }
}

/// RFC 4514 §2.4.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (index, c) in value.chars().enumerate() {
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => out.extend(['\\', c]),
            ' ' if index == 0 || index == last => out.push_str("\\ "),
            '#' if index == 0 => out.push_str("\\#"),
            '\0' => out.push_str("\\00"),
            _ => out.push(c),
        }
    }
    out
}

/// The SHA-256 of a certificate, in lower case and without colons.
pub fn fingerprint(certificate: &[u8]) -> String {
    use std::fmt::Write as _;

    let hash = digest::digest(&SHA256, certificate);
    hash.as_ref().iter().fold(String::with_capacity(64), |mut text, octet| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{octet:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};

    use super::*;

    /// Made by openssl: `CN=a.test, O="A, B", emailAddress=x@a.test`, from 2026-01-02 03:04:05 to
    /// 2056-01-02 03:04:05, signed with ECDSA and SHA-384.
    const CERTIFICATE: &[u8] = include_bytes!("testdata/client.pem");

    fn der() -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(CERTIFICATE).unwrap()
    }

    #[test]
    fn a_certificate_is_read() {
        let facts = CertificateFacts::parse(&der()).unwrap();
        assert_eq!(facts.not_before_unix, 1_767_323_045);
        assert_eq!(facts.not_after_unix, 2_714_007_845);
        let subject = "emailAddress=x@a.test,O=A\\, B,CN=a.test";
        assert_eq!(facts.subject.as_deref(), Some(subject));
        assert_eq!(facts.mailboxes, ["x@a.test", "Y@a.test"]);
        assert_eq!(facts.host_names, ["a.test", "*.w.test"]);
        let hash = digest::digest(&SHA384, &der());
        assert_eq!(facts.end_point(&der()).as_deref(), Some(hash.as_ref()));
        let expected = include_str!("testdata/client.sha256").trim();
        assert_eq!(fingerprint(&der()), expected);
    }

    /// Whatever is cut off or changed, nothing panics, and what is read is within what there is.
    #[test]
    fn no_octet_of_it_is_trusted() {
        let whole = der();
        for end in 0..whole.len() {
            assert_eq!(CertificateFacts::parse(&whole[..end]), None, "{end}");
        }
        let mut changed = whole.to_vec();
        for at in 0..changed.len() {
            let octet = changed[at];
            for other in [0, 0x7f, 0x80, 0x83, 0xff, octet ^ 1] {
                changed[at] = other;
                if let Some(facts) = CertificateFacts::parse(&changed) {
                    assert!(facts.mailboxes.len() + facts.host_names.len() <= NAMES_MAX);
                }
            }
            changed[at] = octet;
        }
    }

    #[test]
    fn names_are_escaped() {
        for (value, expected) in
            [("a", "a"), (" a b ", "\\ a b\\ "), ("#a#", "\\#a#"), ("a+b\\", "a\\+b\\\\")]
        {
            assert_eq!(escaped(value), expected);
        }
    }

    #[test]
    fn the_hash_of_an_end_point_is_that_of_its_signature() {
        let rsa = |last| end_point_hash(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, last]);
        assert_eq!(rsa(5), Some(EndPointHash::Sha256), "SHA-1");
        assert_eq!(rsa(11), Some(EndPointHash::Sha256));
        assert_eq!(rsa(13), Some(EndPointHash::Sha512));
        // PSS says it elsewhere, Ed25519 has none of its own.
        assert_eq!(rsa(10), None);
        assert_eq!(end_point_hash(&[0x2b, 0x65, 0x70]), None);
    }
}
