//! What a client says by SCRAM (RFC 5802 §7). What it is worth is found out elsewhere.

use super::decode_base64;
use crate::limits::AUTH_NAME_MAX;

/// Octets in the nonce of a client.
pub(super) const NONCE_MAX: usize = 256;

/// Octets in the name of a channel binding.
const BINDING_NAME_MAX: usize = 64;

/// What the first message says of channel binding (RFC 5802 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScramBinding<'a> {
    /// `n`: the client does not know of it.
    Unknown,
    /// `y`: the client knows of it, and thinks that the server does not.
    NotOffered,
    /// `p`: the client binds itself to what is named here, such as `tls-exporter`. 1 to
    /// 64 octets: letters, digits, dots and hyphens.
    Type(&'a str),
}

impl<'a> ScramBinding<'a> {
    fn parse(flag: &'a str) -> Option<Self> {
        match flag {
            "n" => Some(Self::Unknown),
            "y" => Some(Self::NotOffered),
            _ => {
                let name = flag.strip_prefix("p=")?;
                let is_name = (1..=BINDING_NAME_MAX).contains(&name.len())
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b));
                is_name.then_some(Self::Type(name))
            }
        }
    }
}

/// The first message of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScramClientFirst<'a> {
    /// What the client makes of channel binding.
    pub binding: ScramBinding<'a>,
    /// The gs2-header: all before the bare message.
    pub header: &'a str,
    /// The message without that header, which is signed.
    pub bare: &'a str,
    /// As whom the client wants to act, decoded, if it says so.
    pub authorization: Option<String>,
    /// The user, decoded. 1 to [`AUTH_NAME_MAX`] octets.
    pub name: String,
    /// The nonce of the client.
    pub nonce: &'a str,
}

impl<'a> ScramClientFirst<'a> {
    /// Reads a message; `None` if it is malformed, or has an extension that is to be understood.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(message).ok()?;
        let (flag, rest) = text.split_once(',')?;
        let binding = ScramBinding::parse(flag)?;
        let (authorization, bare) = rest.split_once(',')?;
        let authorization = match authorization {
            "" => None,
            value => Some(sasl_name(value.strip_prefix("a=")?)?),
        };
        let header = text.strip_suffix(bare)?;
        let mut attributes = bare.split(',');
        let name = sasl_name(attributes.next()?.strip_prefix("n=")?)?;
        let nonce = attributes.next()?.strip_prefix("r=")?;
        let is_nonce = (1..=NONCE_MAX).contains(&nonce.len())
            && nonce.bytes().all(|octet| octet.is_ascii_graphic());
        let is_good = is_nonce && attributes.all(is_extension);
        is_good.then_some(Self { binding, header, bare, authorization, name, nonce })
    }
}

/// The last message of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScramClientFinal<'a> {
    /// What the channel is bound to, decoded: the gs2-header again, and behind it what the binding that it
    /// names stands for.
    pub channel_binding: Vec<u8>,
    /// The nonces of both ends.
    pub nonce: &'a str,
    /// The message without its proof, which is signed.
    pub without_proof: &'a str,
    /// The proof, decoded.
    pub proof: Vec<u8>,
}

impl<'a> ScramClientFinal<'a> {
    /// Reads a message; `None` if it is malformed.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(message).ok()?;
        let (without_proof, proof) = text.rsplit_once(',')?;
        let proof = decode_base64(proof.strip_prefix("p=")?.as_bytes())?;
        let mut attributes = without_proof.split(',');
        let channel_binding = attributes.next()?.strip_prefix("c=")?;
        let channel_binding = decode_base64(channel_binding.as_bytes())?;
        let nonce = attributes.next()?.strip_prefix("r=")?;
        let is_good = attributes.all(is_extension);
        is_good.then_some(Self { channel_binding, nonce, without_proof, proof })
    }
}

