//! Commands: [`Command::parse_with`].
//!
//! The first octet chooses the syntax, the rest is the line.

use std::fmt::Write as _;

use ringpost_protocol::address::Syntax;
use ringpost_protocol::command::{Command, CommandError};
use ringpost_protocol::hold::Hold;
use ringpost_protocol::limits::{
    CHUNK_SIZE_MAX, COMMAND_LINE_MAX, DOMAIN_MAX, PATH_MAX, XCLIENT_LOGIN_MAX,
};
use ringpost_protocol::parameter::{MailParameters, RcptParameters};
use ringpost_protocol::time::write_rfc3339;
use ringpost_protocol::xclient::ClientAttributes;

use super::{is_plain, is_text, seed};
use crate::input::Input;
use crate::{Target, Verdict, must};

/// The target.
pub const TARGET: Target = Target {
    name: "cmd",
    check,
    seeds,
    words: &[
        "EHLO ",
        "HELO ",
        "MAIL FROM:",
        "RCPT TO:",
        "DATA",
        "RSET",
        "NOOP",
        "QUIT",
        "HELP",
        "VRFY ",
        "EXPN ",
        "XCLIENT",
        " ADDR=",
        " LOGIN=",
        "[UNAVAILABLE]",
        "BDAT ",
        "AUTH ",
        "STARTTLS",
        "GET ",
        " SIZE=",
        " BODY=",
        "8BITMIME",
        "7BIT",
        "BINARYMIME",
        " HOLDFOR=",
        " RET=",
        "HDRS",
        " ENVID=",
        " NOTIFY=",
        "NEVER",
        "SUCCESS,",
        "FAILURE",
        " ORCPT=rfc822;",
        "+2B",
        " HOLDUNTIL=",
        "2026-07-01T08:00:00Z",
        "<>",
        "<a@b.test>",
        "<\"a b\"@c.test>",
        "<Postmaster>",
        "[IPv6:2001:db8::1]",
        "[192.0.2.1]",
        "<@r.test:a@b.test>",
    ],
    size_max: COMMAND_LINE_MAX,
    cost: 1,
};

type Parse = for<'a> fn(&'a [u8], Syntax) -> Result<Command<'a>, CommandError>;

fn seeds() -> Vec<Vec<u8>> {
    let lines = [
        "EHLO client.test",
        "EHLO [IPv6:2001:db8::1]",
        "helo under_score.test ",
        "MAIL FROM:<>",
        "MAIL FROM:<a.b+c@d.test> SIZE=1000 BODY=8BITMIME HOLDFOR=60",
        "mail from:<\"a b\"@[192.0.2.1]> holduntil=2026-07-01T08:00:00+02:00 size=18446744073709551616",
        "MAIL FROM: a@b.test SIZE=1 ",
        "RCPT TO:<a@b.test>",
        "RCPT TO:<@r.test,@s.test:a..b@c.test>",
        "rcpt to:<pOSTmaster>",
        "RCPT TO:<a@b.test> NOTIFY=NEVER",
        "DATA ",
        "RSET",
        "NOOP a b c",
        "QUIT",
        "HELP mail",
        "VRFY a",
        "EXPN a",
        "XCLIENT NAME=a",
        "XCLIENT ADDR=IPV6:2001:db8::1 NAME=a.test HELO=[192.0.2.1] PROTO=ESMTP LOGIN=a+20b PORT=25",
        "XCLIENT ADDR=192.0.2.1 DESTADDR=[UNAVAILABLE] DESTPORT=[TEMPUNAVAIL]",
        "BDAT 10 LAST",
        "GET / HTTP/1.1",
        "Subject: a",
        "NO\tOP",
        "NOOP a\tb",
    ];
    lines.iter().flat_map(|line| [seed(&[0], line), seed(&[1], line)]).collect()
}

/// Says whether the line is read as it must be.
pub fn check(octets: &[u8]) -> Verdict {
    check_with(octets, |line, syntax| Command::parse_with(line, syntax))
}

fn check_with(octets: &[u8], parse: Parse) -> Verdict {
    let mut input = Input::new(octets);
    let syntax = if input.octet() & 1 == 0 { Syntax::Strict } else { Syntax::Lenient };
    let line = input.rest();
    let command = parse(line, syntax);
    if syntax == Syntax::Strict && command.is_ok() {
        must!(parse(line, Syntax::Lenient) == command, "lenient is not more than strict");
    }
    must!(recased(line, syntax, parse) == command.is_ok(), "the case of the verb matters");
    match command {
        Ok(command) => {
            must!(!line.iter().any(u8::is_ascii_control), "a control character is let pass");
            check_command(&command, syntax, parse)
        }
        Err(error) => check_reply(error),
    }
}

/// Whether the line is a command with its verb in the other case.
fn recased(line: &[u8], syntax: Syntax, parse: Parse) -> bool {
    let mut line = line.to_vec();
    let verb = line.iter().position(|&b| b == b' ').unwrap_or(line.len());
    for b in line.iter_mut().take(verb) {
        *b = if b.is_ascii_uppercase() { b.to_ascii_lowercase() } else { b.to_ascii_uppercase() };
    }
    parse(&line, syntax).is_ok()
}

