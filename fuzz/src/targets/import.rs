//! Exported mail that is imported: [`Sheet`].
//!
//! The first octet chooses how many recipients there may be, and whether the size is made to fit. Then
//! come the content, ended by NUL, in which a LF stands for CR LF, and the JSON.

use ringpost::queue_tools::envelope::{Sheet, State};
use ringpost_protocol::envelope::{BodyType, Envelope};
use ringpost_queue::{RecipientState, RecipientStatus};

use super::{is_text, seed};
use crate::input::Input;
use crate::{Target, Verdict, must};

/// The target.
pub const TARGET: Target = Target {
    name: "import",
    check,
    seeds,
    words: &[
        "\"version\":1",
        "\"id\":",
        "\"reverse_path\":",
        "\"<>\"",
        "\"<a@b.test>\"",
        "\"body\":",
        "\"7BIT\"",
        "\"8BITMIME\"",
        "\"size\":",
        "\"received_unix_ms\":",
        "\"expiry_unix_ms\":",
        "\"due_unix_ms\":",
        "\"recipients\":[",
        "{\"forward_path\":",
        "\"state\":",
        "\"queued\"",
        "\"delivered\"",
        "\"attempts\":",
        "\"warned\":true",
        "18446744073709551615",
        "65535",
        "\\u0000",
        "null",
        "},{",
    ],
    size_max: 900,
    cost: 1,
};

const FITS: u8 = 0x80;

type Queued = Option<(Envelope, Vec<RecipientState>)>;

fn seeds() -> Vec<Vec<u8>> {
    let head = "{\"version\":1,\"id\":\"000R00000000A\",\"reverse_path\":\"<a@one.test>\",\"body\":\"7BIT\",\"size\":5,\
                \"received_unix_ms\":10,\"expiry_unix_ms\":20,\"due_unix_ms\":15,\"recipients\":[";
    let one =
        "{\"forward_path\":\"<b@two.test>\",\"state\":\"queued\",\"attempts\":2,\"warned\":true}";
    let two = "{\"forward_path\":\"<c@two.test>\",\"state\":\"delivered\"}";
    let three = "{\"forward_path\":\"<Postmaster>\",\"state\":\"queued\",\"due_unix_ms\":18446744073709551615}";
    let texts = [
        format!("abc\n\0{head}{one},{two},{three}]}}"),
        format!("abc\n\0{head}{two}]}}"),
        format!("\0{head}]}}"),
        format!("\u{fc}\n\0{head}{one}]}}"),
        format!("abc\rd\n\0{head}{one}]}}"),
        format!("abc\n\0{head}{one}]}} "),
        format!("abc\n\0{}", head.replace("<a@one.test>", "a@one.test")),
        "abc\n\0{\"version\":2}".to_owned(),
        "abc\n\0[1]".to_owned(),
    ];
    texts.iter().flat_map(|text| [seed(&[FITS | 9], text), seed(&[1], text)]).collect()
}

/// Says whether only mail gets into the queue that could have come in by SMTP.
pub fn check(octets: &[u8]) -> Verdict {
    let mut input = Input::new(octets);
    let flags = input.octet();
    let recipients_max = usize::from(flags & !FITS) % 10;
    let mut content = Vec::new();
    for octet in input.until_nul() {
        content.extend_from_slice(if *octet == b'\n' {
            b"\r\n"
        } else {
            std::slice::from_ref(octet)
        });
    }
    let Ok(mut sheet) = Sheet::read(input.rest()) else { return Ok(()) };
    let written = serde_json::to_vec(&sheet).map_err(|error| error.to_string())?;
    let again = Sheet::read(&written).map_err(|error| format!("{error:#}"))?;
    must!(again == sheet, "{sheet:?} comes back as {again:?}");
    if flags & FITS != 0 {
        sheet.size = content.len() as u64;
    }
    match sheet.to_queue(&content, recipients_max) {
        Ok(queued) => judge(&sheet, &content, recipients_max, &queued),
        Err(error) => {
            let text = format!("{error:#}");
            must!(
                !text.is_empty() && !text.contains(['\r', '\n', '\0']),
                "{text:?} is not one line"
            );
            Ok(())
        }
    }
}

