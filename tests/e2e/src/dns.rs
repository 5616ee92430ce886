//! A real name server, unbound, with a zone of ours as the whole of the DNS.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::peers::{self, Running};
use crate::wait;

/// Records to serve. Names are written without the last dot.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    text: String,
}

impl Zone {
    /// A zone with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds any record: `record("a.test", "MX", "10 mx.a.test.")`.
    pub fn record(&mut self, name: &str, kind: &str, data: &str) -> &mut Self {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{name}. 1 IN {kind} {data}");
        self
    }

    /// Adds an MX record.
    pub fn mx(&mut self, name: &str, preference: u16, host: &str) -> &mut Self {
        self.record(name, "MX", &format!("{preference} {host}."))
    }

    /// Adds an A record.
    pub fn a(&mut self, name: &str, address: &str) -> &mut Self {
        self.record(name, "A", address)
    }

    /// Adds an AAAA record.
    pub fn aaaa(&mut self, name: &str, address: &str) -> &mut Self {
        self.record(name, "AAAA", address)
    }

    /// Hands a domain to a name server that does not exist: every question about it fails.
    pub fn broken(&mut self, name: &str) -> &mut Self {
        let server = format!("ns.{name}");
        self.record(name, "NS", &format!("{server}.")).a(&server, "127.0.99.99")
    }
}

/// A running name server.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    _running: Running,
}

impl NameServer {
    /// Why there can be no name server here, if so.
    pub fn missing() -> Option<&'static str> {
        peers::program("unbound").is_none().then_some("unbound is not installed")
    }

    /// Starts one on `address` that knows `zone`; everything else does not exist.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started or does not answer.
    pub fn start(directory: &Path, address: SocketAddr, zone: &Zone) -> Result<Self> {
        // A root zone of our own: unbound then resolves as it would the real one, following
        // aliases and delegations, and every name that is not in it does not exist.
        let zone_file = directory.join("root.zone");
        fs::write(
            &zone_file,
            format!(
                ". 1 IN SOA ns.root.test. hostmaster.root.test. 1 3600 600 86400 1\n\
                 . 1 IN NS ns.root.test.\nns.root.test. 1 IN A {}\n\
                 ready.test. 1 IN A 127.0.0.1\n{}",
                address.ip(),
                zone.text
            ),
        )?;
        let config = directory.join("unbound.conf");
        let d = directory.display();
        fs::write(
            &config,
            format!(
                "server:\n  interface: {ip}\n  port: {port}\n  directory: \"{d}\"\n  chroot: \"\"\n\
                 \x20 username: \"\"\n  pidfile: \"\"\n  use-syslog: no\n  logfile: \"\"\n  \
                 verbosity: 1\n  num-threads: 1\n  do-ip6: no\n  do-not-query-localhost: no\n  \
                 module-config: \"iterator\"\n  access-control: 127.0.0.0/8 allow\n  \
                 cache-max-ttl: 1\n  cache-max-negative-ttl: 1\n  local-zone: \"test.\" transparent\n\
                 auth-zone:\n  name: \".\"\n  zonefile: \"{zone}\"\n  for-upstream: yes\n  \
                 for-downstream: no\n  fallback-enabled: no\nremote-control:\n  control-enable: no\n",
                ip = address.ip(),
                port = address.port(),
                zone = zone_file.display(),
            ),
        )?;
        let log = directory.join("unbound.out");
        let running = Running::start(
            Command::new(peers::program("unbound").context("no unbound")?)
                .arg("-d")
                .arg("-c")
                .arg(&config),
            &log,
        )?;
        let server = Self { address, _running: running };
        wait::wait_until("an answer of unbound", wait::SOON, || Ok(server.answers("ready.test")))
            .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it has an A record for `name`.
    fn answers(&self, name: &str) -> bool {
        self.ask(name).is_ok_and(|answer| {
            let has_answer = answer.get(6..8).is_some_and(|count| count != [0, 0]);
            has_answer && answer.get(3).is_some_and(|flags| flags % 16 == 0)
        })
    }

    fn ask(&self, name: &str) -> Result<Vec<u8>> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        // Id 1, recursion desired, one question of type A and class IN.
        let mut question = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            question.push(u8::try_from(label.len())?);
            question.extend_from_slice(label.as_bytes());
        }
        question.extend_from_slice(&[0, 0, 1, 0, 1]);
        socket.send_to(&question, self.address)?;
        let mut answer = vec![0; 1_500];
        let length = socket.recv(&mut answer)?;
        answer.truncate(length);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports;

    #[test]
    fn it_knows_our_zone_and_nothing_else() {
        if let Some(reason) = NameServer::missing() {
            return peers::skip(reason).unwrap();
        }
        let directory = tempfile::tempdir().unwrap();
        let mut zone = Zone::new();
        zone.a("mx.a.test", "127.0.1.1").record("alias.test", "CNAME", "mx.a.test.");
        let server = NameServer::start(directory.path(), ports::reserve().unwrap(), &zone).unwrap();
        assert!(server.answers("mx.a.test"));
        assert!(server.answers("alias.test"), "an alias is followed");
        let absent = server.ask("nowhere.test").unwrap();
        assert_eq!(absent[3] & 0x0f, 3, "NXDOMAIN");
    }
}
