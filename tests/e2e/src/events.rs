//! Reads the event log.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// One record of the event log.
#[derive(Debug, Clone)]
pub struct Event {
    /// `received`, `delivered`, `deferred`, `delayed`, `bounced` or `expired`.
    pub kind: String,
    /// The queue id.
    pub id: String,
    /// The name of the record; the same in a repeat.
    pub record: String,
    /// The recipient, where the record is about one.
    pub forward_path: Option<String>,
    /// All fields.
    pub fields: Value,
}

/// Reads all records, each once: a crash has the last ones written again, and readers know them by name.
///
/// A log that is not there yet has none.
///
/// # Errors
///
/// Fails on any line that is not a whole JSON object with `time`, `type`, `id` and `record`, unless it
/// was cut short, by a crash.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("no {}", path.display())),
    };
    // A reader beside a writer may see half of the last line: it is not there yet.
    let end = bytes.iter().rposition(|octet| *octet == b'\n').map_or(0, |at| at + 1);
    let mut events = parse_lines(&bytes[..end])?;
    let mut known = HashMap::new();
    // Another thing under a name that was there before stays: it is no repeat, but wrong.
    events.retain(|event| match known.entry(event.record.clone()) {
        Entry::Occupied(first) => *first.get() != event.fields,
        Entry::Vacant(entry) => {
            entry.insert(event.fields.clone());
            true
        }
    });
    Ok(events)
}

/// Reads a log piece by piece, each record once.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    offset: u64,
}

impl Tail {
    /// A reader at the beginning of the log at `path`, which need not be there yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), offset: 0 }
    }

    /// The records that have come since the last call.
    ///
    /// # Errors
    ///
    /// As [`read`].
    pub fn read_new(&mut self) -> Result<Vec<Event>> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(error).with_context(|| format!("no {}", self.path.display()));
            }
        };
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let end = bytes.iter().rposition(|octet| *octet == b'\n').map_or(0, |at| at + 1);
        self.offset += end as u64;
        parse_lines(&bytes[..end])
    }
}

fn parse_lines(bytes: &[u8]) -> Result<Vec<Event>> {
    String::from_utf8_lossy(bytes).lines().filter_map(|line| parse(line).transpose()).collect()
}

/// Reads a line; `None` if it was cut short.
fn parse(line: &str) -> Result<Option<Event>> {
    let fields: Value = match serde_json::from_str(line) {
        Ok(fields) => fields,
        Err(error) if error.is_eof() => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("not a record: {line:?}")),
    };
    let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
    ensure!(text("time").is_some_and(|time| time.ends_with('Z')), "no time in {line:?}");
    Ok(Some(Event {
        kind: text("type").with_context(|| format!("no type in {line:?}"))?,
        id: text("id").with_context(|| format!("no id in {line:?}"))?,
        record: text("record").with_context(|| format!("no record in {line:?}"))?,
        forward_path: text("forward_path"),
        fields,
    }))
}

/// Number of different (queue id, recipient) pairs with a record of `kind`.
///
/// The log is complete but may repeat a record, for example after a crash.
pub fn distinct(events: &[Event], kind: &str) -> usize {
    events
        .iter()
        .filter(|event| event.kind == kind)
        .map(|event| (&event.id, &event.forward_path))
        .collect::<HashSet<_>>()
        .len()
}

/// What is wrong with the names of records: one that stands for two things, and messages that were never
/// received.
pub fn misnamed(events: &[Event]) -> Vec<String> {
    let mut ledger = Ledger::default();
    ledger.add(events);
    ledger.misnamed()
}

/// What a long event log says, kept small: the records themselves are not.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Records read, repeats included.
    pub read: usize,
    /// A hash of the fields of each record, by its name.
    known: HashMap<String, u64>,
    received: HashSet<String>,
    /// The queue ids that other things are said of.
    mentioned: HashSet<String>,
    /// The ids of test messages called delivered.
    delivered: HashSet<String>,
    wrong: Vec<String>,
}

