//! Content as it was sent, from content to which the server has added what was missing.

/// How the server begins and ends the fields that it adds.
const DATE: &[u8] = b"Date: ";
const MESSAGE_ID: &[u8] = b"Message-ID: <";
const HOST: &[u8] = b"@mta.test>\r\n";

/// What content may have been before the server added fields: several, as the empty line behind them may have
/// been there or not. `None` if a field is missing, or there twice.
pub(super) fn candidates(content: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut fields: Vec<&[u8]> = Vec::new();
    let mut rest = content;
    // Applications fold nothing; the trace field is folded by tabs.
    while let Some(end) = rest.iter().position(|&b| b == b'\n') {
        let (line, behind) = rest.split_at(end + 1);
        let is_field = line.starts_with(b"\t")
            || line
                .iter()
                .position(|b| !b.is_ascii_alphabetic() && *b != b'-')
                .is_some_and(|at| at > 0 && line[at] == b':');
        if !is_field {
            break;
        }
        fields.push(line);
        rest = behind;
    }
    let count = |name: &[u8]| fields.iter().filter(|line| line.starts_with(name)).count();
    if (count(DATE), count(MESSAGE_ID)) != (1, 1) {
        return None;
    }
    let all = fields.len();
    fields.pop_if(|line| line.starts_with(MESSAGE_ID) && line.ends_with(HOST));
    // Those of applications are followed by other fields of theirs.
    fields.pop_if(|line| line.starts_with(DATE));
    let front = fields.concat();
    let with = [&front[..], rest].concat();
    if fields.len() == all {
        return Some(vec![with]);
    }
    let without = rest.strip_prefix(b"\r\n").map(|rest| [&front[..], rest].concat());
    Some(std::iter::once(with).chain(without).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_among_the_candidates() {
        let trace = "Received: a\r\n\tby b;\r\n\tnow\r\n";
        let added = "Date: now\r\nMessage-ID: <1.2@mta.test>\r\n";
        for (sent, came) in [
            ("Subject: a\r\n\r\ntext\r\n", format!("Subject: a\r\n{added}\r\ntext\r\n")),
            ("\r\ntext\r\n", format!("{added}\r\ntext\r\n")),
            ("text\r\n", format!("{added}\r\ntext\r\n")),
            (
                "Date: x\r\nSubject: a\r\n\r\n",
                "Date: x\r\nSubject: a\r\nMessage-ID: <1.2@mta.test>\r\n\r\n".to_owned(),
            ),
            (
                "Message-ID: <x@y>\r\nSubject: a\r\n\r\n",
                "Message-ID: <x@y>\r\nSubject: a\r\nDate: now\r\n\r\n".to_owned(),
            ),
            (
                "Date: x\r\nMessage-ID: <x@y>\r\nSubject: a\r\n\r\n",
                "Date: x\r\nMessage-ID: <x@y>\r\nSubject: a\r\n\r\n".to_owned(),
            ),
        ] {
            let found = candidates(format!("{trace}{came}").as_bytes()).unwrap();
            assert!(found.contains(&format!("{trace}{sent}").into_bytes()), "{sent:?}: {found:?}");
        }
    }

    #[test]
    fn what_is_missing_or_there_twice_is_seen() {
        for content in [
            "Subject: a\r\n\r\n",
            "Date: x\r\n\r\n",
            "Message-ID: <x@y>\r\n\r\nDate: x\r\n",
            "Date: x\r\nDate: y\r\nMessage-ID: <x@y>\r\n\r\n",
        ] {
            assert_eq!(candidates(content.as_bytes()), None, "{content:?}");
        }
    }
}
