//! XCLIENT: what a trusted gateway says of its client, in an extension of Postfix's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::address::Domain;
use crate::limits::{DOMAIN_MAX, XCLIENT_LOGIN_MAX};
use crate::notify::decode_xtext;

/// The names of the attributes, as the reply to EHLO lists them.
pub const XCLIENT_ATTRIBUTES: &str = "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT";

/// The value that says that there is none.
const UNAVAILABLE: &str = "[UNAVAILABLE]";

/// The value that says that there is none now.
const TEMPORARILY_UNAVAILABLE: &str = "[TEMPUNAVAIL]";

/// The value of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Told<T> {
    /// It was not given: what was known before stays.
    #[default]
    Nothing,
    /// It was said that there is none, for good or for now.
    Unavailable,
    /// This.
    Value(T),
}

impl<T> Told<T> {
    /// The value, or what is left without one: `known` when nothing was said.
    pub fn or_known(self, known: Option<T>) -> Option<T> {
        match self {
            Self::Nothing => known,
            Self::Unavailable => None,
            Self::Value(value) => Some(value),
        }
    }
}

/// What XCLIENT says of the client.
///
/// Attributes of no use to this server (PORT, DESTADDR and DESTPORT) are read, and not kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientAttributes {
    /// ADDR.
    pub address: Told<IpAddr>,
    /// NAME: the name that its address has in the DNS.
    pub name: Told<Domain>,
    /// HELO: what it calls itself. Made of a domain's characters, or an address literal.
    pub helo: Told<Box<str>>,
    /// PROTO: whether it speaks ESMTP rather than SMTP.
    pub is_extended: Told<bool>,
    /// LOGIN: as whom it has authenticated itself. From 1 to [`XCLIENT_LOGIN_MAX`] octets of printable
    /// ASCII, spaces included.
    pub login: Told<Box<str>>,
}

impl ClientAttributes {
    /// Reads the arguments of the command. `None` when there are none, and for an attribute that does
    /// not exist, comes twice, or has a value that it cannot have; values are `xtext` (RFC 3461 §4).
    pub fn parse(arguments: &str) -> Option<Self> {
        let mut attributes = Self::default();
        let mut seen = Vec::new();
        for argument in arguments.split(' ') {
            let (name, value) = argument.split_once('=')?;
            let name = name.to_ascii_uppercase();
            let value = decode_xtext(value).filter(|value| !value.is_empty())?;
            match &*name {
                "ADDR" => attributes.address = told(&value, address)?,
                "NAME" => attributes.name = told(&value, |text| Domain::parse(text).ok())?,
                "HELO" => attributes.helo = told(&value, helo)?,
                "PROTO" => attributes.is_extended = told(&value, protocol)?,
                "LOGIN" => attributes.login = told(&value, login)?,
                "DESTADDR" => drop(told(&value, address)?),
                "PORT" | "DESTPORT" => drop(told(&value, |text| text.parse::<u16>().ok())?),
                _ => return None,
            }
            if seen.contains(&name) {
                return None;
            }
            seen.push(name);
        }
        Some(attributes)
    }
}

