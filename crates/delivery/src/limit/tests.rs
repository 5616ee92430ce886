//! Several shards that share a limit, in virtual time, with messages that arrive when they like.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::leases::{LeaseId, Leases};
use super::{LeaseMessage, LimitKey, ShardNumber};
use crate::random::Random;
use crate::site::SiteId;

const SITE: SiteId = SiteId(0);
const TICK: Duration = Duration::from_millis(20);

/// One shard: what it wants, and the connections that it has.
struct Shard {
    leases: Leases,
    lease: Option<LeaseId>,
    wanted: u64,
    open: u64,
    inbox: BTreeMap<(ShardNumber, (bool, LimitKey)), LeaseMessage>,
    /// Times at which it opened a connection.
    opened: Vec<Instant>,
}

struct World {
    now: Instant,
    max: usize,
    shards: Vec<Shard>,
}

impl World {
    fn new(shards: u16, max: usize) -> Self {
        let make = |own: ShardNumber| {
            let mut leases = Leases::new(max, &mut Random::new(own.into()));
            leases.among(own, shards);
            let inbox = BTreeMap::new();
            Shard { leases, lease: None, wanted: 0, open: 0, inbox, opened: Vec::new() }
        };
        Self { now: Instant::now(), max, shards: (0..shards).map(make).collect() }
    }

    /// Has a shard do what an engine does: open what it wants and may, close what it must.
    fn act(&mut self, place: usize) {
        let now = self.now;
        let shard = &mut self.shards[place];
        let leases = &mut shard.leases;
        if shard.lease.is_none() && shard.wanted > 0 {
            shard.lease = Some(leases.join(LimitKey::site("mx.test"), SITE));
        }
        while let Some(lease) = shard.lease {
            leases.exchange(now);
            while leases.poll_roused().is_some() {}
            if shard.open > 0
                && (leases.excess(lease) > 0
                    || shard.open > shard.wanted && leases.is_pressed(lease, SITE))
            {
                shard.open -= 1;
                leases.release(lease);
            } else if shard.open < shard.wanted {
                if !leases.has_slot(now, lease, SITE, shard.wanted - shard.open) {
                    break;
                }
                leases.take(lease);
                shard.open += 1;
                shard.opened.push(now);
            } else {
                leases.has_enough(lease, SITE);
                if leases.is_settled() {
                    break;
                }
            }
        }
        let mut said = VecDeque::new();
        leases.exchange(now);
        while let Some(message) = leases.poll_message() {
            said.push_back(message);
        }
        for (to, message) in said {
            let from = place as ShardNumber;
            self.shards[usize::from(to)].inbox.insert((from, message.topic()), message);
        }
    }

    /// A tick of one shard.
    fn tick(&mut self, place: usize) {
        let inbox = std::mem::take(&mut self.shards[place].inbox);
        for ((from, _), message) in inbox {
            self.shards[place].leases.handle_message(self.now, from, message);
        }
        self.shards[place].leases.handle_timeout(self.now);
        self.act(place);
        self.check();
    }

    /// Ticks of all shards for so long.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            for place in 0..self.shards.len() {
                self.tick(place);
            }
        }
    }

    fn held(&self) -> u64 {
        let held =
            |shard: &Shard| shard.lease.map_or(0, |lease| shard.leases.held_and_used(lease).0);
        self.shards.iter().map(held).sum()
    }

    fn open(&self) -> Vec<u64> {
        self.shards.iter().map(|shard| shard.open).collect()
    }

    fn check(&self) {
        for shard in &self.shards {
            let (held, used) = shard.lease.map_or((0, 0), |one| shard.leases.held_and_used(one));
            assert_eq!(used, shard.open);
            assert!(used <= held, "{used} of {held}");
        }
        assert!(self.held() <= self.max as u64, "{} of {}", self.held(), self.max);
    }
}

#[test]
fn a_lone_shard_has_all_at_once() {
    let mut world = World::new(1, 5);
    world.shards[0].wanted = 9;
    world.act(0);
    world.check();
    assert_eq!(world.open(), [5]);
    assert!(world.shards[0].inbox.is_empty());
}

#[test]
fn those_who_want_more_than_there_is_come_to_the_same() {
    for (shards, max) in [(2, 10), (4, 10), (8, 10), (8, 100)] {
        let mut world = World::new(shards, max);
        // The first has all before the others come.
        world.shards[0].wanted = 1000;
        world.run(Duration::from_millis(500));
        assert_eq!(world.open()[0], max as u64);
        for shard in &mut world.shards {
            shard.wanted = 1000;
        }
        world.run(Duration::from_secs(1));
        let open = world.open();
        assert_eq!(open.iter().sum::<u64>(), max as u64, "{open:?}");
        let (least, most) = (open.iter().min().unwrap(), open.iter().max().unwrap());
        assert!(most - least <= 1, "{open:?}");
    }
}

