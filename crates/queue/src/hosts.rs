//! The hosts at which queued recipients have their mailboxes, each kept once.

use std::collections::BTreeMap;

use ringpost_protocol::address::Host;

/// A host, within one run of the process and only while it has recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostId(pub(crate) u32);

impl HostId {
    /// No host: `<Postmaster>` without a domain (RFC 5321 §4.5.1).
    pub const NONE: Self = Self(u32::MAX);
}

/// All hosts with queued recipients.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    slots: Vec<Slot>,
    free: Vec<u32>,
    ids: BTreeMap<Host, u32>,
}

#[derive(Debug)]
struct Slot {
    host: Option<Host>,
    recipients: u64,
}

impl Hosts {
    /// The id of a host, with one more recipient there.
    pub(crate) fn acquire(&mut self, host: Option<&Host>) -> HostId {
        let Some(host) = host else { return HostId::NONE };
        if let Some(id) = self.ids.get(host) {
            let id = HostId(*id);
            self.add(id);
            return id;
        }
        let slot = Slot { host: Some(host.clone()), recipients: 1 };
        let number = self.free.pop().unwrap_or(self.slots.len() as u32);
        match self.slots.get_mut(number as usize) {
            Some(place) => *place = slot,
            None => self.slots.push(slot),
        }
        self.ids.insert(host.clone(), number);
        HostId(number)
    }

    /// Counts one more recipient at a host that has some.
    pub(crate) fn add(&mut self, id: HostId) {
        if let Some(slot) = self.slots.get_mut(id.0 as usize) {
            slot.recipients += 1;
        }
    }

    /// Counts one recipient less; without any, the host is forgotten.
    pub(crate) fn release(&mut self, id: HostId) {
        let Some(slot) = self.slots.get_mut(id.0 as usize) else { return };
        slot.recipients = slot.recipients.saturating_sub(1);
        if slot.recipients == 0
            && let Some(host) = slot.host.take()
        {
            self.ids.remove(&host);
            self.free.push(id.0);
        }
    }

    pub(crate) fn get(&self, id: HostId) -> Option<&Host> {
        self.slots.get(id.0 as usize)?.host.as_ref()
    }

    pub(crate) fn find(&self, host: &Host) -> Option<HostId> {
        self.ids.get(host).copied().map(HostId)
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap()
    }

    #[test]
    fn a_host_is_kept_once_and_only_while_it_has_recipients() {
        let mut hosts = Hosts::default();
        let one = hosts.acquire(Some(&host("one.test")));
        let two = hosts.acquire(Some(&host("two.test")));
        assert_eq!(hosts.acquire(Some(&host("ONE.test"))), one);
        assert_ne!(one, two);
        assert_eq!(hosts.get(one), Some(&host("one.test")));
        hosts.release(one);
        assert_eq!(hosts.find(&host("one.test")), Some(one));
        hosts.release(one);
        assert_eq!((hosts.find(&host("one.test")), hosts.get(one)), (None, None));
        assert_eq!(hosts.len(), 1);
        // The number is used again, for another one.
        let three = hosts.acquire(Some(&host("three.test")));
        assert_eq!((three, hosts.get(three)), (one, Some(&host("three.test"))));
        // One too many does no harm.
        hosts.release(two);
        hosts.release(two);
        assert_eq!(hosts.len(), 1);
    }

    #[test]
    fn no_host_is_no_host() {
        let mut hosts = Hosts::default();
        let none = hosts.acquire(None);
        assert_eq!((none, hosts.get(none), hosts.len()), (HostId::NONE, None, 0));
        hosts.add(none);
        hosts.release(none);
    }
}
