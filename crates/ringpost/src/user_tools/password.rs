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
    let size_max = AUTH_PASSWORD_MAX as u64 + 3;
    let mut line = String::new();
    if stdin.is_terminal() {
        let _unseen = Unseen::begin()?;
        write!(io::stderr(), "{text}")?;
        line = typed(&mut stdin.lock()).context("cannot read the password")?;
    } else {
        stdin.lock().take(size_max).read_line(&mut line).context("cannot read the password")?;
    }
    parse(&line)
}

/// Reads a line that is typed, key by key, as whoever types has to be able to mend it or to give up.
fn typed(keys: &mut impl io::BufRead) -> io::Result<String> {
    /// Ctrl-C, Ctrl-\\ and Ctrl-Z.
    const GIVE_UP: [u8; 3] = [0x03, 0x1c, 0x1a];
    /// Ctrl-D.
    const END: u8 = 0x04;
    /// Ctrl-U.
    const FROM_THE_START: u8 = 0x15;
    /// Ctrl-H and Delete.
    const BACK: [u8; 2] = [0x08, 0x7f];

    let mut line: Vec<u8> = Vec::new();
    for key in keys.bytes().take(4 * AUTH_PASSWORD_MAX) {
        match key? {
            b'\n' | b'\r' | END => break,
            key if GIVE_UP.contains(&key) => return Err(io::Error::other("given up")),
            FROM_THE_START => line.clear(),
            key if BACK.contains(&key) => {
                // All octets of the last character.
                while line.pop().is_some_and(|octet| octet & 0xc0 == 0x80) {}
            }
            key => line.push(key),
        }
    }
    String::from_utf8(line).map_err(|_| io::Error::other("not in UTF-8"))
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
    // Clients would have to bring them into one form of many (RFC 4013), and many do not.
    if !text.is_ascii() {
        bail!(
            "a character outside of ASCII in the password: not all clients send it in the same form"
        );
    }
    Ok(Password::new(text))
}

/// A terminal that shows nothing of what is typed, until this is dropped. Keys come one by one, and those
/// that would end the process come too: it would leave the terminal as it is.
struct Unseen(Termios);

impl Unseen {
    fn begin() -> io::Result<Self> {
        let shown = tcgetattr(io::stdin())?;
        let mut unseen = shown.clone();
        unseen.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
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
            ("größer\n", None),
        ] {
            let read = parse(line).ok();
            assert_eq!(read, expected.map(Password::new), "{line:?}");
        }
        assert!(parse(&"x".repeat(AUTH_PASSWORD_MAX)).is_ok());
        assert!(parse(&"x".repeat(AUTH_PASSWORD_MAX + 1)).is_err());
    }

    #[test]
    fn keys_make_a_line() {
        for (keys, expected) in [
            (&b"secret\nmore"[..], Some("secret")),
            (b"secret\r", Some("secret")),
            (b"secret", Some("secret")),
            (b"wrong\x15secres\x7ft\x08t\x04", Some("secret")),
            ("ab\u{e9}\u{7f}c\n".as_bytes(), Some("abc")),
            (b"\x7f\x7fa\n", Some("a")),
            (b"sec\x03", None),
            (b"sec\x1c", None),
            (b"\xff\n", None),
        ] {
            let read = typed(&mut &*keys).ok();
            assert_eq!(read.as_deref(), expected, "{keys:?}");
        }
        let endless = vec![b'x'; 16 * AUTH_PASSWORD_MAX];
        assert_eq!(typed(&mut &*endless).unwrap().len(), 4 * AUTH_PASSWORD_MAX);
    }
}
