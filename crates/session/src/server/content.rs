//! What a server session does with content.

use std::time::{Duration, Instant};

use ringpost_protocol::data::{ContentDecoder, ContentProgress, ContentViolation};
use ringpost_protocol::envelope::BodyType;

use super::event::{CloseReason, ServerEvent};
use super::hold::NotBeforeField;
use super::replies;
use super::session::{ServerSession, State};
use super::stats::{ServerLimit, TransactionRefusal};
use crate::timer::Timer;

/// Content that is coming in.
#[derive(Debug)]
pub(super) struct Content {
    decoder: ContentDecoder,
    /// Where listeners let a header field say when to send.
    not_before: Option<Box<NotBeforeField>>,
    started: Instant,
    /// Octets that have come, as they were on the wire.
    received: u64,
}

impl ServerSession {
    /// DATA has been taken: the content follows.
    pub(super) fn start_content(&mut self, now: Instant) {
        let decoder = ContentDecoder::new(self.config.content_limits());
        self.push(replies::GO_AHEAD);
        self.timers.stop(Timer::Command);
        let not_before = self.not_before_field();
        self.state = State::Content(Content { decoder, not_before, started: now, received: 0 });
        self.set_content_timers(now);
        self.event = Some(ServerEvent::DataStarted);
    }

    fn set_content_timers(&mut self, now: Instant) {
        let State::Content(content) = &self.state else {
            return;
        };
        self.timers.set(Timer::ContentBlock, now + self.config.data_block_timeout);
        if let Some(seconds) = content.received.checked_div(self.config.data_rate_min.into()) {
            let allowed = self.config.data_rate_grace + Duration::from_secs(seconds);
            self.timers.set(Timer::ContentRate, content.started + allowed);
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
        let (consumed, progress) = match &mut content.not_before {
            Some(field) => field.decode(&mut content.decoder, input, out),
            None => content.decoder.decode(input, out),
        };
        content.received = content.received.saturating_add(consumed as u64);
        match progress {
            ContentProgress::More => self.set_content_timers(now),
            ContentProgress::End => self.end_content(now),
            ContentProgress::Violation(violation) => self.refuse_content(now, violation),
        }
        consumed
    }

    fn end_content(&mut self, now: Instant) {
        let State::Content(Content { decoder, not_before, .. }) = &mut self.state else {
            return;
        };
        let (mut size, eight_bit) = (decoder.size(), decoder.is_eight_bit());
        let received_fields = decoder.received_fields();
        let not_before = not_before.take();
        // RFC 5321 §6.3.
        if received_fields > self.config.received_fields_max {
            self.aborted = true;
            self.stats.count_limit(ServerLimit::ReceivedFields);
            self.stats.count_refusal(TransactionRefusal::Loop);
            self.expect_command(now);
            return self.refuse(now, replies::LOOP);
        }
        if let Some(field) = not_before {
            size -= field.size();
            if let Err(reason) = self.hold_by_field(&field) {
                return self.refuse_field(now, reason);
            }
        }
        if let Some(transaction) = &mut self.transaction {
            // What the content is counts, not what MAIL said: injectors often say nothing, and a
            // message that is 7-bit after all can go anywhere.
            transaction.envelope.body =
                if eight_bit { BodyType::EightBitMime } else { BodyType::SevenBit };
        }
        self.timers.stop(Timer::ContentBlock);
        self.timers.stop(Timer::ContentRate);
        self.state = State::AwaitingVerdict;
        self.event = Some(ServerEvent::MessageReceived { size, received_fields, eight_bit });
    }

    fn refuse_content(&mut self, now: Instant, violation: ContentViolation) {
        violation.write_reply(&mut self.output);
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
