//! Passwords from standard input: a line of it, or typed unseen and twice.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use anyhow::{Context, bail};
use ringpost_protocol::limits::AUTH_PASSWORD_MAX;
use ringpost_session::server::Password;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// Reads a password.
pub(super) fn read() -> anyhow::Result<Password> {
    prompt("Password: ")
}

/// Reads a password that is to be; whoever types it types it twice.
pub(super) fn read_new() -> anyhow::Result<Password> {
    let password = read()?;
    if io::stdin().is_terminal() && prompt("Again: ")? != password {
        bail!("these are two passwords");
    }
    Ok(password)
}

fn prompt(text: &str) -> anyhow::Result<Password> {
    let stdin = io::stdin();
    let _unseen = if stdin.is_terminal() {
        write!(io::stderr(), "{text}")?;
        Some(Unseen::begin()?)
    } else {
        None
    };
    let mut line = String::new();
    let size_max = AUTH_PASSWORD_MAX as u64 + 3;
    stdin.lock().take(size_max).read_line(&mut line).context("cannot read the password")?;
    parse(&line)
}

fn parse(line: &str) -> anyhow::Result<Password> {
    let text = line.strip_suffix('\n').unwrap_or(line);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        bail!("no password: it is to be a line of standard input");
    }
    if text.len() > AUTH_PASSWORD_MAX {
        bail!("a password of more than {AUTH_PASSWORD_MAX} octets");
    }
    if text.contains(|c: char| c.is_control()) {
        bail!("a control character in the password");
    }
    Ok(Password::new(text))
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Unseen(Termios);

impl Unseen {
    fn begin() -> io::Result<Self> {
        let shown = tcgetattr(io::stdin())?;
        let mut unseen = shown.clone();
        unseen.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &unseen)?;
        Ok(Self(shown))
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        // What can be done about it is nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
        let _ = writeln!(io::stderr());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_password() {
        for (line, expected) in [
            ("secret\n", Some("secret")),
            ("secret\r\n", Some("secret")),
            (" two words ", Some(" two words ")),
            ("", None),
            ("\n", None),
            ("a\tb\n", None),
        ] {
            let read = parse(line).ok();
            assert_eq!(read, expected.map(Password::new), "{line:?}");
        }
        assert!(parse(&"x".repeat(AUTH_PASSWORD_MAX)).is_ok());
        assert!(parse(&"x".repeat(AUTH_PASSWORD_MAX + 1)).is_err());
    }
}