impl Ledger {
    /// Takes further records.
    pub fn add(&mut self, events: &[Event]) {
        self.read += events.len();
        for event in events {
            let mut hasher = DefaultHasher::new();
            event.fields.to_string().hash(&mut hasher);
            let hash = hasher.finish();
            if *self.known.entry(event.record.clone()).or_insert(hash) != hash {
                self.wrong.push(format!("two things are called {}", event.record));
            }
            match event.kind.as_str() {
                "received" => drop(self.received.insert(event.id.clone())),
                "purged" => {}
                _ => drop(self.mentioned.insert(event.id.clone())),
            }
        }
        self.delivered.extend(delivered_test_ids(events));
    }

    /// Records that say what others have said.
    pub fn repeats(&self) -> usize {
        self.read - self.known.len()
    }

    /// Whether a test message has been called delivered.
    pub fn has_delivered(&self, id: &str) -> bool {
        self.delivered.contains(id)
    }

    /// See [`misnamed`].
    pub fn misnamed(&self) -> Vec<String> {
        let orphans = self.mentioned.difference(&self.received);
        let orphans = orphans.map(|id| format!("{id} was never received"));
        self.wrong.iter().cloned().chain(orphans).collect()
    }
}

/// The ids of test messages called delivered, read from recipients like `r0.ID@domain`.
pub fn delivered_test_ids(events: &[Event]) -> HashSet<String> {
    events
        .iter()
        .filter(|event| event.kind == "delivered")
        .filter_map(|event| {
            let path = event.forward_path.as_deref()?.trim_start_matches('<');
            let (local_part, _) = path.split_once('@')?;
            Some(local_part.split_once('.')?.1.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_is_not_there_yet_and_half_a_record_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events");
        assert_eq!(read(&path).unwrap().len(), 0);
        let record = r#"{"time":"2026-11-22T12:00:00.000Z","type":"delivered","id":"q1","record":"q1.0","forward_path":"<r0.run-7@a.test>"}"#;
        fs::write(&path, format!("{record}\n{record}\n{{\"time\"")).unwrap();
        let events = read(&path).unwrap();
        assert_eq!(events.len(), 1, "a repeat is known by its name");
        assert_eq!(distinct(&events, "delivered"), 1);
        assert_eq!(distinct(&events, "bounced"), 0);
        assert!(delivered_test_ids(&events).contains("run-7"));
        let mut tail = Tail::new(&path);
        assert_eq!(tail.read_new().unwrap().len(), 2);
        fs::write(&path, format!("{record}\n{record}\n{record}\n")).unwrap();
        assert_eq!(tail.read_new().unwrap().len(), 1);
        assert_eq!(tail.read_new().unwrap().len(), 0);
        assert_eq!(misnamed(&events), ["q1 was never received"]);
        let other = record.replace("delivered", "bounced");
        fs::write(&path, format!("{record}\n{other}\n{record}\n")).unwrap();
        let kinds: Vec<_> = read(&path).unwrap().into_iter().map(|event| event.kind).collect();
        assert_eq!(kinds, ["delivered", "bounced"], "another thing under the same name stays");
        fs::write(&path, format!("{{\"time\"\n{record}\n")).unwrap();
        assert_eq!(read(&path).unwrap().len(), 1, "a crash has cut the first one short");
        fs::write(&path, "{\"time\"}\n").unwrap();
        assert!(read(&path).is_err());
    }

    #[test]
    fn two_things_with_one_name_are_noticed() {
        let event = |kind: &str, id: &str, record: &str| Event {
            kind: kind.to_owned(),
            id: id.to_owned(),
            record: record.to_owned(),
            forward_path: None,
            fields: serde_json::json!({ "type": kind }),
        };
        let received = event("received", "q1", "q1");
        let delivered = event("delivered", "q1", "q1.0");
        let log = [received.clone(), delivered.clone(), received.clone(), delivered];
        assert_eq!(misnamed(&log), Vec::<String>::new());
        assert_eq!(misnamed(&[received, event("bounced", "q1", "q1")]).len(), 1);
    }
}
