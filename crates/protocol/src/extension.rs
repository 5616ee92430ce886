//! What a server offers in its reply to EHLO (RFC 5321 §4.1.1.1).

use crate::hold::HoldOffer;
use crate::reply::Reply;
use crate::sasl::{Mechanism, MechanismSet};
use crate::time::{decimal, write_rfc3339_seconds};
use crate::xclient::XCLIENT_ATTRIBUTES;

/// The SIZE extension as offered (RFC 1870).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SizeLimit {
    /// SIZE is not offered: the parameter must not be sent.
    #[default]
    NotOffered,
    /// Offered without a limit, or with a limit of 0, which means the same.
    Unlimited,
    /// The largest message in octets.
    Octets(u64),
}

impl SizeLimit {
    /// Whether a message of `size` octets may be sent.
    pub fn allows(self, size: u64) -> bool {
        match self {
            Self::NotOffered | Self::Unlimited => true,
            Self::Octets(limit) => size <= limit,
        }
    }
}

/// The extensions a remote server offers. Unknown ones are not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "each extension is offered or not")]
pub struct Extensions {
    /// PIPELINING (RFC 2920): commands may be sent without waiting for replies.
    pub pipelining: bool,
    /// 8BITMIME (RFC 6152): the content may have octets above 127.
    pub eight_bit_mime: bool,
    /// SIZE (RFC 1870).
    pub size: SizeLimit,
    /// ENHANCEDSTATUSCODES (RFC 2034).
    pub enhanced_status_codes: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// CHUNKING (RFC 3030 §2): content may be sent by BDAT.
    pub chunking: bool,
    /// BINARYMIME (RFC 3030 §3): by BDAT the content may be any octets.
    pub binary_mime: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// MT-PRIORITY (RFC 6710).
    pub mt_priority: bool,
    /// REQUIRETLS (RFC 8689).
    pub requiretls: bool,
    /// DELIVERBY (RFC 2852): the shortest time in seconds that it takes with mode `R`, 0 if it has none;
    /// `None` when it is not offered.
    pub deliver_by: Option<u32>,
    /// AUTH (RFC 4954): the mechanisms, of those that we know; `None` when it is not offered.
    pub auth: Option<MechanismSet>,
    /// MAILMAX of LIMITS (RFC 9422 §4.1): transactions in one session.
    pub transactions_max: Option<u32>,
    /// RCPTMAX of LIMITS (RFC 9422 §4.2): recipients in one transaction.
    pub recipients_max: Option<u32>,
}

impl Extensions {
    /// Reads the keywords out of a positive reply to EHLO; its first line is a greeting.
    pub fn from_ehlo_reply(reply: &Reply) -> Self {
        let mut extensions = Self::default();
        for line in reply.text.split('\n').skip(1) {
            let mut words = line.split_ascii_whitespace();
            if let Some(keyword) = words.next() {
                if keyword.eq_ignore_ascii_case("AUTH") {
                    let known = words.by_ref().filter_map(Mechanism::from_name);
                    let before = extensions.auth.unwrap_or_default();
                    extensions.auth = Some(known.fold(before, MechanismSet::with));
                }
                if keyword.eq_ignore_ascii_case("LIMITS") {
                    words.by_ref().for_each(|limit| extensions.add_limit(limit));
                }
                extensions.add(keyword, words.next());
            }
        }
        extensions
    }

    /// What is left when only those of `used` are heeded. What is not a matter of mail itself, STARTTLS,
    /// AUTH, REQUIRETLS and ENHANCEDSTATUSCODES, stays.
    #[must_use]
    pub fn within(self, used: ExtensionSet) -> Self {
        let has = |extension| used.contains(extension);
        let limit = |limit: Option<u32>| limit.filter(|_| has(Extension::Limits));
        Self {
            pipelining: self.pipelining && has(Extension::Pipelining),
            eight_bit_mime: self.eight_bit_mime && has(Extension::EightBitMime),
            size: if has(Extension::Size) { self.size } else { SizeLimit::NotOffered },
            smtputf8: self.smtputf8 && has(Extension::SmtpUtf8),
            chunking: self.chunking && has(Extension::Chunking),
            binary_mime: self.binary_mime && has(Extension::BinaryMime),
            dsn: self.dsn && has(Extension::Dsn),
            mt_priority: self.mt_priority && has(Extension::MtPriority),
            deliver_by: self.deliver_by.filter(|_| has(Extension::DeliverBy)),
            transactions_max: limit(self.transactions_max),
            recipients_max: limit(self.recipients_max),
            ..self
        }
    }

