//! What a client wants to be told of its message: the parameters of the DSN extension (RFC 3461).

use std::collections::{BTreeMap, btree_map::Entry};
use std::fmt;

use crate::path::ForwardPath;

#[cfg(test)]
mod tests;
mod text;
pub(crate) mod utf8;

pub use text::{EnvelopeId, OriginalRecipient, decode_xtext, encode_xtext};

/// What `RET=` asks for: how much of the message a report of failure returns (RFC 3461 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Return {
    /// `FULL`: the whole message.
    Full,
    /// `HDRS`: its header section.
    Headers,
}

impl Return {
    /// The value as it stands after `RET=`.
    pub fn keyword(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Headers => "HDRS",
        }
    }

    /// Reads the value of `RET=`, in any case; `None` for any other.
    pub fn from_keyword(text: &str) -> Option<Self> {
        [Self::Full, Self::Headers].into_iter().find(|one| one.keyword().eq_ignore_ascii_case(text))
    }
}

impl fmt::Display for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.keyword())
    }
}

/// What `NOTIFY=` asks for: of which ends of a recipient the originator is told (RFC 3461 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "the RFC has these three, and NEVER is none of them")]
pub struct Notify {
    /// `SUCCESS`: that the message was delivered, or went to a host that will not tell.
    pub success: bool,
    /// `FAILURE`: that it will not be delivered.
    pub failure: bool,
    /// `DELAY`: that it was not delivered yet.
    pub delay: bool,
}

impl Notify {
    /// `NEVER`: of nothing.
    pub const NEVER: Self = Self { success: false, failure: false, delay: false };

    /// What holds for a recipient without the parameter: failures, and delays where they are told at
    /// all.
    pub const DEFAULT: Self = Self { success: false, failure: true, delay: true };

    /// Reads the value of `NOTIFY=`, in any case: `NEVER` alone, or any of `SUCCESS`, `FAILURE` and
    /// `DELAY` with commas between them. `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        if text.eq_ignore_ascii_case("NEVER") {
            return Some(Self::NEVER);
        }
        let mut notify = Self::NEVER;
        for word in text.split(',') {
            let (_, flag) =
                notify.flags_mut().into_iter().find(|(name, _)| word.eq_ignore_ascii_case(name))?;
            *flag = true;
        }
        Some(notify)
    }

    /// All that one of two tells of; `None` is the default there, and where it comes to that.
    fn union(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        let is_said = one.is_some() && other.is_some();
        let (one, other) = (one.unwrap_or(Self::DEFAULT), other.unwrap_or(Self::DEFAULT));
        let both = Self {
            success: one.success | other.success,
            failure: one.failure | other.failure,
            delay: one.delay | other.delay,
        };
        (is_said || both != Self::DEFAULT).then_some(both)
    }

    /// As a number from 0 to 7, for storage.
    pub fn to_bits(self) -> u8 {
        u8::from(self.success) | u8::from(self.failure) << 1 | u8::from(self.delay) << 2
    }

    /// From what [`to_bits`](Self::to_bits) gave; `None` for other numbers.
    pub fn from_bits(bits: u8) -> Option<Self> {
        let bit = |number: u8| bits & (1 << number) != 0;
        (bits < 8).then(|| Self { success: bit(0), failure: bit(1), delay: bit(2) })
    }

    fn flags_mut(&mut self) -> [(&'static str, &mut bool); 3] {
        [("SUCCESS", &mut self.success), ("FAILURE", &mut self.failure), ("DELAY", &mut self.delay)]
    }
}

/// The value as it stands after `NOTIFY=`.
impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut copy = *self;
        let mut comma = "";
        for (name, flag) in copy.flags_mut() {
            if *flag {
                write!(f, "{comma}{name}")?;
                comma = ",";
            }
        }
        if comma.is_empty() { f.write_str("NEVER") } else { Ok(()) }
    }
}

/// What RCPT has said about one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct RecipientDsn {
    /// `NOTIFY=`.
    pub notify: Option<Notify>,
    /// `ORCPT=`.
    pub original: Option<OriginalRecipient>,
}

impl RecipientDsn {
    /// Makes the parameters of a recipient.
    pub fn new(notify: Option<Notify>, original: Option<OriginalRecipient>) -> Self {
        Self { notify, original }
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.notify.is_none() && self.original.is_none()
    }

