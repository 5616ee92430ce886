//! Accepting connections, and the limits that come before a greeting.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use ringpost_metrics::{ListenerMetrics, label::Limit};
use ringpost_session::server::{ServerConfig, TlsPolicy};

use super::{OpenCount, Shard, arrivals::Arrivals, inbound};
use crate::{
    config::schema::ListenerSection,
    control::{Level, SharedRoom},
    runtime::{Containment, Listener, Runtime, Stream},
    tls::Acceptor,
};

/// Pause after a failed accept: out of descriptors it fails at once, and would fail for ever.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What refused connections are told before they are closed.
const TOO_MANY_CONNECTIONS: &[u8] = b"421 4.3.2 Too many connections, try again later\r\n";

/// What a client is told that has as many as one client may have.
const TOO_MANY_OF_CLIENT: &[u8] =
    b"421 4.7.0 Too many connections from your address, try again later\r\n";

/// What a client is told that comes more often than one client may.
const TOO_MANY_NEW: &[u8] =
    b"421 4.7.0 Too many new connections from your address in a minute, try again later\r\n";

/// What is said when memory is short.
const NO_MEMORY: &[u8] = b"421 4.3.2 No resources for more connections, try again later\r\n";

/// What clients that may not relay are told under stress.
const OVERLOADED: &[u8] = b"421 4.3.2 Overloaded, try again later\r\n";

/// What is said while the process ends.
pub(super) const SHUTTING_DOWN: &[u8] = b"421 4.3.2 Shutting down, try again later\r\n";

/// What is said to peers that have to say first whom they speak for.
pub(super) const NO_HEADER: &[u8] = b"421 4.7.0 A PROXY protocol header is needed, closing\r\n";

/// One listener of the configuration on one shard.
#[derive(Debug)]
pub(crate) struct ListenerContext {
    name: Box<str>,
    metrics: ListenerMetrics,
    section: RefCell<ListenerSection>,
    server_config: RefCell<Arc<ServerConfig>>,
    acceptor: RefCell<Option<Acceptor>>,
    /// TLS handshakes that are under way.
    handshakes: Rc<Cell<usize>>,
    connections: Cell<usize>,
    /// Open connections of clients that may not relay; those that may are ours.
    connections_by_client: RefCell<HashMap<IpAddr, usize>>,
    /// How often such clients have come lately.
    arrivals: RefCell<Arrivals>,
    /// Whether such clients are put off, because the shard is short of room for clients.
    is_crowded: Cell<bool>,
}

impl ListenerContext {
    pub(crate) fn new(
        name: &str,
        metrics: ListenerMetrics,
        section: ListenerSection,
        server_config: Arc<ServerConfig>,
    ) -> Self {
        Self {
            name: name.into(),
            metrics,
            section: RefCell::new(section),
            server_config: RefCell::new(server_config),
            acceptor: RefCell::default(),
            handshakes: Rc::default(),
            connections: Cell::new(0),
            connections_by_client: RefCell::default(),
            arrivals: RefCell::default(),
            is_crowded: Cell::new(false),
        }
    }

    /// The name of its section in the configuration.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What it counts on this shard.
    pub(crate) fn metrics(&self) -> &ListenerMetrics {
        &self.metrics
    }

    /// Takes a new configuration for new sessions; running ones keep theirs.
    pub(crate) fn reconfigure(&self, section: ListenerSection, server_config: Arc<ServerConfig>) {
        *self.section.borrow_mut() = section;
        *self.server_config.borrow_mut() = server_config;
    }

    /// Takes other certificates for new handshakes.
    pub(crate) fn set_acceptor(&self, acceptor: Option<Acceptor>) {
        let expires = acceptor.as_ref().and_then(Acceptor::expires_unix).unwrap_or(0);
        #[expect(clippy::cast_precision_loss, reason = "exact for millions of years")]
        self.metrics.tls_certificate_expiry.set(expires as f64);
        *self.acceptor.borrow_mut() = acceptor;
    }

    /// What accepts TLS now, if anything does.
    pub(crate) fn acceptor(&self) -> Option<Acceptor> {
        self.acceptor.borrow().clone()
    }

