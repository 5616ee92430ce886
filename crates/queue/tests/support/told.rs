//! Event records in the model: which have to be told, and what the file has to which they are told.

use std::collections::BTreeSet;

use ringpost_queue::{EventRecords, Lsn, Ticket};

use super::{Choices, Driver};

/// A writer of event records, and what is known of them. Each record is a number.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    choices: Choices,
    next: u64,
    /// Appended with these, and not known to be durable.
    pending: Vec<(Ticket, Vec<u64>)>,
    /// Durable, and to be told.
    must: BTreeSet<u64>,
    /// On the way to the file, with the frame up to which they are all.
    unsynced: Vec<(Lsn, Vec<u64>)>,
    /// In the file, for good.
    file: BTreeSet<u64>,
    given_up: u64,
    /// The writer says that it has written what it has not: the fault that the model must find.
    pub(crate) is_lying: bool,
}

impl Told {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            choices: Choices::new(seed ^ 0xE7E2),
            next: 0,
            pending: Vec::new(),
            must: BTreeSet::new(),
            unsynced: Vec::new(),
            file: BTreeSet::new(),
            given_up: 0,
            is_lying: false,
        }
    }

    /// How many records are in the file.
    pub(crate) fn in_file(&self) -> usize {
        self.file.len()
    }

    /// Some new records, encoded.
    pub(crate) fn some(&mut self, count: usize) -> (Vec<u64>, Vec<u8>) {
        let numbers: Vec<_> = (self.next..).take(count).collect();
        self.next += count as u64;
        let octets = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        (numbers, octets)
    }

    pub(crate) fn appended(&mut self, ticket: Ticket, numbers: Vec<u64>) {
        self.pending.push((ticket, numbers));
    }

    /// Takes what has become durable, and sometimes lets the writer work.
    pub(crate) fn work(&mut self, driver: &mut Driver) {
        let durable = driver.queue.durable_through();
        let pending = std::mem::take(&mut self.pending);
        for (ticket, numbers) in pending {
            if ticket.batch() > durable {
                self.pending.push((ticket, numbers));
                continue;
            }
            self.must.extend(&numbers);
            // What is to be read back comes from there in its turn.
            if !driver.queue.has_events_to_read() {
                self.unsynced.push((driver.queue.durable_lsn(), numbers));
            }
        }
        self.look_for_given_up(driver);
        if driver.storage.is_crashed() {
            return;
        }
        match self.choices.below(8) {
            0..=2 => self.sync(driver),
            3 => {
                // The file could not be synced: what has been written since the last time is gone.
                self.unsynced.clear();
                driver.queue.read_events_after(Lsn(0));
            }
            4..=6 => self.read_back(driver),
            _ => {}
        }
    }

    fn sync(&mut self, driver: &mut Driver) {
        let Some((through, _)) = self.unsynced.last() else { return };
        driver.queue.mark_events(*through);
        for (_, numbers) in self.unsynced.drain(..) {
            if !self.is_lying {
                self.file.extend(numbers);
            }
        }
    }

    fn read_back(&mut self, driver: &mut Driver) {
        for _ in 0..2 {
            let Some(read) = driver.queue.poll_events() else { return };
            let bytes = driver.read_octets(read.segment, read.offset, read.len);
            let Ok(found) = driver.queue.handle_events(&read, bytes) else { return };
            let numbers = numbers(&found.octets);
            assert_eq!(numbers.len() as u64, found.count);
            self.unsynced.push((found.through, numbers));
        }
    }

    /// What has been given up need not be told.
    pub(crate) fn look_for_given_up(&mut self, driver: &Driver) {
        let given_up = driver.queue.stats().event_records_given_up_total;
        if given_up > self.given_up {
            self.given_up = given_up;
            self.must.clear();
        }
    }

    /// Holds what a restart can read back against what has to be told.
    pub(crate) fn restart(&mut self, readable: &BTreeSet<u64>) -> Result<(), String> {
        // Of what was on its way some has come to the file.
        let arrived = self.choices.below(self.unsynced.len() + 1);
        for (_, numbers) in self.unsynced.drain(..).take(arrived) {
            if !self.is_lying {
                self.file.extend(numbers);
            }
        }
        self.pending.clear();
        self.given_up = 0;
        let file = &self.file;
        self.must.retain(|number| !file.contains(number));
        if let Some(lost) = self.must.iter().find(|number| !readable.contains(number)) {
            return Err(format!("event record {lost} is lost"));
        }
        match readable.last() {
            Some(last) if *last >= self.next => Err(format!("event record {last} was invented")),
            _ => Ok(()),
        }
    }
}

pub(crate) fn records<'a>(numbers: &[u64], octets: &'a [u8]) -> EventRecords<'a> {
    EventRecords { count: numbers.len() as u32, octets }
}

pub(crate) fn numbers(octets: &[u8]) -> Vec<u64> {
    let (numbers, rest) = octets.as_chunks();
    assert!(rest.is_empty(), "whole records only");
    numbers.iter().map(|number| u64::from_le_bytes(*number)).collect()
}
