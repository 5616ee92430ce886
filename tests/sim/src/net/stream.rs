//! Connections: two pipes of octets, each with its own delays, and what a kernel makes of their ends.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    fmt,
    future::poll_fn,
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use ringpost::runtime::{Read, Stream, Watch};

use super::{Inner, Link, listener, nanos};

/// How the end of a machine looks to the others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// After which time the other side is told.
    pub(super) reset_after: Duration,
}

/// A connection: side 0 has called side 1.
pub(super) struct Connection {
    link: Rc<Link>,
    addresses: [SocketAddr; 2],
    /// What side 0 and side 1 have sent.
    pipes: [RefCell<Pipe>; 2],
    /// Sides that are gone without a word.
    is_cut: [Cell<bool>; 2],
}

/// How a record of a TLS handshake begins (RFC 8446 section 5.1), and no command, reply or line of text.
const TLS_HANDSHAKE: [u8; 2] = [0x16, 0x03];

/// Octets on their way from one side to the other.
#[derive(Default)]
struct Pipe {
    /// When they arrive, the octets, and how many of them have been read.
    chunks: VecDeque<(u64, Vec<u8>, usize)>,
    /// Octets that have not been read.
    size: usize,
    last_arrival: u64,
    /// When the reader sees that nothing more comes.
    end: Option<u64>,
    /// When the reader sees that the connection is reset, and whether it may read what has arrived.
    reset: Option<(u64, bool)>,
    /// Nobody will read any more.
    is_unread: bool,
    /// What is written is encrypted, by keys that no seed has made.
    is_tls: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn is_reset(&self, now: u64) -> bool {
        self.reset.is_some_and(|(at, _)| at <= now)
    }
}

impl Connection {
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|side| side.ip() == address)
    }

    /// Whether `caller` has opened it to `called`, and not closed it.
    pub(super) fn is_held(&self, caller: IpAddr, called: IpAddr) -> bool {
        let [from, to] = self.addresses;
        from.ip() == caller && to.ip() == called && !self.to(0).borrow().is_unread
    }

    fn to(&self, side: usize) -> &RefCell<Pipe> {
        &self.pipes[1 - side]
    }

    fn from(&self, side: usize) -> &RefCell<Pipe> {
        &self.pipes[side]
    }

    /// Lets both sides see a reset, after so many nanoseconds.
    pub(super) fn reset(&self, net: &Inner, after: u64) {
        for side in [0, 1] {
            self.reset_side(net, side, after);
        }
    }

    /// Lets one side see a reset, after so many nanoseconds.
    fn reset_side(&self, net: &Inner, side: usize, after: u64) {
        let at = net.clock.nanos() + after;
        let keeps = net.draw(crate::random::Random::coin);
        let mut incoming = self.to(side).borrow_mut();
        if incoming.reset.is_some_and(|(known, _)| known <= at) {
            return;
        }
        incoming.reset = Some((at, keeps));
        let reader = incoming.reader.clone();
        drop(incoming);
        let writer = self.from(side).borrow().writer.clone();
        for waker in [reader, writer].into_iter().flatten() {
            net.clock.wake_at(at, waker);
        }
    }

    /// Takes away the side that has an address, without a word to the other.
    pub(super) fn cut_off(&self, net: &Inner, address: IpAddr, cut: Cut) {
        for side in [0, 1] {
            if self.addresses[side].ip() == address && !self.is_cut[side].replace(true) {
                self.reset_side(net, 1 - side, nanos(cut.reset_after));
            }
        }
    }
}

/// One side of a connection.
pub struct SimStream {
    net: Rc<Inner>,
    connection: Rc<Connection>,
    side: usize,
    watch: Rc<Watch>,
}

impl fmt::Debug for SimStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [from, to] = self.connection.addresses;
        let mut debug = f.debug_struct("SimStream");
        debug.field("from", &from).field("to", &to).field("side", &self.side);
        debug.finish_non_exhaustive()
    }
}