    /// RFC 9422 §3: limits that are not known, or cannot be read, are as if they were not there. So is 0,
    /// which nobody could keep.
    fn add_limit(&mut self, limit: &str) {
        let Some((name, value)) = limit.split_once('=') else { return };
        let place = match name {
            _ if name.eq_ignore_ascii_case("MAILMAX") => &mut self.transactions_max,
            _ if name.eq_ignore_ascii_case("RCPTMAX") => &mut self.recipients_max,
            _ => return,
        };
        *place = value.parse().ok().filter(|value| *value > 0).or(*place);
    }

    fn add(&mut self, keyword: &str, argument: Option<&str>) {
        let flags: [(&str, &mut bool); 10] = [
            ("PIPELINING", &mut self.pipelining),
            ("8BITMIME", &mut self.eight_bit_mime),
            ("ENHANCEDSTATUSCODES", &mut self.enhanced_status_codes),
            ("SMTPUTF8", &mut self.smtputf8),
            ("CHUNKING", &mut self.chunking),
            ("BINARYMIME", &mut self.binary_mime),
            ("DSN", &mut self.dsn),
            ("STARTTLS", &mut self.starttls),
            ("MT-PRIORITY", &mut self.mt_priority),
            ("REQUIRETLS", &mut self.requiretls),
        ];
        for (name, flag) in flags {
            if keyword.eq_ignore_ascii_case(name) {
                *flag = true;
            }
        }
        if keyword.eq_ignore_ascii_case("SIZE") {
            // RFC 1870 §4: 0, or no number, is no fixed limit. A number we cannot read is none.
            self.size = match argument.and_then(|text| text.parse().ok()) {
                None | Some(0) => SizeLimit::Unlimited,
                Some(limit) => SizeLimit::Octets(limit),
            };
        }
        if keyword.eq_ignore_ascii_case("DELIVERBY") {
            // RFC 2852 §3: options that later documents add stand behind a comma.
            let min = argument.and_then(|text| text.split(',').next()?.parse().ok());
            self.deliver_by = Some(min.unwrap_or(0));
        }
    }
}

/// An extension that a server can offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extension {
    /// PIPELINING (RFC 2920).
    Pipelining,
    /// SIZE (RFC 1870).
    Size,
    /// 8BITMIME (RFC 6152).
    EightBitMime,
    /// CHUNKING (RFC 3030 §2).
    Chunking,
    /// BINARYMIME (RFC 3030 §3); only with CHUNKING.
    BinaryMime,
    /// SMTPUTF8 (RFC 6531); only with 8BITMIME.
    SmtpUtf8,
    /// STARTTLS (RFC 3207).
    StartTls,
    /// REQUIRETLS (RFC 8689); only under TLS.
    RequireTls,
    /// AUTH (RFC 4954); only with a mechanism.
    Auth,
    /// DSN (RFC 3461).
    Dsn,
    /// FUTURERELEASE (RFC 4865).
    FutureRelease,
    /// MT-PRIORITY (RFC 6710).
    MtPriority,
    /// DELIVERBY (RFC 2852).
    DeliverBy,
    /// LIMITS (RFC 9422).
    Limits,
    /// ENHANCEDSTATUSCODES (RFC 2034).
    EnhancedStatusCodes,
    /// EXPN (RFC 5321 §3.5.2).
    Expn,
    /// ETRN (RFC 1985).
    Etrn,
    /// XCLIENT, of Postfix.
    XClient,
}