#[test]
fn what_one_shard_does_not_use_is_with_another_within_a_second() {
    let mut world = World::new(8, 10);
    for idle in 0..8 {
        for (place, shard) in world.shards.iter_mut().enumerate() {
            shard.wanted = if place == idle { 10 } else { 0 };
        }
        world.run(Duration::from_secs(1));
        assert_eq!(world.open()[idle], 10, "{:?}", world.open());
    }
}

#[test]
fn one_slot_goes_round() {
    let mut world = World::new(4, 1);
    for shard in &mut world.shards {
        shard.wanted = 3;
    }
    world.run(Duration::from_mins(1));
    for shard in &world.shards {
        let turns = shard.opened.len();
        assert!((12..=16).contains(&turns), "{turns} turns of about a second in a minute");
    }
}

#[test]
fn a_new_connection_waits_for_nothing_while_there_are_plenty() {
    let mut world = World::new(4, 100);
    for shard in &mut world.shards {
        shard.wanted = 1;
    }
    world.run(Duration::from_secs(1));
    for place in 0..4 {
        world.shards[place].wanted = 3;
        world.act(place);
        assert_eq!(world.open()[place], 3, "from what it has to spare");
    }
}

#[test]
fn a_lower_limit_is_kept_as_soon_as_what_is_above_it_is_closed() {
    let mut world = World::new(4, 40);
    for shard in &mut world.shards {
        shard.wanted = 40;
    }
    world.run(Duration::from_secs(2));
    assert_eq!(world.held(), 40);
    for shard in &mut world.shards {
        shard.leases.reconfigure(6);
    }
    // Between the two limits for as long as messages take.
    world.run(Duration::from_millis(200));
    world.max = 6;
    world.check();
    world.run(Duration::from_secs(2));
    assert_eq!(world.open().iter().sum::<u64>(), 6);
}

#[test]
fn whoever_is_halted_leaves_all_to_the_others() {
    let mut world = World::new(3, 9);
    for shard in &mut world.shards {
        shard.wanted = 9;
    }
    world.run(Duration::from_secs(1));
    world.shards[1].wanted = 0;
    world.shards[1].leases.halt();
    world.run(Duration::from_secs(1));
    let (held, _) = world.shards[1].leases.held_and_used(world.shards[1].lease.unwrap());
    assert_eq!((held, world.held()), (0, 9), "{:?}", world.open());
}

#[derive(Debug, Clone)]
enum Step {
    Want(usize, u64),
    Tick(usize),
    Pass(u64),
    Leave(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..8_usize, 0..6_u64).prop_map(|(shard, count)| Step::Want(shard, count)),
        12 => (0..8_usize).prop_map(Step::Tick),
        3 => (1..1500_u64).prop_map(Step::Pass),
        1 => (0..8_usize).prop_map(Step::Leave),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever is wanted, and however late anybody hears of it, what is out never exceeds the limit; the world
    /// checks that after each tick. When all are listened to again, nobody is left without.
    #[test]
    fn slots_never_exceed_the_limit_and_nobody_is_forgotten(
        shards in 1..8_u16,
        max in 1..12_usize,
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let mut world = World::new(shards, max);
        let count = usize::from(shards);
        for step in steps {
            match step {
                Step::Want(place, wanted) => world.shards[place % count].wanted = wanted,
                Step::Tick(place) => world.tick(place % count),
                Step::Pass(ms) => world.now += Duration::from_millis(ms),
                Step::Leave(place) => {
                    let now = world.now;
                    let shard = &mut world.shards[place % count];
                    if shard.open == 0 && let Some(lease) = shard.lease.take() {
                        shard.wanted = 0;
                        shard.leases.leave(now, lease, SITE);
                    }
                }
            }
        }
        for shard in &mut world.shards {
            shard.wanted = 12;
            shard.opened.clear();
        }
        world.run(Duration::from_secs(20));
        // At this instant a slot may be on its way from one whose turn is over to the next.
        for _ in 0..10 {
            if world.held() < max as u64 || world.open().iter().sum::<u64>() < max as u64 {
                world.run(TICK);
            }
        }
        prop_assert_eq!(world.open().iter().sum::<u64>(), max as u64);
        for shard in &world.shards {
            prop_assert!(shard.open > 0 || !shard.opened.is_empty(), "{:?}", world.open());
        }
    }
}
