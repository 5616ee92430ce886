//! The medium damages what it had kept: found, named, and never delivered.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringpost_crash::bench::{Bench, DISK_SIZE, take_nothing, take_slowly};
use ringpost_crash::disk::Layer;
use ringpost_crash::faultfs::{FaultFs, SECTOR};
use ringpost_crash::rng::Rng;
use ringpost_e2e::account::Account;
use ringpost_e2e::injector::Load;
use ringpost_e2e::peers;
use ringpost_e2e::wait::{SOON, wait_until};

use crate::{none, scale};

/// Where frames begin, and what they begin with.
const BLOCK: usize = 4096;
const FRAME: &[u8] = b"RPFR";

/// The segments that hold frames and are closed: all but the newest ones of each shard.
fn closed_segments(disk: &FaultFs) -> Vec<(String, usize)> {
    let files = disk.with_image(|image| {
        let mut found = Vec::new();
        for (path, node) in image.files() {
            let bytes = image.read(node, 0, usize::MAX).unwrap_or_default();
            let frames = bytes.get(BLOCK..).is_some_and(|rest| rest.starts_with(FRAME));
            if path.contains("/segment-") && frames {
                // Behind the last octet that is not zero there is nothing to be damaged.
                let end = bytes.iter().rposition(|octet| *octet != 0).map_or(0, |at| at + 1);
                found.push((path, end));
            }
        }
        found
    });
    let shard = |path: &str| path.rsplit_once('/').map(|(shard, _)| shard.to_owned());
    files
        .iter()
        .filter(|(path, _)| {
            files.iter().any(|(other, _)| shard(other) == shard(path) && other > path)
        })
        .cloned()
        .collect()
}

/// Damages one of `segments`; says how.
fn damage(disk: &FaultFs, segments: &[(String, usize)], rng: &mut Rng) -> Result<String> {
    let (path, end) = &segments[rng.within(0..segments.len() as u64) as usize];
    let at = rng.within(0..*end as u64) as usize;
    let how = rng.within(0..4);
    let mut what = String::new();
    disk.damage(path, &mut |bytes| {
        what = match how {
            0 | 1 => {
                bytes[at] ^= 1 << (at % 8);
                format!("a flipped bit in octet {at} of {path}")
            }
            2 => {
                let start = at / BLOCK * BLOCK;
                let end = bytes.len().min(start + BLOCK);
                bytes[start..end].fill(0);
                format!("a zeroed page at {start} of {path}")
            }
            _ => {
                bytes.truncate(at / SECTOR * SECTOR);
                format!("{path} cut to {} octets", bytes.len())
            }
        };
    })?;
    Ok(what)
}

#[test]
fn damage_in_a_closed_segment_is_found() -> Result<()> {
    if let Some(reason) = Layer::File.missing() {
        return peers::skip(reason);
    }
    let flips = scale("RINGPOST_FLIPS", 30);
    let seed = scale("RINGPOST_SEED", 20_261_123);
    let mut rng = Rng::new(seed);
    let mut bench = Bench::new(Layer::File, DISK_SIZE, seed)?;
    bench.server.config.set("queue", "segment_size", "\"4MiB\"").set("queue", "shards", "2");
    take_nothing(&bench.sink);
    bench.start()?;
    let mut load = Load::new(bench.server.smtp(), "flip", 4, Some(1_200));
    load.size = 16 << 10;
    let book = load.run()?;
    bench.server.terminate()?;
    let whole = bench.disk.faults.snapshot();
    let segments = closed_segments(&bench.disk.faults);
    ensure!(segments.len() >= 4, "too few closed segments: {segments:?}");
    let (mut refused, mut harmless, mut named) = (0, 0, 0);
    for number in 0..=flips {
        bench.disk.faults.restore(whole.clone())?;
        // First without damage: the control.
        let what = match number {
            0 => "nothing".to_owned(),
            _ => damage(&bench.disk.faults, &segments, &mut rng)?,
        };
        let verdict = judge(&mut bench, &book).with_context(|| format!("{what}, seed {seed}"))?;
        match verdict {
            Verdict::Refused => refused += 1,
            Verdict::Named => named += 1,
            Verdict::Harmless => harmless += 1,
        }
        ensure!(number > 0 || harmless == 1, "refused without damage:\n{}", bench.server.log());
    }
    peers::tell(&format!(
        "flips: {flips} (seed {seed}) in {} closed segments with 1,200 messages: {refused} starts \
         refused, {named} started and named what is damaged, {} lost nothing",
        segments.len(),
        harmless - 1
    ));
    ensure!(refused + named > flips / 2, "most of the damage went unnoticed");
    Ok(())
}

/// What the server made of it.
enum Verdict {
    /// It did not start, and said where the damage is.
    Refused,
    /// It started, delivered the rest, and said where the damage is.
    Named,
    /// All was delivered.
    Harmless,
}

/// Starts the server, and lets it deliver what it can.
fn judge(bench: &mut Bench, book: &[ringpost_e2e::injector::Sent]) -> Result<Verdict> {
    let before = bench.sink.deliveries().len();
    let logged = bench.server.log().len();
    let said = |bench: &Bench| {
        let log = bench.server.log().split_off(logged);
        log.lines().any(|line| {
            let line = line.to_ascii_lowercase();
            line.contains("segment ") && line.contains(" at ") && line.contains("damage")
        })
    };
    take_slowly(&bench.sink);
    bench.server.spawn(&[])?;
    let mut has_ended = false;
    wait_until("a start or its end", SOON, || {
        has_ended = bench.server.wait_exit(Duration::ZERO).is_ok();
        Ok(has_ended || peers::is_healthy(bench.server.control()) || said(bench))
    })?;
    let mut missing = 0;
    if !has_ended {
        // Everything, or everything but what is said to be damaged.
        let waited = wait_until("the mail", SOON, || {
            let taken = bench.sink.accepted().split_off(before);
            missing = Account::of(book, &taken).lost().len();
            Ok(missing == 0 || said(bench))
        });
        waited.with_context(|| format!("{missing} missing:\n{}", bench.server.log()))?;
        if missing > 0 {
            bench.server.kill()?;
        } else {
            bench.server.terminate()?;
        }
    }
    let account = Account::of(book, &bench.sink.accepted().split_off(before));
    none("damaged", account.damaged(), &account)?;
    none("invented", &account.invented(), &account)?;
    if has_ended || missing > 0 {
        ensure!(said(bench), "no word of the damage:\n{}", bench.server.log().split_off(logged));
    }
    Ok(match (has_ended, missing) {
        (true, _) => Verdict::Refused,
        (false, 0) => Verdict::Harmless,
        (false, _) => Verdict::Named,
    })
}
