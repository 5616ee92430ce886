//! Parameters of MAIL and RCPT (RFC 5321 §4.1.2).

use crate::command::CommandError;
use crate::envelope::BodyType;
use crate::hold::Hold;

/// The parameters of MAIL that we offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct MailParameters {
    /// `SIZE=`: the declared size in octets (RFC 1870); numbers above `u64` are [`u64::MAX`].
    pub size: Option<u64>,
    /// `BODY=` (RFC 6152).
    pub body: Option<BodyType>,
    /// `HOLDFOR=` or `HOLDUNTIL=` (RFC 4865); there can be one of them.
    pub hold: Option<Hold>,
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
                set_once(&mut parameters.hold, hold(value, Hold::parse_for)?)?;
            } else if keyword.eq_ignore_ascii_case("HOLDUNTIL") {
                set_once(&mut parameters.hold, hold(value, Hold::parse_until)?)?;
            } else {
                return Err(unknown(keyword));
            }
        }
        Ok(parameters)
    }
}

/// Reads the parameters of RCPT, none of which are offered.
pub(crate) fn refuse_rcpt_parameters(text: &str) -> Result<(), CommandError> {
    match words(text).next() {
        None => Ok(()),
        Some((keyword, _)) => Err(unknown(keyword)),
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

fn hold(value: Option<&str>, parse: fn(&str) -> Option<Hold>) -> Result<Hold, CommandError> {
    parse(value.unwrap_or_default()).ok_or(CommandError::ParameterSyntax)
}

fn body(value: Option<&str>) -> Result<BodyType, CommandError> {
    let value = value.unwrap_or_default();
    match BodyType::from_keyword(value) {
        Some(body) => Ok(body),
        // RFC 3030 §3: a type that exists, but only with an extension that is not offered.
        None if value.eq_ignore_ascii_case("BINARYMIME") => Err(CommandError::UnknownParameter),
        None => Err(CommandError::ParameterSyntax),
    }
}
