//! Gateways that speak for their clients: XCLIENT, an extension of Postfix's.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use ringpost_protocol::address::Domain;
use ringpost_protocol::command::CommandError;
use ringpost_protocol::extension::Extension;
use ringpost_protocol::xclient::{ClientAttributes, Told};

use super::config::Peer;
use super::event::{CloseReason, ServerEvent};
use super::replies;
use super::session::{Helo, ServerSession, State};
use crate::timer::Timer;

/// The address of a client of which a gateway says that it has none.
const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// What a gateway has said of its client, beside its address and what it calls itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamedClient {
    /// The name that its address has in the DNS.
    pub name: Option<Domain>,
    /// As whom it has authenticated itself with the gateway. It gives no rights here.
    pub login: Option<Box<str>>,
}

impl ServerSession {
    /// Sets whether the client may say for whom it speaks, by XCLIENT. That stays so whomever it names.
    /// No at first.
    pub fn set_names_clients(&mut self, names_clients: bool) {
        self.names_clients = names_clients;
    }

    /// For whom the client speaks, if it has said so.
    pub fn named_client(&self) -> Option<&NamedClient> {
        self.named_client.as_deref()
    }

    /// Whether XCLIENT is taken.
    pub(super) fn offers_xclient(&self) -> bool {
        self.names_clients && self.config.extensions.contains(Extension::XClient)
    }

    pub(super) fn handle_xclient(&mut self, now: Instant, arguments: &str, is_last: bool) {
        if !self.offers_xclient() {
            return self.refuse(now, replies::NOT_AUTHORIZED);
        }
        if self.transaction.is_some() {
            return self.refuse(now, replies::XCLIENT_IN_TRANSACTION);
        }
        // The session begins anew, and what is offered then has to be waited for, as with EHLO.
        if !is_last && !self.config.lenient {
            return self.close_with(now, replies::EARLY_INPUT, CloseReason::EarlyInput);
        }
        let Some(attributes) = ClientAttributes::parse(arguments) else {
            return self.refuse(now, CommandError::Argument.reply());
        };
        if !self.count_junk(now) {
            return;
        }
        let ip = match attributes.address {
            Told::Nothing => self.peer.ip,
            Told::Unavailable => NO_ADDRESS,
            Told::Value(ip) => ip,
        };
        self.state = State::NamingClient(Box::new(attributes));
        self.event = Some(ServerEvent::ClientNamed { ip });
    }

    /// Says who we are, as at the start.
    pub(super) fn write_greeting(&mut self) {
        for part in ["220 ", &self.config.hostname, " ESMTP\r\n"] {
            self.output.extend_from_slice(part.as_bytes());
        }
    }

    /// Takes the client that [`ServerEvent::ClientNamed`] was about, and begins anew with a greeting;
    /// `None` when it has too many sessions, and this one ends.
    pub fn handle_client(&mut self, now: Instant, peer: Option<Peer>) {
        if !matches!(self.state, State::NamingClient(_)) {
            return;
        }
        let State::NamingClient(told) = std::mem::replace(&mut self.state, State::Command) else {
            return;
        };
        let Some(peer) = peer else {
            return self.close_with(
                now,
                replies::TOO_MANY_CONNECTIONS,
                CloseReason::TooManyConnections,
            );
        };
        self.peer = peer;
        // That was about the other one.
        self.may_flush = false;
        self.reset();
        self.forget_user();
        let ClientAttributes { name, helo, is_extended, login, .. } = *told;
        let is_extended = is_extended.or_known(Some(true)).unwrap_or(false);
        let helo = helo.or_known(None);
        self.helo = helo.map(|name| Helo { name, extended: is_extended });
        let known = self.named_client.take().map(|known| *known).unwrap_or_default();
        self.named_client = Some(Box::new(NamedClient {
            name: name.or_known(known.name),
            login: login.or_known(known.login),
        }));
        self.timers.set(Timer::Command, now + self.command_timeout());
        self.write_greeting();
        if let Some((reply, reason)) = self.admission.ends_with() {
            self.close_with(now, reply, reason);
        }
        self.start_output_timer(now);
    }
}
