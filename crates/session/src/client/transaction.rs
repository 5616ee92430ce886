//! One transaction of a client session: what is asked, and what has been answered.

use std::borrow::Cow;
use std::io::Write as _;

use ringpost_protocol::deliver_by::{ByMode, ByValue};
use ringpost_protocol::envelope::{BodyType, Utf8};
use ringpost_protocol::extension::{Extensions, SizeLimit};
use ringpost_protocol::notify::DsnParameters;
use ringpost_protocol::path::{ForwardPath, ReversePath};
use ringpost_protocol::priority::Priority;
use ringpost_protocol::reply::Reply;

use super::config::ClientProtocol;
use super::report::{
    LocalRefusal, ProtocolViolation, RecipientReport, SessionFailure, Stage, TransactionReport,
    Verdict,
};
use super::tls::ClientTlsInfo;

/// A message to be sent to some recipients.
#[derive(Debug, Clone, Copy)]
pub struct TransactionRequest<'a> {
    /// Where reports of failure go.
    pub reverse_path: &'a ReversePath,
    /// The recipients; the report is in this order.
    pub forward_paths: &'a [&'a ForwardPath],
    /// Octets of content, dots not stuffed.
    pub size: u64,
    /// How the content is encoded. [`BodyType::EightBitMime`] when it has octets above 127;
    /// [`BodyType::BinaryMime`] when it may have CR or LF alone, or NUL: it goes by BDAT then.
    pub body: BodyType,
    /// Whether the message came by SMTPUTF8, and what for.
    pub utf8: Utf8,
    /// How urgent it is. Passed on to servers that offer MT-PRIORITY, if it is not 0.
    pub priority: Priority,
    /// Whether the message may only travel under TLS (RFC 8689).
    pub require_tls: bool,
    /// In what time it is to be delivered, if that was said (RFC 2852). Passed on to servers that offer
    /// DELIVERBY.
    pub by: Option<ByValue>,
    /// What the originator wants to be told, if anything was said of it. Passed on to servers that offer
    /// DSN.
    pub dsn: Option<TransactionDsn<'a>>,
}

/// What a transaction passes on of the DSN extension (RFC 3461 §5.2.1).
#[derive(Debug, Clone, Copy)]
pub struct TransactionDsn<'a> {
    /// What was said about the message and all its recipients.
    pub parameters: &'a DsnParameters,
    /// The place of each recipient of the transaction among those of the message.
    pub places: &'a [usize],
}

impl TransactionDsn<'_> {
    fn write_mail(self, out: &mut Vec<u8>) {
        if let Some(ret) = self.parameters.ret() {
            let _ = write!(out, " RET={ret}");
        }
        if let Some(id) = self.parameters.envelope_id() {
            let _ = write!(out, " ENVID={id}");
        }
    }

    fn write_rcpt(self, at: usize, path: &ForwardPath, utf8: bool, out: &mut Vec<u8>) {
        let recipient = self.places.get(at).and_then(|place| self.parameters.recipient(*place));
        let Some(recipient) = recipient else { return };
        if let Some(notify) = recipient.notify {
            let _ = write!(out, " NOTIFY={notify}");
        }
        let Some(original) = recipient.original_for(path) else { return };
        // RFC 6533 §3: without SMTPUTF8 it is in ASCII.
        let original = if utf8 { Some(Cow::Borrowed(&*original)) } else { original.to_ascii() };
        if let Some(original) = original {
            let _ = write!(out, " ORCPT={original}");
        }
    }
}