    /// Whether one more TLS handshake can be begun.
    pub(crate) fn has_room_for_handshake(&self) -> bool {
        self.handshakes.get() < self.section.borrow().tls_handshakes_per_core_max
            && self.acceptor.borrow().is_some()
    }

    /// Counts a TLS handshake for as long as what is returned lives.
    pub(super) fn begin_handshake(&self) -> OpenCount {
        OpenCount::new(&self.handshakes)
    }

    /// Whether we say something before the client does; where TLS comes first it could not be read.
    pub(super) fn speaks_first(&self) -> bool {
        self.server_config.borrow().tls != TlsPolicy::Implicit
    }

    /// Whether `Received` fields of a new session say how it is encrypted.
    pub(crate) fn tells_tls(&self) -> bool {
        self.section.borrow().received_tls
    }

    /// How long messages of a new session are tried, if the listener says so.
    pub(crate) fn lifetime(&self) -> Option<Duration> {
        self.section.borrow().lifetime
    }

    /// What a new session is to be told.
    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server_config.borrow())
    }

    /// Open connections, and how many there may be.
    pub(super) fn connections(&self) -> (usize, usize) {
        (self.connections.get(), self.section.borrow().connections_per_core_max)
    }

    /// Sets whether clients that may not relay are put off.
    pub(super) fn set_crowded(&self, is_crowded: bool) {
        self.is_crowded.set(is_crowded);
    }

    /// How long a proxy may take to say whom it speaks for.
    pub(super) fn proxy_timeout(&self) -> Duration {
        self.section.borrow().proxy_timeout
    }

    /// Counts a connection in, unless a limit stands against it. Who the client of a proxy is will be
    /// known later.
    fn admit(self: &Rc<Self>, now: Instant, peer: IpAddr) -> Result<Admitted, Limit> {
        let section = self.section.borrow();
        if self.connections.get() >= section.connections_per_core_max {
            return Err(Limit::Connections);
        }
        self.connections.set(self.connections.get() + 1);
        let is_proxied = section.is_proxy(peer);
        drop(section);
        let listener = Rc::clone(self);
        let mut admitted =
            Admitted { listener, peer, client: peer, may_relay: false, is_proxied, counted: None };
        if !is_proxied {
            admitted.name_client(now, None)?;
        }
        Ok(admitted)
    }
}

/// A client's identity for limits: its IPv4 address, or the /64 of its IPv6 address.
fn client_key(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// A connection that is counted in; dropping it counts it out.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) listener: Rc<ListenerContext>,
    /// The other end of the connection.
    pub(crate) peer: IpAddr,
    /// Whose connection it is.
    pub(crate) client: IpAddr,
    pub(crate) may_relay: bool,
    is_proxied: bool,
    counted: Option<IpAddr>,
}

impl Admitted {
    /// Whether the peer has to say first whose connection it is.
    pub(super) fn is_proxied(&self) -> bool {
        self.is_proxied
    }

    /// Whether the client may say for whom it speaks, by XCLIENT.
    pub(super) fn names_clients(&self) -> bool {
        self.listener.section.borrow().names_clients(self.client)
    }

    /// Whether the client may have mail tried, by ETRN.
    pub(super) fn may_flush(&self) -> bool {
        self.listener.section.borrow().may_flush(self.client)
    }

    /// Takes the fact whose connection it is, the peer's own if not another's; counts it for that
    /// client, unless a limit stands against it.
    pub(super) fn name_client(
        &mut self,
        now: Instant,
        client: Option<IpAddr>,
    ) -> Result<(), Limit> {
        self.count_out();
        let client = client.unwrap_or(self.peer);
        let section = self.listener.section.borrow();
        let may_relay = section.may_relay(client);
        let counted = (!may_relay).then(|| client_key(client));
        if let Some(key) = counted {
            if self.listener.is_crowded.get() {
                return Err(Limit::Stress);
            }
            let arrivals_max = section.new_connections_per_client_per_core_max;
            if !self.listener.arrivals.borrow_mut().admit(now, key, arrivals_max) {
                return Err(Limit::NewConnectionsPerClient);
            }
            let mut by_client = self.listener.connections_by_client.borrow_mut();
            let open = by_client.entry(key).or_insert(0);
            if *open >= section.connections_per_client_per_core_max {
                return Err(Limit::ConnectionsPerClient);
            }
            *open += 1;
        }
        drop(section);
        (self.client, self.may_relay, self.counted) = (client, may_relay, counted);
        Ok(())
    }

