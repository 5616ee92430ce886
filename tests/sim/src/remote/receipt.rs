//! What a remote host looks at before it believes that it was sent what was meant for it.

use std::collections::BTreeMap;
use std::time::Instant;

use super::body::{self, Body};
use super::mended;
use crate::ledger::{Fingerprint, Hearing, Key, Ledger, Message, Origin, Party};
use crate::wire::find;

/// A transaction as the host heard it.
#[derive(Debug, Clone, Default)]
pub(super) struct Transaction {
    /// The argument of MAIL without brackets.
    pub(super) reverse_path: String,
    /// Whether MAIL had SMTPUTF8.
    pub(super) utf8: bool,
    /// The priority that MAIL had, if the host has offered to take one.
    pub(super) priority: Option<i8>,
    /// What MAIL said of the content.
    pub(super) body: Body,
    /// Accepted recipients.
    pub(super) parties: Vec<(Party, String)>,
    /// When the content was asked for, and in which life of the server.
    pub(super) begun: Option<(Instant, u32)>,
    /// How it was heard.
    pub(super) hearing: Option<Hearing>,
}

/// A message that is what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Receipt {
    pub(super) message: u32,
    pub(super) recipients: Vec<u16>,
}

impl Transaction {
    /// Holds what came against what was sent; `None` if it cannot be told what it is.
    pub(super) fn examine(
        &self,
        ledger: &mut Ledger,
        content: &[u8],
        is_chunk: bool,
        now: Instant,
    ) -> Option<Receipt> {
        if self.body != Body::Binary {
            check_wire(ledger, content, now);
        }
        if self.body == Body::SevenBit && !content.is_ascii() {
            ledger.violate("8-bit content that is not said to be", now, String::new());
        }
        let content = if is_chunk { content.to_vec() } else { unstuffed(content) };
        let mut receipt: Option<Receipt> = None;
        for (party, address) in &self.parties {
            let key = match party {
                Party::Recipient(key) => {
                    if ledger.message(key.message).is_some_and(|one| one.utf8) && !self.utf8 {
                        ledger.violate("UTF-8 in a header without SMTPUTF8", now, address.clone());
                    }
                    self.check_message(ledger, *key, address, &content, now);
                    *key
                }
                Party::Originator(about) => {
                    let message = self.check_report(ledger, *about, address, &content, now)?;
                    Key { message, recipient: 0 }
                }
            };
            self.check_priority(ledger, key.message, now);
            if let Some(hearing) = self.hearing {
                ledger.check_tls(address, key, hearing);
            }
            let receipt = receipt
                .get_or_insert_with(|| Receipt { message: key.message, recipients: Vec::new() });
            if receipt.message != key.message {
                let text = format!("{address} in a transaction of message {}", receipt.message);
                ledger.violate("mail of two messages in one", now, text);
            } else if receipt.recipients.contains(&key.recipient) {
                ledger.violate("recipient twice in one transaction", now, address.clone());
            } else {
                receipt.recipients.push(key.recipient);
            }
        }
        receipt
    }

    /// What it is to be in the ledger is what the host hears, if it wants to.
    fn check_priority(&self, ledger: &mut Ledger, message: u32, now: Instant) {
        let known = ledger.message(message).map(|message| message.priority);
        if let (Some(heard), Some(known)) = (self.priority, known)
            && heard != known
        {
            let text = format!("message {message}: {heard}, not {known}");
            ledger.violate("mail with another priority", now, text);
        }
    }

    fn check_message(
        &self,
        ledger: &mut Ledger,
        key: Key,
        address: &str,
        content: &[u8],
        now: Instant,
    ) {
        let wrong = match ledger.message(key.message) {
            None => Some(("mail that nobody sent", String::new())),
            Some(message) => {
                let recipient = message.recipients.get(usize::from(key.recipient));
                let candidates = self.candidates(message, content, ledger.mends);
                let sent = message.content.unwrap_or_default();
                // The server puts its trace fields in front.
                let is_sent = candidates.iter().any(|content| {
                    let from = content.len().checked_sub(sent.len);
                    let own = from.and_then(|from| content.get(from..));
                    own.is_some_and(|own| Fingerprint::of(own) == sent)
                });
                if message.sent.is_none() {
                    Some(("mail that was not sent to its end", String::new()))
                } else if message.reverse_path != self.reverse_path
                    || recipient.is_none_or(|known| known.address != address || !known.accepted)
                {
                    Some(("mail with another envelope", format!("from {}", self.reverse_path)))
                } else if candidates.is_empty() {
                    Some(("mail without a date or an id", String::new()))
                } else if !is_sent {
                    Some(("mail with another content", format!("{} octets", content.len())))
                } else if !is_traced(message, content) {
                    Some(("mail with another client in its trace", format!("{:?}", message.client)))
                } else {
                    None
                }
            }
        };
        if let Some((rule, text)) = wrong {
            ledger.violate(rule, now, format!("{key} to {address}: {text}"));
        }
    }