impl TransactionRequest<'_> {
    /// Why the message cannot be offered to a server with these extensions, over this TLS.
    pub(super) fn refusal(
        &self,
        extensions: &Extensions,
        tls: Option<ClientTlsInfo>,
    ) -> Option<LocalRefusal> {
        if let Some(refusal) = self.tls_refusal(extensions, tls) {
            return Some(refusal);
        }
        if !extensions.size.allows(self.size) {
            return Some(LocalRefusal::TooLarge);
        }
        if let Some(refusal) = self.by_refusal(extensions) {
            return Some(refusal);
        }
        match self.body {
            BodyType::EightBitMime if !extensions.eight_bit_mime => {
                Some(LocalRefusal::NeedsEightBitMime)
            }
            BodyType::BinaryMime if !(extensions.chunking && extensions.binary_mime) => {
                Some(LocalRefusal::NeedsBinaryMime)
            }
            _ => self.utf8_refusal(extensions),
        }
    }

    /// Why the message cannot be offered for want of TLS (RFC 8689 §4.2.1). What somebody on the way can
    /// bring about is no reason to give up: only who is verified is believed to lack the extension.
    fn tls_refusal(
        &self,
        extensions: &Extensions,
        tls: Option<ClientTlsInfo>,
    ) -> Option<LocalRefusal> {
        if !self.require_tls {
            return None;
        }
        if !tls.is_some_and(|tls| tls.verified) {
            return Some(LocalRefusal::NeedsTls);
        }
        (!extensions.requiretls).then_some(LocalRefusal::NeedsRequireTls)
    }

    /// Why the message cannot be offered for its time (RFC 2852 §4.1.4): one that is to be returned in time goes
    /// only to who sees to that, and only while there is time.
    fn by_refusal(&self, extensions: &Extensions) -> Option<LocalRefusal> {
        let by = self.by.filter(|by| by.mode == ByMode::Return)?;
        if by.is_over() {
            return Some(LocalRefusal::TimeOver);
        }
        let Some(min) = extensions.deliver_by else { return Some(LocalRefusal::NeedsDeliverBy) };
        (i64::from(by.seconds) < i64::from(min)).then_some(LocalRefusal::TimeOver)
    }

    /// Why the message as a whole cannot be offered for its UTF-8 (RFC 6531 §3.2).
    fn utf8_refusal(&self, extensions: &Extensions) -> Option<LocalRefusal> {
        if extensions.smtputf8 {
            return None;
        }
        if !self.reverse_path.is_ascii() {
            return Some(LocalRefusal::NeedsUtf8Address);
        }
        (self.utf8 == Utf8::Header).then_some(LocalRefusal::NeedsUtf8Header)
    }

    /// Whether MAIL has SMTPUTF8. RFC 6531 §3.4: what needs it has it, and what is known not to need it
    /// has not. Of fields in the body nothing is known, so 8-bit content that came with it goes with it.
    fn is_utf8(&self, extensions: &Extensions) -> bool {
        extensions.smtputf8
            && (self.utf8 == Utf8::Header
                || (self.utf8.is_marked() && self.body != BodyType::SevenBit)
                || !self.reverse_path.is_ascii()
                || self.forward_paths.iter().any(|path| !path.is_ascii()))
    }

    /// Whether the content goes by BDAT. What can go by DATA does: every server has it.
    pub(super) fn is_chunked(&self) -> bool {
        self.body == BodyType::BinaryMime
    }

    /// Why recipients cannot be named to a server with these extensions, though the message can be offered.
    fn recipient_refusals(
        &self,
        extensions: &Extensions,
    ) -> impl Iterator<Item = Option<LocalRefusal>> {
        let mut room = extensions.recipients_max.unwrap_or(u32::MAX);
        let takes_utf8 = extensions.smtputf8;
        self.forward_paths.iter().map(move |path| {
            if !takes_utf8 && !path.is_ascii() {
                return Some(LocalRefusal::NeedsUtf8Address);
            }
            let Some(left) = room.checked_sub(1) else {
                return Some(LocalRefusal::TooManyRecipients);
            };
            room = left;
            None
        })
    }

    /// Appends MAIL and all RCPT, and DATA unless the content goes by BDAT.
    pub(super) fn write_commands(&self, extensions: &Extensions, out: &mut Vec<u8>) {
        // Writing to a vector cannot fail.
        let _ = write!(out, "MAIL FROM:{}", self.reverse_path);
        if extensions.size != SizeLimit::NotOffered {
            let _ = write!(out, " SIZE={}", self.size);
        }
        if self.body != BodyType::SevenBit {
            let _ = write!(out, " BODY={}", self.body);
        }
        let utf8 = self.is_utf8(extensions);
        if utf8 {
            out.extend_from_slice(b" SMTPUTF8");
        }
        if extensions.mt_priority && !self.priority.is_normal() {
            let _ = write!(out, " MT-PRIORITY={}", self.priority);
        }
        if let Some(by) = self.by.filter(|_| extensions.deliver_by.is_some()) {
            let _ = write!(out, " BY={by}");
        }
        if self.require_tls {
            out.extend_from_slice(b" REQUIRETLS");
        }
        let dsn = self.dsn.filter(|_| extensions.dsn);
        if let Some(dsn) = dsn {
            dsn.write_mail(out);
        }
        let refusals = self.recipient_refusals(extensions);
        for (at, (forward_path, refusal)) in self.forward_paths.iter().zip(refusals).enumerate() {
            if refusal.is_some() {
                continue;
            }
            let _ = write!(out, "\r\nRCPT TO:{forward_path}");
            if let Some(dsn) = dsn {
                dsn.write_rcpt(at, forward_path, utf8, out);
            }
        }
        out.extend_from_slice(if self.is_chunked() { b"\r\n" } else { b"\r\nDATA\r\n" });
    }
}

