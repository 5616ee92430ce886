//! What a server session does with content.

use std::time::{Duration, Instant};

use ringpost_protocol::data::{
    ContentDecoder, ContentProgress, ContentViolation, Framing, ViolationPlace,
};
use ringpost_protocol::envelope::BodyType;

use super::event::{CloseReason, ServerEvent};
use super::header::HeaderEdits;
use super::replies;
use super::session::{ServerSession, State};
use super::stats::{ServerLimit, TransactionRefusal};
use crate::timer::Timer;

/// How fast content comes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    started: Instant,
    /// Octets that have come, as they were on the wire.
    received: u64,
}

impl Pace {
    /// Of content that begins.
    pub(super) fn new(now: Instant) -> Self {
        Self { started: now, received: 0 }
    }

    /// Takes the fact that so many octets have come.
    pub(super) fn count(&mut self, octets: usize) {
        self.received = self.received.saturating_add(octets as u64);
    }
}

/// Content that is coming in.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) decoder: ContentDecoder,
    /// Where the header section is changed.
    pub(super) edits: Option<Box<HeaderEdits>>,
    pub(super) pace: Pace,
}

impl Content {
    pub(super) fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, ContentProgress) {
        match &mut self.edits {
            Some(edits) => edits.decode(&mut self.decoder, input, out),
            None => self.decoder.decode(input, out),
        }
    }

    /// Takes the end of content that came in chunks.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), ContentViolation> {
        match &mut self.edits {
            Some(edits) => edits.finish(&mut self.decoder, out),
            None => self.decoder.finish(out),
        }
    }
}

impl ServerSession {
    pub(super) fn new_content(&self, now: Instant, framing: Framing) -> Content {
        Content {
            decoder: ContentDecoder::new(self.config.content_limits(), framing),
            edits: self.header_edits(),
            pace: Pace::new(now),
        }
    }

    /// DATA has been taken: the content follows.
    pub(super) fn start_content(&mut self, now: Instant) {
        let content = self.new_content(now, Framing::Dots);
        self.push(replies::GO_AHEAD);
        self.timers.stop(Timer::Command);
        self.set_content_timers(now, content.pace);
        self.state = State::Content(content);
        self.event = Some(ServerEvent::DataStarted);
    }

    pub(super) fn set_content_timers(&mut self, now: Instant, pace: Pace) {
        let patience = self.patience(self.config.data_block_timeout);
        self.timers.set(Timer::ContentBlock, now + patience);
        self.set_rate_timer(pace);
    }

    /// Sets when content falls behind the lowest rate.
    pub(super) fn set_rate_timer(&mut self, pace: Pace) {
        if let Some(seconds) = pace.received.checked_div(self.config.data_rate_min.into()) {
            let allowed = self.patience(self.config.data_rate_grace) + Duration::from_secs(seconds);
            self.timers.set(Timer::ContentRate, pace.started + allowed);
        }
    }

    pub(super) fn handle_content(
        &mut self,
        now: Instant,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> usize {
        let State::Content(content) = &mut self.state else {
            return 0;
        };
        let (consumed, progress) = content.decode(input, out);
        let place = content.decoder.violation_place();
        content.pace.count(consumed);
        match progress {
            ContentProgress::More => {
                let pace = content.pace;
                self.set_content_timers(now, pace);
            }
            ContentProgress::End => {
                if let State::Content(content) = std::mem::replace(&mut self.state, State::Command)
                {
                    self.end_content(now, content);
                }
            }
            ContentProgress::Violation(violation) => self.refuse_content(now, violation, place),
        }
        consumed
    }

    /// The content is complete: the driver makes a message of it, unless it is a loop.
    pub(super) fn end_content(&mut self, now: Instant, content: Content) {
        let Content { decoder, edits, .. } = content;
        let (mut size, eight_bit) = (decoder.size(), decoder.is_eight_bit());
        let received_fields = decoder.received_fields();
        let header_eight_bit = decoder.is_header_eight_bit();
        // RFC 5321 §6.3.
        if received_fields > self.config.received_fields_max {
            self.aborted = true;
            self.stats.count_limit(ServerLimit::ReceivedFields);
            self.stats.count_refusal(TransactionRefusal::Loop);
            self.expect_command(now);
            return self.refuse(now, replies::LOOP);
        }
        if let Some(edits) = &edits {
            size = edits.size_after(size);
            if let Err((name, reason)) = self.take_fields(edits) {
                return self.refuse_field(now, &name, reason);
            }
        }
        self.label_by_user();
        if let Some(transaction) = &mut self.transaction {
            transaction.edits = edits;
            let envelope = &mut transaction.envelope;
            // RFC 8689 §4.1: beside REQUIRETLS the field means nothing.
            envelope.tls_optional = decoder.is_tls_optional()
                && self.config.tls_required_field
                && !envelope.require_tls;
            transaction.settle_utf8(header_eight_bit);
        }
        if let Some(transaction) = &mut self.transaction
            && transaction.envelope.body != BodyType::BinaryMime
        {
            // What the content is counts, not what MAIL said: injectors often say nothing, and a
            // message that is 7-bit after all can go anywhere. Binary content is what MAIL said: its
            // header may call it so.
            transaction.envelope.body =
                if eight_bit { BodyType::EightBitMime } else { BodyType::SevenBit };
        }
        for timer in [Timer::Command, Timer::ContentBlock, Timer::ContentRate] {
            self.timers.stop(timer);
        }
        self.state = State::AwaitingVerdict;
        let received = ServerEvent::MessageReceived { size, received_fields, eight_bit };
        // An empty message by BDAT is complete before the driver has heard that it begins.
        let slot = if self.event.is_some() { &mut self.next_event } else { &mut self.event };
        *slot = Some(received);
    }

    fn refuse_content(&mut self, now: Instant, violation: ContentViolation, place: ViolationPlace) {
        violation.write_reply(&place, &mut self.output);
        self.stats.count_violation(violation);
        // Counted: it is not to be counted again when the session closes.
        self.transaction = None;
        if violation.closes_session() {
            let is_too_large = violation == ContentViolation::FarTooLarge;
            let reason = if is_too_large { CloseReason::TooLarge } else { CloseReason::BadLine };
            return self.close(reason);
        }
        self.aborted = true;
        self.expect_command(now);
        self.count_error(now);
    }
}