/// An attribute that may be there; `m` has to be understood, and nobody does.
pub(super) fn is_extension(attribute: &str) -> bool {
    let mut octets = attribute.bytes();
    octets.next().is_some_and(|name| name.is_ascii_alphabetic() && name != b'm')
        && octets.next() == Some(b'=')
}

/// Writes a name as it stands in a message of SCRAM.
pub fn write_sasl_name(name: &str, out: &mut String) {
    for letter in name.chars() {
        match letter {
            ',' => out.push_str("=2C"),
            '=' => out.push_str("=3D"),
            other => out.push(other),
        }
    }
}

/// Decodes a name: `=2C` stands for a comma, `=3D` for an equals sign, and neither for itself.
fn sasl_name(text: &str) -> Option<String> {
    let mut parts = text.split('=');
    let mut name = String::from(parts.next()?);
    for part in parts {
        if let Some(rest) = part.strip_prefix("2C") {
            name.push(',');
            name.push_str(rest);
        } else {
            name.push('=');
            name.push_str(part.strip_prefix("3D")?);
        }
    }
    let is_good = (1..=AUTH_NAME_MAX).contains(&name.len()) && !name.contains('\0');
    is_good.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_message_is_read() {
        let first = ScramClientFirst::parse(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
        assert_eq!((first.header, first.bare), ("n,,", "n=user,r=rOprNGfwEbeRWgbNEkqO"));
        assert_eq!((&*first.name, first.nonce), ("user", "rOprNGfwEbeRWgbNEkqO"));
        let first = ScramClientFirst::parse(b"y,a=b=2Cc,n=a=3Db=2C,r=x,z=1").unwrap();
        assert_eq!((first.header, first.bare), ("y,a=b=2Cc,", "n=a=3Db=2C,r=x,z=1"));
        assert_eq!((first.authorization.as_deref(), &*first.name), (Some("b,c"), "a=b,"));
        assert_eq!(first.binding, ScramBinding::NotOffered);
        let first = ScramClientFirst::parse(b"p=tls-exporter,,n=user,r=x").unwrap();
        assert_eq!(first.binding, ScramBinding::Type("tls-exporter"));
        assert_eq!((first.header, first.bare), ("p=tls-exporter,,", "n=user,r=x"));
        for bad in [
            "",
            "n,,",
            "n,,n=user",
            "n,,n=,r=x",
            "n,,n=user,r=",
            "n,,r=x,n=user",
            "n,user,n=user,r=x",
            "n,n=user,r=x",
            "x,,n=user,r=x",
            "p=,,n=user,r=x",
            "p,,n=user,r=x",
            "p=tls_exporter,,n=user,r=x",
            "n,,m=1,n=user,r=x",
            "n,,n=user,r=x,m=1",
            "n,,n=us=er,r=x",
            "n,,n=us=2cer,r=x",
            "n,,n=user,r=x y",
            "n,,n=user,r=x,",
        ] {
            assert_eq!(ScramClientFirst::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_name_that_is_written_is_read() {
        for name in ["user", "a,b=c", "=2C", ",", "\u{fc}"] {
            let mut message = String::from("n,,n=");
            write_sasl_name(name, &mut message);
            message.push_str(",r=x");
            let first = ScramClientFirst::parse(message.as_bytes()).unwrap();
            assert_eq!(first.name, name);
        }
    }

    #[test]
    fn the_last_message_is_read() {
        let text = "c=biws,r=abc,p=AAEC";
        let last = ScramClientFinal::parse(text.as_bytes()).unwrap();
        assert_eq!((&*last.channel_binding, last.nonce), (&b"n,,"[..], "abc"));
        assert_eq!((last.without_proof, &*last.proof), ("c=biws,r=abc", &[0, 1, 2][..]));
        for bad in [
            "",
            "c=biws,r=abc",
            "c=biws,p=AAEC",
            "r=abc,c=biws,p=AAEC",
            "c=bi,r=a,p=AAEC",
            "c=biws,r=a,p=A",
            "c=biws,r=a,m=1,p=AAEC",
        ] {
            assert_eq!(ScramClientFinal::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
