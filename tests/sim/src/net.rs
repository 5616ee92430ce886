//! The network: connections and datagrams with latency, loss and failures.
//!
//! A [`Link`] says how things are between two addresses; it is looked up by the address that is called,
//! then by the caller's, then the default is taken. What it does to a connection is drawn from the
//! seed, at each write. Addresses that nobody listens on refuse; addresses that are down swallow.

mod datagram;
mod listener;
mod stream;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::{IpAddr, SocketAddr},
    rc::{Rc, Weak},
    time::Duration,
};

use ringpost::runtime::Watch;

use self::{
    datagram::Mailbox,
    listener::Backlog,
    stream::{Connection, Cut},
};
pub use self::{datagram::SimDatagram, listener::SimListener, stream::SimStream};
use crate::{executor::Trace, random::Random, time::Clock};

/// The first port that is drawn for who names none.
const EPHEMERAL_PORT_MIN: u64 = 20_000;

/// How things are between two addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Shortest and longest time that octets are on their way, one way.
    pub latency: (Duration, Duration),
    /// How often a read gives less than there is, in percent.
    pub split_percent: u8,
    /// Octets that one side may be ahead of the other; then its writes wait.
    pub buffer_size: usize,
    /// Connections that are refused though somebody listens, in percent.
    pub refuse_percent: u8,
    /// Connections whose opening is never answered, in percent.
    pub black_hole_percent: u8,
    /// Writes at which the connection is reset instead, in a million.
    pub reset_ppm: u32,
    /// Writes that, with all that follows, arrive only after `stall`, in a million.
    pub stall_ppm: u32,
    /// How long such a stall takes.
    pub stall: Duration,
    /// Datagrams that do not arrive, in percent.
    pub loss_percent: u8,
    /// Datagrams that arrive twice, in percent.
    pub duplicate_percent: u8,
    /// Datagrams that take up to `stall` longer than others, in percent, and so are overtaken.
    pub late_percent: u8,
}

impl Default for Link {
    /// A fraction of a millisecond, and nothing fails.
    fn default() -> Self {
        Self {
            latency: (Duration::from_micros(50), Duration::from_micros(500)),
            split_percent: 0,
            buffer_size: 256 * 1024,
            refuse_percent: 0,
            black_hole_percent: 0,
            reset_ppm: 0,
            stall_ppm: 0,
            stall: Duration::ZERO,
            loss_percent: 0,
            duplicate_percent: 0,
            late_percent: 0,
        }
    }
}

/// What the network has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetStats {
    /// Connections that were made.
    pub connections: u64,
    /// Those that were not: refused, or never answered.
    pub refused: u64,
    /// Connections that the network has reset.
    pub resets: u64,
    /// Writes that it has held up.
    pub stalls: u64,
    /// Datagrams that were sent.
    pub datagrams: u64,
    /// Those that were lost.
    pub datagrams_lost: u64,
}

/// The network of one world. A clone is the same network.
#[derive(Clone)]
pub struct Network {
    inner: Rc<Inner>,
}

