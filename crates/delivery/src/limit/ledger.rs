//! The owner's side of a limit: how many of its slots each shard has.

use std::time::{Duration, Instant};

use super::{LimitKey, ShardNumber, SlotDemand, SlotGrant};

/// How long a shard keeps one of too few slots while another has none.
const TURN: Duration = Duration::from_secs(1);

/// Slots called back in one step, at most; what is left over follows with the next.
const RECALLS_MAX: usize = 256;

/// Who has how many slots of one limit.
#[derive(Debug)]
pub(crate) struct SlotLedger {
    key: LimitKey,
    holders: Vec<Holder>,
    /// When the next shard has had its turn.
    turn_ends_at: Option<Instant>,
}

#[derive(Debug)]
struct Holder {
    shard: ShardNumber,
    epoch: u64,
    wanted: u64,
    wished: u64,
    granted: u64,
    returned: u64,
    keep: u32,
    is_pressed: bool,
    /// Since when it lacks slots.
    waits_since: Option<Instant>,
    /// When it was given one last.
    granted_at: Instant,
    /// What it was told last: granted, keep, pressed.
    told: (u64, u32, bool),
}

impl Holder {
    fn new(now: Instant, shard: ShardNumber, epoch: u64) -> Self {
        Self {
            shard,
            epoch,
            wanted: 0,
            wished: 0,
            granted: 0,
            returned: 0,
            keep: u32::MAX,
            is_pressed: false,
            waits_since: None,
            granted_at: now,
            told: (0, u32::MAX, false),
        }
    }

    /// Slots that it has, or may have.
    fn out(&self) -> u64 {
        self.granted.saturating_sub(self.returned)
    }

    fn lacks(&self) -> u64 {
        self.wanted.saturating_sub(self.granted)
    }

    fn grant(&mut self, now: Instant) {
        self.granted += 1;
        self.granted_at = now;
        // It stands in line anew for what it lacks beyond that.
        self.waits_since = None;
    }
}

impl SlotLedger {
    pub(crate) fn new(key: LimitKey) -> Self {
        Self { key, holders: Vec::new(), turn_ends_at: None }
    }

    /// Takes what a shard wants and gives back.
    pub(crate) fn handle_demand(&mut self, now: Instant, from: ShardNumber, demand: &SlotDemand) {
        let known = self.holders.iter().position(|holder| holder.shard == from);
        let place = match known {
            Some(place) if self.holders[place].epoch > demand.epoch => return,
            Some(place) if self.holders[place].epoch == demand.epoch => place,
            Some(place) => {
                self.holders[place] = Holder::new(now, from, demand.epoch);
                place
            }
            None => {
                self.holders.push(Holder::new(now, from, demand.epoch));
                self.holders.len() - 1
            }
        };
        if demand.is_last {
            self.holders.remove(place);
            return;
        }
        let holder = &mut self.holders[place];
        holder.wanted = demand.wanted;
        holder.wished = demand.wished;
        // What was never given cannot come back.
        holder.returned = holder.returned.max(demand.returned).min(holder.granted);
    }

    /// Gives out what is free, and calls back what others lack. `max` is the limit. To be called
    /// after demands, when the limit has changed, and at [`poll_timeout`](Self::poll_timeout).
    pub(crate) fn settle(&mut self, now: Instant, max: u64) {
        let max = max.max(1);
        while self.out() < max {
            let needy = self.holders.iter_mut().filter(|holder| holder.lacks() > 0);
            let neediest =
                needy.min_by_key(|holder| (holder.out(), holder.waits_since.unwrap_or(now)));
            let Some(holder) = neediest else { break };
            holder.grant(now);
        }
        let is_short = self.holders.iter().any(|holder| holder.lacks() > 0);
        if !is_short {
            // A slot to spare is for whom it spares a wait, as long as nobody could miss it.
            let mut out = self.out();
            for holder in &mut self.holders {
                while holder.granted < holder.wished && out < max / 2 {
                    holder.grant(now);
                    out += 1;
                }
            }
        }
        for holder in &mut self.holders {
            holder.is_pressed = is_short;
            holder.keep = u32::MAX;
            holder.waits_since = (holder.lacks() > 0).then(|| holder.waits_since.unwrap_or(now));
        }
        self.turn_ends_at = None;
        if is_short || self.out() > max {
            self.call_back(now, max);
        }
    }

    /// Says what is to be given back, so that those who want more come to the same number.
    fn call_back(&mut self, now: Instant, max: u64) {
        let mut out: Vec<u64> = self.holders.iter().map(Holder::out).collect();
        let mut lacks: Vec<u64> = self.holders.iter().map(Holder::lacks).collect();
        let before = out.clone();
        let richest =
            |out: &[u64]| (0..out.len()).max_by_key(|place| (out[*place], usize::MAX - place));
        // The limit was lowered: nobody gets what is above it.
        let mut surplus = out.iter().sum::<u64>().saturating_sub(max);
        while surplus > 0
            && let Some(rich) = richest(&out)
        {
            out[rich] -= 1;
            surplus -= 1;
        }
        for _ in 0..RECALLS_MAX {
            let poorest = (0..out.len()).filter(|place| lacks[*place] > 0);
            let poorest =
                poorest.min_by_key(|place| (out[*place], self.holders[*place].waits_since));
            let (Some(poor), Some(rich)) = (poorest, richest(&out)) else { break };
            if out[rich] < out[poor] + 2 {
                break;
            }
            out[rich] -= 1;
            out[poor] += 1;
            lacks[poor] -= 1;
        }
        // There are too few for everybody: who has had one for a while makes room for who has none.
        let mut waiting: Vec<usize> =
            (0..out.len()).filter(|place| lacks[*place] > 0 && out[*place] == 0).collect();
        waiting.sort_by_key(|place| self.holders[*place].waits_since);
        for poor in waiting {
            let next = (0..out.len())
                .filter(|place| out[*place] == 1 && before[*place] == 1)
                .min_by_key(|place| self.holders[*place].granted_at);
            let Some(rich) = next else { break };
            let waits_since = self.holders[poor].waits_since.unwrap_or(now);
            let ends = self.holders[rich].granted_at.max(waits_since) + TURN;
            if ends > now {
                self.turn_ends_at = Some(ends);
                break;
            }
            out[rich] = 0;
            out[poor] = 1;
        }
        for (place, holder) in self.holders.iter_mut().enumerate() {
            if out[place] < before[place] {
                holder.keep = u32::try_from(out[place]).unwrap_or(u32::MAX);
            }
        }
    }

    /// What is to be told to a shard.
    pub(crate) fn poll_grant(&mut self) -> Option<(ShardNumber, SlotGrant)> {
        let news =
            |holder: &&mut Holder| holder.told != (holder.granted, holder.keep, holder.is_pressed);
        let holder = self.holders.iter_mut().find(news)?;
        holder.told = (holder.granted, holder.keep, holder.is_pressed);
        let (key, epoch) = (self.key.clone(), holder.epoch);
        let (granted, keep, is_pressed) = holder.told;
        Some((holder.shard, SlotGrant { key, epoch, granted, keep, is_pressed }))
    }

    /// When to [`settle`](Self::settle) again.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.turn_ends_at
    }

    /// Slots that all shards have.
    pub(crate) fn out(&self) -> u64 {
        self.holders.iter().map(Holder::out).sum()
    }

    /// Tells whether no shard has anything to do with it.
    pub(crate) fn is_unused(&self) -> bool {
        self.holders.is_empty()
    }
}
