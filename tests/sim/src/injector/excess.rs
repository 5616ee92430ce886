//! More than the server takes.
//!
//! It says itself how much that is, by SIZE (RFC 1870) and LIMITS (RFC 9422): what it says, it has to keep.

use ringpost::runtime::Runtime;

use super::{Session, Ways};

/// Octets beyond SIZE, at most.
const EXCESS_MAX: u64 = 3_000;

impl<R: Runtime> Session<'_, R> {
    /// Makes some contents larger than what is taken, by one octet or more.
    pub(super) fn exceed(&mut self, ways: &Ways, mut content: Vec<u8>) -> Vec<u8> {
        let mut random = self.random.fork_number("excess", self.transactions);
        self.is_excessive = false;
        if let Some(size) = self.offers.size
            && random.percent(ways.excess_percent)
        {
            let beyond = if random.coin() { 1 } else { random.within(1..=EXCESS_MAX) };
            let size = usize::try_from(size + beyond).unwrap_or(usize::MAX);
            while content.len() < size {
                let room = size - content.len();
                // A line of its own has to have room for its end.
                let line = if room > 80 { 78 } else { room };
                content.resize(content.len() + line.saturating_sub(2), b'x');
                content.extend_from_slice(b"\r\n");
            }
            self.is_excessive = true;
        }
        content
    }

    /// Takes note that a transaction has begun.
    pub(super) fn begins(&mut self) {
        self.transactions += 1;
        self.hold_against("MAILMAX", self.transactions, self.offers.transactions_max);
    }

    /// Takes note that so many recipients of a message are accepted.
    pub(super) fn accepts(&self, recipients: u64) {
        self.hold_against("RCPTMAX", recipients, self.offers.recipients_max);
    }

    /// Takes note that a message is acknowledged.
    pub(super) fn takes(&self) {
        if self.is_excessive {
            let size = self.offers.size.unwrap_or_default();
            self.hold_against("SIZE", size + 1, self.offers.size);
        }
    }

    fn hold_against(&self, name: &str, value: u64, limit: Option<u64>) {
        let Some(limit) = limit.filter(|limit| value > *limit) else { return };
        let text = format!("{name}: {value} or more taken, {limit} was said");
        self.application.ledger.borrow_mut().violate(
            "limit not enforced",
            self.runtime.now(),
            text,
        );
    }
}