struct Inner {
    clock: Clock,
    trace: Trace,
    random: RefCell<Random>,
    default_link: RefCell<Rc<Link>>,
    links: RefCell<BTreeMap<IpAddr, Rc<Link>>>,
    down: RefCell<BTreeSet<IpAddr>>,
    listeners: RefCell<BTreeMap<SocketAddr, Vec<Rc<Backlog>>>>,
    mailboxes: RefCell<BTreeMap<SocketAddr, Rc<Mailbox>>>,
    connections: RefCell<Vec<Weak<Connection>>>,
    next_port: Cell<u64>,
    stats: Cell<NetStats>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Network {
    /// A network without faults.
    pub fn new(clock: Clock, trace: Trace, random: Random) -> Self {
        Self {
            inner: Rc::new(Inner {
                clock,
                trace,
                random: RefCell::new(random),
                default_link: RefCell::default(),
                links: RefCell::default(),
                down: RefCell::default(),
                listeners: RefCell::default(),
                mailboxes: RefCell::default(),
                connections: RefCell::default(),
                next_port: Cell::new(0),
                stats: Cell::default(),
            }),
        }
    }

    /// What it has done so far.
    pub fn stats(&self) -> NetStats {
        self.inner.stats.get()
    }

    /// How things are from now on where no address says otherwise; open connections keep their link.
    pub fn set_default_link(&self, link: Link) {
        *self.inner.default_link.borrow_mut() = Rc::new(link);
    }

    /// How things are from now on with an address; open connections keep their link.
    pub fn set_link(&self, address: IpAddr, link: Link) {
        self.inner.links.borrow_mut().insert(address, Rc::new(link));
    }

    /// Takes back what was said of an address.
    pub fn clear_link(&self, address: IpAddr) {
        self.inner.links.borrow_mut().remove(&address);
    }

    /// Whether an address swallows what is sent to it: calls are not answered, datagrams are lost.
    /// Open connections are not touched.
    pub fn set_down(&self, address: IpAddr, is_down: bool) {
        let mut down = self.inner.down.borrow_mut();
        if is_down {
            down.insert(address);
        } else {
            down.remove(&address);
        }
    }

    /// Resets all open connections of an address.
    pub fn reset_all(&self, address: IpAddr) {
        for connection in self.inner.open_connections(address) {
            self.inner.count(|stats| stats.resets += 1);
            connection.reset(&self.inner, 0);
        }
    }

    /// Takes the power from the machine that has an address, before its tasks are dropped: nobody is
    /// told. Who still talks to it is reset some seconds later, as when a machine is up again and knows
    /// nothing of the connection.
    pub fn cut_power(&self, address: IpAddr) {
        for connection in self.inner.open_connections(address) {
            let after = self.inner.random.borrow_mut().within(1..=20);
            connection.cut_off(
                &self.inner,
                address,
                Cut { reset_after: Duration::from_secs(after) },
            );
        }
        let left = |at: &SocketAddr| at.ip() == address;
        self.inner.listeners.borrow_mut().retain(|at, _| !left(at));
        self.inner.mailboxes.borrow_mut().retain(|at, _| !left(at));
    }

    /// Connections that are open at an address, at either end.
    pub fn open_connections(&self, address: IpAddr) -> usize {
        self.inner.open_connections(address).len()
    }

    /// Connections that one address has opened to another and not closed.
    pub fn held(&self, caller: IpAddr, called: IpAddr) -> usize {
        let open = self.inner.open_connections(called);
        open.iter().filter(|connection| connection.is_held(caller, called)).count()
    }

    /// Whether somebody listens at an address.
    pub fn has_listener(&self, address: SocketAddr) -> bool {
        self.inner.listeners.borrow().contains_key(&address)
    }

    /// Binds a listener; others may listen at the same address.
    pub(crate) fn listen(
        &self,
        address: SocketAddr,
        watch: impl Fn() -> Rc<Watch> + 'static,
    ) -> SimListener {
        SimListener::bind(&self.inner, address, Box::new(watch))
    }

    /// Opens a connection from `source`.
    pub(crate) async fn connect(
        &self,
        source: IpAddr,
        address: SocketAddr,
        timeout: Duration,
        watch: Rc<Watch>,
    ) -> io::Result<SimStream> {
        stream::connect(&self.inner, source, address, timeout, watch).await
    }

    /// Binds a socket for datagrams to a port of its own, or to the given one.
    pub(crate) fn bind_datagram(&self, ip: IpAddr, port: Option<u16>) -> io::Result<SimDatagram> {
        SimDatagram::bind(&self.inner, ip, port)
    }
}

impl Inner {
    fn link(&self, to: IpAddr, from: IpAddr) -> Rc<Link> {
        let links = self.links.borrow();
        let link = links.get(&to).or_else(|| links.get(&from));
        link.map_or_else(|| Rc::clone(&self.default_link.borrow()), Rc::clone)
    }

    fn is_down(&self, address: IpAddr) -> bool {
        self.down.borrow().contains(&address)
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut self.random.borrow_mut())
    }

    fn latency(&self, link: &Link) -> u64 {
        nanos(self.draw(|random| random.duration(link.latency.0, link.latency.1)))
    }

    fn count(&self, change: impl FnOnce(&mut NetStats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    fn next_port(&self) -> u16 {
        let range = u64::from(u16::MAX) - EPHEMERAL_PORT_MIN;
        let port = self.next_port.get();
        self.next_port.set(port + 1);
        (EPHEMERAL_PORT_MIN + port % range) as u16
    }

    fn keep(&self, connection: &Rc<Connection>) {
        let mut connections = self.connections.borrow_mut();
        // Gone ones are forgotten when they are the most.
        if connections.len() > 64 && connections.len().is_power_of_two() {
            connections.retain(|connection| connection.strong_count() > 0);
        }
        connections.push(Rc::downgrade(connection));
    }

    fn open_connections(&self, address: IpAddr) -> Vec<Rc<Connection>> {
        let connections = self.connections.borrow();
        let open = connections.iter().filter_map(Weak::upgrade);
        open.filter(|connection| connection.has(address)).collect()
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