fn judge(sheet: &Sheet, content: &[u8], recipients_max: usize, queued: &Queued) -> Verdict {
    must!(sheet.size == content.len() as u64, "content of another size");
    let is_binary = sheet.body.eq_ignore_ascii_case("BINARYMIME");
    let end = if content.starts_with(b"\r\n") { Some(2) } else { None };
    let end =
        end.or_else(|| content.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4));
    let text =
        content.get(..end.filter(|_| is_binary).unwrap_or(content.len())).unwrap_or_default();
    must!(text.is_empty() || text.ends_with(b"\r\n"), "the last line is open");
    let lines = text.split_inclusive(|&b| b == b'\n');
    let is_line =
        |line: &[u8]| line.strip_suffix(b"\r\n").is_some_and(|line| !line.contains(&b'\r'));
    must!(lines.clone().all(is_line), "a CR or LF stands alone");
    let waiting: Vec<_> =
        sheet.recipients.iter().filter(|one| one.state == State::Queued).collect();
    let Some((envelope, states)) = queued else {
        must!(waiting.is_empty(), "{} recipients are dropped", waiting.len());
        return Ok(());
    };
    must!(waiting.len() == envelope.forward_paths.len(), "some recipients are dropped, or made up");
    must!(
        waiting.len() == states.len() && waiting.len() <= recipients_max,
        "{} states",
        states.len()
    );
    must!(is_text(&envelope.reverse_path.to_string()), "{:?}", envelope.reverse_path);
    must!(is_binary == (envelope.body == BodyType::BinaryMime), "{:?}", envelope.body);
    must!(content.is_ascii() || envelope.body != BodyType::SevenBit, "8-bit content as 7BIT");
    for ((one, path), state) in waiting.iter().zip(&envelope.forward_paths).zip(states) {
        must!(is_text(&path.to_string()), "{path:?}");
        must!(state.status == RecipientStatus::Queued, "{path} is {:?}", state.status);
        must!(state.attempts == one.attempts && state.warned == one.warned, "{path}: {state:?}");
        must!(
            state.due_unix_ms == one.due_unix_ms.unwrap_or(sheet.due_unix_ms),
            "{path}: {state:?}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_results_are_found() {
        let text = &seeds()[0];
        let json = &text[text.iter().position(|&b| b == 0).unwrap() + 1..];
        let sheet = Sheet::read(json).unwrap();
        let content = b"abc\r\n";
        let good = sheet.to_queue(content, 9).unwrap();
        assert_eq!(judge(&sheet, content, 9, &good), Ok(()));
        let is_found = |change: fn(&mut Envelope, &mut Vec<RecipientState>)| {
            let (mut envelope, mut states) = good.clone().unwrap();
            change(&mut envelope, &mut states);
            judge(&sheet, content, 9, &Some((envelope, states))).is_err()
        };
        assert!(is_found(|envelope, _| drop(envelope.forward_paths.pop())));
        assert!(is_found(|_, states| states.truncate(1)));
        assert!(is_found(|_, states| states[0].status = RecipientStatus::Delivered));
        assert!(is_found(|_, states| states[1].due_unix_ms = 0));
        assert!(is_found(|_, states| states.swap(0, 1)));
        assert!(judge(&sheet, content, 9, &None).is_err());
        assert!(judge(&sheet, content, 1, &good).is_err());
        assert!(judge(&sheet, b"ab\r\n", 9, &good).is_err());
        assert!(judge(&sheet, b"a\nbc\n", 9, &good).is_err());
        assert!(judge(&sheet, b"\xff\xff\xff\r\n", 9, &good).is_err());
    }
}