    /// What content may have been before the server put fields in front, added some that were missing, and
    /// made it 7-bit.
    fn candidates(&self, message: &Message, content: &[u8], mends: bool) -> Vec<Vec<u8>> {
        let was_eight_bit = self.body == Body::SevenBit && message.eight_bit && !message.binary;
        let decoded = was_eight_bit.then(|| body::decoded(&body::text(content))).flatten();
        let contents = std::iter::once(content.to_vec()).chain(decoded);
        if mends {
            contents.filter_map(|content| mended::candidates(&content)).flatten().collect()
        } else {
            contents.collect()
        }
    }

    /// The number of a report, by its Message-ID, after a look at what it says.
    fn check_report(
        &self,
        ledger: &mut Ledger,
        about: u32,
        address: &str,
        content: &[u8],
        now: Instant,
    ) -> Option<u32> {
        let originator = ledger.message(about).map(|message| message.reverse_path.clone());
        if originator.as_deref() != Some(address) || !self.reverse_path.is_empty() {
            let text = format!("from <{}> to {address}", self.reverse_path);
            ledger.violate("report with another envelope", now, text);
        }
        let text = String::from_utf8_lossy(content);
        let id = text
            .split_once("\nMessage-ID: <")
            .and_then(|(_, rest)| rest.split_once(".dsn@"))
            .map(|(id, _)| id.to_owned());
        let Some(id) = id else {
            ledger.violate("report that does not name itself", now, address.to_owned());
            return None;
        };
        let number = ledger.report(&id, about, now);
        let said = said(&text, about);
        let mut differs = said.is_none();
        if let Some(report) = ledger.message_mut(number) {
            let sum = Fingerprint::of(content);
            // It goes out as it is, or as 7-bit content: always the same in the one form and in the other.
            let is_eight_bit = self.body == Body::EightBit;
            let form = if is_eight_bit { &mut report.content } else { &mut report.seven_bit };
            let before = *form.get_or_insert(sum);
            differs |= before != sum;
            if let Origin::Report { about: known, says, .. } = &mut report.origin {
                differs |= *known != about;
                *says = said;
            }
        }
        if differs {
            let text = format!("report {id} on message {about}");
            ledger.violate("report that changes, or cannot be read", now, text);
        }
        Some(number)
    }
}

/// Which recipients of a message a report speaks of, and whether they have failed for good.
fn said(text: &str, about: u32) -> Option<BTreeMap<u16, bool>> {
    let mut said = BTreeMap::new();
    let mut recipient = None;
    for line in text.lines() {
        if let Some(address) = line.strip_prefix("Final-Recipient: rfc822;") {
            let Some(Party::Recipient(key)) = Party::read(address.trim()) else { return None };
            if key.message != about {
                return None;
            }
            recipient = Some(key.recipient);
        } else if let Some(action) = line.strip_prefix("Action: ") {
            let has_failed = match action.trim() {
                "failed" => true,
                "delayed" | "relayed" => false,
                _ => return None,
            };
            if said.insert(recipient.take()?, has_failed).is_some() {
                return None;
            }
        }
    }
    (!said.is_empty()).then_some(said)
}

/// Whether the topmost trace field names the client that the mail is from.
fn is_traced(message: &Message, content: &[u8]) -> bool {
    let Some(client) = message.client else { return true };
    let text = body::text(content.get(..200.min(content.len())).unwrap_or_default());
    text.starts_with("Received: ") && text.contains(&format!("[{client}]"))
}

/// No CR without LF, no LF without CR: what one side takes for the end, the other must too.
fn check_wire(ledger: &mut Ledger, content: &[u8], now: Instant) {
    let mut before = 0;
    for &octet in content.iter().chain([&0]) {
        if (before == b'\r') != (octet == b'\n') {
            ledger.violate("bare CR or LF sent", now, String::new());
            return;
        }
        before = octet;
    }
}

