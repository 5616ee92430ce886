//! What the tools say about a shard, as text and as JSON.

use std::io::{self, Write};

use ringpost_queue::{
    CheckpointState, Inspection,
    salvage::{Damage, Lost, Survey},
};
use serde::Serialize;

/// A shard, looked at.
#[derive(Debug, Serialize)]
pub(super) struct ShardReport {
    pub(super) shard: u16,
    /// `intact`, or `damaged`.
    pub(super) state: &'static str,
    /// Messages that are whole and not settled.
    pub(super) messages: u64,
    /// Recipients of them that are not settled.
    pub(super) recipients: u64,
    /// Segments that are needed.
    pub(super) segments: u64,
    /// Frames that are whole.
    pub(super) frames: u64,
    /// Octets cut off the end of the log: a write that was never finished.
    pub(super) tail_truncated_bytes: u64,
    /// Octets of log that messages in the queue take, and others.
    pub(super) live_bytes: u64,
    pub(super) dead_bytes: u64,
    /// How each checkpoint is.
    pub(super) checkpoints: Vec<&'static str>,
    pub(super) damages: Vec<DamageReport>,
    #[serde(flatten)]
    pub(super) losses: Losses,
}

/// Something that is not as it was written.
#[derive(Debug, Serialize)]
pub(super) struct DamageReport {
    pub(super) file: String,
    pub(super) offset: u64,
    pub(super) reason: String,
}

/// What damage has taken away.
#[derive(Debug, Default, Serialize)]
pub(super) struct Losses {
    /// Messages that cannot be saved.
    pub(super) lost: Vec<LostReport>,
    /// Frames of which nothing is left.
    pub(super) frames_missing: u64,
    /// Records of outcomes that cannot be read.
    pub(super) outcomes_lost: u64,
}

/// A message that cannot be saved.
#[derive(Debug, Serialize)]
pub(super) struct LostReport {
    pub(super) id: String,
    pub(super) reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) received_unix_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) size: Option<u64>,
    pub(super) recipients: u64,
}

impl From<&Damage> for DamageReport {
    fn from(damage: &Damage) -> Self {
        let reason = format!("{:#}", anyhow::Error::new(damage.reason));
        Self { file: damage.file.clone(), offset: damage.offset, reason }
    }
}

impl From<&Lost> for LostReport {
    fn from(lost: &Lost) -> Self {
        Self {
            id: lost.id.to_string(),
            reason: lost.reason.to_string(),
            received_unix_ms: lost.received_unix_ms,
            size: lost.size,
            recipients: lost.recipients,
        }
    }
}

impl From<&Survey> for Losses {
    fn from(survey: &Survey) -> Self {
        Self {
            lost: survey.lost.iter().map(LostReport::from).collect(),
            frames_missing: survey.frames_missing,
            outcomes_lost: survey.outcomes_lost,
        }
    }
}

impl ShardReport {
    pub(super) fn new(shard: u16, found: &Inspection) -> Self {
        let survey = &found.survey;
        let live_bytes = survey.live_bytes();
        let recovered = found.recovered.as_ref();
        Self {
            shard,
            state: if found.damages.is_empty() { "intact" } else { "damaged" },
            messages: survey.message_count(),
            recipients: survey.recipient_count(),
            segments: survey.segments,
            frames: survey.frames,
            tail_truncated_bytes: recovered
                .map_or(survey.tail_bytes, |recovered| recovered.tail_truncated_bytes),
            live_bytes,
            dead_bytes: survey.frames_bytes.saturating_sub(live_bytes),
            checkpoints: found.checkpoints.iter().map(checkpoint).collect(),
            damages: found.damages.iter().map(DamageReport::from).collect(),
            losses: Losses::from(survey),
        }
    }

    pub(super) fn is_intact(&self) -> bool {
        self.damages.is_empty()
    }

    /// A line for the shard, and one for each damage and each message that is lost.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "shard {}: {}: {} message(s) for {} recipient(s); {} segment(s), {} frame(s), {} live and \
             {} dead octets, {} cut off the end; checkpoints: {}",
            self.shard,
            if self.is_intact() { "intact" } else { "DAMAGED" },
            self.messages,
            self.recipients,
            self.segments,
            self.frames,
            self.live_bytes,
            self.dead_bytes,
            self.tail_truncated_bytes,
            self.checkpoints.join(", "),
        )?;
        for damage in &self.damages {
            writeln!(out, "  {} at {}: {}", damage.file, damage.offset, damage.reason)?;
        }
        self.losses.write(out)
    }
}

impl Losses {
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        for lost in &self.lost {
            lost.write(out)?;
        }
        if self.frames_missing > 0 {
            writeln!(
                out,
                "  all or part of at least {} frame(s) is gone; which messages and outcomes were in it \
                 nothing can tell",
                self.frames_missing
            )?;
        }
        if self.frames_missing > 0 || self.outcomes_lost > 0 {
            writeln!(
                out,
                "  {} damaged outcome(s) are known: recipients of whom nothing else says that they have \
                 their mail get it again",
                self.outcomes_lost
            )?;
        }
        Ok(())
    }
}

impl LostReport {
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "  message {} is lost: {}", self.id, self.reason)?;
        if let Some(size) = self.size {
            write!(out, " ({size} octets for {} recipient(s))", self.recipients)?;
        }
        writeln!(out)
    }
}

fn checkpoint(state: &CheckpointState) -> &'static str {
    match state {
        CheckpointState::Absent => "absent",
        CheckpointState::Unfinished => "unfinished",
        CheckpointState::Damaged => "damaged",
        CheckpointState::Whole { .. } => "whole",
    }
}