impl Extension {
    /// Every extension, in the order of the reply to EHLO.
    pub const ALL: [Self; 18] = [
        Self::Pipelining,
        Self::Size,
        Self::EightBitMime,
        Self::Chunking,
        Self::BinaryMime,
        Self::SmtpUtf8,
        Self::StartTls,
        Self::RequireTls,
        Self::Auth,
        Self::Dsn,
        Self::FutureRelease,
        Self::MtPriority,
        Self::DeliverBy,
        Self::Limits,
        Self::EnhancedStatusCodes,
        Self::Expn,
        Self::Etrn,
        Self::XClient,
    ];

    /// The keyword in the reply to EHLO.
    pub fn keyword(self) -> &'static str {
        match self {
            Self::Pipelining => "PIPELINING",
            Self::Size => "SIZE",
            Self::EightBitMime => "8BITMIME",
            Self::Chunking => "CHUNKING",
            Self::BinaryMime => "BINARYMIME",
            Self::SmtpUtf8 => "SMTPUTF8",
            Self::StartTls => "STARTTLS",
            Self::RequireTls => "REQUIRETLS",
            Self::Auth => "AUTH",
            Self::Dsn => "DSN",
            Self::FutureRelease => "FUTURERELEASE",
            Self::MtPriority => "MT-PRIORITY",
            Self::DeliverBy => "DELIVERBY",
            Self::Limits => "LIMITS",
            Self::EnhancedStatusCodes => "ENHANCEDSTATUSCODES",
            Self::Expn => "EXPN",
            Self::Etrn => "ETRN",
            Self::XClient => "XCLIENT",
        }
    }

    /// The extension of a keyword, in any case.
    pub fn from_keyword(keyword: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|extension| extension.keyword().eq_ignore_ascii_case(keyword))
    }
}

/// A set of extensions. Shape: one word. Default: all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExtensionSet(u32);

impl Default for ExtensionSet {
    fn default() -> Self {
        Self::ALL
    }
}

impl ExtensionSet {
    /// Every extension.
    pub const ALL: Self = Self(u32::MAX);

    /// Whether an extension is in the set.
    pub fn contains(self, extension: Extension) -> bool {
        self.0 & (1 << extension as u32) != 0
    }

    /// The set without an extension.
    #[must_use]
    pub fn without(self, extension: Extension) -> Self {
        Self(self.0 & !(1 << extension as u32))
    }
}

/// What a server offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each extension is offered or not")]
pub struct Offer {
    /// The extensions that may be offered; some of them only with what is below. Default: all.
    pub extensions: ExtensionSet,
    /// SIZE (RFC 1870): the largest message in octets; 0 says that there is no limit.
    pub size_max: u64,
    /// FUTURERELEASE (RFC 4865), if it is offered.
    pub hold: Option<HoldOffer>,
    /// Whether MT-PRIORITY (RFC 6710) is offered.
    pub mt_priority: bool,
    /// DELIVERBY (RFC 2852), if it is offered: the shortest time in seconds with mode `R`, 0 for none.
    pub deliver_by: Option<u32>,
    /// Whether BINARYMIME (RFC 3030 §3) is offered; only with CHUNKING.
    pub binary_mime: bool,
    /// Whether STARTTLS (RFC 3207) is offered.
    pub starttls: bool,
    /// Whether REQUIRETLS (RFC 8689) is offered.
    pub requiretls: bool,
    /// Whether EXPN is offered.
    pub expn: bool,
    /// Whether ETRN is offered.
    pub etrn: bool,
    /// Whether XCLIENT is offered, with all its attributes.
    pub xclient: bool,
    /// The mechanisms of AUTH (RFC 4954); without any it is not offered.
    pub mechanisms: MechanismSet,
    /// LIMITS (RFC 9422), if it is offered.
    pub limits: Option<SessionLimits>,
}

/// What a client may ask of one session, by LIMITS (RFC 9422 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimits {
    /// MAILMAX: transactions in a session. What is not within 1..=999,999 is not said.
    pub transactions_max: u32,
    /// RCPTMAX: recipients in a transaction. What is not within 1..=999,999 is not said.
    pub recipients_max: u32,
}

impl SessionLimits {
    /// The largest number that can be said.
    const MAX: u32 = 999_999;

