//! By which certificates users are known.

/// What a certificate has to say to be a user's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum CertificateRule {
    /// `sha256:`: it is this one, by its SHA-256 in lower case and without colons.
    Fingerprint(String),
    /// `email:`: it has this mailbox in its `subjectAltName`; the domain in lower case.
    Mailbox(String),
    /// `dns:`: it has this name of a host in its `subjectAltName`, in lower case.
    Host(String),
    /// `subject:`: its subject is this, as RFC 4514 writes it.
    Subject(String),
}

impl CertificateRule {
    /// Reads a rule.
    ///
    /// # Errors
    ///
    /// What it should be.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "not \"sha256:…\", \"email:…\", \"dns:…\" or \"subject:…\"";

        let (kind, value) = text.split_once(':').ok_or(FORM)?;
        match kind {
            "sha256" => parse_fingerprint(value)
                .map(Self::Fingerprint)
                .ok_or("a SHA-256 fingerprint has 64 hexadecimal digits"),
            "email" => Self::mailbox(value).ok_or("not a mailbox"),
            "dns" if !value.is_empty() && value.bytes().all(|it| it.is_ascii_graphic()) => {
                Ok(Self::Host(value.to_ascii_lowercase()))
            }
            "dns" => Err("not a name of a host"),
            "subject" if value.contains('=') => Ok(Self::Subject(value.to_owned())),
            "subject" => Err("not a subject such as \"CN=a.test,O=A\""),
            _ => Err(FORM),
        }
    }

    /// A mailbox as it is compared: its local-part to the letter.
    pub(crate) fn mailbox(text: &str) -> Option<Self> {
        let (local, domain) = text.rsplit_once('@')?;
        let is_good = !local.is_empty() && !domain.is_empty();
        is_good.then(|| Self::Mailbox(format!("{local}@{}", domain.to_ascii_lowercase())))
    }
}

/// Reads a SHA-256 in hexadecimal digits, with colons between its octets or without.
pub fn parse_fingerprint(text: &str) -> Option<String> {
    let digits = text.replace(':', "").to_ascii_lowercase();
    let is_good = digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_good.then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read() {
        let digits = "0123456789abcdef".repeat(4);
        let pairs: Vec<&str> = (0..32).map(|at| &digits[2 * at..2 * at + 2]).collect();
        for (text, expected) in [
            (format!("sha256:{digits}"), CertificateRule::Fingerprint(digits.clone())),
            (
                format!("sha256:{}", pairs.join(":").to_ascii_uppercase()),
                CertificateRule::Fingerprint(digits.clone()),
            ),
            ("email:A@B.test".to_owned(), CertificateRule::Mailbox("A@b.test".to_owned())),
            ("dns:A.test".to_owned(), CertificateRule::Host("a.test".to_owned())),
            ("subject:CN=a:b".to_owned(), CertificateRule::Subject("CN=a:b".to_owned())),
        ] {
            assert_eq!(CertificateRule::parse(&text), Ok(expected), "{text}");
        }
        for bad in [
            "",
            "a.test",
            "ip:192.0.2.1",
            "sha256:",
            &format!("sha256:{digits}0"),
            &format!("sha256:{}", digits.replace('0', "g")),
            "email:a",
            "email:@a.test",
            "dns:",
            "dns:a b",
            "subject:a",
        ] {
            assert!(CertificateRule::parse(bad).is_err(), "{bad}");
        }
    }
}
