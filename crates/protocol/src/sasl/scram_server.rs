//! What a server says by SCRAM (RFC 5802 §7). What it is worth is found out elsewhere.

use super::decode_base64;
use super::scram::{NONCE_MAX, is_extension};

/// Octets in a salt, decoded.
const SALT_MAX: usize = 1024;

/// Octets in what a server says is wrong.
const ERROR_MAX: usize = 128;

/// The first message of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScramServerFirst<'a> {
    /// The nonces of both ends. 1 to 512 octets; that it begins with that of the client is for the client to
    /// see.
    pub nonce: &'a str,
    /// The salt, decoded. 1 to 1024 octets.
    pub salt: Vec<u8>,
    /// Rounds of PBKDF2. At least 1; how many are too few or too many is for the client to say.
    pub iterations: u32,
}

impl<'a> ScramServerFirst<'a> {
    /// Reads a message; `None` if it is malformed, or has an extension that is to be understood.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(message).ok()?;
        let mut attributes = text.split(',');
        let nonce = attributes.next()?.strip_prefix("r=")?;
        let salt = decode_base64(attributes.next()?.strip_prefix("s=")?.as_bytes())?;
        let iterations = attributes.next()?.strip_prefix("i=")?;
        // RFC 5802 §7: posit-number, without a sign and without leading zeros.
        let is_number = iterations
            .starts_with(|first: char| first.is_ascii_digit() && first != '0')
            && iterations.bytes().all(|octet| octet.is_ascii_digit());
        let is_good = is_number
            && (1..=2 * NONCE_MAX).contains(&nonce.len())
            && nonce.bytes().all(|octet| octet.is_ascii_graphic())
            && (1..=SALT_MAX).contains(&salt.len())
            && attributes.all(is_extension);
        // A number that is too large for us is too many rounds.
        let iterations = iterations.parse().unwrap_or(u32::MAX);
        is_good.then_some(Self { nonce, salt, iterations })
    }
}

/// The last message of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScramServerFinal<'a> {
    /// Its signature, decoded: it knows what the password comes to.
    Signature(Vec<u8>),
    /// The client is refused, and this is why, such as `invalid-proof`. 1 to 128 octets of printable
    /// ASCII.
    Error(&'a str),
}

impl<'a> ScramServerFinal<'a> {
    /// Reads a message; `None` if it is malformed.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(message).ok()?;
        let mut attributes = text.split(',');
        let first = attributes.next()?;
        if !attributes.all(is_extension) {
            return None;
        }
        if let Some(error) = first.strip_prefix("e=") {
            let is_good = (1..=ERROR_MAX).contains(&error.len())
                && error.bytes().all(|octet| octet.is_ascii_graphic());
            return is_good.then_some(Self::Error(error));
        }
        decode_base64(first.strip_prefix("v=")?.as_bytes()).map(Self::Signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677 §3, and what the grammar does not let pass.
    #[test]
    fn the_first_message_is_read_to_the_letter() {
        let text = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let first = ScramServerFirst::parse(text.as_bytes()).unwrap();
        assert_eq!(first.nonce, "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
        assert_eq!((first.salt.len(), first.iterations), (16, 4096));
        let extended = ScramServerFirst::parse(b"r=x,s=AA==,i=1,z=y").unwrap();
        assert_eq!((extended.nonce, extended.iterations), ("x", 1));
        let many = ScramServerFirst::parse(b"r=x,s=AA==,i=99999999999").unwrap();
        assert_eq!(many.iterations, u32::MAX);
        let long = format!("r={},s=AA==,i=1", "x".repeat(2 * NONCE_MAX));
        assert!(ScramServerFirst::parse(long.as_bytes()).is_some());
        for bad in [
            "",
            "r=x",
            "r=x,s=AA==",
            "r=x,i=1,s=AA==",
            "r=,s=AA==,i=1",
            "r=x y,s=AA==,i=1",
            "r=x,s=,i=1",
            "r=x,s=AA,i=1",
            "r=x,s=AA==,i=0",
            "r=x,s=AA==,i=01",
            "r=x,s=AA==,i=-1",
            "r=x,s=AA==,i=+1",
            "r=x,s=AA==,i=",
            "m=1,r=x,s=AA==,i=1",
            "r=x,s=AA==,i=1,m=1",
            "r=x,s=AA==,i=1,",
            "e=other-error",
            &long.replace("r=", "r=x"),
        ] {
            assert_eq!(ScramServerFirst::parse(bad.as_bytes()), None, "{bad}");
        }
        let salt = "A".repeat(SALT_MAX.div_ceil(3) * 4 + 4);
        assert_eq!(ScramServerFirst::parse(format!("r=x,s={salt},i=1").as_bytes()), None);
        assert_eq!(ScramServerFirst::parse(b"r=x\xff,s=AA==,i=1"), None);
    }

    #[test]
    fn the_last_message_is_a_signature_or_an_error() {
        let parse = |text: &'static str| ScramServerFinal::parse(text.as_bytes());
        assert_eq!(parse("v=AAEC"), Some(ScramServerFinal::Signature(vec![0, 1, 2])));
        assert_eq!(parse("v=AAEC,x=y"), Some(ScramServerFinal::Signature(vec![0, 1, 2])));
        assert_eq!(parse("e=invalid-proof"), Some(ScramServerFinal::Error("invalid-proof")));
        let long: &'static str = "e=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
             xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
        for bad in ["", "v=AAE", "v=AAEC,m=1", "v=AAEC,", "e=", "e=a b", "w=AAEC", long] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
