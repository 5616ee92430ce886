//! Commands: what a client says (RFC 5321 §4.1).

use thiserror::Error;

use crate::address::{AddressLiteral, Syntax, quoted_string_len};
use crate::chunking::Chunk;
use crate::error::AddressError;
use crate::limits::DOMAIN_MAX;
use crate::parameter::{MailParameters, RcptParameters};
use crate::path::{ForwardPath, ReversePath};
use crate::reply::FixedReply;
use crate::sasl::AuthCommand;

#[cfg(test)]
mod tests;

/// One command line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command<'a> {
    /// EHLO with the client's name or address literal.
    Ehlo(&'a str),
    /// HELO with the client's name or address literal.
    Helo(&'a str),
    /// MAIL FROM.
    Mail {
        /// Where reports of failure go; outside of ASCII only with `SMTPUTF8`.
        path: ReversePath,
        /// SIZE, BODY, how long to hold it, and what to tell of it.
        parameters: MailParameters,
    },
    /// RCPT TO.
    Rcpt {
        /// The recipient; one outside of ASCII is for messages with `SMTPUTF8` only.
        path: ForwardPath,
        /// Of what to tell, and whom the originator has written to.
        parameters: RcptParameters,
    },
    /// DATA.
    Data,
    /// STARTTLS (RFC 3207).
    StartTls,
    /// AUTH (RFC 4954).
    Auth(AuthCommand<'a>),
    /// BDAT: so many octets of content follow the line (RFC 3030 §2).
    Bdat(Chunk),
    /// RSET.
    Rset,
    /// NOOP; its argument means nothing.
    Noop,
    /// QUIT; an argument is let pass.
    Quit,
    /// HELP with its topic.
    Help(Option<&'a str>),
    /// VRFY with the text to verify.
    Vrfy(&'a str),
    /// EXPN with the list to expand.
    Expn(&'a str),
    /// ETRN with the node, for [`etrn`](crate::etrn) to read (RFC 1985).
    Etrn(&'a str),
    /// XCLIENT with its attributes, for [`xclient`](crate::xclient) to read.
    Xclient(&'a str),
    /// XFORWARD, which is for trusted peers only.
    Privileged,
    /// A verb that exists but is not offered here.
    NotImplemented,
    /// The first line of an HTTP request, or a header field: not an SMTP client.
    Foreign,
}

/// Why a line is not a command, with the reply that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum CommandError {
    /// There is no such verb, or none at all.
    #[error("unknown command")]
    UnknownVerb,
    /// The line has control characters.
    #[error("control character in a command")]
    ControlCharacter,
    /// The argument is missing, malformed or not allowed.
    #[error("bad argument")]
    Argument,
    /// The name given to EHLO or HELO is missing or malformed.
    #[error("bad name in EHLO or HELO")]
    HeloName,
    /// The reverse-path is malformed.
    #[error("bad reverse-path")]
    ReversePath(#[source] AddressError),
    /// The forward-path is malformed.
    #[error("bad forward-path")]
    ForwardPath(#[source] AddressError),
    /// BDAT does not say how many octets follow it: nobody knows where the next command begins.
    #[error("bad size of a chunk")]
    ChunkSize,
    /// A parameter is malformed or given twice.
    #[error("bad parameter")]
    ParameterSyntax,
    /// A parameter is not offered.
    #[error("unknown parameter")]
    UnknownParameter,
}

impl CommandError {
    /// Whether the session has to be closed at once, as what follows cannot be read.
    pub fn closes_session(self) -> bool {
        self == Self::ChunkSize
    }

    /// The reply to send.
    pub fn reply(self) -> FixedReply {
        match self {
            Self::UnknownVerb => FixedReply::new("500 5.5.2 Command not recognized"),
            Self::ControlCharacter => {
                FixedReply::new("501 5.5.2 Control characters are not allowed")
            }
            Self::Argument => FixedReply::new("501 5.5.4 Syntax error in the argument"),
            Self::HeloName => FixedReply::new("501 5.5.4 A domain or address literal is needed"),
            // RFC 6531 §3.5.
            Self::ReversePath(AddressError::NonAscii) => {
                FixedReply::new("550 5.6.7 The address needs SMTPUTF8")
            }
            Self::ForwardPath(AddressError::NonAscii) => {
                FixedReply::new("553 5.6.7 The address needs SMTPUTF8")
            }
            Self::ReversePath(AddressError::Brackets)
            | Self::ForwardPath(AddressError::Brackets) => {
                FixedReply::new("501 5.5.4 A path in angle brackets is needed")
            }
            Self::ReversePath(_) => FixedReply::new("501 5.1.7 Bad reverse-path"),
            Self::ForwardPath(_) => FixedReply::new("501 5.1.3 Bad forward-path"),
            Self::ChunkSize => FixedReply::new("501 5.5.4 Syntax error in the size, closing"),
            Self::ParameterSyntax => FixedReply::new("501 5.5.4 Syntax error in a parameter"),
            Self::UnknownParameter => FixedReply::new("555 5.5.4 Parameter not recognized"),
        }
    }
}

impl<'a> Command<'a> {
    /// Reads a line without its CRLF, to the letter of RFC 5321.
    ///
    /// # Errors
    ///
    /// [`CommandError`], with the reply to send.
    pub fn parse(line: &'a [u8]) -> Result<Self, CommandError> {
        Self::parse_with(line, Syntax::Strict)
    }

    /// Reads a line without its CRLF, as strictly as told.
    ///
    /// Spaces at the end are tolerated but for MAIL and RCPT (RFC 5321 §4.1.1), where only
    /// [`Syntax::Lenient`] does so.
    ///
    /// # Errors
    ///
    /// [`CommandError`], with the reply to send.
    pub fn parse_with(line: &'a [u8], syntax: Syntax) -> Result<Self, CommandError> {
        let verb_len = memchr::memchr(b' ', line).unwrap_or(line.len());
        let (verb, rest) = line.split_at(verb_len);
        if matches!(verb.first(), None | Some(b'\t')) {
            return Err(CommandError::UnknownVerb);
        }
        if line.iter().any(u8::is_ascii_control) {
            return Err(match line.get(..4) {
                Some(verb) if verb.eq_ignore_ascii_case(b"BDAT") => CommandError::ChunkSize,
                _ => CommandError::ControlCharacter,
            });
        }
        let rest = rest.strip_prefix(b" ").unwrap_or_default();
        let mut upper = [0; 8];
        let Some(known) = upper.get_mut(..verb.len()) else {
            return Self::other_verb(verb);
        };
        known.copy_from_slice(verb);
        known.make_ascii_uppercase();
        match &*known {
            b"MAIL" => Self::mail(rest, syntax),
            b"RCPT" => Self::rcpt(rest, syntax),
            b"DATA" => no_argument(rest, Self::Data),
            b"BDAT" => Chunk::parse(rest).map(Self::Bdat).ok_or(CommandError::ChunkSize),
            b"EHLO" => helo_name(rest).map(Self::Ehlo),
            b"HELO" => helo_name(rest).map(Self::Helo),
            b"STARTTLS" => no_argument(rest, Self::StartTls),
            b"AUTH" => AuthCommand::parse(rest).map(Self::Auth),
            b"RSET" => no_argument(rest, Self::Rset),
            b"NOOP" => Ok(Self::Noop),
            b"QUIT" => Ok(Self::Quit),
            b"HELP" => text(rest).map(|topic| Self::Help((!topic.is_empty()).then_some(topic))),
            b"VRFY" => some_text(rest).map(Self::Vrfy),
            b"EXPN" => some_text(rest).map(Self::Expn),
            b"ETRN" => some_text(rest).map(Self::Etrn),
            b"XCLIENT" => text(rest).map(Self::Xclient),
            b"XFORWARD" => Ok(Self::Privileged),
            b"BURL" | b"TURN" | b"ATRN" | b"SEND" | b"SOML" | b"SAML" | b"VERB" | b"DEBUG"
            | b"WIZ" => Ok(Self::NotImplemented),
            _ => Self::other_verb(verb),
        }
    }

    fn other_verb(verb: &[u8]) -> Result<Self, CommandError> {
        const HTTP: [&[u8]; 8] =
            [b"GET", b"POST", b"CONNECT", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"];
        let field_name = verb.strip_suffix(b":").is_some_and(|name| {
            !name.is_empty() && name.iter().all(|&b| b.is_ascii_alphanumeric() || b == b'-')
        });
        if field_name || HTTP.iter().any(|method| verb.eq_ignore_ascii_case(method)) {
            return Ok(Self::Foreign);
        }
        Err(CommandError::UnknownVerb)
    }

    fn mail(argument: &'a [u8], syntax: Syntax) -> Result<Self, CommandError> {
        let argument = after_keyword(argument, b"FROM:")?;
        let (inner, parameters) =
            split_path(argument, syntax).map_err(CommandError::ReversePath)?;
        let path = ReversePath::from_inner(inner, syntax).map_err(CommandError::ReversePath)?;
        let parameters = MailParameters::parse(parameters)?;
        if !path.is_ascii() && !parameters.smtputf8 {
            return Err(CommandError::ReversePath(AddressError::NonAscii));
        }
        Ok(Self::Mail { path, parameters })
    }

    fn rcpt(argument: &'a [u8], syntax: Syntax) -> Result<Self, CommandError> {
        let argument = after_keyword(argument, b"TO:")?;
        let (inner, parameters) =
            split_path(argument, syntax).map_err(CommandError::ForwardPath)?;
        let path = ForwardPath::from_inner(inner, syntax).map_err(CommandError::ForwardPath)?;
        let parameters = RcptParameters::parse(parameters)?;
        Ok(Self::Rcpt { path, parameters })
    }
}

fn no_argument<'a>(rest: &[u8], command: Command<'a>) -> Result<Command<'a>, CommandError> {
    // RFC 5321 §4.1.1: white space before the CRLF is to be tolerated.
    if rest.iter().all(|&b| b == b' ') { Ok(command) } else { Err(CommandError::Argument) }
}

fn text(rest: &[u8]) -> Result<&str, CommandError> {
    std::str::from_utf8(rest).map(str::trim_ascii).map_err(|_| CommandError::Argument)
}

fn some_text(rest: &[u8]) -> Result<&str, CommandError> {
    text(rest).and_then(|text| if text.is_empty() { Err(CommandError::Argument) } else { Ok(text) })
}

/// Checks the name a client gives itself.
///
/// RFC 5321 §4.1.4 forbids refusing a client for a name that is not its own, and many send names that
/// are no domains; so anything made of a domain's characters or underscores will do, and such a text is
/// safe to repeat in a trace field.
pub(crate) fn helo_name(rest: &[u8]) -> Result<&str, CommandError> {
    let name = text(rest).map_err(|_| CommandError::HeloName)?;
    let literal = name.starts_with('[') && AddressLiteral::parse(name).is_ok();
    let word = !name.is_empty()
        && name.len() <= DOMAIN_MAX
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if literal || word { Ok(name) } else { Err(CommandError::HeloName) }
}

fn after_keyword<'a>(argument: &'a [u8], keyword: &[u8]) -> Result<&'a [u8], CommandError> {
    match argument.split_at_checked(keyword.len()) {
        Some((found, rest)) if found.eq_ignore_ascii_case(keyword) => Ok(rest),
        _ => Err(CommandError::Argument),
    }
}

/// Splits `<path> parameters` into what stands in the brackets and what stands behind them.
fn split_path(argument: &[u8], syntax: Syntax) -> Result<(&str, &str), AddressError> {
    let argument = std::str::from_utf8(argument).map_err(|_| AddressError::NotUtf8)?;
    let argument = match syntax {
        Syntax::Strict => argument,
        Syntax::Lenient => argument.trim_ascii(),
    };
    let Some(path) = argument.strip_prefix('<') else {
        return match syntax {
            Syntax::Lenient if !argument.is_empty() => {
                Ok(argument.split_once(' ').unwrap_or((argument, "")))
            }
            Syntax::Strict | Syntax::Lenient => Err(AddressError::Brackets),
        };
    };
    // A quoted local-part may have a bracket of its own.
    let quoted = match path.as_bytes().first() {
        Some(b'"') => quoted_string_len(path.as_bytes()).ok_or(AddressError::LocalPartSyntax)?,
        _ => 0,
    };
    let end = path
        .bytes()
        .skip(quoted)
        .position(|b| b == b'>')
        .map(|at| quoted + at)
        .ok_or(AddressError::DomainSyntax)?;
    let inner = path.get(..end).unwrap_or_default();
    let behind = path.get(end + 1..).unwrap_or_default();
    match behind.strip_prefix(' ') {
        Some("") => Err(AddressError::Brackets),
        Some(parameters) => Ok((inner, parameters)),
        None if behind.is_empty() => Ok((inner, "")),
        None => Err(AddressError::DomainSyntax),
    }
}