pub(super) async fn connect(
    net: &Rc<Inner>,
    source: IpAddr,
    address: SocketAddr,
    timeout: Duration,
    watch: Rc<Watch>,
) -> io::Result<SimStream> {
    let link = net.link(address.ip(), source);
    let is_swallowed = net.draw(|random| random.percent(link.black_hole_percent));
    let there = Duration::from_nanos(net.latency(&link));
    if is_swallowed || net.is_down(address.ip()) || there * 2 > timeout {
        net.clock.sleep(timeout).await;
        net.count(|stats| stats.refused += 1);
        return Err(io::ErrorKind::TimedOut.into());
    }
    net.clock.sleep(there).await;
    let is_refused = net.draw(|random| random.percent(link.refuse_percent));
    let backlog = listener::draw(net, address).filter(|_| !is_refused);
    let Some(backlog) = backlog else {
        net.clock.sleep(there).await;
        net.count(|stats| stats.refused += 1);
        return Err(io::ErrorKind::ConnectionRefused.into());
    };
    net.count(|stats| stats.connections += 1);
    let connection = Rc::new(Connection {
        link,
        addresses: [SocketAddr::new(source, net.next_port()), address],
        pipes: Default::default(),
        is_cut: Default::default(),
    });
    net.keep(&connection);
    backlog.put(net, &connection, net.clock.nanos());
    let stream = SimStream { net: Rc::clone(net), connection, side: 0, watch };
    net.clock.sleep(there).await;
    Ok(stream)
}

impl SimStream {
    /// The side that was called.
    pub(super) fn called(net: &Rc<Inner>, connection: &Rc<Connection>, watch: Rc<Watch>) -> Self {
        Self { net: Rc::clone(net), connection: Rc::clone(connection), side: 1, watch }
    }