    /// Name and value of each limit that can be said.
    fn said(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let limits = [("MAILMAX", self.transactions_max), ("RCPTMAX", self.recipients_max)];
        limits.into_iter().filter(|(_, value)| (1..=Self::MAX).contains(value))
    }
}

impl Offer {
    /// Whether an extension is offered.
    pub fn has(&self, extension: Extension) -> bool {
        let is_there = match extension {
            Extension::BinaryMime => self.binary_mime && self.has(Extension::Chunking),
            // RFC 6531 §3.1: the one is announced with the other.
            Extension::SmtpUtf8 => self.has(Extension::EightBitMime),
            Extension::StartTls => self.starttls,
            Extension::RequireTls => self.requiretls,
            Extension::Expn => self.expn,
            Extension::Etrn => self.etrn,
            Extension::XClient => self.xclient,
            Extension::Auth => !self.mechanisms.is_empty(),
            Extension::FutureRelease => self.hold.is_some(),
            Extension::MtPriority => self.mt_priority,
            Extension::DeliverBy => self.deliver_by.is_some(),
            Extension::Limits => self.limits.is_some_and(|limits| limits.said().next().is_some()),
            Extension::Pipelining
            | Extension::Size
            | Extension::EightBitMime
            | Extension::Dsn
            | Extension::Chunking
            | Extension::EnhancedStatusCodes => true,
        };
        is_there && self.extensions.contains(extension)
    }
}

/// Writes the reply to EHLO.
pub fn write_ehlo_reply(hostname: &str, offer: &Offer, out: &mut Vec<u8>) {
    let mut last_line = out.len();
    out.extend_from_slice(b"250-");
    out.extend_from_slice(hostname.as_bytes());
    for extension in Extension::ALL.into_iter().filter(|extension| offer.has(*extension)) {
        out.extend_from_slice(b"\r\n");
        last_line = out.len();
        out.extend_from_slice(b"250-");
        out.extend_from_slice(extension.keyword().as_bytes());
        write_arguments(extension, offer, out);
    }
    out.extend_from_slice(b"\r\n");
    if let Some(separator) = out.get_mut(last_line + 3) {
        *separator = b' ';
    }
}

