//! Other mail programs, and skipping loudly without them.

use std::env;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::metrics;
use crate::wait;

/// Set to `1`, it turns every skip into a failure. `scripts/test` sets it.
pub const REQUIRE: &str = "RINGPOST_REQUIRE_PEERS";

/// Says that a test, or a part of it, was not done.
///
/// The line goes straight to standard error, past the capture of the test harness.
///
/// # Errors
///
/// Fails instead when [`REQUIRE`] says so.
pub fn skip(reason: &str) -> Result<()> {
    if env::var(REQUIRE).is_ok_and(|value| value == "1") {
        bail!("{REQUIRE} is set, and this cannot be tested: {reason}");
    }
    writeln!(std::io::stderr(), "SKIPPED: {reason}")?;
    Ok(())
}

/// Writes a line of a test's account to standard error, past the capture of the test harness.
pub fn tell(line: &str) {
    // A closed standard error is no reason to fail.
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// Looks for a program in the places where Debian has them.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/lib/postfix/sbin"])
        .map(|directory| Path::new(directory).join(name))
        .find(|candidate| candidate.is_file())
}

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A child process that ends with its owner, by SIGKILL if need be.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Running {
    /// Starts `command` with its output in `log`.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let out = fs::File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { child })
    }
}

/// Waits until something accepts TCP connections at `address`.
///
/// # Errors
///
/// Fails when nothing does in time.
pub fn wait_listening(address: SocketAddr) -> Result<()> {
    wait::wait_until(&format!("a listener on {address}"), wait::SOON, || {
        Ok(std::net::TcpStream::connect(address).is_ok())
    })
}

/// A Postfix of our own: its own configuration, queue and ports.
#[derive(Debug)]
pub struct Postfix {
    directory: PathBuf,
    running: Running,
}

impl Postfix {
    /// Whether Postfix is installed and we may run it; else the reason.
    pub fn missing() -> Option<&'static str> {
        if !is_root() {
            return Some("Postfix needs root");
        }
        if program("master").is_none() || program("postfix").is_none() {
            return Some("Postfix is not installed");
        }
        None
    }

    /// Starts one that listens on `listen`. `settings` are further lines of `main.cf`.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started or does not answer.
    pub fn start(directory: &Path, listen: SocketAddr, settings: &str) -> Result<Self> {
        let (config, spool, data) =
            (directory.join("etc"), directory.join("spool"), directory.join("data"));
        for path in [&config, &spool, &data] {
            fs::create_dir_all(path)?;
        }
        for part in ["postfix-files.d", "dynamicmaps.cf.d"] {
            fs::create_dir_all(config.join(part))?;
        }
        for file in ["postfix-files", "dynamicmaps.cf"] {
            let ours = Path::new("/etc/postfix").join(file);
            if ours.exists() {
                fs::copy(ours, config.join(file))?;
            }
        }
        run(Command::new("chown").arg("postfix").arg(&data))?;
        // Its daemons, which are not root, must be able to walk here.
        run(Command::new("chmod").arg("755").arg(directory))?;
        let d = directory.display();
        fs::write(
            config.join("main.cf"),
            format!(
                "compatibility_level = 3.6\nqueue_directory = {d}/spool\ndata_directory = {d}/data\n\
                 command_directory = /usr/sbin\ndaemon_directory = /usr/lib/postfix/sbin\n\
                 inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmyhostname = postfix.test\n\
                 mydestination =\nmynetworks = 127.0.0.0/8\nalias_maps =\nalias_database =\n\
                 smtpd_peername_lookup = no\nin_flow_delay = 0\nmaillog_file = {d}/mail.log\n\
                 maillog_file_prefixes = {d}\nsmtpd_client_connection_count_limit = 0\n\
                 smtp_tls_security_level = none\nsmtpd_tls_security_level = none\n{settings}\n"
            ),
        )?;
        fs::write(
            config.join("master.cf"),
            format!(
                "{listen} inet n - n - - smtpd\n\
                 pickup unix n - n 60 1 pickup\ncleanup unix n - n - 0 cleanup\n\
                 qmgr unix n - n 300 1 qmgr\nrewrite unix - - n - - trivial-rewrite\n\
                 bounce unix - - n - 0 bounce\ndefer unix - - n - 0 bounce\n\
                 trace unix - - n - 0 bounce\nverify unix - - n - 1 verify\n\
                 proxymap unix - - n - - proxymap\nsmtp unix - - n - - smtp\n\
                 error unix - - n - - error\nretry unix - - n - - error\n\
                 discard unix - - n - - discard\nvirtual unix - n n - - virtual\n\
                 anvil unix - - n - 1 anvil\nscache unix - - n - 1 scache\n\
                 tlsmgr unix - - n 1000? 1 tlsmgr\npostlog unix-dgram n - n - 1 postlogd\n"
            ),
        )?;
        let postfix = program("postfix").context("no postfix")?;
        run(Command::new(postfix).arg("-c").arg(&config).arg("check"))?;
        let running = Running::start(
            Command::new(program("master").context("no master")?).arg("-c").arg(&config).arg("-d"),
            &directory.join("master.out"),
        )?;
        let postfix = Self { directory: directory.to_owned(), running };
        wait_listening(listen).with_context(|| format!("Postfix says: {}", postfix.log()))?;
        Ok(postfix)
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("mail.log")).unwrap_or_default()
    }

    /// Kills the master and all of its daemons, by SIGKILL, as the end of a machine would.
    ///
    /// # Errors
    ///
    /// Fails when the master cannot be reaped.
    pub fn kill(mut self) -> Result<()> {
        let master = self.running.child.id();
        // The master first, so that it starts no more; its daemons are known before.
        let daemons = children(master);
        self.running.child.kill()?;
        self.running.child.wait()?;
        for daemon in daemons {
            if let Some(pid) = i32::try_from(daemon).ok().and_then(rustix::process::Pid::from_raw) {
                // It may have ended by itself.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        Ok(())
    }
}

/// The processes whose parent is `parent`.
fn children(parent: u32) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|process| {
            // PID (NAME) STATE PPID ..., where the name may hold anything.
            fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| {
                let ids = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
                ids.split_whitespace().nth(1) == Some(&parent.to_string())
            })
        })
        .collect()
}