    /// Ends the connection with a reset: what is on its way may be lost, in both directions.
    pub fn reset(self) {
        let after = self.net.latency(&self.connection.link);
        self.connection.reset_side(&self.net, 1 - self.side, after);
    }

    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let (net, connection) = (&self.net, &*self.connection);
        let now = net.clock.nanos();
        if connection.to(self.side).borrow().is_reset(now) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut pipe = connection.from(self.side).borrow_mut();
        if pipe.end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let wanted: usize = parts.iter().map(|part| part.len()).sum();
        let link = &connection.link;
        if pipe.is_unread {
            // It goes out, and what comes back is a reset.
            drop(pipe);
            let after = net.latency(link) + net.latency(link);
            connection.reset_side(net, self.side, after);
            return Poll::Ready(Ok(wanted));
        }
        let room = link.buffer_size.saturating_sub(pipe.size);
        if room == 0 && wanted > 0 {
            if self.watch.is_expired() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.watch.register(context.waker());
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        if net.draw(|random| random.ppm(link.reset_ppm)) {
            drop(pipe);
            net.count(|stats| stats.resets += 1);
            connection.reset_side(net, self.side, 0);
            connection.reset_side(net, 1 - self.side, net.latency(link));
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let count = wanted.min(room);
        let mut octets = Vec::with_capacity(count);
        for part in parts {
            octets.extend_from_slice(&part[..part.len().min(count - octets.len())]);
        }
        pipe.is_tls |= octets.starts_with(&TLS_HANDSHAKE);
        if pipe.is_tls {
            net.trace.note(count as u64);
        } else {
            net.trace.note_octets(&octets);
        }
        let mut arrives = now + net.latency(link);
        if net.draw(|random| random.ppm(link.stall_ppm)) {
            net.count(|stats| stats.stalls += 1);
            arrives += nanos(link.stall);
        }
        let arrives = arrives.max(pipe.last_arrival);
        pipe.last_arrival = arrives;
        pipe.size += count;
        pipe.chunks.push_back((arrives, octets, 0));
        let reader = pipe.reader.clone();
        drop(pipe);
        if let Some(reader) = reader {
            net.clock.wake_at(arrives, reader);
        }
        Poll::Ready(Ok(count))
    }

    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<Read>> {
        if self.watch.take_notified() {
            return Poll::Ready(Ok(Read::Notified));
        }
        let net = &self.net;
        let now = net.clock.nanos();
        let mut pipe = self.connection.to(self.side).borrow_mut();
        if let Some((at, keeps)) = pipe.reset
            && at <= now
            && !(keeps && pipe.chunks.front().is_some_and(|(arrives, ..)| *arrives <= at))
        {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if let Some((arrives, octets, taken)) = pipe.chunks.front_mut()
            && *arrives <= now
        {
            let rest = &octets[*taken..];
            let mut count = rest.len().min(buffer.len());
            let split = self.connection.link.split_percent;
            if count > 1 && net.draw(|random| random.percent(split)) {
                count = 1 + net.draw(|random| random.index(count - 1));
            }
            buffer[..count].copy_from_slice(&rest[..count]);
            *taken += count;
            if *taken == octets.len() {
                pipe.chunks.pop_front();
            }
            pipe.size -= count;
            let writer = pipe.writer.take();
            drop(pipe);
            if let Some(writer) = writer {
                writer.wake();
            }
            return Poll::Ready(Ok(Read::Data(count)));
        }
        if pipe.chunks.is_empty() && pipe.end.is_some_and(|end| end <= now) {
            return Poll::Ready(Ok(Read::End));
        }
        if self.watch.is_expired() {
            return Poll::Ready(Ok(Read::TimedOut));
        }
        self.watch.register(context.waker());
        pipe.reader = Some(context.waker().clone());
        let next = pipe.chunks.front().map(|(arrives, ..)| *arrives).or(pipe.end);
        let reset = pipe.reset.map(|(at, _)| at);
        drop(pipe);
        for at in [next, reset].into_iter().flatten() {
            net.clock.wake_at(at, context.waker().clone());
        }
        Poll::Pending
    }

    /// Sends the end, after all that was sent.
    fn send_end(&self) {
        let arrives = self.net.clock.nanos() + self.net.latency(&self.connection.link);
        let mut pipe = self.connection.from(self.side).borrow_mut();
        if pipe.end.is_some() {
            return;
        }
        let arrives = arrives.max(pipe.last_arrival);
        pipe.end = Some(arrives);
        let reader = pipe.reader.clone();
        drop(pipe);
        if let Some(reader) = reader {
            self.net.clock.wake_at(arrives, reader);
        }
    }
}

impl Drop for SimStream {
    /// What a kernel does for who closes, or dies: the end after what was sent, or a reset if something
    /// came that nobody has read. A machine without power does nothing.
    fn drop(&mut self) {
        let connection = &*self.connection;
        let (has_unread, writer) = {
            let mut incoming = connection.to(self.side).borrow_mut();
            incoming.is_unread = true;
            incoming.reader = None;
            let has_unread = incoming.size > 0;
            incoming.chunks.clear();
            incoming.size = 0;
            (has_unread, incoming.writer.take())
        };
        connection.from(self.side).borrow_mut().writer = None;
        if connection.is_cut[self.side].get() {
            return;
        }
        if has_unread {
            let after = self.net.latency(&connection.link);
            connection.reset_side(&self.net, 1 - self.side, after);
        } else {
            self.send_end();
        }
        if let Some(writer) = writer {
            writer.wake();
        }
    }
}

impl Stream for SimStream {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<Read> {
        poll_fn(|context| self.poll_read(context, buffer)).await
    }

    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let part = [IoSlice::new(rest)];
            let count = poll_fn(|context| self.poll_write(context, &part)).await?;
            rest = rest.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    async fn write_all_vectored(&mut self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut rest = parts;
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let count = poll_fn(|context| self.poll_write(context, rest)).await?;
            IoSlice::advance_slices(&mut rest, count);
        }
        Ok(())
    }

    fn watch(&self) -> &Rc<Watch> {
        &self.watch
    }

    fn peer_address(&self) -> io::Result<SocketAddr> {
        if self.connection.to(self.side).borrow().is_reset(self.net.clock.nanos()) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        Ok(self.connection.addresses[1 - self.side])
    }

    async fn shut_down_write(&mut self) -> io::Result<()> {
        if self.connection.to(self.side).borrow().is_reset(self.net.clock.nanos()) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.send_end();
        Ok(())
    }
}
