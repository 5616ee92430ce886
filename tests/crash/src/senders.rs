//! A few clients by hand, which know the shard that has taken each message.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ringpost_e2e::injector::{Client, Fate, Reply, Sent};
use ringpost_e2e::message;

/// Connections are spread over the shards by the kernel, by chance: so many are tried until each
/// shard has one.
const ATTEMPTS_MAX: usize = 64;

/// Clients that send a message each in turn, and keep the book.
#[derive(Debug)]
pub struct Senders {
    address: SocketAddr,
    run: String,
    size: usize,
    clients: Vec<Option<Client>>,
    /// The shard that each client has met last.
    met: Vec<Option<u16>>,
    book: Vec<Sent>,
}

/// What came of one message.
#[derive(Debug, Clone)]
pub struct Answered {
    /// Its id.
    pub id: String,
    /// The last reply, or why there is none.
    pub reply: Result<Reply, String>,
    /// The shard that has acknowledged it.
    pub shard: Option<u16>,
}

impl Answered {
    /// The code of the reply, 0 without one.
    pub fn code(&self) -> u16 {
        self.reply.as_ref().map_or(0, |reply| reply.code)
    }
}

impl Senders {
    /// `count` clients of a server, which need not run yet. Prefix of all ids: `run`.
    pub fn new(address: SocketAddr, run: &str, count: usize, size: usize) -> Self {
        let clients = (0..count).map(|_| None).collect();
        let met = vec![None; count];
        Self { address, run: run.to_owned(), size, clients, met, book: Vec::new() }
    }

    /// Each client sends a message; one whose connection is gone makes a new one for it.
    ///
    /// # Errors
    ///
    /// Fails when no connection can be made.
    pub fn round(&mut self) -> Result<Vec<Answered>> {
        (0..self.clients.len()).map(|at| self.send(at)).collect()
    }

    /// The same, but only those clients that are connected to `shard`.
    ///
    /// # Errors
    ///
    /// As [`Senders::round`].
    pub fn round_at(&mut self, shard: u16) -> Result<Vec<Answered>> {
        let at: Vec<_> =
            (0..self.clients.len()).filter(|at| self.met[*at] == Some(shard)).collect();
        at.into_iter().map(|at| self.send(at)).collect()
    }

    fn send(&mut self, at: usize) -> Result<Answered> {
        let id = format!("{}-{}", self.run, self.book.len());
        let mut client = match self.clients[at].take() {
            Some(client) => client,
            None => Client::connect(self.address)?,
        };
        let path = format!("<r0.{id}@example.test>");
        let content = message::build(&id, self.size);
        let reply = client
            .message("<source@source.test>", &[&path], &content)
            .map_err(|error| format!("{error:#}"));
        let fate = match &reply {
            Ok(reply) if reply.code == 250 => Fate::Acked,
            Ok(reply) if reply.code != 421 => Fate::Refused(reply.clone()),
            _ => Fate::Unknown,
        };
        if fate != Fate::Unknown {
            self.clients[at] = Some(client);
        }
        let shard = match (&fate, &reply) {
            (Fate::Acked, Ok(reply)) => Some(shard_of(reply)?),
            _ => None,
        };
        self.met[at] = match fate {
            // The next connection may be to any.
            Fate::Unknown => None,
            _ => shard.or(self.met[at]),
        };
        self.book.push(Sent { id: id.clone(), fate, at: Instant::now() });
        Ok(Answered { id, reply, shard })
    }

    /// Sends messages over ever more connections, until each of so many shards has taken one.
    ///
    /// # Errors
    ///
    /// Fails when one is not met in many attempts, or a message is refused.
    pub fn meet_all_shards(&mut self, shards: usize) -> Result<()> {
        let mut met = BTreeSet::new();
        let mut at = 0;
        while met.len() < shards || at < self.clients.len() {
            ensure!(at < ATTEMPTS_MAX, "{at} connections, and only to {met:?}");
            if at == self.clients.len() {
                self.clients.push(None);
                self.met.push(None);
            }
            let answered = self.send(at)?;
            met.insert(answered.shard.with_context(|| format!("{answered:?}"))?);
            at += 1;
        }
        Ok(())
    }

    /// Drops all connections.
    pub fn hang_up(&mut self) {
        self.clients.fill_with(|| None);
        self.met.fill(None);
    }

    /// What was sent, and what became of it.
    pub fn book(&self) -> &[Sent] {
        &self.book
    }
}

/// The shard in the queue id of `250 ... queued as ID`: the upper 16 of its 64 bits.
fn shard_of(reply: &Reply) -> Result<u16> {
    const DIGITS: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let id = reply.text.rsplit(' ').next().unwrap_or_default();
    let number = id
        .chars()
        .try_fold(0_u64, |number, digit| Some(number << 5 | DIGITS.find(digit)? as u64))
        .with_context(|| format!("no queue id in {reply:?}"))?;
    ensure!(id.len() == 13, "no queue id in {reply:?}");
    Ok((number >> 48) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shard_is_in_the_queue_id() {
        let reply = |text: &str| Reply { code: 250, text: text.to_owned() };
        let queued = |id| shard_of(&reply(&format!("2.0.0 Ok: queued as {id}")));
        assert_eq!(queued("000000000000A").unwrap(), 0);
        assert_eq!(queued("000800000000A").unwrap(), 1);
        assert_eq!(queued("FZZZZZZZZZZZZ").unwrap(), u16::MAX);
        assert!(queued("bye").is_err());
    }
}