impl Drop for Postfix {
    fn drop(&mut self) {
        if self.running.child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        // The master, told to end, ends its daemons; killed, it would leave them behind.
        if let Some(pid) =
            i32::try_from(self.running.child.id()).ok().and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        drop(wait::wait_until("the end of Postfix", wait::SOON, || {
            Ok(self.running.child.try_wait()?.is_some())
        }));
    }
}

/// An Exim of our own, from an installed or an unpacked package.
#[derive(Debug)]
pub struct Exim {
    directory: PathBuf,
    _running: Running,
}

impl Exim {
    /// The binary: `RINGPOST_EXIM`, where `scripts/install-deps` unpacks it, or the installed one.
    pub fn binary() -> Option<PathBuf> {
        env::var_os("RINGPOST_EXIM")
            .map(PathBuf::from)
            .into_iter()
            .chain([PathBuf::from("/var/tmp/ringpost-peers/exim/usr/sbin/exim4")])
            .find(|candidate| candidate.is_file())
            .or_else(|| program("exim4"))
    }

    /// Whether Exim can be run; else the reason.
    pub fn missing() -> Option<&'static str> {
        if !is_root() {
            return Some("Exim needs root");
        }
        if Self::binary().is_none() {
            return Some("Exim is not installed (scripts/install-deps unpacks it)");
        }
        None
    }

    /// Starts one that takes mail on `listen` and relays all of it to `next`.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started or does not answer.
    pub fn start(directory: &Path, listen: SocketAddr, next: SocketAddr) -> Result<Self> {
        Self::start_with(directory, listen, next, "")
    }

    /// The same with further options of its transport, a line each.
    ///
    /// # Errors
    ///
    /// As [`Exim::start`].
    pub fn start_with(
        directory: &Path,
        listen: SocketAddr,
        next: SocketAddr,
        transport: &str,
    ) -> Result<Self> {
        Self::start_as(directory, listen, next, "tls_advertise_hosts =\n", transport)
    }

    /// The same with further main options, a line each; what is said of TLS must be among them.
    ///
    /// # Errors
    ///
    /// As [`Exim::start`].
    pub fn start_as(
        directory: &Path,
        listen: SocketAddr,
        next: SocketAddr,
        main: &str,
        transport: &str,
    ) -> Result<Self> {
        let binary = Self::binary().context("no Exim")?;
        for part in ["spool", "log"] {
            fs::create_dir_all(directory.join(part))?;
            run(Command::new("chown").arg("Debian-exim").arg(directory.join(part)))?;
        }
        run(Command::new("chmod").arg("755").arg(directory))?;
        let config = directory.join("exim.conf");
        let d = directory.display();
        fs::write(
            &config,
            format!(
                "primary_hostname = exim.test\nspool_directory = {d}/spool\n\
                 log_file_path = {d}/log/%slog\npid_file_path = {d}/log/exim.pid\n\
                 exim_path = {binary}\nlocal_interfaces = {listen_ip}\n\
                 daemon_smtp_ports = {listen_port}\nhost_lookup =\nrfc1413_query_timeout = 0s\n\
                 smtp_accept_max = 100\nsmtp_accept_queue_per_connection = 0\n\
                 deliver_drop_privilege\n{main}acl_smtp_rcpt = accept\n\
                 acl_smtp_data = accept\ndsn_advertise_hosts = *\n\
                 .ifdef _OPT_MAIN_SMTPUTF8_ADVERTISE_HOSTS\nsmtputf8_advertise_hosts = *\n.endif\n\
                 begin routers\nall:\n  driver = manualroute\n  \
                 domains = *\n  transport = remote\n  route_list = * {next_ip}::{next_port} byname\n  \
                 self = send\nbegin transports\nremote:\n  driver = smtp\n{transport}begin retry\n* * F,2h,1s\n",
                binary = binary.display(),
                listen_ip = listen.ip(),
                listen_port = listen.port(),
                next_ip = next.ip(),
                next_port = next.port(),
            ),
        )?;
        let running = Running::start(
            Command::new(&binary).arg("-C").arg(&config).args(["-bdf", "-q1s"]),
            &directory.join("exim.out"),
        )?;
        let exim = Self { directory: directory.to_owned(), _running: running };
        wait_listening(listen).with_context(|| format!("Exim says: {}", exim.log()))?;
        Ok(exim)
    }

    /// Its logs so far.
    pub fn log(&self) -> String {
        ["exim.out", "log/mainlog", "log/paniclog"]
            .iter()
            .filter_map(|part| fs::read_to_string(self.directory.join(part)).ok())
            .collect()
    }
}

