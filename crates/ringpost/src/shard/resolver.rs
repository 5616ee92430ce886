//! DNS packets: carried for the engine's stub resolver, which does the thinking.
//!
//! A few long-lived sockets on random ports that nothing else shares; each has one reader for ever,
//! because a read that is dropped would swallow the next answer. A query goes out on a socket
//! drawn at random, so that a forger has to guess port and id.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use ringpost_delivery::dns::QueryToken;

use super::{Shard, signal::Signal};
use crate::runtime::{Containment, Datagram, Read, Runtime, Stream};

/// Sockets for each address family.
const SOCKETS: usize = 4;

/// Queries that may wait to be sent; more are dropped, and asked again by the resolver.
const OUTBOX_MAX: usize = 10_000;

/// Longest datagram we read: beyond what we tell servers that we take.
const DATAGRAM_SIZE_MAX: usize = 4096;

/// Queries on their way out, and the sockets they take.
#[derive(Debug)]
pub(super) struct Resolver<R: Runtime> {
    outbox: RefCell<VecDeque<(SocketAddr, Vec<u8>)>>,
    work: Signal,
    sockets_v4: RefCell<Vec<Rc<R::Datagram>>>,
    sockets_v6: RefCell<Vec<Rc<R::Datagram>>>,
    draw: Cell<u64>,
}

impl<R: Runtime> Resolver<R> {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            outbox: RefCell::default(),
            work: Signal::default(),
            sockets_v4: RefCell::default(),
            sockets_v6: RefCell::default(),
            draw: Cell::new(seed | 1),
        }
    }

    /// Sends a query soon.
    pub(super) fn send(&self, server: SocketAddr, bytes: Vec<u8>) {
        let mut outbox = self.outbox.borrow_mut();
        if outbox.len() < OUTBOX_MAX {
            outbox.push_back((server, bytes));
            self.work.set();
        }
    }

    fn draw(&self) -> usize {
        // xorshift64: spreads over four sockets; what must not be guessed is the port's own draw.
        let mut x = self.draw.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.draw.set(x);
        (x >> 32) as usize
    }
}

/// Sends queries for as long as the process lives.
pub(super) async fn run<R: Runtime>(shard: Rc<Shard<R>>) {
    loop {
        shard.resolver.work.wait().await;
        loop {
            let next = shard.resolver.outbox.borrow_mut().pop_front();
            let Some((server, bytes)) = next else { break };
            let sent = match shard.socket_for(server) {
                Ok(socket) => socket.send_to(&bytes, server).await,
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                // The resolver's own time-out tries again, and another server.
                tracing::debug!(%server, %error, "cannot send a DNS query");
            }
        }
    }
}

impl<R: Runtime> Shard<R> {
    fn socket_for(self: &Rc<Self>, server: SocketAddr) -> io::Result<Rc<R::Datagram>> {
        let sockets = match server {
            SocketAddr::V4(_) => &self.resolver.sockets_v4,
            SocketAddr::V6(_) => &self.resolver.sockets_v6,
        };
        if sockets.borrow().is_empty() {
            let mut bound = Vec::new();
            for _ in 0..SOCKETS {
                bound.push(Rc::new(self.runtime.bind_datagram(server)?));
            }
            for socket in &bound {
                let reader = receive(Rc::clone(self), Rc::clone(socket));
                self.runtime.spawn(Containment::Process, reader);
            }
            *sockets.borrow_mut() = bound;
        }
        let sockets = sockets.borrow();
        let draw = self.resolver.draw() % sockets.len().max(1);
        sockets.get(draw).map(Rc::clone).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Reads answers from one socket for as long as the process lives.
async fn receive<R: Runtime>(shard: Rc<Shard<R>>, socket: Rc<R::Datagram>) {
    let mut buffer = vec![0; DATAGRAM_SIZE_MAX];
    loop {
        match socket.receive(&mut buffer).await {
            Ok((len, from)) => {
                let bytes = buffer.get(..len).unwrap_or_default();
                shard.with_engine(|engine, now| engine.handle_datagram(now, from, bytes));
            }
            Err(error) => {
                // Such as an ICMP refusal that came back; must not become a busy loop.
                tracing::debug!(%error, "cannot receive DNS answers");
                shard.runtime.sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Asks one question over TCP (RFC 7766).
pub(super) async fn query_tcp<R: Runtime>(
    shard: Rc<Shard<R>>,
    token: QueryToken,
    server: SocketAddr,
    bytes: Vec<u8>,
) {
    let timeout = shard.config().config().dns.timeout;
    let answer = exchange(&shard, server, &bytes, timeout).await;
    if let Err(error) = &answer {
        tracing::debug!(%server, %error, "a DNS query over TCP failed");
    }
    let answer = answer.as_deref().map_err(|_| ());
    shard.with_engine(|engine, now| engine.handle_dns_tcp(now, token, answer));
}

async fn exchange<R: Runtime>(
    shard: &Rc<Shard<R>>,
    server: SocketAddr,
    query: &[u8],
    timeout: Duration,
) -> io::Result<Vec<u8>> {
    let deadline = shard.runtime.now() + timeout;
    let mut stream = shard.runtime.connect(server, None, timeout).await?;
    stream.watch().set_deadline(Some(deadline));
    let len = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut message = len.to_be_bytes().to_vec();
    message.extend_from_slice(query);
    stream.write_all(&message).await?;
    let mut answer = Vec::new();
    let mut block = vec![0; DATAGRAM_SIZE_MAX];
    loop {
        if let Some((len, rest)) = answer.split_first_chunk::<2>() {
            let len = usize::from(u16::from_be_bytes(*len));
            if let Some(answer) = rest.get(..len) {
                return Ok(answer.to_vec());
            }
        }
        match stream.read(&mut block).await? {
            Read::Data(count) => answer.extend_from_slice(block.get(..count).unwrap_or_default()),
            Read::End => return Err(io::ErrorKind::UnexpectedEof.into()),
            Read::TimedOut => return Err(io::ErrorKind::TimedOut.into()),
            // The shard stops; the deadline bounds this all the same.
            Read::Notified => {}
        }
    }
}
