//! Telling of event records: how far it has come, and what has to be read back for it.

use std::io;

use super::Queue;
use crate::admission::Admission;
use crate::commit::Batch;
use crate::events::{EventRead, EventsRead};
use crate::frame::{FRAME_HEADER_SIZE, FrameHeader, Lsn, frame_size};
use crate::record::{self, EVENT_MARK_SIZE, Record};
use crate::recovery::each_record;

impl Queue {
    /// The last frame that is durable. Event records of appends up to the last batch that is durable
    /// are in it and the frames before.
    pub fn durable_lsn(&self) -> Lsn {
        Lsn(self.next_lsn.0 - 1)
    }

    /// The event records up to this frame have been told, or given up.
    pub fn marked_events(&self) -> Lsn {
        self.events.marked
    }

    /// Takes it that the event records of all frames up to this one are where they are safe: they will
    /// not be read back any more, and their segments are not kept for them.
    ///
    /// A restart knows of it when a mark has been written, which rides in the padding of the next
    /// frame. After a crash before that, they are read back once more.
    pub fn mark_events(&mut self, through: Lsn) {
        let through = through.min(self.durable_lsn());
        if through > self.events.marked {
            self.events.mark(through);
            self.segments.mark_events(self.events.marked);
            self.look_for_free_segments();
        }
    }

    /// Has the mark written although there may be nothing else to write, as before a stop.
    pub fn request_event_mark(&mut self) {
        if self.events.marked > self.events.recorded {
            self.frame_due = true;
        }
    }

    /// Whether all event records have been marked, and the mark is in the log.
    pub fn is_done_with_events(&self) -> bool {
        self.events.first_place().is_none()
            && self.events.marked == self.events.recorded
            && self.in_flight.is_none()
    }

    /// Has the event records of all frames behind this one read back, by
    /// [`Queue::poll_events`], but not what has been marked.
    ///
    /// After recovery they are read back without being asked for.
    pub fn read_events_after(&mut self, after: Lsn) {
        self.events.read_after(after);
    }

    /// Whether event records are still to be read back. If so, those that become durable meanwhile will
    /// be read back in their turn; if not, none will.
    pub fn has_events_to_read(&self) -> bool {
        self.events.cursor.is_some()
    }

    /// What to read next to have event records back, if that is wanted and none is being read.
    ///
    /// Read it at low priority, and tell [`Queue::handle_events`].
    pub fn poll_events(&mut self) -> Option<EventRead> {
        if self.events.outstanding.is_some() {
            return None;
        }
        let mut cursor = self.events.cursor?;
        let read = loop {
            // What was given up meanwhile is not there any more.
            let Some(segment) = self.segments.from(cursor.segment) else { break None };
            if segment.sequence > cursor.segment {
                cursor.enter(segment.sequence);
            }
            if cursor.offset < segment.end {
                let len = (segment.end - cursor.offset).min(cursor.len as u64) as usize;
                break Some(EventRead { segment: cursor.segment, offset: cursor.offset, len });
            }
            match self.segments.from(cursor.segment.next()) {
                Some(next) => cursor.enter(next.sequence),
                None => break None,
            }
        };
        // The last frame of the run before is durable only when it has been written again.
        let is_done = read.is_none() && self.durable_through >= self.resumed_through;
        self.events.cursor = Some(cursor).filter(|_| !is_done);
        self.events.outstanding = read;
        read
    }

    /// Takes what was read for [`Queue::poll_events`], and gives the event records in it.
    ///
    /// Frames that are not what was written are counted and passed over, to the end of their segment.
    ///
    /// # Errors
    ///
    /// That of the read; the next poll gives the same again.
    pub fn handle_events(
        &mut self,
        read: &EventRead,
        bytes: io::Result<Vec<u8>>,
    ) -> io::Result<EventsRead> {
        let mut found = EventsRead::default();
        if self.events.outstanding.take_if(|outstanding| outstanding == read).is_none() {
            return Ok(found);
        }
        let bytes = bytes?;
        let segment = self.segments.from(read.segment);
        let (Some(mut cursor), Some(end)) = (
            self.events.cursor,
            segment.filter(|segment| segment.sequence == read.segment).map(|segment| segment.end),
        ) else {
            return Ok(found);
        };
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let header = FrameHeader::decode(rest).filter(|header| {
                header.identity == self.identity && header.segment == read.segment
            });
            let Some(header) = header else {
                cursor.offset = end;
                break;
            };
            let size = header.frame_size() as usize;
            let Some((frame, behind)) = rest.split_at_checked(size) else {
                // The next read begins with it.
                cursor.len = cursor.len.max(size);
                break;
            };
            let is_told = header.lsn < cursor.lsn;
            let taken = found.octets.len();
            let payload = frame.get(FRAME_HEADER_SIZE..).unwrap_or_default();
            let payload = payload.get(..header.payload_len as usize).unwrap_or_default();
            let is_sound = header.holds(frame)
                && each_record(&header, payload, |record, _, _| {
                    if let Record::Events(events) = record
                        && !is_told
                    {
                        found.count += u64::from(events.count);
                        found.octets.extend_from_slice(events.octets);
                    }
                    Ok(())
                })
                .is_ok();
            if !is_sound {
                found.octets.truncate(taken);
                cursor.offset = end;
                break;
            }
            cursor.lsn = cursor.lsn.max(Lsn(header.lsn.0 + 1));
            cursor.offset += size as u64;
            rest = behind;
        }
        if cursor.offset == end && !rest.is_empty() {
            self.stats.corrupt_records_total += 1;
        }
        found.through = Lsn(cursor.lsn.0 - 1);
        self.events.cursor = Some(cursor);
        Ok(found)
    }

    /// Gives up the oldest event records that have not been told, while there are too many, or while
    /// they alone keep a segment and the log has no room left: mail comes first.
    pub(super) fn limit_events(&mut self) {
        loop {
            let Some(oldest) = self.segments.oldest_events() else { return };
            let is_short = oldest.blocks && self.admission() == Admission::Full;
            // A restart begins another segment, which must not cost what it is to read back.
            let allowed = self.config.event_segments_max + usize::from(self.has_events_to_read());
            if oldest.segments <= allowed && !is_short {
                return;
            }
            self.stats.event_records_given_up_total += oldest.count;
            self.events.mark(oldest.through);
            self.segments.mark_events(self.events.marked);
            self.look_for_free_segments();
        }
    }

    /// Adds the mark to a batch that is about to be written, if it takes no more room.
    pub(super) fn add_event_mark(&mut self, batch: &mut Batch) {
        let len = batch.payload_len();
        if self.events.marked > self.events.recorded
            && frame_size(len + EVENT_MARK_SIZE) == frame_size(len)
        {
            record::encode_event_mark(&mut batch.frame, self.events.marked);
            batch.records += 1;
            self.events.recorded = self.events.marked;
        }
    }
}