/// The reply that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    Reset,
    Mail,
    Rcpt(usize),
    Data,
    /// None: the driver is sending the content.
    Content,
    FinalReply,
    /// As the reply to the final dot, but the content was empty for want of recipients.
    LoneDot,
}

impl Expect {
    pub(super) fn stage(self) -> Stage {
        match self {
            Self::Reset => Stage::Idle,
            Self::Mail => Stage::Mail,
            Self::Rcpt(_) => Stage::Rcpt,
            Self::Data => Stage::Data,
            Self::Content => Stage::Content,
            Self::FinalReply | Self::LoneDot => Stage::FinalReply,
        }
    }
}

/// What the session has to do after a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Wait for the next reply of the group, or send its command when not pipelining.
    Continue,
    /// Send a dot alone: 354 has come though nobody is to get the message.
    SendLoneDot,
    /// Let the driver send the content.
    SendContent,
    /// Send BDAT for so many octets, and let the driver send these.
    SendChunk(u64),
    /// All verdicts are there.
    Done,
}

/// The state of a transaction.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is so or not, whatever the others are")]
pub(super) struct Transaction {
    pub(super) expect: Expect,
    /// `None` for recipients that can still be delivered to.
    recipients: Vec<Option<RecipientReport>>,
    open: usize,
    is_answered: bool,
    protocol: ClientProtocol,
    /// All commands have been sent together, so all replies have to be read.
    pipelined: bool,
    /// The server offers DSN.
    dsn_offered: bool,
    /// The server offers DELIVERBY.
    deliver_by_offered: bool,
    /// Octets of content, if they go by BDAT.
    chunk_size: Option<u64>,
}

impl Transaction {
    pub(super) fn new(
        request: &TransactionRequest<'_>,
        extensions: &Extensions,
        protocol: ClientProtocol,
        pipelined: bool,
        reset_first: bool,
    ) -> Self {
        let refusals = request.recipient_refusals(extensions);
        let recipients: Vec<_> =
            refusals.map(|refusal| refusal.map(RecipientReport::refused)).collect();
        let open = recipients.iter().filter(|report| report.is_none()).count();
        Self {
            expect: if reset_first { Expect::Reset } else { Expect::Mail },
            recipients,
            open,
            is_answered: false,
            protocol,
            pipelined,
            dsn_offered: extensions.dsn,
            deliver_by_offered: extensions.deliver_by.is_some(),
            chunk_size: request.is_chunked().then_some(request.size),
        }
    }

