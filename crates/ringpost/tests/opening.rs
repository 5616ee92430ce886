//! A shard while its log is being read: connections are taken, MAIL waits, and not for ever.
//!
//! The real shard on the real kernel, with a directory that is listed only when the test says so.

#![expect(clippy::unwrap_used, reason = "a test may be blunt")]

use std::{
    future::Future,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, unbounded};
use ringpost::{
    auth::PasswordChecker,
    config::{self, SystemFacts},
    control::{
        AdminRequest, EventSender, HealthState,
        flush::{FlushRefusal, FlushReply, FlushRequest},
    },
    runtime::{
        Containment, Executor, ExecutorOptions, Runtime,
        glommio::{
            GlommioDatagram, GlommioListener, GlommioRuntime, GlommioStorage, GlommioStream, start,
        },
    },
    shard::{ListeningShards, ShardHandle, ShardOptions, ShardReport, run_all, shard_inbox},
};
use ringpost_delivery::FlushScope;
use ringpost_queue::{LogIdentity, ShardId, storage::Storage};
use tokio::sync::oneshot;

/// The real runtime, with a gate before its storage.
#[derive(Clone)]
struct Gated {
    inner: GlommioRuntime,
    gate: Arc<AtomicBool>,
}

#[derive(Clone)]
struct GatedStorage {
    inner: GlommioStorage,
    runtime: Gated,
}

impl Runtime for Gated {
    type Listener = GlommioListener;
    type Stream = GlommioStream;
    type Datagram = GlommioDatagram;
    type Storage = GatedStorage;

    fn now(&self) -> Instant {
        self.inner.now()
    }

    fn unix_ms(&self) -> u64 {
        self.inner.unix_ms()
    }

    fn random_seed(&self) -> u64 {
        self.inner.random_seed()
    }

    fn spawn(&self, containment: Containment, future: impl Future<Output = ()> + 'static) {
        self.inner.spawn(containment, future);
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> {
        self.inner.sleep(duration)
    }

    fn listen(&self, address: SocketAddr) -> io::Result<GlommioListener> {
        self.inner.listen(address)
    }

    fn connect(
        &self,
        address: SocketAddr,
        source: Option<IpAddr>,
        timeout: Duration,
    ) -> impl Future<Output = io::Result<GlommioStream>> {
        self.inner.connect(address, source, timeout)
    }

    fn bind_datagram(&self, family_of: SocketAddr) -> io::Result<GlommioDatagram> {
        self.inner.bind_datagram(family_of)
    }

    fn storage(&self, directory: &Path) -> GatedStorage {
        GatedStorage { inner: self.inner.storage(directory), runtime: self.clone() }
    }

    fn notify_streams(&self) {
        self.inner.notify_streams();
    }

    fn panics_contained(&self) -> u64 {
        self.inner.panics_contained()
    }

    fn end_process(&self, part: &'static str) {
        self.inner.end_process(part);
    }
}

impl Storage for GatedStorage {
    type File = <GlommioStorage as Storage>::File;

    async fn list(&self) -> io::Result<Vec<(String, u64)>> {
        while !self.runtime.gate.load(Ordering::Relaxed) {
            self.runtime.sleep(Duration::from_millis(5)).await;
        }
        self.inner.list().await
    }

    async fn create(&self, name: &str, size: u64) -> io::Result<Self::File> {
        self.inner.create(name, size).await
    }

    async fn open(&self, name: &str) -> io::Result<Self::File> {
        self.inner.open(name).await
    }

    async fn write(
        &self,
        file: &Self::File,
        offset: u64,
        bytes: Vec<u8>,
    ) -> (io::Result<usize>, Vec<u8>) {
        self.inner.write(file, offset, bytes).await
    }

    async fn read(&self, file: &Self::File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.inner.read(file, offset, len).await
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to).await
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name).await
    }

    async fn sync_directory(&self) -> io::Result<()> {
        self.inner.sync_directory().await
    }
}

/// A shard of its own; what was queued waits for ever, for its smarthost does not answer.
struct TestShard {
    address: SocketAddr,
    gate: Arc<AtomicBool>,
    health: Arc<HealthState>,
    handle: ShardHandle,
    reports: Receiver<ShardReport>,
    executor: Executor,
    _directory: tempfile::TempDir,
}

/// An address that nobody else takes: loopback has one for each process, and the process counts its ports.
fn own_address() -> SocketAddr {
    static NEXT_PORT: AtomicU16 = AtomicU16::new(2525);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, 64 | (a & 63), b, c);
    SocketAddr::from((ip, NEXT_PORT.fetch_add(1, Ordering::Relaxed)))
}

