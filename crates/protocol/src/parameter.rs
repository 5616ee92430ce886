//! Parameters of MAIL and RCPT (RFC 5321 §4.1.2).

use crate::command::CommandError;
use crate::deliver_by::ByValue;
use crate::envelope::BodyType;
use crate::hold::Hold;
use crate::limits::AUTH_PARAMETER_MAX;
use crate::notify::{EnvelopeId, Notify, OriginalRecipient, Return, decode_xtext};
use crate::priority::Priority;

/// The parameters of MAIL that we offer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct MailParameters {
    /// `SIZE=`: the declared size in octets (RFC 1870); numbers above `u64` are [`u64::MAX`].
    pub size: Option<u64>,
    /// `BODY=` (RFC 6152); [`BodyType::BinaryMime`] is for servers that offer it (RFC 3030 §3).
    pub body: Option<BodyType>,
    /// `HOLDFOR=` or `HOLDUNTIL=` (RFC 4865); there can be one of them.
    pub hold: Option<Hold>,
    /// `RET=` (RFC 3461).
    pub ret: Option<Return>,
    /// `ENVID=` (RFC 3461).
    pub envelope_id: Option<EnvelopeId>,
    /// `SMTPUTF8` (RFC 6531): addresses and header may have UTF-8.
    pub smtputf8: bool,
    /// `REQUIRETLS` (RFC 8689): the message may only travel under TLS.
    pub requiretls: bool,
    /// `AUTH=` (RFC 4954 §5): who is said to have submitted the message.
    pub auth: Option<Submitter>,
    /// `MT-PRIORITY=` (RFC 6710).
    pub priority: Option<Priority>,
    /// `BY=` (RFC 2852).
    pub by: Option<ByValue>,
}

/// Who is said to have submitted a message: the value of `AUTH=`, decoded. Empty for `<>`, nobody that
/// the client vouches for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Submitter(Box<str>);

impl Submitter {
    /// Reads the value of the parameter.
    pub fn parse(value: &str) -> Option<Self> {
        if value.is_empty() || value.len() > AUTH_PARAMETER_MAX {
            return None;
        }
        let text = decode_xtext(value)?;
        Some(Self(if text == "<>" { "" } else { &*text }.into()))
    }

    /// The name; empty for nobody.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl MailParameters {
    /// Reads `keyword[=value]` words that are separated by single spaces.
    ///
    /// # Errors
    ///
    /// [`CommandError::UnknownParameter`] for a parameter that is not offered, or
    /// [`CommandError::ParameterSyntax`] for one that is malformed or given twice.
    pub(crate) fn parse(text: &str) -> Result<Self, CommandError> {
        let mut parameters = Self::default();
        for (keyword, value) in words(text) {
            if keyword.eq_ignore_ascii_case("SIZE") {
                set_once(&mut parameters.size, size(value)?)?;
            } else if keyword.eq_ignore_ascii_case("BODY") {
                set_once(&mut parameters.body, body(value)?)?;
            } else if keyword.eq_ignore_ascii_case("HOLDFOR") {
                set_once(&mut parameters.hold, read(value, Hold::parse_for)?)?;
            } else if keyword.eq_ignore_ascii_case("HOLDUNTIL") {
                set_once(&mut parameters.hold, read(value, Hold::parse_until)?)?;
            } else if keyword.eq_ignore_ascii_case("RET") {
                set_once(&mut parameters.ret, read(value, Return::from_keyword)?)?;
            } else if keyword.eq_ignore_ascii_case("ENVID") {
                set_once(&mut parameters.envelope_id, read(value, EnvelopeId::parse)?)?;
            } else if keyword.eq_ignore_ascii_case("SMTPUTF8") {
                // RFC 6531 §3.4: it has no value.
                let is_first = !std::mem::replace(&mut parameters.smtputf8, true);
                if value.is_some() || !is_first {
                    return Err(CommandError::ParameterSyntax);
                }
            } else if keyword.eq_ignore_ascii_case("REQUIRETLS") {
                // RFC 8689 §2: it has no value.
                let is_first = !std::mem::replace(&mut parameters.requiretls, true);
                if value.is_some() || !is_first {
                    return Err(CommandError::ParameterSyntax);
                }
            } else if keyword.eq_ignore_ascii_case("AUTH") {
                set_once(&mut parameters.auth, read(value, Submitter::parse)?)?;
            } else if keyword.eq_ignore_ascii_case("MT-PRIORITY") {
                set_once(&mut parameters.priority, read(value, Priority::parse)?)?;
            } else if keyword.eq_ignore_ascii_case("BY") {
                set_once(&mut parameters.by, read(value, ByValue::parse)?)?;
            } else {
                return Err(unknown(keyword));
            }
        }
        Ok(parameters)
    }

    /// Whether there is one of the DSN extension.
    pub fn has_dsn(&self) -> bool {
        self.ret.is_some() || self.envelope_id.is_some()
    }
}

/// The parameters of RCPT that we offer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct RcptParameters {
    /// `NOTIFY=` (RFC 3461).
    pub notify: Option<Notify>,
    /// `ORCPT=` (RFC 3461).
    pub original: Option<OriginalRecipient>,
}

impl RcptParameters {
    /// Reads `keyword[=value]` words that are separated by single spaces.
    ///
    /// # Errors
    ///
    /// [`CommandError::UnknownParameter`] for a parameter that is not offered, or
    /// [`CommandError::ParameterSyntax`] for one that is malformed or given twice.
    pub(crate) fn parse(text: &str) -> Result<Self, CommandError> {
        let mut parameters = Self::default();
        for (keyword, value) in words(text) {
            if keyword.eq_ignore_ascii_case("NOTIFY") {
                set_once(&mut parameters.notify, read(value, Notify::parse)?)?;
            } else if keyword.eq_ignore_ascii_case("ORCPT") {
                set_once(&mut parameters.original, read(value, OriginalRecipient::parse)?)?;
            } else {
                return Err(unknown(keyword));
            }
        }
        Ok(parameters)
    }

    /// Whether there is one of the DSN extension.
    pub fn has_dsn(&self) -> bool {
        self.notify.is_some() || self.original.is_some()
    }
}

fn words(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let words = text.split(' ').skip(usize::from(text.is_empty()));
    words.map(|word| match word.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (word, None),
    })
}

fn unknown(keyword: &str) -> CommandError {
    let mut bytes = keyword.bytes();
    let well_formed = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if well_formed { CommandError::UnknownParameter } else { CommandError::ParameterSyntax }
}

fn set_once<T>(slot: &mut Option<T>, value: T) -> Result<(), CommandError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(CommandError::ParameterSyntax),
    }
}

fn size(value: Option<&str>) -> Result<u64, CommandError> {
    let digits = value.unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(CommandError::ParameterSyntax);
    }
    Ok(digits.parse().unwrap_or(u64::MAX))
}

fn read<T>(value: Option<&str>, parse: fn(&str) -> Option<T>) -> Result<T, CommandError> {
    parse(value.unwrap_or_default()).ok_or(CommandError::ParameterSyntax)
}

fn body(value: Option<&str>) -> Result<BodyType, CommandError> {
    BodyType::from_keyword(value.unwrap_or_default()).ok_or(CommandError::ParameterSyntax)
}
