//! The rows of `bad_input.txt`, which says itself how it is to be read.

#![expect(clippy::expect_used, clippy::panic, reason = "a row that cannot be read is a bug")]
#![expect(clippy::struct_excessive_bools, reason = "each is a line that is there or not")]

/// The file.
const TEXT: &str = include_str!("../bad_input.txt");

/// Octets to be sent together, and how the replies to them begin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) input: Vec<u8>,
    pub(crate) replies: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) size_max: u64,
    pub(crate) is_lenient: bool,
    pub(crate) is_stranger: bool,
    /// It begins before the greeting.
    pub(crate) is_early: bool,
    /// It begins before EHLO.
    pub(crate) is_unintroduced: bool,
    pub(crate) has_postmaster: bool,
    /// How the octets come in matters.
    pub(crate) is_uncut: bool,
    pub(crate) steps: Vec<Step>,
    pub(crate) queued: usize,
    pub(crate) is_closed: bool,
}

impl Row {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            size_max: 1 << 20,
            is_lenient: false,
            is_stranger: false,
            is_early: false,
            is_unintroduced: false,
            has_postmaster: false,
            is_uncut: false,
            steps: Vec::new(),
            queued: 0,
            is_closed: false,
        }
    }

    fn send(&mut self, input: &str) {
        self.steps.push(Step { input: octets(input), replies: Vec::new() });
    }

    fn expect(&mut self, reply: &str) {
        let mut replies = vec![reply.to_owned()];
        if let Some((count, text)) = repetition(reply) {
            replies = vec![text.to_owned(); count];
        }
        self.steps.last_mut().expect("octets come before replies").replies.extend(replies);
    }
}

/// All rows.
///
/// # Panics
///
/// When the file is not as it says.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let body = TEXT.find("\n## ").expect("a heading follows the description");
    for line in TEXT[body..].lines().filter(|line| !line.is_empty() && !line.starts_with("## ")) {
        if let Some(name) = line.strip_prefix("# ") {
            rows.push(Row::new(name));
            continue;
        }
        let row = rows.last_mut().expect("a name comes first");
        match line.split_once(' ').unwrap_or((line, "")) {
            (">", input) => row.send(input),
            ("<", reply) => row.expect(reply),
            ("data", "") => {
                row.send(r"MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n");
                for reply in ["250 2.1.0", "250 2.1.5", "354"] {
                    row.expect(reply);
                }
            }
            ("size", size) => row.size_max = size.parse().expect("a number of octets"),
            ("queued", count) => row.queued = count.parse().expect("a number of messages"),
            ("lenient", "") => row.is_lenient = true,
            ("stranger", "") => row.is_stranger = true,
            ("early", "") => row.is_early = true,
            ("unintroduced", "") => row.is_unintroduced = true,
            ("postmaster", "") => row.has_postmaster = true,
            ("uncut", "") => row.is_uncut = true,
            ("closed", "") => row.is_closed = true,
            _ => panic!("{}: what is {line:?}?", row.name),
        }
    }
    rows
}

/// The count and the text of `{{COUNT|TEXT}}`.
fn repetition(text: &str) -> Option<(usize, &str)> {
    let (count, text) = text.strip_prefix("{{")?.strip_suffix("}}")?.split_once('|')?;
    Some((count.parse().ok()?, text))
}

fn octets(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("{{") {
            let end = end_of_repetition(rest);
            let (count, inner) = repetition(&rest[..end]).expect("a count and a text");
            for number in 0..count {
                out.extend(octets(&inner.replace("##", &number.to_string())));
            }
            rest = &rest[end..];
        } else if first == '\\' {
            let (octet, len) = match rest.as_bytes()[1] {
                b'r' => (b'\r', 2),
                b'n' => (b'\n', 2),
                b't' => (b'\t', 2),
                b'\\' => (b'\\', 2),
                b'x' => (u8::from_str_radix(&rest[2..4], 16).expect("two digits"), 4),
                other => panic!("\\{} in {text:?}", char::from(other)),
            };
            out.push(octet);
            rest = &rest[len..];
        } else {
            assert!(first.is_ascii(), "{first} in {text:?}");
            out.push(first as u8);
            rest = &rest[1..];
        }
    }
    out
}

/// Where the repetition ends that `text` begins with, others in it included.
fn end_of_repetition(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        match &text[at..text.len().min(at + 2)] {
            "{{" => depth += 1,
            "}}" if depth == 1 => return at + 2,
            "}}" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
    }
    panic!("a repetition without end: {text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_read_as_the_file_says() {
        assert_eq!(octets(r"a\r\n\t\\\x00\xff"), b"a\r\n\t\\\0\xff");
        assert_eq!(octets(r"{{2|u## {{3|x}}\r\n}}."), b"u0 xxx\r\nu1 xxx\r\n.");
        assert_eq!(repetition("{{3|250 2.0.0}}"), Some((3, "250 2.0.0")));
        assert_eq!(repetition("250"), None);
    }

    #[test]
    fn every_row_has_a_name_of_its_own_and_something_to_send() {
        let rows = rows();
        assert!(rows.len() > 100);
        for (at, row) in rows.iter().enumerate() {
            assert!(!row.steps.is_empty(), "{}", row.name);
            assert!(rows[..at].iter().all(|other| other.name != row.name), "{} twice", row.name);
        }
    }
}
