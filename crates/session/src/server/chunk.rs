//! What a server session does with BDAT (RFC 3030 §2).
//!
//! The octets of a chunk are taken whatever becomes of them, so that the next command is found: a chunk
//! that is refused is read to its end before its reply, and what comes behind it in the pipeline too.

use std::time::Instant;

use ringpost_protocol::chunking::{Chunk, ChunkCounter};
use ringpost_protocol::data::{ContentProgress, ContentViolation, Framing, ViolationPlace};
use ringpost_protocol::envelope::BodyType;
use ringpost_protocol::extension::Extension;
use ringpost_protocol::limits::CHUNK_SIZE_USEFUL;
use ringpost_protocol::reply::FixedReply;
use ringpost_protocol::time::decimal;

use super::content::{Content, Pace};
use super::event::{CloseReason, ServerEvent};
use super::replies;
use super::session::{ServerSession, State};
use super::stats::ServerLimit;
use crate::timer::Timer;

/// A chunk that is coming in.
#[derive(Debug)]
pub(super) struct ChunkInput {
    counter: ChunkCounter,
    chunk: Chunk,
    pace: Pace,
    /// Why its octets are thrown away.
    refusal: Option<ChunkRefusal>,
}

/// Why a chunk is refused.
#[derive(Debug, Clone, Copy)]
enum ChunkRefusal {
    /// BDAT has no place here.
    Misplaced(FixedReply),
    /// The message has failed by an earlier chunk, which has been answered.
    Failed,
    /// The message fails by this one.
    Content(ContentViolation),
}

impl ServerSession {
    /// Content that comes by BDAT, if some has come.
    pub(super) fn chunked_content(&self) -> Option<&Content> {
        self.transaction.as_ref()?.chunks.as_deref()
    }

    pub(super) fn handle_bdat(&mut self, now: Instant, chunk: Chunk) {
        if !self.config.extensions.contains(Extension::Chunking) {
            // The client has been offered nothing, and sends content now: it is not to be taken for
            // commands.
            return self.close_with(now, replies::NOT_IMPLEMENTED, CloseReason::BadLine);
        }
        if !chunk.is_last && chunk.size < CHUNK_SIZE_USEFUL && !self.count_junk(now) {
            return;
        }
        let refusal = self.begin_chunk(now, chunk).err();
        let begun = self.chunked_content().map(|content| content.pace);
        let pace = begun.unwrap_or(Pace::new(now));
        let counter = ChunkCounter::new(chunk.size);
        self.timers.stop(Timer::Command);
        self.set_content_timers(now, pace);
        self.state = State::Chunk(ChunkInput { counter, chunk, pace, refusal });
    }

    /// Makes ready for the octets of a chunk, or says why they are not wanted.
    fn begin_chunk(&mut self, now: Instant, chunk: Chunk) -> Result<(), ChunkRefusal> {
        let Some(transaction) = &mut self.transaction else {
            let misplaced = ChunkRefusal::Misplaced(replies::NEED_MAIL);
            return Err(if self.chunks_failed { ChunkRefusal::Failed } else { misplaced });
        };
        transaction.make_ready().map_err(ChunkRefusal::Misplaced)?;
        let begun = transaction.chunks.as_ref().map_or(0, |content| content.decoder.size());
        let is_binary = transaction.envelope.body == BodyType::BinaryMime;
        // Known beforehand, so none of it is kept.
        if begun.saturating_add(chunk.size) > self.config.size_max {
            return Err(ChunkRefusal::Content(ContentViolation::TooLarge));
        }
        if transaction.chunks.is_none() {
            let framing = if is_binary { Framing::BinaryChunks } else { Framing::Chunks };
            let content = Box::new(self.new_content(now, framing));
            if let Some(transaction) = &mut self.transaction {
                transaction.chunks = Some(content);
            }
            self.event = Some(ServerEvent::DataStarted);
        }
        Ok(())
    }

