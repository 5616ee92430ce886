//! How fast clients come: new connections of each client in a minute.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// What the limit counts by.
const PERIOD: Duration = Duration::from_mins(1);

/// Clients that are remembered. Beyond, those whose minute is over are forgotten; while there are none of
/// those, clients that are not known are let in uncounted, for other limits to hold.
const CLIENTS_MAX: usize = 50_000;

/// When each client has used up what it has come for: a connection costs its share of the period, and
/// nobody may be further ahead than a whole period.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    paid_until: HashMap<IpAddr, Instant>,
    swept: Option<Instant>,
}

impl Arrivals {
    /// Takes that a client comes; whether it may, when `max` may in a minute. 0 stands for any number.
    pub(super) fn admit(&mut self, now: Instant, client: IpAddr, max: u32) -> bool {
        let Some(cost) = PERIOD.checked_div(max) else { return true };
        if self.paid_until.len() >= CLIENTS_MAX && !self.paid_until.contains_key(&client) {
            self.sweep(now);
            if self.paid_until.len() >= CLIENTS_MAX {
                return true;
            }
        }
        let paid_until = self.paid_until.entry(client).or_insert(now);
        let paid = (*paid_until).max(now) + cost;
        // The shares are cut to whole nanoseconds, so that all of them fit the period.
        let is_admitted = paid <= now + PERIOD;
        if is_admitted {
            *paid_until = paid;
        }
        is_admitted
    }

    /// Forgets who could come as often as anyone, at most once a second.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| now < swept + Duration::from_secs(1)) {
            return;
        }
        self.swept = Some(now);
        self.paid_until.retain(|_, paid_until| *paid_until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn a_client_has_so_many_a_minute_and_others_have_their_own() {
        let mut arrivals = Arrivals::default();
        let start = Instant::now();
        let let_in = |arrivals: &mut Arrivals, now, number| {
            (0..1000).filter(|_| arrivals.admit(now, client(number), 7)).count()
        };
        assert_eq!(let_in(&mut arrivals, start, 1), 7);
        assert_eq!(let_in(&mut arrivals, start, 2), 7);
        // Each connection is forgotten after its share of the minute.
        assert_eq!(let_in(&mut arrivals, start + PERIOD / 7, 1), 1);
        assert_eq!(let_in(&mut arrivals, start + PERIOD * 2, 1), 7);
        assert!((0..1000).all(|_| arrivals.admit(start, client(3), 0)), "no limit");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut arrivals = Arrivals::default();
        let start = Instant::now();
        let clients = u32::try_from(CLIENTS_MAX).unwrap();
        for number in 0..2 * clients {
            assert!(arrivals.admit(start, client(number), 2));
        }
        assert_eq!(arrivals.paid_until.len(), CLIENTS_MAX);
        assert!(arrivals.admit(start, client(1), 2));
        assert!(!arrivals.admit(start, client(1), 2), "who is known is counted still");
        assert!((0..9).all(|_| arrivals.admit(start, client(2 * clients), 2)), "who is not is not");
        // When their time is over others take their place.
        let later = start + PERIOD;
        assert!(arrivals.admit(later, client(2 * clients), 1));
        assert!(!arrivals.admit(later, client(2 * clients), 1));
        assert_eq!(arrivals.paid_until.len(), 1);
    }
}