impl TestShard {
    fn start() -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let address = own_address();
        let text = format!(
            "[listener.main]\naddresses = [\"{address}\"]\netrn_from = [\"127.0.0.1\"]\n[queue]\nsegment_size = \"8MiB\"\n\
             [[route]]\ndomain = \"*\"\nsmarthost = \"{}\"\n",
            own_address()
        );
        let facts = SystemFacts {
            hostname: "mail.example.org".into(),
            cores: vec![0],
            name_servers: Vec::new(),
            memory: None,
        };
        let health = Arc::new(HealthState::new(1, Instant::now()));
        let (handle, inbox) = shard_inbox();
        let (sender, reports) = unbounded();
        let options = ShardOptions {
            number: 0,
            identity: LogIdentity { log_id: 7, shard: ShardId(0) },
            directory: directory.path().to_owned(),
            config: Arc::new(config::parse(&text, &facts).unwrap()),
            config_path: "/etc/ringpost.toml".into(),
            listening: Arc::new(ListeningShards::new(1)),
            sessions_max: 100,
            health: Arc::clone(&health),
            passwords: PasswordChecker::inline(),
            events: EventSender::off(),
            inbox,
            shards: [handle.clone()].into(),
            reports: sender,
        };
        let gate = Arc::new(AtomicBool::new(false));
        let runtime_gate = Arc::clone(&gate);
        let executor =
            start(&ExecutorOptions { cpu: None, name: "test".into(), batch: false }, |inner| {
                run_all(Gated { inner, gate: runtime_gate }, vec![options])
            })
            .unwrap();
        let shard =
            Self { address, gate, health, handle, reports, executor, _directory: directory };
        assert!(matches!(shard.report(), ShardReport::Started(0)));
        shard
    }

    fn report(&self) -> ShardReport {
        self.reports.recv_timeout(Duration::from_mins(1)).unwrap()
    }

    fn reasons(&self) -> Vec<String> {
        self.health.report(Instant::now()).reasons
    }

    fn flush(&self) -> FlushReply {
        let (reply, answer) = oneshot::channel();
        let request = FlushRequest { scope: FlushScope::All, reply };
        self.handle.ask(AdminRequest::Flush(request)).unwrap();
        answer.blocking_recv().unwrap()
    }

    fn stop(self) {
        self.handle.stop();
        assert!(matches!(self.report(), ShardReport::Stopped(0)));
        self.executor.join().unwrap();
    }
}

/// A client that has been greeted and has said EHLO.
struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    fn introduced(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        let mut client = Self { reader: BufReader::new(stream) };
        assert!(client.line().starts_with("220 "));
        client.say("EHLO client.test");
        while client.line().starts_with("250-") {}
        client
    }

    fn say(&mut self, line: &str) {
        self.reader.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line
    }

    fn command(&mut self, line: &str) -> String {
        self.say(line);
        self.line()
    }
}

#[test]
fn mail_waits_for_a_log_that_is_soon_open() {
    let shard = TestShard::start();
    let mut clients: Vec<_> = (0..8).map(|_| Client::introduced(shard.address)).collect();
    assert_eq!(shard.reasons(), ["shard 0 is recovering"]);
    for client in &mut clients {
        // In one segment, as a client does that pipelines.
        client.say("MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA");
        // Whoever says nothing of mail is served at once.
        let mut other = Client::introduced(shard.address);
        assert!(other.command("NOOP").starts_with("250 "));
        assert!(other.command("RCPT TO:<b@b.test>").starts_with("503 "));
        assert!(other.command("QUIT").starts_with("221 "));
    }
    assert_eq!(shard.reasons(), ["shard 0 is recovering"]);
    shard.gate.store(true, Ordering::Relaxed);
    assert!(matches!(shard.report(), ShardReport::Opened(0)));
    for client in &mut clients {
        for reply in ["250 2.1.0", "250 2.1.5", "354 "] {
            let line = client.line();
            assert!(line.starts_with(reply), "{line}");
        }
        let line = client.command("Subject: x\r\n\r\ntext\r\n.");
        assert!(line.starts_with("250 2.0.0"), "{line}");
    }
    assert_eq!(shard.reasons(), [""; 0]);
    shard.stop();
}

#[test]
fn mail_does_not_wait_for_ever() {
    let shard = TestShard::start();
    let mut client = Client::introduced(shard.address);
    let line = client.command("MAIL FROM:<a@a.test>");
    assert!(line.starts_with("451 4.3.0 Still reading"), "{line}");
    // The session goes on.
    assert!(client.command("NOOP").starts_with("250 "));
    shard.stop();
}

#[test]
fn a_stop_does_not_wait_for_the_log() {
    let shard = TestShard::start();
    let mut client = Client::introduced(shard.address);
    client.say("MAIL FROM:<a@a.test>");
    shard.handle.stop();
    let line = client.line();
    assert!(line.starts_with("421 4.3.2"), "{line}");
    assert!(matches!(shard.report(), ShardReport::Stopped(0)));
    shard.executor.join().unwrap();
}

/// What is in a log that is being read is not known, so nobody is told that there is nothing.
#[test]
fn mail_cannot_be_tried_before_the_log_is_read() {
    let shard = TestShard::start();
    assert_eq!(shard.flush(), Err(FlushRefusal::Beginning));
    let mut client = Client::introduced(shard.address);
    let line = client.command("ETRN b.test");
    assert!(line.starts_with("458 "), "{line}");
    shard.gate.store(true, Ordering::Relaxed);
    assert!(matches!(shard.report(), ShardReport::Opened(0)));
    // The mail that was in it is made known after that.
    let later = (0..100_000).map(|_| shard.flush()).find(Result::is_ok);
    assert_eq!(later, Some(Ok(0)));
    let line = client.command("ETRN b.test");
    assert!(line.starts_with("251 "), "{line}");
    shard.stop();
}
