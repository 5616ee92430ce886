//! The server of the demo: a child process with a directory and ports of its own.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long the server may take to greet: it fills its log segments first.
const START_TIMEOUT: Duration = Duration::from_mins(1);
/// How long it may take to end after TERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause between two looks at a process or port.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// Lines of the server's log that an error shows.
const LOG_LINES_MAX: usize = 20;

/// A running server. Dropped without [`Server::stop`], it is killed.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    directory: TempDir,
    listen: SocketAddr,
    control: SocketAddr,
}

impl Server {
    /// Starts the binary with a configuration that relays everything to `smarthost`, and returns
    /// when it greets.
    ///
    /// # Errors
    ///
    /// When it cannot be started, ends, or does not greet in time.
    pub(crate) fn start(
        binary: &Path,
        smarthost: SocketAddr,
        is_interrupted: &mut dyn FnMut() -> bool,
    ) -> anyhow::Result<Self> {
        let directory = temporary_directory()?;
        let [listen, control] = free_addresses()?;
        let config = directory.path().join("ringpost.toml");
        fs::write(&config, configuration(directory.path(), listen, control, smarthost))
            .with_context(|| format!("cannot write {}", config.display()))?;
        let log = File::create(log_path(directory.path()))?;
        let child = Command::new(binary)
            .arg("run")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut server = Self { child, directory, listen, control };
        server.wait_until_it_greets(is_interrupted)?;
        Ok(server)
    }

    /// Where it takes mail.
    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where it serves `/metrics`.
    pub(crate) fn control(&self) -> SocketAddr {
        self.control
    }

    /// The directory of its configuration, queue and log; removed with the server.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read(log_path(self.directory.path())).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_MAX)..].join("\n")
    }

    /// Asks it to end, and waits; how it ended.
    ///
    /// # Errors
    ///
    /// When it does not end in time; it is then killed.
    pub(crate) fn stop(mut self) -> anyhow::Result<ExitStatus> {
        if let Some(status) = self.ended() {
            return Ok(status);
        }
        // Not yet waited for, so the id is still this child's.
        kill_process(Pid::from_child(&self.child), Signal::TERM)
            .context("cannot send TERM to the server")?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            thread::sleep(LOOK_PAUSE);
        }
        bail!(
            "the server did not end within {} s of TERM; its log ends with:\n{}",
            STOP_TIMEOUT.as_secs(),
            self.log_tail()
        )
    }

    fn wait_until_it_greets(
        &mut self,
        is_interrupted: &mut dyn FnMut() -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(status) = self.ended() {
                bail!("the server ended at its start ({status}); it says:\n{}", self.log_tail());
            }
            if greets(self.listen) {
                return Ok(());
            }
            if is_interrupted() {
                bail!("interrupted");
            }
            if Instant::now() >= deadline {
                bail!("the server does not greet; its log ends with:\n{}", self.log_tail());
            }
            thread::sleep(LOOK_PAUSE);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server's configuration, as an operator would write it.
fn configuration(
    directory: &Path,
    listen: SocketAddr,
    control: SocketAddr,
    smarthost: SocketAddr,
) -> String {
    let path = |name: &str| directory.join(name).display().to_string();
    let queue = toml_string(&path("queue"));
    let events = toml_string(&path("events.jsonl"));
    format!(
        "[server]\n\
         hostname = \"demo.example.com\"\n\n\
         [listener.demo]\n\
         addresses = [\"{listen}\"]\n\n\
         [queue]\n\
         directory = {queue}\n\n\
         [[route]]\n\
         domain = \"*\"\n\
         smarthost = \"{smarthost}\"\n\n\
         [control]\n\
         listen = \"{control}\"\n\n\
         [events]\n\
         path = {events}\n"
    )
}

/// A basic string of TOML.
fn toml_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("ringpost.log")
}

/// A directory on a real disk where there is one: in memory, a sync costs nothing.
fn temporary_directory() -> anyhow::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("ringpost-demo-");
    let on_disk = Path::new("/var/tmp");
    let made = if on_disk.is_dir() { builder.tempdir_in(on_disk) } else { builder.tempdir() };
    made.context("cannot make a temporary directory")
}

/// Addresses nobody listens on at the moment, all different.
fn free_addresses<const N: usize>() -> anyhow::Result<[SocketAddr; N]> {
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    // All held until all are chosen, so that none is chosen twice.
    let mut listeners = Vec::new();
    for address in &mut addresses {
        let listener = TcpListener::bind(*address).context("no free port on the loopback")?;
        *address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(addresses)
}

/// Whether something at `address` greets the SMTP way, and takes a QUIT.
fn greets(address: SocketAddr) -> bool {
    let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else {
        return false;
    };
    let mut greeting = String::new();
    stream.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
        && BufReader::new(&stream).read_line(&mut greeting).is_ok()
        && greeting.starts_with("220")
        && std::io::Write::write_all(&mut &stream, b"QUIT\r\n").is_ok()
}

#[cfg(test)]
mod tests {
    use ringpost::config::SystemFacts;

    use super::*;

    #[test]
    fn paths_are_quoted() {
        assert_eq!(toml_string("/a b/\"c\"\\d"), "\"/a b/\\\"c\\\"\\\\d\"");
    }

    fn check(text: &str) {
        // A machine without DNS, and without a name of its own.
        let facts = SystemFacts {
            hostname: String::new(),
            cores: vec![0],
            name_servers: vec![],
            memory: None,
        };
        if let Err(problems) = ringpost::config::parse(text, &facts) {
            panic!("{problems:?} in\n{text}");
        }
    }

    #[test]
    fn the_server_takes_the_configuration() {
        let [listen, control, smarthost] = free_addresses().unwrap();
        check(&configuration(Path::new("/var/tmp/a \"b\""), listen, control, smarthost));
    }

    #[test]
    fn the_server_takes_the_configuration_of_comparisons() {
        let directory = temporary_directory().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("compare/ringpost.sh");
        let status = Command::new(script)
            .args(["start", directory.path().to_str().unwrap(), "2525", "2526"])
            .env("RINGPOST", "true")
            .status();
        assert!(status.unwrap().success());
        check(&fs::read_to_string(directory.path().join("ringpost.toml")).unwrap());
    }

    #[test]
    fn free_addresses_differ() {
        let [a, b, c] = free_addresses().unwrap();
        assert!(a != b && b != c && a != c);
    }
}