    pub(super) fn handle_chunk(&mut self, now: Instant, input: &[u8], out: &mut Vec<u8>) -> usize {
        let State::Chunk(chunk) = &mut self.state else {
            return 0;
        };
        let piece = chunk.counter.take(input);
        chunk.pace.count(piece.len());
        let content =
            self.transaction.as_mut().and_then(|transaction| transaction.chunks.as_deref_mut());
        match content {
            Some(content) if chunk.refusal.is_none() => {
                if let (_, ContentProgress::Violation(violation)) = content.decode(piece, out) {
                    chunk.refusal = Some(ChunkRefusal::Content(violation));
                }
            }
            _ => self.skipped = self.skipped.saturating_add(piece.len() as u64),
        }
        let (left, pace) = (chunk.counter.left(), chunk.pace);
        if self.skipped / 2 > self.config.size_max {
            self.fail_message(now, ContentViolation::FarTooLarge);
        } else if left == 0 {
            self.end_chunk(now, out);
        } else {
            self.set_content_timers(now, pace);
        }
        piece.len()
    }

    /// Ends a chunk of no octets, for which no input has to come.
    pub(super) fn end_empty_chunk(&mut self, now: Instant, out: &mut Vec<u8>) {
        if matches!(&self.state, State::Chunk(chunk) if chunk.counter.left() == 0) {
            self.end_chunk(now, out);
        }
    }

    /// All octets of a chunk have come.
    fn end_chunk(&mut self, now: Instant, out: &mut Vec<u8>) {
        let State::Chunk(ChunkInput { chunk, pace, refusal, .. }) =
            std::mem::replace(&mut self.state, State::Command)
        else {
            return;
        };
        self.timers.stop(Timer::ContentBlock);
        self.timers.set(Timer::Command, now + self.command_timeout());
        let violation = match refusal {
            Some(ChunkRefusal::Misplaced(reply)) => {
                self.timers.stop(Timer::ContentRate);
                self.stats.count_command_error(false);
                return self.refuse(now, reply);
            }
            Some(ChunkRefusal::Failed) => {
                self.timers.stop(Timer::ContentRate);
                self.stats.count_command_error(false);
                // No fault of a client that pipelines: RFC 3030 §2 wants it heard to the end.
                return self.push(replies::MESSAGE_FAILED);
            }
            Some(ChunkRefusal::Content(violation)) => Some(violation),
            None => self.keep_chunk(chunk, pace, out),
        };
        match violation {
            Some(violation) => {
                self.chunks_failed = !chunk.is_last;
                self.fail_message(now, violation);
            }
            None if chunk.is_last => {
                let content = self.transaction.as_mut().and_then(|one| one.chunks.take());
                if let Some(content) = content {
                    self.end_content(now, *content);
                }
            }
            None => {
                let mut digits = [0; 20];
                let size = decimal(chunk.size, &mut digits);
                for part in [b"250 2.0.0 ", size, b" octets received\r\n"] {
                    self.output.extend_from_slice(part);
                }
            }
        }
    }

    /// Adds a chunk to its message; says what is wrong with that so far.
    fn keep_chunk(
        &mut self,
        chunk: Chunk,
        pace: Pace,
        out: &mut Vec<u8>,
    ) -> Option<ContentViolation> {
        let content = self.transaction.as_mut()?.chunks.as_deref_mut()?;
        content.pace = pace;
        if chunk.is_last { content.finish(out).err() } else { content.decoder.violation() }
    }

    /// Refuses the message that comes in chunks. Its end is known, so that the session can go on
    /// with bare CR or LF in it too; but not with more than anyone should send.
    fn fail_message(&mut self, now: Instant, violation: ContentViolation) {
        let place = self.chunked_content().map_or_else(
            || ViolationPlace::unknown(self.config.content_limits()),
            |content| content.decoder.violation_place(),
        );
        violation.write_reply(&place, &mut self.output);
        // Taken here, so that it is not counted again when the session closes.
        match self.transaction.take() {
            Some(transaction) => {
                self.stats.count_violation(violation);
                if transaction.chunks.is_some() {
                    self.aborted = self.event.take().is_none();
                }
            }
            None => self.stats.count_limit(ServerLimit::MessageSize),
        }
        if violation == ContentViolation::FarTooLarge {
            return self.close(CloseReason::TooLarge);
        }
        self.expect_command(now);
        self.count_error(now);
    }
}
