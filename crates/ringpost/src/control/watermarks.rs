//! Room that the process shares with others: the queue's file system, and memory.
//!
//! Two threads look at it and publish levels, which the shards read without waiting. They are apart
//! from each other and from all else, because asking a disk that hangs hangs as well. A level that
//! cannot be read stays what it was.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use ringpost_metrics::ControlMetrics;

use super::ControlError;
use crate::runtime::os::{self, FileSystem};

/// How often the levels are looked at: mail is taken again within this time after there is room.
const PERIOD: Duration = Duration::from_millis(200);

/// Segments that must fit the free space, whatever the share of the file system is.
const SEGMENTS_FREE_MIN: u64 = 2;

/// Percent of the memory from which on nothing new is let in.
const MEMORY_STOP_PERCENT: u64 = 80;

/// Percent of the memory from which on intake is slowed down.
const MEMORY_SLOW_PERCENT: u64 = 70;

/// How close something is to its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Far from it.
    #[default]
    Fine,
    /// Near it: intake is slowed down.
    Slow,
    /// At it: nothing new is taken.
    Stop,
}

impl Level {
    fn from_u8(level: u8) -> Self {
        match level {
            0 => Self::Fine,
            1 => Self::Slow,
            _ => Self::Stop,
        }
    }
}

/// What is shared with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedRoom {
    /// Octets of the file system.
    Space,
    /// Inodes of the file system.
    Inodes,
    /// Memory of the process.
    Memory,
}

impl SharedRoom {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Space, Self::Inodes, Self::Memory];

    /// What it means for an operator that it is at its limit.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Space => "the queue's file system has little free space",
            Self::Inodes => "the queue's file system has few free inodes",
            Self::Memory => "the process uses most of server.memory_max",
        }
    }
}

/// Where the levels lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Percent of the file system below which nothing new is taken.
    pub free_space_min_percent: u8,
    /// Percent of the file system below which intake is slowed down.
    pub free_space_slow_percent: u8,
    /// Free inodes below which nothing new is taken; twice as many slow intake down.
    pub free_inodes_min: u64,
    /// Octets of a segment: two of them must fit the free space.
    pub segment_size: u64,
    /// Octets of memory; `u64::MAX` when nobody knows.
    pub memory_max: u64,
}

impl Thresholds {
    fn space(&self, system: &FileSystem) -> Level {
        let share = |percent: u8| {
            u64::try_from(u128::from(system.size) * u128::from(percent) / 100).unwrap_or(u64::MAX)
        };
        let floor = share(self.free_space_min_percent).max(self.segment_size * SEGMENTS_FREE_MIN);
        if system.free < floor {
            Level::Stop
        } else if system.free < share(self.free_space_slow_percent) {
            Level::Slow
        } else {
            Level::Fine
        }
    }

    fn inodes(&self, system: &FileSystem) -> Level {
        if system.inodes == 0 {
            // The file system makes them as it needs them.
            Level::Fine
        } else if system.inodes_free < self.free_inodes_min {
            Level::Stop
        } else if system.inodes_free < self.free_inodes_min.saturating_mul(2) {
            Level::Slow
        } else {
            Level::Fine
        }
    }

    fn memory(&self, resident: u64) -> Level {
        if resident >= self.memory_max / 100 * MEMORY_STOP_PERCENT {
            Level::Stop
        } else if resident >= self.memory_max / 100 * MEMORY_SLOW_PERCENT {
            Level::Slow
        } else {
            Level::Fine
        }
    }
}

/// The levels of what is shared with others. All fine until somebody has looked.
#[derive(Debug, Default)]
pub struct Watermarks {
    levels: [AtomicU8; 3],
    memory_percent: AtomicU8,
    thresholds: Mutex<Option<Thresholds>>,
}

impl Watermarks {
    /// How close something is to its limit.
    pub fn level(&self, room: SharedRoom) -> Level {
        let level = self.levels.get(room as usize);
        level.map_or(Level::Fine, |level| Level::from_u8(level.load(Ordering::Relaxed)))
    }

    /// The memory in use in percent of what may be; 0 while nobody knows.
    pub fn memory_percent(&self) -> u8 {
        self.memory_percent.load(Ordering::Relaxed)
    }

    /// Takes where the levels lie from now on.
    pub fn configure(&self, thresholds: Thresholds) {
        *self.thresholds.lock().unwrap_or_else(PoisonError::into_inner) = Some(thresholds);
    }

    /// Publishes a level, and logs that it has changed.
    pub(super) fn set(&self, room: SharedRoom, level: Level) {
        let Some(known) = self.levels.get(room as usize) else { return };
        let before = Level::from_u8(known.swap(level as u8, Ordering::Relaxed));
        match (before, level) {
            (Level::Stop, Level::Stop) => {}
            (_, Level::Stop) => tracing::error!("{}: no new mail is taken", room.reason()),
            (Level::Stop, _) => tracing::info!("there is room again: new mail is taken"),
            _ => {}
        }
    }