/// Postfix's `smtp-sink`, counting.
#[derive(Debug)]
pub struct SmtpSink {
    address: SocketAddr,
    out: PathBuf,
    _running: Running,
}

impl SmtpSink {
    /// Starts it on `listen`.
    ///
    /// # Errors
    ///
    /// Fails when it is not installed or does not answer.
    pub fn start(directory: &Path, listen: SocketAddr) -> Result<Self> {
        Self::with(directory, listen, &[])
    }

    /// Starts it with further options.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn with(directory: &Path, listen: SocketAddr, options: &[&str]) -> Result<Self> {
        let out = directory.join("smtp-sink.out");
        let mut command = Command::new(program("smtp-sink").context("no smtp-sink")?);
        if is_root() {
            command.args(["-u", "nobody"]);
        }
        command.args(options).args(["-c", &listen.to_string(), "1024"]);
        let running = Running::start(&mut command, &out)?;
        wait_listening(listen)?;
        Ok(Self { address: listen, out, _running: running })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of messages it has taken.
    ///
    /// # Errors
    ///
    /// Fails when its output is gone.
    pub fn count(&self) -> Result<u64> {
        let text = fs::read(&self.out)?;
        let text = String::from_utf8_lossy(&text);
        let Some((_, last)) = text.rsplit_once("mesg=") else { return Ok(0) };
        let digits: String = last.chars().take_while(char::is_ascii_digit).collect();
        Ok(digits.parse().unwrap_or(0))
    }
}

/// Runs a command to its end.
///
/// # Errors
///
/// Fails with its output when it fails.
pub fn run(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether `/health` at `address` says that all is well.
pub fn is_healthy(address: SocketAddr) -> bool {
    metrics::fetch(address, "/health").is_ok_and(|(status, _)| status == 200)
}