fn told<T>(value: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<Told<T>> {
    let is_none = |none: &&str| value.eq_ignore_ascii_case(none);
    if [UNAVAILABLE, TEMPORARILY_UNAVAILABLE].iter().any(is_none) {
        return Some(Told::Unavailable);
    }
    parse(value).map(Told::Value)
}

fn address(text: &str) -> Option<IpAddr> {
    match text.split_at_checked(5) {
        Some((tag, rest)) if tag.eq_ignore_ascii_case("IPV6:") => {
            rest.parse::<Ipv6Addr>().ok().map(Into::into)
        }
        _ => text.parse::<Ipv4Addr>().ok().map(Into::into),
    }
}

fn helo(text: &str) -> Option<Box<str>> {
    let name = crate::command::helo_name(text.as_bytes()).ok()?;
    (name.len() <= DOMAIN_MAX).then(|| name.into())
}

fn protocol(text: &str) -> Option<bool> {
    match text {
        _ if text.eq_ignore_ascii_case("ESMTP") => Some(true),
        _ if text.eq_ignore_ascii_case("SMTP") => Some(false),
        _ => None,
    }
}

fn login(text: &str) -> Option<Box<str>> {
    (text.len() <= XCLIENT_LOGIN_MAX).then(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::encode_xtext;
    use proptest::prelude::*;

    #[test]
    fn attributes_are_read_in_any_case_and_order() {
        let read = ClientAttributes::parse(
            "name=Mail.b.test ADDR=192.0.2.1 port=25 Proto=esmtp HELO=a+2Db LOGIN=a+20b+2B DESTADDR=IPV6:::1 DESTPORT=587",
        );
        let expected = ClientAttributes {
            address: Told::Value([192, 0, 2, 1].into()),
            name: Told::Value(Domain::parse("mail.b.test").unwrap()),
            helo: Told::Value("a-b".into()),
            is_extended: Told::Value(true),
            login: Told::Value("a b+".into()),
        };
        assert_eq!(read, Some(expected));
        let read = ClientAttributes::parse("ADDR=IPv6:2001:db8::1 PROTO=SMTP").unwrap();
        assert_eq!(read.address, Told::Value("2001:db8::1".parse().unwrap()));
        assert_eq!((read.is_extended, read.name), (Told::Value(false), Told::Nothing));
    }

    #[test]
    fn what_there_is_not_is_said() {
        for value in ["[UNAVAILABLE]", "[TEMPUNAVAIL]", "[unavailable]", "+5BUNAVAILABLE+5D"] {
            let names = XCLIENT_ATTRIBUTES.split(' ');
            let all: Vec<String> = names.map(|name| format!("{name}={value}")).collect();
            let read = ClientAttributes::parse(&all.join(" ")).unwrap();
            let ClientAttributes { address, name, helo, is_extended, login } = read;
            assert_eq!((address, name), (Told::Unavailable, Told::Unavailable));
            assert_eq!((helo, login), (Told::Unavailable, Told::Unavailable));
            assert_eq!(is_extended, Told::Unavailable);
        }
        assert_eq!(Told::Nothing.or_known(Some(1)), Some(1));
        assert_eq!(Told::Unavailable.or_known(Some(1)), None);
        assert_eq!(Told::Value(2).or_known(Some(1)), Some(2));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let long = format!("LOGIN={}", "a".repeat(XCLIENT_LOGIN_MAX + 1));
        for arguments in [
            "",
            " ",
            "ADDR",
            "ADDR=",
            "=1",
            "COLOUR=red",
            "ADDR=192.0.2.1 ",
            "ADDR=192.0.2.1  PORT=1",
            "ADDR=192.0.2.1 addr=192.0.2.1",
            "ADDR=2001:db8::1",
            "ADDR=IPV6:192.0.2.1",
            "ADDR=192.0.2",
            "NAME=a..b",
            "NAME=[192.0.2.1]",
            "HELO=a(b",
            "HELO=a+0Ab",
            "HELO=a+2db",
            "PORT=65536",
            "DESTPORT=-1",
            "DESTADDR=x",
            "PROTO=LMTP",
            "LOGIN=a=b",
            "LOGIN=a+0D",
            "LOGIN=\u{e4}",
            &long,
        ] {
            assert_eq!(ClientAttributes::parse(arguments), None, "{arguments}");
        }
        assert!(ClientAttributes::parse(&long[..long.len() - 1]).is_some());
    }

    proptest! {
        #[test]
        fn any_login_of_text_comes_back(login in "[ -~]{1,100}", noise in "[A-Z=+ \\[\\]0-9.]{0,60}") {
            let mut arguments = "LOGIN=".to_owned();
            encode_xtext(&login, &mut arguments);
            let read = ClientAttributes::parse(&arguments).unwrap();
            let none = ["[UNAVAILABLE]", "[TEMPUNAVAIL]"];
            prop_assume!(!none.iter().any(|none| none.eq_ignore_ascii_case(&login)));
            prop_assert_eq!(read.login, Told::Value(login.into()));
            let _ = ClientAttributes::parse(&noise);
        }
    }
}