    /// Whether there is anybody to name to the server.
    pub(super) fn is_open(&self) -> bool {
        self.open > 0
    }

    /// A report on a message that is not offered.
    pub(super) fn refused(recipients: usize, refusal: LocalRefusal) -> TransactionReport {
        TransactionReport {
            recipients: vec![RecipientReport::refused(refusal); recipients],
            is_answered: false,
            session_usable: true,
            dsn_offered: false,
            deliver_by_offered: false,
            tls: None,
        }
    }

    /// Takes the reply that is waited for.
    pub(super) fn handle_reply(&mut self, reply: Reply) -> Result<Step, ProtocolViolation> {
        self.is_answered = self.is_answered || self.expect != Expect::Reset;
        match self.expect {
            Expect::Reset => self.reset_reply(reply),
            Expect::Mail => self.mail_reply(reply),
            Expect::Rcpt(index) => self.rcpt_reply(index, reply),
            Expect::Data => self.data_reply(reply),
            Expect::Content => self.early_reply(reply),
            Expect::FinalReply => self.final_reply(reply),
            // Whatever it says: there was no message.
            Expect::LoneDot => Ok(Step::Done),
        }
    }

    fn reset_reply(&mut self, reply: Reply) -> Result<Step, ProtocolViolation> {
        if !reply.is_positive_completion() {
            return Err(ProtocolViolation::UnexpectedCode(reply));
        }
        self.expect = Expect::Mail;
        Ok(Step::Continue)
    }

    fn mail_reply(&mut self, reply: Reply) -> Result<Step, ProtocolViolation> {
        if reply.is_intermediate() {
            return Err(ProtocolViolation::UnexpectedCode(reply));
        }
        if !reply.is_positive_completion() {
            self.settle_open(Stage::Mail, &Verdict::Reply(reply));
        }
        Ok(self.expect_rcpt(0))
    }

    fn rcpt_reply(&mut self, index: usize, reply: Reply) -> Result<Step, ProtocolViolation> {
        if reply.is_intermediate() {
            return Err(ProtocolViolation::UnexpectedCode(reply));
        }
        // RFC 5321 §4.2.1: the first digit decides; 251 and 252 are as good as 250.
        if !reply.is_positive_completion()
            && let Some(recipient @ None) = self.recipients.get_mut(index)
        {
            let verdict = Verdict::Reply(reply);
            *recipient = Some(RecipientReport { stage: Stage::Rcpt, verdict });
            self.open -= 1;
        }
        Ok(self.expect_rcpt(index + 1))
    }

    /// Goes on to the recipient at a place, or behind it: some are not named to the server.
    fn expect_rcpt(&mut self, from: usize) -> Step {
        let is_named = |one: &Option<RecipientReport>| {
            one.as_ref().is_none_or(|report| report.stage != Stage::Idle)
        };
        let rest = self.recipients.iter().skip(from);
        let index = from + rest.take_while(|one| !is_named(one)).count();
        let is_hopeless = self.open == 0;
        let has_more = index < self.recipients.len();
        if is_hopeless && !(self.pipelined && (has_more || self.chunk_size.is_none())) {
            return Step::Done;
        }
        if has_more {
            self.expect = Expect::Rcpt(index);
            return Step::Continue;
        }
        // RFC 3030 §2 lets BDAT go with the other commands. But then the content would go to servers
        // that want none of the recipients.
        if let Some(size) = self.chunk_size {
            self.expect = Expect::Content;
            return Step::SendChunk(size);
        }
        self.expect = Expect::Data;
        Step::Continue
    }

