//! HELP, by topic (RFC 5321 §4.1.1.8).

use std::time::Instant;

use super::replies;
use super::session::ServerSession;
use ringpost_protocol::extension::Extension;

/// What can be asked about.
struct Topic {
    /// The command.
    name: &'static str,
    /// The extension it is a part of: there is no help on what is not offered.
    extension: Option<Extension>,
    /// Its syntax, and what it does.
    lines: &'static [&'static str],
}

const fn topic(name: &'static str, lines: &'static [&'static str]) -> Topic {
    Topic { name, extension: None, lines }
}

const TOPICS: [Topic; 16] = [
    topic("EHLO", &["EHLO name", "Says who you are; the reply lists the extensions."]),
    topic("HELO", &["HELO name", "Says who you are, and asks for no extensions."]),
    Topic {
        name: "STARTTLS",
        extension: Some(Extension::StartTls),
        lines: &["STARTTLS", "Goes on over TLS; what was said before is forgotten."],
    },
    Topic {
        name: "AUTH",
        extension: Some(Extension::Auth),
        lines: &["AUTH mechanism [response]", "Shows who you are; a * alone cancels it."],
    },
    topic(
        "MAIL",
        &[
            "MAIL FROM:<reverse-path> [parameters]",
            "Begins a message; failures are reported to the reverse-path, if it is not empty.",
            "Parameters are those of the extensions in the reply to EHLO.",
        ],
    ),
    topic(
        "RCPT",
        &[
            "RCPT TO:<forward-path>",
            "Names a recipient; once for each, and once for all is enough.",
        ],
    ),
    topic(
        "DATA",
        &[
            "DATA",
            "Sends the message after 354; a dot on a line of its own ends it.",
            "250 says that the message is on disk and will be delivered or reported on.",
        ],
    ),
    Topic {
        name: "BDAT",
        extension: Some(Extension::Chunking),
        lines: &[
            "BDAT size [LAST]",
            "Sends so many octets of the message, right behind the line.",
            "250 behind the last ones says the same as behind DATA.",
        ],
    },
    topic("RSET", &["RSET", "Forgets the message that was begun."]),
    Topic {
        name: "XCLIENT",
        extension: Some(Extension::XClient),
        lines: &[
            "XCLIENT attribute=value ...",
            "Says for whom you speak; the session begins anew.",
        ],
    },
    topic("VRFY", &["VRFY text", "Says what RCPT would where you may ask; else confirms nothing."]),
    Topic {
        name: "EXPN",
        extension: Some(Extension::Expn),
        lines: &["EXPN name", "Says for which mailboxes a name of ours stands."],
    },
    Topic {
        name: "ETRN",
        extension: Some(Extension::Etrn),
        lines: &[
            "ETRN domain",
            "Has the mail that waits for the domain tried now.",
            "With @ in front of it that for all domains below it, too.",
        ],
    },
    topic("NOOP", &["NOOP [text]", "Does nothing."]),
    topic("HELP", &["HELP [command]", "Says this."]),
    topic("QUIT", &["QUIT", "Ends the session; a message that is not complete is forgotten."]),
];

impl ServerSession {
    pub(super) fn handle_help(&mut self, now: Instant, topic: Option<&str>) {
        let Some(name) = topic else {
            if self.count_junk(now) {
                let names = TOPICS.iter().filter(|topic| self.has_help(topic));
                let names: Vec<_> = names.map(|topic| topic.name).collect();
                self.push_lines(&["Commands:", &names.join(" "), "HELP command says more."]);
            }
            return;
        };
        let known = TOPICS.iter().find(|topic| topic.name.eq_ignore_ascii_case(name));
        match known.filter(|topic| self.has_help(topic)) {
            None => self.refuse(now, replies::NO_SUCH_TOPIC),
            Some(topic) if self.count_junk(now) => self.push_lines(topic.lines),
            Some(_) => {}
        }
    }

    fn has_help(&self, topic: &Topic) -> bool {
        topic.extension.is_none_or(|extension| self.offer().has(extension))
    }

    fn push_lines(&mut self, lines: &[&str]) {
        let out = self.output();
        for (at, line) in lines.iter().enumerate() {
            let mark = if at + 1 < lines.len() { "-" } else { " " };
            for part in ["214", mark, "2.0.0 ", line, "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_fits_a_reply() {
        for topic in &TOPICS {
            assert!(topic.lines[0].starts_with(topic.name), "{}", topic.name);
            for line in topic.lines {
                // RFC 5321 §4.5.3.1.5, with the code and CRLF.
                assert!(line.is_ascii() && line.len() < 500, "{line}");
            }
        }
    }
}