/// Content with the stuffed dots taken out.
fn unstuffed(content: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(content.len());
    let mut rest = content.strip_prefix(b".").unwrap_or(content);
    while let Some(at) = find(rest, b"\r\n.", 0) {
        plain.extend_from_slice(rest.get(..at + 2).unwrap_or_default());
        rest = rest.get(at + 3..).unwrap_or_default();
    }
    plain.extend_from_slice(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examine(reverse_path: &str, to: &[&str], content: &[u8]) -> (Vec<&'static str>, bool) {
        let mut ledger = Ledger::new(Instant::now());
        let now = ledger.start;
        ledger.begin(Some("home.test"), &["a.test", "b.test", "c.test"]);
        for recipient in 0..2 {
            ledger.accepted(Key { message: 0, recipient });
        }
        ledger.set_content(0, b"Subject: x\r\n\r\n.hidden\r\n");
        ledger.sent(0, now);
        ledger.begin(Some("home.test"), &["a.test"]);
        let parties = to.iter().map(|to| (Party::read(to).unwrap(), (*to).to_owned())).collect();
        let transaction = Transaction {
            reverse_path: reverse_path.to_owned(),
            utf8: false,
            priority: None,
            body: Body::SevenBit,
            parties,
            begun: None,
            hearing: None,
        };
        let receipt = transaction.examine(&mut ledger, content, false, now);
        let rules = ledger.violations().iter().map(|violation| violation.rule).collect();
        (rules, receipt.is_some())
    }

    const CONTENT: &[u8] = b"Received: by us\r\nSubject: x\r\n\r\n..hidden\r\n";

    #[test]
    fn what_was_sent_is_recognised() {
        let both = ["m0.0@a.test", "m0.1@b.test"];
        assert_eq!(examine("s0@home.test", &both, CONTENT), (vec![], true));
    }

    #[test]
    fn another_priority_is_seen() {
        for (told, known, wrong) in [(None, 3, false), (Some(3), 3, false), (Some(0), 3, true)] {
            let mut ledger = Ledger::new(Instant::now());
            let now = ledger.start;
            ledger.begin(Some("home.test"), &["a.test"]);
            ledger.prioritize(0, known);
            let transaction = Transaction { priority: told, ..Transaction::default() };
            transaction.check_priority(&mut ledger, 0, now);
            assert_eq!(!ledger.violations().is_empty(), wrong, "{told:?} {known}");
        }
    }

    #[test]
    fn every_difference_is_seen() {
        let rows: [(&str, &[&str], &[u8], &str); 8] = [
            ("s0@x.test", &["m0.0@a.test"], CONTENT, "mail with another envelope"),
            ("s0@home.test", &["m0.0@b.test"], CONTENT, "mail with another envelope"),
            ("s0@home.test", &["m0.2@c.test"], CONTENT, "mail with another envelope"),
            ("s9@home.test", &["m9.0@a.test"], CONTENT, "mail that nobody sent"),
            ("s1@home.test", &["m1.0@a.test"], CONTENT, "mail that was not sent to its end"),
            (
                "s0@home.test",
                &["m0.0@a.test"],
                b"Received: by us\r\nSubject: x\r\n\r\n.hidden\r\n",
                "mail with another content",
            ),
            (
                "s0@home.test",
                &["m0.0@a.test"],
                b"Subject: x\n\r\n..hidden\r\n",
                "bare CR or LF sent",
            ),
            (
                "s0@home.test",
                &["m0.0@a.test", "m0.0@a.test"],
                CONTENT,
                "recipient twice in one transaction",
            ),
        ];
        for (reverse_path, to, content, rule) in rows {
            let (rules, _) = examine(reverse_path, to, content);
            assert!(rules.contains(&rule), "{rule}: {rules:?}");
        }
    }

    #[test]
    fn a_report_names_itself_and_whom_it_is_about() {
        let report = |id: &str, final_recipient: &str| {
            format!(
                "To: s0\r\nMessage-ID: <{id}.dsn@mta>\r\n\r\nFinal-Recipient: rfc822; \
                 {final_recipient}\r\nAction: failed\r\n"
            )
        };
        let to = ["s0@home.test"];
        let good = report("Q7", "m0.1@b.test");
        assert_eq!(examine("", &to, good.as_bytes()), (vec![], true));
        let (rules, _) = examine("s0@home.test", &to, good.as_bytes());
        assert_eq!(rules, ["report with another envelope"]);
        let other = report("Q7", "m1.0@a.test");
        let (rules, _) = examine("", &to, other.as_bytes());
        assert_eq!(rules, ["report that changes, or cannot be read"]);
        let (rules, known) = examine("", &to, b"Subject: x\r\n\r\n");
        assert_eq!((rules, known), (vec!["report that does not name itself"], false));
    }

    #[test]
    fn dots_are_unstuffed_as_they_were_stuffed() {
        assert_eq!(unstuffed(b"..a\r\n...\r\n.b\r\nc.\r\n"), b".a\r\n..\r\nb\r\nc.\r\n");
        assert_eq!(unstuffed(b""), b"");
    }
}
