//! VRFY for clients that may relay (RFC 5321 §3.5): whether RCPT would take an address.

use std::time::Instant;

use ringpost_protocol::address::{Host, Mailbox};
use ringpost_protocol::command::CommandError;
use ringpost_protocol::error::AddressError;
use ringpost_protocol::path::ForwardPath;

use super::replies;
use super::session::ServerSession;

impl ServerSession {
    /// Says what RCPT would, where the listener lets clients ask. What a mailbox at another host is, only
    /// that host knows.
    pub(super) fn handle_vrfy(&mut self, now: Instant, text: &str) {
        if !self.config.vrfy || !self.may_relay() {
            return self.push_junk(now, replies::CANNOT_VERIFY);
        }
        // RFC 6531 §3.7.4.2: the word says that the reply may have UTF-8.
        let (text, takes_utf8) = match text.rsplit_once(' ') {
            Some((text, word)) if word.eq_ignore_ascii_case("SMTPUTF8") && self.offers_utf8() => {
                (text.trim_ascii_end(), true)
            }
            _ => (text, false),
        };
        let syntax = self.config.syntax();
        let path = if text.starts_with('<') {
            ForwardPath::parse(text).ok()
        } else if text.eq_ignore_ascii_case("postmaster") {
            Some(ForwardPath::Postmaster)
        } else {
            Mailbox::parse_with(text, syntax).ok().map(ForwardPath::Mailbox)
        };
        let is_local = !text.contains('@');
        match path {
            Some(path) if !path.is_ascii() && !takes_utf8 => {
                self.refuse(now, CommandError::ForwardPath(AddressError::NonAscii).reply());
            }
            None if is_local => self.refuse(now, replies::NO_SUCH_MAILBOX),
            None => self.refuse(now, replies::NOT_A_MAILBOX),
            Some(ForwardPath::Postmaster) => match self.config.postmaster.clone() {
                Some(mailbox) => self.confirm(now, "250 2.1.5 <", &mailbox, ">"),
                None => self.refuse(now, replies::NO_POSTMASTER),
            },
            Some(ForwardPath::Mailbox(mailbox)) => {
                let is_literal = matches!(mailbox.host(), Host::Literal(_));
                if is_literal && !self.config.address_literals {
                    return self.refuse(now, replies::LITERAL_DENIED);
                }
                self.confirm(now, "252 2.1.5 <", &mailbox, "> would be sent there");
            }
        }
    }

    fn confirm(&mut self, now: Instant, start: &str, mailbox: &Mailbox, end: &str) {
        if self.count_junk(now) {
            let text = format!("{start}{mailbox}{end}\r\n");
            self.output().extend_from_slice(text.as_bytes());
        }
    }
}