    /// What ORCPT says towards the next hop: what came, or for a recipient with a NOTIFY the address in
    /// the RCPT that came (RFC 3461 §5.2.1 d).
    pub fn original_for<'a>(
        &'a self,
        path: &ForwardPath,
    ) -> Option<std::borrow::Cow<'a, OriginalRecipient>> {
        match &self.original {
            Some(original) => Some(std::borrow::Cow::Borrowed(original)),
            None if self.notify.is_some() => {
                Some(std::borrow::Cow::Owned(OriginalRecipient::of(path)))
            }
            None => None,
        }
    }
}

/// What MAIL and RCPT have said about reports on a message.
///
/// Nearly all messages have none of it; one without takes no more than a pointer. Two that say the same
/// are equal, however they were made.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct DsnParameters(Option<Box<Given>>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Given {
    ret: Option<Return>,
    envelope_id: Option<EnvelopeId>,
    /// Those of whom anything was said, by their place among the forward-paths.
    recipients: BTreeMap<usize, RecipientDsn>,
}

impl DsnParameters {
    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// `RET=`.
    pub fn ret(&self) -> Option<Return> {
        self.0.as_ref()?.ret
    }

    /// `ENVID=`.
    pub fn envelope_id(&self) -> Option<&EnvelopeId> {
        self.0.as_ref()?.envelope_id.as_ref()
    }

    /// What was said about the recipient at a place among the forward-paths.
    pub fn recipient(&self, at: usize) -> Option<&RecipientDsn> {
        self.0.as_ref()?.recipients.get(&at)
    }

    /// All recipients of whom anything was said, by place.
    pub fn recipients(&self) -> impl Iterator<Item = (usize, &RecipientDsn)> {
        self.0.iter().flat_map(|given| given.recipients.iter().map(|(at, one)| (*at, one)))
    }

    /// Of what the originator is told, for the recipient at a place: what was said, or the default.
    pub fn notify(&self, at: usize) -> Notify {
        self.recipient(at).and_then(|one| one.notify).unwrap_or(Notify::DEFAULT)
    }

    /// Sets what MAIL has said.
    pub fn set_message(&mut self, ret: Option<Return>, envelope_id: Option<EnvelopeId>) {
        if self.is_empty() && ret.is_none() && envelope_id.is_none() {
            return;
        }
        self.change(|given| {
            given.ret = ret;
            given.envelope_id = envelope_id;
        });
    }

    /// Sets what RCPT has said about the recipient at a place.
    pub fn set_recipient(&mut self, at: usize, recipient: RecipientDsn) {
        if recipient.is_empty() && self.recipient(at).is_none() {
            return;
        }
        self.change(|given| {
            given.recipients.insert(at, recipient);
            given.recipients.retain(|_, one| !one.is_empty());
        });
    }

    /// Takes that recipients have left the envelope: `place` says where the one that was at a place is
    /// now, if it is still there.
    pub fn move_recipients(&mut self, place: impl Fn(usize) -> Option<usize>) {
        if self.is_empty() {
            return;
        }
        self.change(|given| {
            let before = std::mem::take(&mut given.recipients);
            let moved = before.into_iter().filter_map(|(at, one)| Some((place(at)?, one)));
            given.recipients = moved.collect();
        });
    }

    /// Takes that recipients were the same, and each is there once now: `places` has for each of before, in
    /// order, where it is.
    ///
    /// The originator is told all that was asked for of one of them, the default included; the first ORCPT stays.
    pub fn merge_recipients(&mut self, places: &[usize]) {
        if self.is_empty() {
            return;
        }
        self.change(|given| {
            let mut before = std::mem::take(&mut given.recipients);
            let mut merged = BTreeMap::<usize, RecipientDsn>::new();
            for (at, place) in places.iter().enumerate() {
                let one = before.remove(&at).unwrap_or_default();
                match merged.entry(*place) {
                    Entry::Vacant(free) => drop(free.insert(one)),
                    Entry::Occupied(mut first) => {
                        let first = first.get_mut();
                        first.notify = Notify::union(first.notify, one.notify);
                        first.original = first.original.take().or(one.original);
                    }
                }
            }
            merged.retain(|_, one| !one.is_empty());
            given.recipients = merged;
        });
    }

    /// Octets of memory beyond those of the value itself, roughly.
    pub fn memory_size(&self) -> usize {
        let Some(given) = &self.0 else { return 0 };
        let texts = given.recipients.values().filter_map(|one| one.original.as_ref());
        let texts: usize = texts.map(|original| original.as_str().len()).sum();
        size_of::<Given>() + texts + given.recipients.len() * 2 * size_of::<RecipientDsn>()
    }

    fn change(&mut self, change: impl FnOnce(&mut Given)) {
        let mut given = self.0.take().unwrap_or_default();
        change(&mut given);
        if *given != Given::default() {
            self.0 = Some(given);
        }
    }
}