    fn data_reply(&mut self, reply: Reply) -> Result<Step, ProtocolViolation> {
        if reply.is_positive_completion() {
            return Err(ProtocolViolation::UnexpectedCode(reply));
        }
        if !reply.is_intermediate() {
            self.settle_open(Stage::Data, &Verdict::Reply(reply));
            return Ok(Step::Done);
        }
        // RFC 2920 §3.1: 354 may come even though every recipient was refused. RFC 2033 §4.2: not so here, and
        // nobody knows how many replies would follow a dot.
        if self.open == 0 && self.protocol == ClientProtocol::Lmtp {
            return Err(ProtocolViolation::UnexpectedCode(reply));
        }
        if self.open == 0 {
            self.expect = Expect::LoneDot;
            return Ok(Step::SendLoneDot);
        }
        self.expect = Expect::Content;
        Ok(Step::SendContent)
    }

    /// A server may give up while we are sending; what it says then is final, unless it is good.
    fn early_reply(&mut self, reply: Reply) -> Result<Step, ProtocolViolation> {
        // By LMTP it would be about one of the recipients.
        let is_about_all = self.protocol == ClientProtocol::Smtp;
        if is_about_all && (reply.is_permanent_negative() || reply.is_transient_negative()) {
            self.settle_open(Stage::Content, &Verdict::Reply(reply.clone()));
        }
        Err(ProtocolViolation::UnexpectedReply(reply))
    }

    fn final_reply(&mut self, reply: Reply) -> Result<Step, ProtocolViolation> {
        if reply.is_intermediate() {
            return Err(ProtocolViolation::UnexpectedCode(reply));
        }
        let verdict = Verdict::Reply(reply);
        match self.protocol {
            ClientProtocol::Smtp => self.settle_open(Stage::FinalReply, &verdict),
            // RFC 2033 §4.2: one for each recipient that was taken, in their order.
            ClientProtocol::Lmtp => self.settle_first(Stage::FinalReply, verdict),
        }
        Ok(if self.open == 0 { Step::Done } else { Step::Continue })
    }

    fn settle_first(&mut self, stage: Stage, verdict: Verdict) {
        if let Some(first) = self.recipients.iter_mut().find(|one| one.is_none()) {
            *first = Some(RecipientReport { stage, verdict });
            self.open -= 1;
        }
    }

    fn settle_open(&mut self, stage: Stage, verdict: &Verdict) {
        for recipient in &mut self.recipients {
            if recipient.is_none() {
                *recipient = Some(RecipientReport { stage, verdict: verdict.clone() });
            }
        }
        self.open = 0;
    }

    /// Whether the message was taken, so that the server has forgotten the transaction.
    pub(super) fn is_complete(&self) -> bool {
        self.recipients
            .iter()
            .flatten()
            .any(|recipient| recipient.stage == Stage::FinalReply && recipient.is_delivered())
    }

    /// The report once all verdicts are there.
    pub(super) fn into_report(self) -> TransactionReport {
        TransactionReport {
            recipients: self.recipients.into_iter().flatten().collect(),
            is_answered: self.is_answered,
            session_usable: true,
            dsn_offered: self.dsn_offered,
            deliver_by_offered: self.deliver_by_offered,
            tls: None,
        }
    }

    /// The report when the session fails: recipients that are still open share its failure.
    pub(super) fn into_failed_report(mut self, failure: &SessionFailure) -> TransactionReport {
        if self.protocol == ClientProtocol::Lmtp
            && let SessionFailure::Reply { stage: stage @ Stage::FinalReply, .. } = failure
        {
            // It is the reply for one of them. What it would have said of the others nobody knows.
            self.settle_first(*stage, Verdict::Failed(failure.clone()));
            let unknown = SessionFailure::Closed { stage: *stage };
            self.settle_open(*stage, &Verdict::Failed(unknown));
        }
        self.settle_open(failure.stage(), &Verdict::Failed(failure.clone()));
        TransactionReport { session_usable: false, ..self.into_report() }
    }
}