/// What a gateway says of its client can go to a log and a trace field.
fn check_client(attributes: &str) -> Verdict {
    let Some(told) = ClientAttributes::parse(attributes) else { return Ok(()) };
    let login = told.login.or_known(None).unwrap_or_default();
    must!(is_plain(&login) && login.len() <= XCLIENT_LOGIN_MAX, "{login:?}");
    let helo = told.helo.or_known(None).unwrap_or_default();
    let is_name = helo.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._[]:".contains(&b));
    must!(is_name && helo.len() <= DOMAIN_MAX, "{helo:?}");
    let count = attributes.split(' ').count();
    must!((1..=8).contains(&count), "{count} attributes of eight");
    let twice = format!("{attributes} {attributes}");
    must!(ClientAttributes::parse(&twice).is_none(), "{attributes:?} twice");
    let small = attributes.to_ascii_lowercase();
    must!(
        small.contains('+') || ClientAttributes::parse(&small).is_some(),
        "{attributes:?} not in the other case"
    );
    Ok(())
}

/// What was understood can be said again, and is understood the same.
fn check_command(command: &Command<'_>, syntax: Syntax, parse: Parse) -> Verdict {
    let (again, path) = match command {
        Command::Mail { path, parameters } => {
            must!(path.is_null() == (path.to_string() == "<>"), "null and not null");
            must!(path.is_ascii() || parameters.smtputf8, "{path} without SMTPUTF8");
            (format!("MAIL FROM:{path}{}", written(parameters)), path.to_string())
        }
        Command::Rcpt { path, parameters } => {
            (format!("RCPT TO:{path}{}", written_rcpt(parameters)), path.to_string())
        }
        Command::Ehlo(name) | Command::Helo(name) => {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._[]:".contains(&b);
            must!(name.bytes().all(allowed), "{name:?} is no name");
            must!((1..=DOMAIN_MAX).contains(&name.len()), "a name of {} octets", name.len());
            return Ok(());
        }
        Command::Bdat(chunk) => {
            must!(chunk.size <= CHUNK_SIZE_MAX, "a chunk of {} octets", chunk.size);
            let last = if chunk.is_last { " LAST" } else { "" };
            (format!("BDAT {}{last}", chunk.size), String::new())
        }
        Command::Xclient(attributes) => return check_client(attributes),
        _ => return Ok(()),
    };
    must!(is_text(&path), "{path:?} cannot go to a log");
    must!(path.len() <= PATH_MAX, "a path of {} octets", path.len());
    must!(parse(again.as_bytes(), syntax).as_ref() == Ok(command), "{again:?} means another thing");
    Ok(())
}

fn written_rcpt(parameters: &RcptParameters) -> String {
    let mut text = String::new();
    if let Some(notify) = parameters.notify {
        let _ = write!(text, " NOTIFY={notify}");
    }
    if let Some(original) = &parameters.original {
        let _ = write!(text, " ORCPT={original}");
    }
    text
}

fn written(parameters: &MailParameters) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    if let Some(size) = parameters.size {
        let _ = write!(text, " SIZE={size}");
    }
    if let Some(body) = parameters.body {
        let _ = write!(text, " BODY={body}");
    }
    match parameters.hold {
        Some(Hold::For(time)) => drop(write!(text, " HOLDFOR={}", time.as_secs())),
        Some(Hold::Until { unix_ms }) => {
            let mut date = Vec::new();
            write_rfc3339(unix_ms, &mut date);
            let _ = write!(text, " HOLDUNTIL={}", String::from_utf8_lossy(&date));
        }
        None => {}
    }
    if let Some(ret) = parameters.ret {
        let _ = write!(text, " RET={ret}");
    }
    if let Some(id) = &parameters.envelope_id {
        let _ = write!(text, " ENVID={id}");
    }
    if let Some(priority) = parameters.priority {
        let _ = write!(text, " MT-PRIORITY={priority}");
    }
    text.push_str(if parameters.smtputf8 { " SMTPUTF8" } else { "" });
    text.push_str(if parameters.requiretls { " REQUIRETLS" } else { "" });
    text
}

/// A refusal is one line of a 5xx reply with an enhanced code of class 5.
fn check_reply(error: CommandError) -> Verdict {
    let mut reply = Vec::new();
    error.reply().write(&mut reply);
    let text = String::from_utf8_lossy(&reply);
    let is_whole = text.ends_with("\r\n") && is_plain(text.trim_end_matches("\r\n"));
    let is_refusal = text.starts_with('5') && text.get(3..6) == Some(" 5.");
    must!(is_whole && is_refusal, "{error:?} is answered by {text:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each wrong parser is found with the seeds alone.
    fn is_found(parse: Parse) -> bool {
        seeds().iter().any(|octets| check_with(octets, parse).is_err())
    }

    #[test]
    fn wrong_parsers_are_found() {
        assert!(!is_found(|line, syntax| Command::parse_with(line, syntax)));
        assert!(is_found(|line, _| {
            // Takes a tab for a space.
            let end = line.iter().position(|&b| b == b'\t').unwrap_or(line.len());
            Command::parse(&line[..end])
        }));
        assert!(is_found(|line, syntax| match Command::parse_with(line, syntax)? {
            // Understands a command in a way that it cannot be said again.
            Command::Mail { path, mut parameters } if line.starts_with(b"MAIL FROM:<a") => {
                parameters.size = None;
                Ok(Command::Mail { path, parameters })
            }
            other => Ok(other),
        }));
        // Knows a verb in upper case only.
        assert!(is_found(|line, syntax| match Command::parse_with(line, syntax)? {
            Command::Quit if line.starts_with(b"q") => Err(CommandError::UnknownVerb),
            other => Ok(other),
        }));
    }
}
