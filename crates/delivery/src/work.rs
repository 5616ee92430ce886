//! Recipients of one message on their way to one place.

use std::time::Duration;

use ringpost_protocol::priority::Priority;
use ringpost_queue::{MessageId, RecipientIndex};

use crate::clock::Stamp;

/// Index of a destination in the engine's table; below 2³¹.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DestinationId(pub(crate) u32);

/// A recipient that is not settled yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recipient {
    pub(crate) index: RecipientIndex,
    /// Attempts made so far.
    pub(crate) attempts: u16,
    /// The destination, and in the last bit whether the originator was told of the delay.
    place: u32,
}

impl Recipient {
    pub(crate) fn new(
        index: RecipientIndex,
        attempts: u16,
        destination: DestinationId,
        warned: bool,
    ) -> Self {
        Self { index, attempts, place: destination.0 << 1 | u32::from(warned) }
    }

    pub(crate) fn destination(self) -> DestinationId {
        DestinationId(self.place >> 1)
    }

    /// Whether the originator was told of the delay.
    pub(crate) fn is_warned(self) -> bool {
        self.place & 1 == 1
    }

    /// The same after another attempt, or a warning.
    pub(crate) fn with(self, attempts: u16, warned: bool) -> Self {
        Self::new(self.index, attempts, self.destination(), warned)
    }
}

/// Recipients, without an allocation for the usual one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recipients {
    One(Recipient),
    Many(Box<[Recipient]>),
}

impl Recipients {
    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn as_slice(&self) -> &[Recipient] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Recipient> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many.into_vec(),
        }
    }
}

impl Default for Recipients {
    fn default() -> Self {
        Self::Many(Box::default())
    }
}

impl From<Vec<Recipient>> for Recipients {
    fn from(recipients: Vec<Recipient>) -> Self {
        match *recipients {
            [one] => Self::One(one),
            _ => Self::Many(recipients.into()),
        }
    }
}

/// What the time in which a message is to be delivered (RFC 2852) means for its work, in four octets: there
/// are millions of works, and next to none has such a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByTime(u32);

impl ByTime {
    /// Nothing was said of a time.
    pub(crate) const NONE: Self = Self(u32::MAX);
    /// The time is the expiry, and nothing is tried from then on.
    pub(crate) const RETURN: Self = Self(u32::MAX - 1);

    /// The originator is to be told at that time that the message is late. Whole seconds, rounded up.
    pub(crate) fn notify(since: Stamp, by: Stamp) -> Self {
        let seconds = by.0.saturating_sub(since.0).div_ceil(1000);
        Self(u32::try_from(seconds).unwrap_or(u32::MAX).min(u32::MAX - 2))
    }

    /// When the originator is to be told.
    pub(crate) fn notify_at(self, since: Stamp) -> Option<Stamp> {
        let is_notify = !matches!(self, Self::NONE | Self::RETURN);
        is_notify.then(|| since.after(Duration::from_secs(self.0.into())))
    }
}

/// Recipients of one message that travel together.
///
/// Work is moved, never copied: it is in the due wheel, waits for DNS, waits at a site, is in
/// the hands of a connection, or is being settled. So each recipient is in one place, and each
/// attempt is settled once.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) message: MessageId,
    /// From when lifetimes and delays count: when it was received, or let go.
    pub(crate) since: Stamp,
    /// When the message is given up, whatever the lifetime of a route.
    pub(crate) expiry: Stamp,
    pub(crate) recipients: Recipients,
    /// How often a connection died under it before it was tried.
    pub(crate) returns: u8,
    pub(crate) priority: Priority,
    pub(crate) by: ByTime,
}

impl Work {
    /// Whether it may not be tried any more.
    pub(crate) fn is_over(&self, now: Stamp) -> bool {
        self.by == ByTime::RETURN && self.expiry <= now
    }

    /// Calls `part` with the parts of one destination each.
    pub(crate) fn by_destination(self, mut part: impl FnMut(Self)) {
        let recipients = self.recipients.as_slice();
        let Some(first) = recipients.first() else { return };
        if recipients.iter().all(|one| one.destination() == first.destination()) {
            return part(self);
        }
        let mut work = self;
        let mut recipients = std::mem::take(&mut work.recipients).into_vec();
        recipients.sort_by_key(|recipient| recipient.destination());
        for group in recipients.chunk_by(|one, next| one.destination() == next.destination()) {
            part(work.with(group.to_vec()));
        }
    }

    /// The same message with other recipients.
    pub(crate) fn with(&self, recipients: Vec<Recipient>) -> Self {
        Self {
            message: self.message,
            since: self.since,
            expiry: self.expiry,
            recipients: recipients.into(),
            returns: self.returns,
            priority: self.priority,
            by: self.by,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_small() {
        // Millions of these wait for a destination that is down.
        assert!(size_of::<Work>() <= 48, "{}", size_of::<Work>());
        assert_eq!(size_of::<Recipient>(), 8);
    }

    #[test]
    fn the_time_of_a_work_is_in_seconds_from_when_it_counts() {
        for (by, expected) in [(0, 5_000), (5_000, 5_000), (5_001, 6_000), (65_000, 65_000)] {
            let time = ByTime::notify(Stamp(5_000), Stamp(by));
            assert_eq!(time.notify_at(Stamp(5_000)), Some(Stamp(expected)));
        }
        let endless = ByTime::notify(Stamp(0), Stamp(u64::MAX));
        assert!(endless.notify_at(Stamp(0)) > Some(Stamp(1 << 40)));
        assert_eq!(ByTime::NONE.notify_at(Stamp(0)), None);
        assert_eq!(ByTime::RETURN.notify_at(Stamp(0)), None);
    }

    #[test]
    fn a_recipient_keeps_what_it_was_made_of() {
        let recipient = Recipient::new(RecipientIndex(7), 3, DestinationId(99), false);
        assert_eq!((recipient.destination(), recipient.is_warned()), (DestinationId(99), false));
        let warned = recipient.with(4, true);
        assert_eq!((warned.destination(), warned.is_warned()), (DestinationId(99), true));
        assert_eq!((warned.index, warned.attempts), (RecipientIndex(7), 4));
    }
}