    /// Counts the connection out for its client.
    fn count_out(&mut self) {
        let Some(key) = self.counted.take() else { return };
        let mut by_client = self.listener.connections_by_client.borrow_mut();
        if let Some(open) = by_client.get_mut(&key) {
            *open -= 1;
            if *open == 0 {
                by_client.remove(&key);
            }
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.listener.connections.set(self.listener.connections.get().saturating_sub(1));
        self.count_out();
    }
}

/// Accepts connections until the listener is closed.
///
/// This task is the only one that waits for the listener, and it is never raced against another.
pub(super) async fn accept<R: Runtime>(
    shard: Rc<Shard<R>>,
    context: Rc<ListenerContext>,
    mut listener: R::Listener,
) {
    loop {
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(_) if shard.intake.is_lost() => return,
            Err(error) => {
                shard.metrics.accept_errors.increment(1);
                tracing::warn!(listener = context.name(), %error, "cannot accept a connection");
                shard.runtime.sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if shard.is_draining() {
            let reply = if context.speaks_first() { SHUTTING_DOWN } else { &[] };
            let refusal = refuse(shard.runtime.now(), stream, reply);
            shard.runtime.spawn(Containment::Session, refusal);
            continue;
        }
        // The peer may be gone already; then there is nobody to serve.
        let Ok(peer) = stream.peer_address() else { continue };
        let admitted = if shard.watermarks.level(SharedRoom::Memory) == Level::Stop {
            Err(Limit::Memory)
        } else if shard.sessions_open.get() >= shard.sessions_max {
            Err(Limit::Descriptors)
        } else {
            context.admit(shard.runtime.now(), peer.ip())
        };
        match admitted {
            Ok(admitted) => {
                let session = inbound::serve(Rc::clone(&shard), admitted, stream);
                shard.runtime.spawn(Containment::Session, session);
            }
            Err(limit) => {
                context.metrics.sessions_refused.increment(1);
                shard.metrics.limit_hits.increment(limit);
                let reply = if context.speaks_first() { words(limit) } else { &[] };
                let refusal = refuse(shard.runtime.now(), stream, reply);
                shard.runtime.spawn(Containment::Session, refusal);
            }
        }
    }
}

/// What a connection is told that a limit stands against.
pub(super) fn words(limit: Limit) -> &'static [u8] {
    match limit {
        Limit::Memory => NO_MEMORY,
        Limit::Stress => OVERLOADED,
        Limit::ConnectionsPerClient => TOO_MANY_OF_CLIENT,
        Limit::NewConnectionsPerClient => TOO_MANY_NEW,
        _ => TOO_MANY_CONNECTIONS,
    }
}

/// Says why and closes; the write is one segment, and a client that does not take it is cut off.
async fn refuse<S: Stream>(now: Instant, mut stream: S, reply: &[u8]) {
    stream.watch().set_deadline(Some(now + Duration::from_secs(5)));
    if stream.write_all(reply).await.is_ok() {
        let _ = stream.shut_down_write().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::client_certificates::ClientCertificatesSection;

    fn listener(total: usize, per_client: usize) -> Rc<ListenerContext> {
        let section = ListenerSection {
            connections_per_core_max: total,
            connections_per_client_per_core_max: per_client,
            ..ListenerSection::default()
        };
        let metrics = ListenerMetrics::noop();
        Rc::new(ListenerContext::new("test", metrics, section, Arc::default()))
    }

    #[test]
    fn handshakes_are_limited_and_counted_out() {
        let listener = listener(9, 9);
        assert!(!listener.has_room_for_handshake(), "without a certificate");
        listener.set_acceptor(Some(
            Acceptor::load(&[], &ClientCertificatesSection::default()).unwrap(),
        ));
        listener.section.borrow_mut().tls_handshakes_per_core_max = 2;
        let one = listener.begin_handshake();
        assert!(listener.has_room_for_handshake());
        let _two = listener.begin_handshake();
        assert!(!listener.has_room_for_handshake());
        drop(one);
        assert!(listener.has_room_for_handshake());
    }

    #[test]
    fn clients_are_limited_apart_and_counted_out() {
        let listener = listener(10, 2);
        let one = listener.admit(Instant::now(), "192.0.2.1".parse().unwrap()).unwrap();
        let _two = listener.admit(Instant::now(), "192.0.2.1".parse().unwrap()).unwrap();
        let refused = listener.admit(Instant::now(), "192.0.2.1".parse().unwrap());
        assert!(matches!(refused, Err(Limit::ConnectionsPerClient)));
        let _other = listener.admit(Instant::now(), "192.0.2.2".parse().unwrap()).unwrap();
        drop(one);
        assert!(listener.admit(Instant::now(), "192.0.2.1".parse().unwrap()).is_ok());
    }

    #[test]
    fn clients_that_may_relay_share_the_total_only() {
        let listener = listener(3, 1);
        let client = "127.0.0.1".parse().unwrap();
        let held: Vec<_> =
            (0..3).map(|_| listener.admit(Instant::now(), client).unwrap()).collect();
        assert!(held.iter().all(|admitted| admitted.may_relay));
        assert!(matches!(listener.admit(Instant::now(), client), Err(Limit::Connections)));
        drop(held);
        assert_eq!(listener.connections.get(), 0);
    }

    /// The clients of a proxy are limited by what they are, not as the proxy; the total holds for all.
    #[test]
    fn clients_of_a_proxy_are_limited_apart() {
        let listener = listener(4, 1);
        let proxy = "192.0.2.9";
        listener.section.borrow_mut().proxy_protocol_from = vec![proxy.parse().unwrap()];
        let now = Instant::now();
        let admit = || listener.admit(now, proxy.parse().unwrap()).unwrap();
        let (mut one, mut two, mut three, mut four) = (admit(), admit(), admit(), admit());
        assert!(matches!(listener.admit(now, proxy.parse().unwrap()), Err(Limit::Connections)));
        assert!([&one, &two, &three, &four].iter().all(|it| it.is_proxied() && !it.may_relay));
        let name = |admitted: &mut Admitted, client: &str| {
            admitted.name_client(now, Some(client.parse().unwrap()))
        };
        name(&mut one, "198.51.100.1").unwrap();
        assert_eq!(name(&mut two, "198.51.100.1"), Err(Limit::ConnectionsPerClient));
        name(&mut three, "198.51.100.2").unwrap();
        name(&mut four, "127.0.0.1").unwrap();
        assert!(four.may_relay && !three.may_relay);
        drop(one);
        // Named anew it is counted for the new client alone.
        name(&mut three, "198.51.100.1").unwrap();
        name(&mut two, "198.51.100.2").unwrap();
        drop((two, three, four));
        assert_eq!(listener.connections.get(), 0);
        assert!(listener.connections_by_client.borrow().is_empty());
    }

    #[test]
    fn clients_that_come_too_often_are_refused_but_not_those_that_may_relay() {
        let listener = listener(10, 10);
        listener.section.borrow_mut().new_connections_per_client_per_core_max = 3;
        let now = Instant::now();
        let ours = "127.0.0.1".parse().unwrap();
        assert!((0..20).all(|_| listener.admit(now, ours).is_ok()));
        let theirs = "192.0.2.1".parse().unwrap();
        assert!((0..3).all(|_| listener.admit(now, theirs).is_ok()));
        assert!(matches!(listener.admit(now, theirs), Err(Limit::NewConnectionsPerClient)));
        listener.set_crowded(true);
        assert!(listener.admit(now, ours).is_ok());
        let other = "192.0.2.2".parse().unwrap();
        assert!(matches!(listener.admit(now, other), Err(Limit::Stress)));
        listener.set_crowded(false);
        assert!(listener.admit(now + Duration::from_secs(20), theirs).is_ok());
    }

    #[test]
    fn a_subnet_of_ipv6_is_one_client() {
        let key = |text: &str| client_key(text.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
    }
}
