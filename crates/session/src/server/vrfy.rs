//! VRFY for clients that may relay (RFC 5321 §3.5): whether RCPT would take an address.

use std::fmt::Display;
use std::time::Instant;

use ringpost_protocol::address::Host;
use ringpost_protocol::command::CommandError;
use ringpost_protocol::error::AddressError;
use ringpost_protocol::path::ForwardPath;

use super::aliases::{Alias, Asked};
use super::replies;
use super::session::ServerSession;

impl ServerSession {
    /// Says what RCPT would, where the listener lets clients ask. What a mailbox at another host is, only
    /// that host knows.
    pub(super) fn handle_vrfy(&mut self, now: Instant, text: &str) {
        if !self.config.vrfy || !self.may_relay() {
            return self.push_junk(now, replies::CANNOT_VERIFY);
        }
        let (text, takes_utf8) = self.without_utf8_word(text);
        let config = std::sync::Arc::clone(&self.config);
        match self.asked(text) {
            Asked::Nonsense => self.refuse(now, replies::NOT_A_MAILBOX),
            Asked::Name => match config.aliases.find_name(text) {
                Some(alias) => self.confirm_alias(now, text, alias),
                None => self.refuse(now, replies::NO_SUCH_MAILBOX),
            },
            Asked::Path(path) if !path.is_ascii() && !takes_utf8 => {
                self.refuse(now, CommandError::ForwardPath(AddressError::NonAscii).reply());
            }
            Asked::Path(path) => match (config.aliases.find(&path), &path) {
                (Some(alias), _) => self.confirm_alias(now, path.bare(), alias),
                (None, ForwardPath::Postmaster) => self.refuse(now, replies::NO_POSTMASTER),
                (None, ForwardPath::Mailbox(mailbox)) => {
                    let is_literal = matches!(mailbox.host(), Host::Literal(_));
                    if is_literal && !config.address_literals {
                        return self.refuse(now, replies::LITERAL_DENIED);
                    }
                    self.confirm(now, "252 2.1.5 <", mailbox, "> would be sent there");
                }
            },
        }
    }

    /// Confirms an alias of one mailbox with that; of a list only that it is one (RFC 5321 §3.5.1).
    fn confirm_alias(&mut self, now: Instant, asked: impl Display, alias: &Alias) {
        match alias.members() {
            [mailbox] => self.confirm(now, "250 2.1.5 <", mailbox, ">"),
            _ => self.confirm(now, "252 2.1.5 <", asked, "> is a list"),
        }
    }

    fn confirm(&mut self, now: Instant, start: &str, mailbox: impl Display, end: &str) {
        if self.count_junk(now) {
            let text = format!("{start}{mailbox}{end}\r\n");
            self.output().extend_from_slice(text.as_bytes());
        }
    }
}
