//! Work of which the queue has removed recipients: forgotten a little at a time.
//!
//! A pass goes over all places in the order in which work moves on: what moves while the pass is under
//! way is met again further on. What a connection has in its hands is not seen, nor what it gives back
//! to a place behind the pass. Such work is narrowed when its turn comes, or the driver sees an attempt
//! for a recipient that is not in the queue deferred, and asks for another pass.

use ringpost_queue::due::DueCursor;
use ringpost_queue::{MessageId, RecipientIndex};

use super::Engine;
use crate::destination::Destinations;
use crate::site::SiteId;
use crate::waiting::Cursor;
use crate::work::{DestinationId, Recipient, Recipients, Work};

/// How far a pass has come.
#[derive(Debug)]
pub(super) struct Pass {
    at: At,
    /// Another one is to follow, because something may have been missed.
    again: bool,
}

#[derive(Debug)]
enum At {
    Due(DueCursor),
    /// Work whose way is to be found anew; the next block.
    Astray(i64),
    /// How much of what waits for a destination has been seen.
    Destination(DestinationId, Cursor),
    Site(SiteId, Cursor),
}

/// Recipients looked at in one step, and places; up to a block of work more.
const SEEN_PER_STEP: usize = 256;

impl Pass {
    fn new() -> Self {
        Self { at: At::Due(DueCursor::default()), again: false }
    }
}

impl Engine {
    /// Begins a pass over all work that waits, to forget recipients that have left the queue; it is
    /// made by [`forget_some`](Self::forget_some). Returns `false` when one is under way already: then
    /// another one follows it.
    pub fn begin_forgetting(&mut self) -> bool {
        self.forget_again();
        let begins = self.forgetting.is_none();
        self.forgetting.get_or_insert_with(Pass::new);
        begins
    }

    /// Has a pass that is under way followed by another one.
    pub(super) fn forget_again(&mut self) {
        if let Some(pass) = &mut self.forgetting {
            pass.again = true;
        }
    }

    /// Goes on with a pass, a bounded step at a time: forgets the recipients of which `is_queued` says
    /// that they are not in the queue any more. Returns whether there is more to do.
    pub fn forget_some(
        &mut self,
        mut is_queued: impl FnMut(MessageId, RecipientIndex) -> bool,
    ) -> bool {
        let Some(mut pass) = self.forgetting.take() else { return false };
        let mut seen = 0;
        while seen < SEEN_PER_STEP {
            let more = self.forget_at(&mut pass.at, &mut is_queued);
            match more {
                Some(more) => seen += more.max(1),
                None if pass.again => pass = Pass::new(),
                None => return false,
            }
        }
        self.forgetting = Some(pass);
        true
    }

    /// Looks at one block of work, and moves on; how many recipients it has seen, `None` at the end.
    fn forget_at(
        &mut self,
        at: &mut At,
        is_queued: &mut impl FnMut(MessageId, RecipientIndex) -> bool,
    ) -> Option<usize> {
        let destinations = &mut self.destinations;
        match at {
            At::Due(cursor) => {
                let (mut before, mut after) = (0, 0);
                let seen = self.due.retain_some(cursor, |work| {
                    before += work.recipients.len();
                    forget(work, destinations, is_queued);
                    after += work.recipients.len();
                    !work.recipients.is_empty()
                });
                self.deferred = self.deferred.saturating_sub(before - after);
                if seen.is_none() {
                    *at = At::Astray(self.astray.blocks().start);
                }
                Some(before)
            }
            At::Astray(block) => {
                let blocks = self.astray.blocks();
                let next = (*block).max(blocks.start);
                if next >= blocks.end {
                    *at = At::Destination(DestinationId(0), Cursor::default());
                    return Some(0);
                }
                *block = next + 1;
                let mut before = 0;
                self.astray.retain(next, |work| {
                    before += work.recipients.len();
                    forget(work, destinations, is_queued);
                    !work.recipients.is_empty()
                });
                Some(before)
            }
            At::Destination(id, _) if id.0 >= destinations.bound() => {
                *at = At::Site(SiteId(0), Cursor::default());
                Some(0)
            }
            At::Destination(id, cursor) => {
                // The way to its work leads through the table in which it is counted.
                let mut waiting = destinations
                    .get_mut(*id)
                    .map(|destination| std::mem::take(&mut destination.waiting))
                    .unwrap_or_default();
                let seen =
                    waiting.retain_some(cursor, |work| forget(work, destinations, is_queued));
                if let Some(destination) = destinations.get_mut(*id) {
                    destination.waiting = waiting;
                }
                if seen.is_none() {
                    *at = At::Destination(DestinationId(id.0 + 1), Cursor::default());
                }
                Some(seen.unwrap_or_default())
            }
            At::Site(id, _) if id.0 >= self.sites.bound() => None,
            At::Site(id, cursor) => {
                let seen = self.sites.get_mut(id.0).and_then(|site| {
                    let keep = |work: &mut Work| forget(work, destinations, is_queued);
                    site.ready.retain_some(cursor, keep)
                });
                if seen.is_none() {
                    *at = At::Site(SiteId(id.0 + 1), Cursor::default());
                }
                Some(seen.unwrap_or_default())
            }
        }
    }
}

/// Takes the recipients away that are not in the queue any more.
fn forget(
    work: &mut Work,
    destinations: &mut Destinations,
    is_queued: &mut impl FnMut(MessageId, RecipientIndex) -> bool,
) {
    let message = work.message;
    let mut stays = |recipient: &Recipient| is_queued(message, recipient.index);
    if work.recipients.as_slice().iter().all(&mut stays) {
        return;
    }
    let mut left = std::mem::take(&mut work.recipients).into_vec();
    left.retain(|recipient| {
        let stays = stays(recipient);
        if !stays {
            destinations.remove_recipient(recipient.destination());
        }
        stays
    });
    work.recipients = Recipients::from(left);
}
