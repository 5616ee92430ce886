//! What becomes of the header section of a message: fields of ours are taken out, missing ones added.

use std::sync::Arc;
use std::time::Instant;

use ringpost_protocol::data::edit::{HeaderEditor, MissingFields, Origin};
use ringpost_protocol::data::field::TakenField;
use ringpost_protocol::data::{ContentDecoder, ContentProgress, ContentViolation};
use ringpost_protocol::label::{LabelText, Labels};

use super::config::ServerConfig;
use super::event::ServerEvent;
use super::session::{ServerSession, State};
use super::stats::TransactionRefusal;

/// Edits the header section of content that comes in.
#[derive(Debug)]
pub(super) struct HeaderEdits {
    editor: HeaderEditor,
    /// Content on its way from the decoder to the editor, while the header section lasts.
    decoded: Vec<u8>,
}

/// What a field is taken out for.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    NotBefore,
    Tenant,
    Campaign,
}

/// The fields that are taken out.
fn fields(config: &ServerConfig) -> impl Iterator<Item = (Purpose, &str)> {
    let all = [
        (Purpose::NotBefore, &config.not_before_header),
        (Purpose::Tenant, &config.tenant_header),
        (Purpose::Campaign, &config.campaign_header),
    ];
    all.into_iter().filter_map(|(purpose, name)| Some((purpose, name.as_deref()?)))
}

impl HeaderEdits {
    /// Decodes, and edits what comes out.
    pub(super) fn decode(
        &mut self,
        decoder: &mut ContentDecoder,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> (usize, ContentProgress) {
        if self.editor.is_done() {
            return decoder.decode(input, out);
        }
        let step = decoder.decode(input, &mut self.decoded);
        self.pass(step.1 == ContentProgress::End, out);
        step
    }

    /// Takes the end of content that came in chunks.
    pub(super) fn finish(
        &mut self,
        decoder: &mut ContentDecoder,
        out: &mut Vec<u8>,
    ) -> Result<(), ContentViolation> {
        let end = decoder.finish(&mut self.decoded);
        self.pass(end.is_ok(), out);
        end
    }

    fn pass(&mut self, is_end: bool, out: &mut Vec<u8>) {
        self.editor.pass(&self.decoded, out);
        self.decoded.clear();
        if is_end {
            self.editor.finish(out);
        }
        if self.editor.is_done() {
            self.decoded = Vec::new();
        }
    }

    /// How many octets there are of content that had so many.
    pub(super) fn size_after(&self, size: u64) -> u64 {
        (size + self.editor.added()).saturating_sub(self.editor.removed())
    }
}

impl ServerSession {
    /// Tells the session what added fields are to say: when the message was received, in seconds of
    /// Unix time, and its queue id, which is printable ASCII without specials. To be called at
    /// [`ServerEvent::DataStarted`], with the buffer of content behind the trace fields. Where
    /// [`ServerConfig::add_missing_fields`](super::ServerConfig::add_missing_fields) is off nothing comes
    /// of it.
    pub fn set_origin(&mut self, unix_seconds: u64, id: &str, content: &mut Vec<u8>) {
        if self.edits_mut().is_none() {
            return;
        }
        let config = Arc::clone(&self.config);
        let Some(edits) = self.edits_mut() else { return };
        let before = edits.editor.added();
        let origin = Origin { unix_seconds, id, host: &config.hostname };
        edits.editor.set_origin(&origin, content);
        let late = edits.editor.added() - before;
        // An empty message by BDAT has had its end before.
        if let Some(ServerEvent::MessageReceived { size, .. }) = &mut self.event {
            *size += late;
        }
    }

    /// The fields that were added to the content. To be asked before
    /// [`take_envelope`](Self::take_envelope).
    pub fn added_fields(&self) -> MissingFields {
        let edits = self.transaction.as_ref().and_then(|transaction| transaction.edits.as_ref());
        edits.map_or(MissingFields::default(), |edits| edits.editor.missing())
    }

    fn edits_mut(&mut self) -> Option<&mut HeaderEdits> {
        if let State::Content(content) = &mut self.state {
            return content.edits.as_deref_mut();
        }
        let transaction = self.transaction.as_mut()?;
        match &mut transaction.chunks {
            Some(content) => content.edits.as_deref_mut(),
            None => transaction.edits.as_deref_mut(),
        }
    }

    /// What edits the header section, if that is to be done here, and for this client.
    pub(super) fn header_edits(&self) -> Option<Box<HeaderEdits>> {
        let config = &self.config;
        let is_needed = config.add_missing_fields || fields(config).next().is_some();
        if !is_needed || !self.may_relay() {
            return None;
        }
        let names = fields(config).map(|(_, name)| name);
        let mut editor = HeaderEditor::new(names, config.header_size_max);
        if config.add_missing_fields {
            editor.add_missing();
        }
        Some(Box::new(HeaderEdits { editor, decoded: Vec::new() }))
    }

    /// Takes what the fields say that were taken out; of one that cannot be taken its name, and why.
    pub(super) fn take_fields(
        &mut self,
        edits: &HeaderEdits,
    ) -> Result<(), (Box<str>, &'static str)> {
        let config = Arc::clone(&self.config);
        for (number, (purpose, name)) in fields(&config).enumerate() {
            let field = edits.editor.field(number);
            let taken = match purpose {
                Purpose::NotBefore => self.hold_by_field(field),
                Purpose::Tenant => self.label_by_field(field, |labels| &mut labels.tenant),
                Purpose::Campaign => self.label_by_field(field, |labels| &mut labels.campaign),
            };
            taken.map_err(|reason| (name.into(), reason))?;
        }
        Ok(())
    }

    /// Takes the name that a field has, or says why not. To leave out what cannot be read would put the
    /// message into the books of somebody else, and nobody would hear of it.
    fn label_by_field(
        &mut self,
        field: TakenField<'_>,
        place: fn(&mut Labels) -> &mut Option<LabelText>,
    ) -> Result<(), &'static str> {
        let label = match field {
            TakenField::Absent => return Ok(()),
            TakenField::Value(value) => LabelText::parse_field(value)
                .ok_or("not 1 to 64 letters, digits and characters of ._-+:/@"),
            TakenField::TooLong => Err("not 1 to 64 letters, digits and characters of ._-+:/@"),
            TakenField::Repeated => Err("there can be only one such field"),
        };
        let label = label.inspect_err(|_| self.stats.count_refusal(TransactionRefusal::Label))?;
        if let Some(transaction) = &mut self.transaction {
            *place(&mut transaction.envelope.labels) = Some(label);
        }
        Ok(())
    }

    /// Puts the tenant of a user in the place of any other.
    pub(super) fn label_by_user(&mut self) {
        let tenant = self.user().and_then(|user| LabelText::new(user.tenant.as_deref()?));
        if let (Some(tenant), Some(transaction)) = (tenant, &mut self.transaction) {
            transaction.envelope.labels.tenant = Some(tenant);
        }
    }

    /// Refuses content for what a field says.
    pub(super) fn refuse_field(&mut self, now: Instant, name: &str, reason: &str) {
        self.aborted = true;
        self.expect_command(now);
        self.refuse_with(now, |out| {
            for part in ["550 5.6.0 ", name, ": ", reason, "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        });
    }
}
