//! The runtime of one simulated host.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    fmt,
    future::{Future, poll_fn},
    io,
    net::{IpAddr, SocketAddr},
    panic::AssertUnwindSafe,
    path::Path,
    pin::pin,
    rc::Rc,
    time::{Duration, Instant},
};

use futures_lite::FutureExt;
use ringpost::runtime::{Containment, DeadlineTable, Runtime};
use ringpost_metrics::{MetricsRecorder, with_local_recorder};

use crate::{
    disk::{Disk, SimStorage},
    executor::Group,
    net::{SimDatagram, SimListener, SimStream},
    random::Random,
    world::World,
};

/// A host, or one core of it: addresses, a disk, and the tasks of one life. A clone is the same one.
#[derive(Clone)]
pub struct SimRuntime {
    inner: Rc<Host>,
}

struct Host {
    world: World,
    addresses: Vec<IpAddr>,
    disk: Disk,
    group: Group,
    deadlines: Rc<DeadlineTable>,
    random: RefCell<Random>,
    panics_contained: Cell<u64>,
    /// Where the metrics of its tasks are registered; `None`: nowhere.
    recorder: Option<Rc<MetricsRecorder>>,
    /// What a panic has left half changed, while it unwinds.
    failed_part: Cell<Option<&'static str>>,
}

impl fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("SimRuntime");
        debug.field("addresses", &self.inner.addresses).field("group", &self.inner.group);
        debug.finish_non_exhaustive()
    }
}

impl SimRuntime {
    /// A host, or a core of one. Somebody has to scan `deadlines`.
    pub(crate) fn new(
        world: &World,
        addresses: &[IpAddr],
        disk: Disk,
        group: Group,
        deadlines: Rc<DeadlineTable>,
        label: &str,
        recorder: Option<Rc<MetricsRecorder>>,
    ) -> Self {
        Self {
            inner: Rc::new(Host {
                random: RefCell::new(world.random("host").fork(label)),
                world: world.clone(),
                addresses: addresses.to_vec(),
                disk,
                group,
                deadlines,
                panics_contained: Cell::new(0),
                recorder,
                failed_part: Cell::new(None),
            }),
        }
    }

    /// The world that it is in.
    pub fn world(&self) -> &World {
        &self.inner.world
    }

    /// Its addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.inner.addresses
    }

    /// Its disk.
    pub fn disk(&self) -> &Disk {
        &self.inner.disk
    }

    /// Binds a socket for datagrams to an address of its own, such as that of a name server.
    pub fn bind_datagram_at(&self, address: SocketAddr) -> io::Result<SimDatagram> {
        let ip = self.own(address)?;
        self.inner.world.net().bind_datagram(ip, Some(address.port()))
    }

    /// The address meant: its first of the family where none is given.
    fn own(&self, address: SocketAddr) -> io::Result<IpAddr> {
        let own = |known: &&IpAddr| {
            **known == address.ip()
                || address.ip().is_unspecified() && known.is_ipv4() == address.is_ipv4()
        };
        let found = self.inner.addresses.iter().find(own);
        found.copied().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// After a task has ended by a panic.
    fn handle_panic(&self, containment: Containment, panic: &(dyn Any + Send)) {
        let said = panic.downcast_ref::<&str>().map(ToString::to_string);
        let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        self.inner.world.violate(format!("a panic: {said}"));
        let inner = &self.inner;
        if containment == Containment::Process || inner.failed_part.take().is_some() {
            return inner.world.executor().end(inner.group);
        }
        inner.panics_contained.set(inner.panics_contained.get() + 1);
    }
}

impl Runtime for SimRuntime {
    type Listener = SimListener;
    type Stream = SimStream;
    type Datagram = SimDatagram;
    type Storage = SimStorage;

    fn now(&self) -> Instant {
        self.inner.world.clock().now()
    }

    fn unix_ms(&self) -> u64 {
        self.inner.world.clock().unix_ms()
    }

    fn random_seed(&self) -> u64 {
        self.inner.random.borrow_mut().next_u64()
    }

    fn spawn(&self, containment: Containment, future: impl Future<Output = ()> + 'static) {
        let runtime = self.clone();
        let recorder = self.inner.recorder.clone();
        self.inner.world.executor().spawn(self.inner.group, async move {
            let counted = async {
                let Some(recorder) = recorder else { return future.await };
                let mut future = pin!(future);
                poll_fn(|context| {
                    with_local_recorder(&*recorder, || future.as_mut().poll(context))
                })
                .await;
            };
            if let Err(panic) = AssertUnwindSafe(counted).catch_unwind().await {
                runtime.handle_panic(containment, &*panic);
            }
        });
    }

    async fn sleep(&self, duration: Duration) {
        self.inner.world.clock().sleep(duration).await;
    }

    fn listen(&self, address: SocketAddr) -> io::Result<SimListener> {
        let address = SocketAddr::new(self.own(address)?, address.port());
        let deadlines = Rc::clone(&self.inner.deadlines);
        Ok(self.inner.world.net().listen(address, move || deadlines.watch()))
    }

    async fn connect(
        &self,
        address: SocketAddr,
        source: Option<IpAddr>,
        timeout: Duration,
    ) -> io::Result<SimStream> {
        let any: IpAddr = match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let source = self.own(SocketAddr::new(source.unwrap_or(any), 0))?;
        let watch = self.inner.deadlines.watch();
        self.inner.world.net().connect(source, address, timeout, watch).await
    }

    fn bind_datagram(&self, family_of: SocketAddr) -> io::Result<SimDatagram> {
        let any: IpAddr = match family_of {
            SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let ip = self.own(SocketAddr::new(any, 0))?;
        self.inner.world.net().bind_datagram(ip, None)
    }

    fn storage(&self, directory: &Path) -> SimStorage {
        self.inner.disk.open(directory)
    }

    fn notify_streams(&self) {
        self.inner.deadlines.notify_all();
    }

    fn panics_contained(&self) -> u64 {
        self.inner.panics_contained.get()
    }

    fn end_process(&self, part: &'static str) {
        self.inner.world.violate(format!("the process ends itself because of its {part}"));
        if std::thread::panicking() {
            // What unwinds is still to be caught.
            self.inner.failed_part.set(Some(part));
        } else {
            self.inner.world.executor().end(self.inner.group);
        }
    }
}
