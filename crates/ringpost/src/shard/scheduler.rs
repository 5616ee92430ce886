//! The engine's actions, carried out.

use std::{rc::Rc, sync::Arc};

use ringpost_delivery::{
    Action, ConnectFailure, LeaseMessage, LoginProfile, ShardNumber, SiteChange, TlsPolicy,
};
use ringpost_session::client::ClientTls;

use super::{Shard, outbound, outbound::tls::TlsTarget, resolver};
use crate::auth::Login;
use crate::runtime::{Containment, Runtime};

impl<R: Runtime> Shard<R> {
    /// Carries out what the engine wants done. Nothing here calls back into the engine, but to say that a
    /// connection is not made.
    pub(super) fn carry_out_actions(self: &Rc<Self>) {
        loop {
            let action = self.engine.borrow_mut().poll_action();
            match action {
                None => break,
                Some(Action::SendDatagram { server, bytes }) => self.resolver.send(server, bytes),
                Some(Action::QueryTcp { token, server, bytes }) => {
                    let query = resolver::query_tcp(Rc::clone(self), token, server, bytes);
                    self.runtime.spawn(Containment::Process, query);
                }
                // Nothing is begun any more; the work stays in the queue for the next start.
                Some(Action::Connect { connection, .. }) if !self.may_deliver() => {
                    let mut engine = self.engine.borrow_mut();
                    engine.halt(self.now());
                    // Its slot is for the other shards.
                    let failure = ConnectFailure::LocalResource;
                    engine.handle_connect_failed(self.now(), connection, failure);
                }
                Some(Action::Connect {
                    connection,
                    address,
                    mx_host,
                    site,
                    source,
                    tls,
                    login,
                    dialect,
                }) => {
                    let tls = self.tls_target(tls);
                    let login = login.map(|profile| Box::new(self.login(profile)));
                    let target = outbound::Target {
                        connection,
                        address,
                        mx_host,
                        site,
                        source,
                        tls,
                        login,
                        dialect,
                    };
                    let task = outbound::run(Rc::clone(self), target);
                    self.runtime.spawn(Containment::Session, task);
                }
                Some(Action::Wake(connection)) => {
                    if let Some(watch) = self.connections.borrow().get(&connection) {
                        watch.notify();
                    }
                }
                Some(Action::Parked(message)) => self.cache.borrow_mut().remove(message),
                Some(Action::SiteChanged(change)) => log_change(&change),
            }
        }
        while let Some((to, message)) = self.poll_lease_message() {
            if let Some(shard) = self.shards.get(usize::from(to)) {
                shard.tell(self.number, message);
            }
        }
        if self.engine.borrow().has_settlements() {
            self.settlements.look();
        }
    }
}

impl<R: Runtime> Shard<R> {
    fn poll_lease_message(&self) -> Option<(ShardNumber, LeaseMessage)> {
        self.engine.borrow_mut().poll_lease_message()
    }

    /// What a policy takes to shake hands. Looked for at once, as a reload may change it.
    fn tls_target(&self, policy: Arc<TlsPolicy>) -> TlsTarget {
        let is_plain = policy.session() == ClientTls::Off;
        let connectors = self.connectors.borrow();
        let connector = if is_plain { None } else { connectors.get(&policy.profile).cloned() };
        TlsTarget { policy, connector }
    }

    /// What logs in by a profile. Looked for at once, for the same reason.
    fn login(&self, profile: LoginProfile) -> Login {
        Login::new(self.config().credentials(profile).cloned())
    }
}

/// Once for each time that a site goes down or comes up; the rounds between are in the event log.
fn log_change(change: &SiteChange) {
    let SiteChange { site, reason, recipients } = change;
    if let Some(reason) = reason {
        tracing::info!(%site, recipients, %reason, "a site is down, mail for it waits");
    } else {
        tracing::info!(%site, recipients, "a site is up again");
    }
}
