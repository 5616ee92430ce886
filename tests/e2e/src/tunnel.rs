//! TLS for clients that speak plain SMTP: `openssl s_client` between them and the server.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result};

/// Listens on the loopback; each connection goes to the server in a TLS session of its own.
///
/// It listens for as long as the process lives: a test makes few of them.
#[derive(Debug)]
pub struct Tunnel {
    address: SocketAddr,
}

impl Tunnel {
    /// TLS from the first octet.
    ///
    /// # Errors
    ///
    /// Fails when there is no port, or no openssl.
    pub fn implicit(server: SocketAddr) -> Result<Self> {
        Self::start(server, &[])
    }

    /// TLS by STARTTLS. The server says nothing after the handshake, so the greeting is the tunnel's.
    ///
    /// # Errors
    ///
    /// As [`Tunnel::implicit`].
    pub fn starttls(server: SocketAddr) -> Result<Self> {
        Self::start(server, &["-starttls", "smtp"])
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn start(server: SocketAddr, arguments: &'static [&'static str]) -> Result<Self> {
        Command::new("openssl").arg("version").output().context("cannot run openssl")?;
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client whose tunnel fails is closed, and says so.
                drop(connect(stream, server, arguments));
            }
        });
        Ok(Self { address })
    }
}

fn connect(mut client: TcpStream, server: SocketAddr, arguments: &[&str]) -> Result<()> {
    client.set_nodelay(true)?;
    let mut child = Command::new("openssl")
        .args(["s_client", "-quiet", "-connect", &server.to_string()])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run openssl")?;
    let (mut to, mut from) =
        (child.stdin.take().context("no stdin")?, child.stdout.take().context("no stdout")?);
    if !arguments.is_empty() {
        client.write_all(b"220 tunnel\r\n")?;
    }
    let mut back = client.try_clone()?;
    thread::spawn(move || drop(copy(&mut client, &mut to)));
    thread::spawn(move || {
        drop(copy(&mut from, &mut back));
        drop(back.shutdown(Shutdown::Both));
        end(child);
    });
    Ok(())
}

/// Copies what is there, without waiting for more.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut block = [0; 16 * 1024];
    loop {
        let count = from.read(&mut block)?;
        let Some(octets) = block.get(..count).filter(|octets| !octets.is_empty()) else {
            return Ok(());
        };
        to.write_all(octets)?;
        to.flush()?;
    }
}

fn end(mut child: Child) {
    drop(child.kill());
    drop(child.wait());
}