    fn thresholds(&self) -> Option<Thresholds> {
        *self.thresholds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the file system of the queue has: publishes its levels.
    pub fn note_disk(&self, system: &FileSystem) {
        let Some(thresholds) = self.thresholds() else { return };
        self.set(SharedRoom::Space, thresholds.space(system));
        self.set(SharedRoom::Inodes, thresholds.inodes(system));
    }

    fn look_at_disk(&self, system: io::Result<FileSystem>, metrics: &ControlMetrics) {
        let (Ok(system), Some(_)) = (system, self.thresholds()) else { return };
        metrics.disk_free_bytes.set(system.free as f64);
        metrics.disk_free_inodes.set(system.inodes_free as f64);
        self.note_disk(&system);
    }

    fn look_at_memory(&self, resident: Option<u64>, metrics: &ControlMetrics) {
        let (Some(resident), Some(thresholds)) = (resident, self.thresholds()) else { return };
        metrics.memory_bytes.set(resident as f64);
        metrics.memory_bytes_max.set(thresholds.memory_max as f64);
        self.set(SharedRoom::Memory, thresholds.memory(resident));
        let percent = resident / (thresholds.memory_max / 100).max(1);
        self.memory_percent.store(u8::try_from(percent).unwrap_or(u8::MAX), Ordering::Relaxed);
    }
}

/// Starts the threads that look, for as long as the process lives.
///
/// # Errors
///
/// [`ControlError::Thread`] when there is no room for a thread.
pub fn watch(
    directory: PathBuf,
    watermarks: &Arc<Watermarks>,
    metrics: &ControlMetrics,
) -> Result<(), ControlError> {
    let (levels, counts) = (Arc::clone(watermarks), metrics.clone());
    spawn("watch-disk", move || levels.look_at_disk(os::file_system(&directory), &counts))?;
    let (levels, counts) = (Arc::clone(watermarks), metrics.clone());
    spawn("watch-memory", move || levels.look_at_memory(os::resident_memory(), &counts))
}

fn spawn(name: &'static str, look: impl Fn() + Send + 'static) -> Result<(), ControlError> {
    let body = move || loop {
        look();
        thread::sleep(PERIOD);
    };
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map(drop)
        .map_err(|source| ControlError::Thread { thread: name, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thresholds() -> Thresholds {
        Thresholds {
            free_space_min_percent: 5,
            free_space_slow_percent: 10,
            free_inodes_min: 1000,
            segment_size: 10,
            memory_max: 1000,
        }
    }

    fn system(size: u64, free: u64) -> FileSystem {
        FileSystem { size, free, inodes: 10_000, inodes_free: 10_000 }
    }

    #[test]
    fn free_space_has_a_floor_in_percent_and_in_segments() {
        let table = [
            (system(10_000, 499), Level::Stop),
            (system(10_000, 500), Level::Slow),
            (system(10_000, 999), Level::Slow),
            (system(10_000, 1000), Level::Fine),
            // Five percent are fewer than two segments here.
            (system(100, 19), Level::Stop),
            (system(100, 20), Level::Fine),
            (system(0, 0), Level::Stop),
        ];
        for (system, level) in table {
            assert_eq!(thresholds().space(&system), level, "{system:?}");
        }
    }

    #[test]
    fn inodes_count_where_there_are_any() {
        let with = |inodes, inodes_free| FileSystem { inodes, inodes_free, ..system(1, 1) };
        let table = [
            (with(10_000, 999), Level::Stop),
            (with(10_000, 1999), Level::Slow),
            (with(10_000, 2000), Level::Fine),
            (with(0, 0), Level::Fine),
        ];
        for (system, level) in table {
            assert_eq!(thresholds().inodes(&system), level, "{system:?}");
        }
    }

    #[test]
    fn memory_has_a_share_of_its_limit() {
        for (resident, level) in
            [(699, Level::Fine), (700, Level::Slow), (799, Level::Slow), (800, Level::Stop)]
        {
            assert_eq!(thresholds().memory(resident), level, "{resident}");
        }
        let unknown = Thresholds { memory_max: u64::MAX, ..thresholds() };
        assert_eq!(unknown.memory(1 << 60), Level::Fine);
    }

    #[test]
    fn a_level_that_cannot_be_read_stays() {
        let watermarks = Watermarks::default();
        let (recorder, _) = ringpost_metrics::MetricsRecorder::new();
        let metrics = ringpost_metrics::with_local_recorder(&recorder, ControlMetrics::register);
        watermarks.look_at_disk(Ok(system(100, 0)), &metrics);
        assert_eq!(watermarks.level(SharedRoom::Space), Level::Fine, "nothing is configured yet");
        watermarks.configure(thresholds());
        watermarks.look_at_disk(Ok(system(100, 0)), &metrics);
        watermarks.look_at_disk(Err(io::ErrorKind::TimedOut.into()), &metrics);
        watermarks.look_at_memory(Some(750), &metrics);
        watermarks.look_at_memory(None, &metrics);
        assert_eq!(watermarks.level(SharedRoom::Space), Level::Stop);
        assert_eq!(watermarks.level(SharedRoom::Inodes), Level::Fine);
        assert_eq!(watermarks.level(SharedRoom::Memory), Level::Slow);
        assert_eq!(watermarks.memory_percent(), 75);
        watermarks.look_at_disk(Ok(system(100, 50)), &metrics);
        assert_eq!(watermarks.level(SharedRoom::Space), Level::Fine);
    }
}
