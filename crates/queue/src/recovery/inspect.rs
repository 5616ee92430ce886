//! Looking at a stopped log from end to end: is everything as it was written?

use super::restore::{read_blocks, read_header};
use super::salvage::{Damage, DamageReason, Survey, survey};
use super::{Recovered, recover};
use crate::checkpoint::CHECKPOINT_FILES;
use crate::config::QueueConfig;
use crate::error::RecoveryError;
use crate::frame::BLOCK_SIZE;
use crate::id::MessageId;
use crate::index::MessageView;
use crate::offline::{ReadOnly, Reader};
use crate::queue::Queue;
use crate::segment::{LogIdentity, is_readable};
use crate::storage::Storage;

/// How a checkpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointState {
    /// There is none.
    Absent,
    /// It was being written when the server ended, or its header is damaged. A crash can do that.
    Unfinished,
    /// Its header is whole, but it is not what was written.
    Damaged,
    /// It is whole.
    Whole {
        /// Its number.
        number: u64,
        /// Messages in it.
        messages: u64,
    },
}

/// What was found.
#[derive(Debug)]
pub struct Inspection {
    /// All that is wrong. Where a server would stop comes first.
    pub damages: Vec<Damage>,
    /// What a server would find that reads the whole log; `None` if it would stop.
    pub recovered: Option<Recovered>,
    /// What is left of the log.
    pub survey: Survey,
    /// The checkpoints, in the order of their files.
    pub checkpoints: [CheckpointState; CHECKPOINT_FILES.len()],
}

impl Inspection {
    /// Whether a server would stop because of it: then only salvage helps.
    pub fn is_log_damaged(&self) -> bool {
        self.recovered.is_none()
    }
}

/// Reads everything that a log needs, from its head on, and changes nothing: each header, frame and record,
/// both checkpoints, and each message as it would be read for its delivery. A server that is given
/// this log is tried out, with its checkpoint and without, and both must find the same.
///
/// # Errors
///
/// [`RecoveryError`], but never [`RecoveryError::Corrupt`]: damage is what is looked for.
///
/// # Cancel safety
///
/// May be dropped at any time, and done again.
pub async fn inspect<S: Storage>(
    storage: &S,
    config: &QueueConfig,
    identity: LogIdentity,
) -> Result<Inspection, RecoveryError> {
    let all = ReadOnly::new(storage);
    let log = ReadOnly::without_checkpoints(storage);
    let mut damages = Vec::new();
    let opened = open(&log, config, identity, &mut damages).await?;
    let survey = survey(&log, identity).await?;
    for damage in &survey.damages {
        let place = |damage: &Damage| (damage.file.clone(), damage.offset);
        if !damages.iter().any(|known| place(known) == place(damage)) {
            damages.push(damage.clone());
        }
    }
    let mut checkpoints = [CheckpointState::Absent; CHECKPOINT_FILES.len()];
    for (state, name) in checkpoints.iter_mut().zip(CHECKPOINT_FILES) {
        *state = checkpoint(&all, name, identity).await?;
        if *state == CheckpointState::Damaged {
            let reason = DamageReason::Checkpoint;
            damages.push(Damage { file: name.to_owned(), offset: 0, reason });
        }
    }
    let mut recovered = None;
    if let Some((queue, found)) = opened {
        let mut reader = Reader::new(&log);
        for view in queue.messages_from(MessageId::from_u64(0)) {
            let plans = queue.plan_read(view.id).unwrap_or_default();
            if let Err(corruption) = reader.message(&plans, view.size).await? {
                damages.push(Damage {
                    file: corruption.segment.file_name(),
                    offset: corruption.offset,
                    reason: DamageReason::Message(corruption),
                });
            }
        }
        recovered = Some(found);
        let newest = checkpoints.iter().zip(CHECKPOINT_FILES).filter_map(|(state, name)| {
            let CheckpointState::Whole { number, .. } = state else { return None };
            Some((number, name))
        });
        if let Some((_, name)) = newest.max() {
            let mut found = Vec::new();
            let with = open(&all, config, identity, &mut found).await?;
            let differs = with.as_ref().is_some_and(|(with, _)| !is_same(with, &queue));
            if differs {
                let reason = DamageReason::CheckpointDiffers;
                found.push(Damage { file: name.to_owned(), offset: 0, reason });
            }
            if with.is_none() {
                // The log alone looks well: it is shorter than it was.
                recovered = None;
            }
            damages.extend(found);
        }
    }
    Ok(Inspection { damages, recovered, survey, checkpoints })
}

/// Does what a server does, and notes what stops it.
async fn open<S: Storage>(
    storage: &S,
    config: &QueueConfig,
    identity: LogIdentity,
    damages: &mut Vec<Damage>,
) -> Result<Option<(Queue, Recovered)>, RecoveryError> {
    match recover(storage, config.clone(), identity).await {
        Ok(opened) => Ok(Some(opened)),
        Err(RecoveryError::Corrupt { segment, offset, reason }) => {
            damages.push(Damage::log(segment, offset, reason));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn is_same(one: &Queue, other: &Queue) -> bool {
    let first = MessageId::from_u64(0);
    let numbers = |view: &MessageView<'_>| {
        (view.id, view.received_unix_ms, view.expiry_unix_ms, view.size, view.recipients.len())
    };
    let is_same = |one_view: MessageView<'_>, other_view: MessageView<'_>| {
        let recipients = one_view.recipients.iter().zip(other_view.recipients);
        numbers(&one_view) == numbers(&other_view)
            && one.plan_read(one_view.id) == other.plan_read(other_view.id)
            && recipients.into_iter().all(|(this, that)| {
                this.state() == that.state() && one.host(this.host) == other.host(that.host)
            })
    };
    let mut others = other.messages_from(first);
    let all = one
        .messages_from(first)
        .all(|view| others.next().is_some_and(|other| is_same(view, other)));
    all && others.next().is_none()
}

async fn checkpoint<S: Storage>(
    storage: &S,
    name: &str,
    identity: LogIdentity,
) -> Result<CheckpointState, RecoveryError> {
    let files = storage.list().await?;
    let Some((_, size)) = files.into_iter().find(|(file, _)| file == name) else {
        return Ok(CheckpointState::Absent);
    };
    let header = match read_header(storage, name, size).await? {
        None | Some(Err(())) => return Ok(CheckpointState::Unfinished),
        Some(Ok(header)) => header,
    };
    if header.identity != identity || !is_readable(header.version) {
        return Ok(CheckpointState::Damaged);
    }
    let blocks = read_blocks(storage, name, size.max(BLOCK_SIZE), &header).await?;
    let whole = CheckpointState::Whole { number: header.number, messages: header.messages };
    Ok(if blocks.is_some() { whole } else { CheckpointState::Damaged })
}