fn write_arguments(extension: Extension, offer: &Offer, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    match extension {
        Extension::Size => {
            out.push(b' ');
            out.extend_from_slice(decimal(offer.size_max, &mut digits));
        }
        Extension::Auth => {
            for mechanism in offer.mechanisms.iter() {
                out.push(b' ');
                out.extend_from_slice(mechanism.name().as_bytes());
            }
        }
        Extension::FutureRelease => {
            if let Some(hold) = offer.hold {
                out.push(b' ');
                out.extend_from_slice(decimal(hold.seconds_max.into(), &mut digits));
                out.push(b' ');
                write_rfc3339_seconds(hold.until_unix_seconds, out);
            }
        }
        Extension::DeliverBy => {
            if let Some(min) = offer.deliver_by.filter(|min| *min > 0) {
                out.push(b' ');
                out.extend_from_slice(decimal(min.into(), &mut digits));
            }
        }
        Extension::Limits => {
            for (name, value) in offer.limits.iter().flat_map(SessionLimits::said) {
                for part in [" ", name, "="] {
                    out.extend_from_slice(part.as_bytes());
                }
                out.extend_from_slice(decimal(value.into(), &mut digits));
            }
        }
        Extension::XClient => {
            out.push(b' ');
            out.extend_from_slice(XCLIENT_ATTRIBUTES.as_bytes());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::{ReplyCode, ReplyDecoder};
    use crate::sasl::Mechanism;
    use proptest::prelude::*;

    fn parse(input: &str) -> Extensions {
        let (_, reply) = ReplyDecoder::new().decode(input.as_bytes()).unwrap();
        Extensions::from_ehlo_reply(&reply.unwrap())
    }

    #[test]
    fn keywords_are_read_in_any_case() {
        let extensions = parse(
            "250-mx.test PIPELINING\r\n250-8bitmime\r\n250-Size 1000\r\n250-AUTH PLAIN\r\n250-DSN\r\n250 X\r\n",
        );
        let expected = Extensions {
            eight_bit_mime: true,
            size: SizeLimit::Octets(1000),
            dsn: true,
            auth: Some(MechanismSet::NONE.with(Mechanism::Plain)),
            ..Extensions::default()
        };
        assert_eq!(extensions, expected);
    }

    #[test]
    fn limits_that_are_known_are_kept() {
        for (text, mails, recipients) in [
            ("LIMITS MAILMAX=5 RCPTMAX=100", Some(5), Some(100)),
            ("limits rcptmax=7 OTHER=1 mailmax", None, Some(7)),
            ("LIMITS MAILMAX=0 RCPTMAX=-1", None, None),
            ("LIMITS RCPTMAX=99999999999", None, None),
            ("LIMITS", None, None),
            ("X MAILMAX=5", None, None),
        ] {
            let found = parse(&format!("250-mx.test\r\n250 {text}\r\n"));
            assert_eq!(
                (found.transactions_max, found.recipients_max),
                (mails, recipients),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_used_is_as_if_it_were_not_offered() {
        let all = "PIPELINING 8BITMIME SIZE ENHANCEDSTATUSCODES SMTPUTF8 CHUNKING BINARYMIME DSN STARTTLS \
                   MT-PRIORITY DELIVERBY REQUIRETLS";
        let lines = all.split(' ').collect::<Vec<_>>().join("\r\n250-");
        let offered = parse(&format!(
            "250-mx.test\r\n250-{lines}\r\n250-AUTH PLAIN\r\n250 LIMITS MAILMAX=5 RCPTMAX=9\r\n"
        ));
        assert_eq!(offered.within(ExtensionSet::ALL), offered);
        let plain = parse("250-mx.test\r\n250 X\r\n");
        for (off, expected) in [
            (Extension::Pipelining, Extensions { pipelining: false, ..offered }),
            (Extension::EightBitMime, Extensions { eight_bit_mime: false, ..offered }),
            (Extension::Size, Extensions { size: SizeLimit::NotOffered, ..offered }),
            (Extension::SmtpUtf8, Extensions { smtputf8: false, ..offered }),
            (Extension::Chunking, Extensions { chunking: false, ..offered }),
            (Extension::BinaryMime, Extensions { binary_mime: false, ..offered }),
            (Extension::Dsn, Extensions { dsn: false, ..offered }),
            (Extension::MtPriority, Extensions { mt_priority: false, ..offered }),
            (Extension::DeliverBy, Extensions { deliver_by: None, ..offered }),
            (
                Extension::Limits,
                Extensions { transactions_max: None, recipients_max: None, ..offered },
            ),
            (Extension::StartTls, offered),
            (Extension::Auth, offered),
            (Extension::RequireTls, offered),
        ] {
            let used = ExtensionSet::ALL.without(off);
            assert_eq!(offered.within(used), expected, "{off:?}");
            assert_eq!(plain.within(used), plain, "nothing is added");
        }
    }

    #[test]
    fn mechanisms_that_are_known_are_kept_of_auth() {
        let known = |list: &[Mechanism]| Some(list.iter().copied().collect::<MechanismSet>());
        for (text, expected) in [
            ("8BITMIME", None),
            ("AUTH", known(&[])),
            ("AUTH CRAM-MD5 NTLM", known(&[])),
            ("auth login  Plain X", known(&[Mechanism::Plain, Mechanism::Login])),
            ("AUTH LOGIN\r\n250 AUTH PLAIN", known(&[Mechanism::Plain, Mechanism::Login])),
            ("AUTH SCRAM-SHA-256-PLUS", known(&[Mechanism::ScramSha256Plus])),
            ("AUTHX PLAIN", None),
            ("AUTH=PLAIN", None),
        ] {
            let text = text.replace("\r\n250 ", "\r\n250-");
            assert_eq!(
                parse(&format!("250-mx.test\r\n250-{text}\r\n250 X\r\n")).auth,
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn size_without_a_number_is_no_limit() {
        for (text, size) in [
            ("SIZE", SizeLimit::Unlimited),
            ("SIZE 0", SizeLimit::Unlimited),
            ("SIZE many", SizeLimit::Unlimited),
            ("SIZE 10", SizeLimit::Octets(10)),
            ("X", SizeLimit::NotOffered),
        ] {
            assert_eq!(parse(&format!("250-mx.test\r\n250 {text}\r\n")).size, size, "{text}");
        }
        assert!(SizeLimit::Octets(10).allows(10) && !SizeLimit::Octets(10).allows(11));
        assert!(SizeLimit::Unlimited.allows(u64::MAX) && SizeLimit::NotOffered.allows(u64::MAX));
    }

    #[test]
    fn our_offer_is_read_by_our_client() {
        let mut out = Vec::new();
        let offer = Offer { size_max: 12345, ..Offer::default() };
        write_ehlo_reply("mx.test", &offer, &mut out);
        let expected = Extensions {
            pipelining: true,
            eight_bit_mime: true,
            size: SizeLimit::Octets(12345),
            enhanced_status_codes: true,
            dsn: true,
            chunking: true,
            smtputf8: true,
            ..Extensions::default()
        };
        assert_eq!(parse(std::str::from_utf8(&out).unwrap()), expected);
        out.clear();
        let hold = HoldOffer { seconds_max: 604_800, until_unix_seconds: 1_700_000_000 };
        write_ehlo_reply("mx.test", &Offer { hold: Some(hold), ..offer }, &mut out);
        let text = std::str::from_utf8(&out).unwrap();
        assert_eq!(parse(text), expected);
        assert!(text.contains("\r\n250-FUTURERELEASE 604800 2023-11-14T22:13:20Z\r\n"), "{text}");
        for (chunking, binary_mime) in [(true, true), (false, false), (false, true)] {
            out.clear();
            let mut offer = Offer { binary_mime, ..offer };
            if !chunking {
                offer.extensions = offer.extensions.without(Extension::Chunking);
            }
            write_ehlo_reply("mx.test", &offer, &mut out);
            let read = parse(std::str::from_utf8(&out).unwrap());
            // RFC 3030 §3: there is no BINARYMIME without CHUNKING.
            let binary_mime = chunking && binary_mime;
            assert_eq!(read, Extensions { chunking, binary_mime, ..expected });
        }
    }

    /// RFC 2852 §3: a minimum may follow, and behind a comma what is not known yet.
    #[test]
    fn deliverby_has_a_minimum_or_none() {
        for (text, expected) in [
            ("DELIVERBY", Some(0)),
            ("deliverby 240", Some(240)),
            ("DELIVERBY 240,SOON=1", Some(240)),
            ("DELIVERBY ,SOON=1", Some(0)),
            ("DELIVERBYE 1", None),
        ] {
            assert_eq!(parse(&format!("250-mx.test\r\n250 {text}\r\n")).deliver_by, expected);
        }
        for min in [0, 240] {
            let mut out = Vec::new();
            let offer = Offer { deliver_by: Some(min), ..Offer::default() };
            write_ehlo_reply("mx.test", &offer, &mut out);
            let text = String::from_utf8(out).unwrap();
            assert_eq!(parse(&text).deliver_by, Some(min));
            assert_eq!(text.contains("-DELIVERBY\r\n"), min == 0, "{text}");
        }
    }

    #[test]
    fn keywords_are_known_in_any_case() {
        for extension in Extension::ALL {
            let keyword = extension.keyword();
            assert_eq!(Extension::from_keyword(&keyword.to_ascii_lowercase()), Some(extension));
        }
        assert_eq!(Extension::from_keyword("XFORWARD"), None);
    }

    /// Without the others each one is the last line, and with none the host name is.
    #[test]
    fn what_is_not_in_the_set_is_not_offered() {
        let hold = Some(HoldOffer { seconds_max: 1, until_unix_seconds: 1 });
        let write = |extensions| {
            let offer = Offer {
                extensions,
                size_max: 1,
                hold,
                mt_priority: true,
                deliver_by: Some(0),
                binary_mime: true,
                starttls: true,
                requiretls: true,
                xclient: true,
                expn: true,
                etrn: true,
                mechanisms: MechanismSet::NONE.with(Mechanism::Plain),
                limits: Some(SessionLimits { transactions_max: 1, recipients_max: 1 }),
            };
            let mut out = Vec::new();
            write_ehlo_reply("mx.test", &offer, &mut out);
            String::from_utf8(out).unwrap()
        };
        let mut none = ExtensionSet::ALL;
        for kept in Extension::ALL {
            assert!(!write(ExtensionSet::ALL.without(kept)).contains(kept.keyword()));
            none = none.without(kept);
            // RFC 3030 §3: there is no BINARYMIME without CHUNKING; RFC 6531 §3.1: and no SMTPUTF8
            // without 8BITMIME.
            if matches!(kept, Extension::BinaryMime | Extension::SmtpUtf8) {
                continue;
            }
            let others = Extension::ALL.into_iter().filter(|other| *other != kept);
            let only = others.fold(ExtensionSet::ALL, ExtensionSet::without);
            let text = write(only);
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!((lines.len(), lines[0]), (2, "250-mx.test"), "{text}");
            assert!(lines[1].starts_with(&format!("250 {}", kept.keyword())), "{text}");
        }
        assert_eq!(write(none), "250 mx.test\r\n");
    }

    #[test]
    fn mechanisms_stand_behind_auth() {
        for (mechanisms, said) in [
            (
                MechanismSet::from_iter(Mechanism::ALL),
                "250-AUTH EXTERNAL SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN\r\n",
            ),
            (MechanismSet::NONE.with(Mechanism::Login), "250-AUTH LOGIN\r\n"),
            (MechanismSet::NONE, ""),
        ] {
            let mut out = Vec::new();
            write_ehlo_reply("mx.test", &Offer { mechanisms, ..Offer::default() }, &mut out);
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text.matches("AUTH").count(), usize::from(!said.is_empty()), "{text}");
            assert!(text.contains(&format!("\r\n{said}")), "{text}");
        }
    }

    #[test]
    fn limits_that_can_be_said_are() {
        for (transactions_max, recipients_max, said) in [
            (1000, 1, "250-LIMITS MAILMAX=1000 RCPTMAX=1\r\n"),
            (0, 999_999, "250-LIMITS RCPTMAX=999999\r\n"),
            (1, 1_000_000, "250-LIMITS MAILMAX=1\r\n"),
            (u32::MAX, 0, ""),
        ] {
            let limits = Some(SessionLimits { transactions_max, recipients_max });
            let mut out = Vec::new();
            write_ehlo_reply("mx.test", &Offer { limits, ..Offer::default() }, &mut out);
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text.matches("LIMITS").count(), usize::from(!said.is_empty()), "{text}");
            assert!(text.contains(&format!("\r\n{said}")), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_offer_of_ours_is_read(size in any::<u64>(), hold in prop::option::of(1..=999_999_999_u32)) {
            let mut out = Vec::new();
            let hold = hold.map(|seconds_max| HoldOffer { seconds_max, until_unix_seconds: size / 7 });
            let offer = Offer { size_max: size, hold, ..Offer::default() };
            write_ehlo_reply("mx.test", &offer, &mut out);
            let read = parse(std::str::from_utf8(&out).unwrap());
            prop_assert!(read.pipelining && read.eight_bit_mime && read.enhanced_status_codes);
            prop_assert!(read.dsn);
            let expected = if size == 0 { SizeLimit::Unlimited } else { SizeLimit::Octets(size) };
            prop_assert_eq!(read.size, expected);
        }

        /// A keyword counts only at the start of a line, and not on the first.
        #[test]
        fn any_reply_is_read(text in any::<String>(), noise in "[A-Z0-9 \n]{0,60}") {
            let code = ReplyCode::new(250).unwrap();
            for text in [text, noise] {
                let read = Extensions::from_ehlo_reply(&Reply::new(code, None, &text));
                let mut offered = text.split('\n').skip(1).map(str::trim);
                let is_said = offered.any(|line| line.to_ascii_uppercase().starts_with("PIPELINING"));
                prop_assert!(is_said || !read.pipelining);
            }
        }
    }
}
