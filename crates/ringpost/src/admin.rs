//! The commands that ask a running server, through the socket in its queue directory.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cli::{FlushFilter, PurgeFilter};
use crate::config::{self, SystemFacts};
use crate::control::admin::{PurgeOrder, PurgeSummary, QueueSummary, SOCKET_FILE};
use crate::control::flush::{FlushOrder, FlushSummary};
use crate::runtime::system_unix_ms;

/// How long the server may take for an answer: longer than its shards may.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Octets of an answer that are read.
const ANSWER_SIZE_MAX: u64 = 16 << 20;

/// What `ringpost queue status` prints.
///
/// # Errors
///
/// When the configuration cannot be read, or no server answers that uses its queue.
pub fn status(config: &Path, json: bool) -> Result<String> {
    let answer = ask(config, "GET", "/queue/summary", "")?;
    if json {
        return Ok(answer);
    }
    let summary = serde_json::from_str(&answer).context("the server's answer cannot be read")?;
    Ok(table(&summary))
}

/// What `ringpost queue purge` does and prints.
///
/// # Errors
///
/// When the configuration cannot be read, no server answers that uses its queue, or a shard has not
/// done it.
pub fn purge(config: &Path, what: &PurgeFilter) -> Result<String> {
    let before = what.older_than.map(|age| {
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        system_unix_ms().saturating_sub(age)
    });
    let order =
        PurgeOrder { all: what.all, domain: what.domain.clone(), received_before_unix_ms: before };
    let answer = ask(config, "POST", "/queue/purge", &serde_json::to_string(&order)?)?;
    let summary: PurgeSummary =
        serde_json::from_str(&answer).context("the server's answer cannot be read")?;
    let mut failures = Vec::new();
    let (mut recipients, mut messages) = (0, 0);
    for shard in &summary.shards {
        recipients += shard.recipients;
        messages += shard.messages;
        if let Some(error) = &shard.error {
            failures.push(format!("shard {}: {error}", shard.shard));
        }
    }
    let done = format!("removed {recipients} recipient(s), and {messages} message(s) with them");
    if !failures.is_empty() {
        bail!("{done}, but not everywhere:\n{}", failures.join("\n"));
    }
    Ok(format!("{done}\n"))
}

/// What `ringpost queue flush` does and prints.
///
/// # Errors
///
/// When the configuration cannot be read, no server answers that uses its queue, or a shard has not
/// done it.
pub fn flush(config: &Path, what: &FlushFilter) -> Result<String> {
    let order =
        FlushOrder { all: what.all, domain: what.domain.clone(), subdomains: what.subdomains };
    let answer = ask(config, "POST", "/queue/flush", &serde_json::to_string(&order)?)?;
    let summary: FlushSummary =
        serde_json::from_str(&answer).context("the server's answer cannot be read")?;
    let mut failures = Vec::new();
    let mut recipients = 0;
    for shard in &summary.shards {
        recipients += shard.recipients;
        if let Some(error) = &shard.error {
            failures.push(format!("shard {}: {error}", shard.shard));
        }
    }
    let done = format!("trying {recipients} recipient(s) now");
    if !failures.is_empty() {
        bail!("{done}, but not everywhere:\n{}", failures.join("\n"));
    }
    Ok(format!("{done}\n"))
}

/// Sends a request to the server that uses the queue of a configuration; its answer.
fn ask(config: &Path, method: &str, path: &str, body: &str) -> Result<String> {
    let snapshot = config::load(config, &SystemFacts::read())?;
    let socket = snapshot.config().queue.directory.join(SOCKET_FILE);
    let mut stream = UnixStream::connect(&socket).with_context(|| {
        format!("no server answers at {}: does it run, and may you talk to it?", socket.display())
    })?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: ringpost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).context("cannot ask the server")?;
    let mut answer = String::new();
    stream.take(ANSWER_SIZE_MAX).read_to_string(&mut answer).context("no answer came")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is cut off")?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        status => bail!("the server answers {}: {}", status.unwrap_or("nothing"), body.trim()),
    }
}

/// The summary for a person.
fn table(summary: &QueueSummary) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{:>5}  {:<11}{:>12}{:>12}{:>10}{:>12}{:>12}",
        "shard", "state", "messages", "recipients", "segments", "log", "of at most"
    );
    let mib = |bytes: u64| format!("{} MiB", bytes.div_ceil(1 << 20));
    let mut total = [0; 4];
    for shard in &summary.shards {
        let Some(queue) = &shard.queue else {
            let _ = writeln!(out, "{:>5}  {:<11}  does not answer", shard.shard, shard.state);
            continue;
        };
        let numbers = [queue.messages, queue.recipients, queue.segments, queue.bytes];
        for (sum, number) in total.iter_mut().zip(numbers) {
            *sum += number;
        }
        let _ = writeln!(
            out,
            "{:>5}  {:<11}{:>12}{:>12}{:>10}{:>12}{:>12}",
            shard.shard,
            shard.state,
            queue.messages,
            queue.recipients,
            queue.segments,
            mib(queue.bytes),
            mib(queue.bytes_max)
        );
    }
    let [messages, recipients, segments, bytes] = total;
    let _ = writeln!(
        out,
        "{:>5}  {:<11}{messages:>12}{recipients:>12}{segments:>10}{:>12}",
        "all",
        "",
        mib(bytes)
    );
    for reason in &summary.reasons {
        let _ = writeln!(out, "{reason}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::admin::{ShardQueue, ShardSummary};

    #[test]
    fn the_table_has_a_line_for_each_shard_a_sum_and_what_is_wrong() {
        let queue = ShardQueue {
            messages: 12,
            recipients: 34,
            segments: 2,
            bytes: 3 << 20,
            bytes_max: 1 << 30,
            live_bytes: 9,
        };
        let shard = |number, state: &str, queue| ShardSummary {
            shard: number,
            state: state.to_owned(),
            reason: None,
            queue,
        };
        let summary = QueueSummary {
            shards: vec![
                shard(0, "open", Some(queue.clone())),
                shard(1, "open", Some(queue)),
                shard(2, "poisoned", None),
            ],
            reasons: vec!["shard 2 is poisoned: EIO".to_owned()],
        };
        let expected = "\
shard  state          messages  recipients  segments         log  of at most
    0  open                 12          34         2       3 MiB    1024 MiB
    1  open                 12          34         2       3 MiB    1024 MiB
    2  poisoned     does not answer
  all                       24          68         4       6 MiB
shard 2 is poisoned: EIO
";
        assert_eq!(table(&summary), expected);
    }
}
