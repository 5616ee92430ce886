use proptest::prelude::*;

use super::*;
use crate::message::{MessageId, Template};
use crate::verify::{Verdict, verify};

/// What a whole input came to: replies, contents with their recipients, whether it was closed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    replies: String,
    contents: Vec<(Vec<u8>, RecipientSet)>,
    is_closed: bool,
}

/// Feeds `parts` one after the other, the way a driver does.
fn run(behaviour: &Behaviour, parts: &[&[u8]]) -> Outcome {
    let mut out = Vec::new();
    let mut session = SinkSession::new(1, &mut out);
    let mut buffer = Vec::new();
    let mut outcome = Outcome::default();
    'parts: for part in parts {
        buffer.extend_from_slice(part);
        loop {
            let (consumed, step) = session.handle_input(behaviour, &buffer, &mut out);
            let mut closed = step == Step::Close;
            if let Step::Message { start, end, recipients, closes } = step {
                outcome.contents.push((buffer[start..end].to_vec(), recipients));
                if closes {
                    closed = true;
                } else {
                    session.accept_message(&mut out);
                }
            } else if !closed {
                buffer.drain(..consumed);
                break;
            }
            buffer.drain(..consumed);
            if closed {
                outcome.is_closed = true;
                break 'parts;
            }
        }
    }
    outcome.replies = String::from_utf8(out).unwrap();
    outcome
}

fn codes(outcome: &Outcome) -> Vec<&str> {
    outcome
        .replies
        .lines()
        .filter(|line| line.as_bytes()[3] == b' ')
        .map(|line| &line[..3])
        .collect()
}

fn dialogue(messages: u32) -> Vec<u8> {
    let template = Template::new(1, 600, "load@example.com", "today");
    let mut input = b"EHLO x\r\n".to_vec();
    for sequence in 0..messages {
        input.extend_from_slice(b"MAIL FROM:<a@b> SIZE=600\r\n");
        input.extend_from_slice(b"RCPT TO:<load-0@c>\r\nRCPT TO:<load-5@d>\r\nDATA\r\n");
        template.write(sequence, &mut input);
    }
    input.extend_from_slice(b"QUIT\r\n");
    input
}

#[test]
fn a_pipelined_dialogue_delivers_its_messages() {
    let outcome = run(&Behaviour::default(), &[&dialogue(2)]);
    assert_eq!(
        codes(&outcome),
        ["220", "250", "250", "250", "250", "354", "250", "250", "250", "250", "354", "250", "221"]
    );
    assert!(outcome.is_closed);
    assert_eq!(outcome.contents.len(), 2);
    for (sequence, (wire, recipients)) in outcome.contents.iter().enumerate() {
        let id = MessageId { run: 1, sequence: sequence as u32 };
        assert_eq!(verify(wire), Verdict::Intact(id));
        assert_eq!(*recipients, 0b10_0001);
    }
}

#[test]
fn empty_content_ends_at_its_dot() {
    let input = b"HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n.\r\nNOOP\r\n";
    for split in 0..input.len() {
        let outcome = run(&Behaviour::default(), &[&input[..split], &input[split..]]);
        assert_eq!(outcome.contents, [(Vec::new(), 1)], "split at {split}");
        assert_eq!(codes(&outcome), ["220", "250", "250", "250", "354", "250", "250"]);
    }
}

#[test]
fn smuggled_ends_do_not_end_the_content() {
    for smuggled in ["\n.\n", "\r\n.\n", "\n.\r\n", "\r.\r", "\r\n.\r"] {
        let input = format!(
            "HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nA: b\r\n\r\nx{smuggled}\
             MAIL FROM:<evil@x>\r\n.\r\n"
        );
        let outcome = run(&Behaviour::default(), &[input.as_bytes()]);
        assert_eq!(outcome.contents.len(), 1, "{smuggled:?}");
        assert!(outcome.contents[0].0.ends_with(b"evil@x>\r\n"), "{smuggled:?}");
    }
}

#[test]
fn commands_out_of_order_are_refused() {
    let rows: [(&str, &[&str]); 9] = [
        ("MAIL FROM:<a@b>\r\n", &["503"]),
        ("DATA\r\n", &["503"]),
        ("EHLO x\r\nRCPT TO:<a@b>\r\n", &["250", "503"]),
        ("EHLO x\r\nMAIL FROM:<>\r\nDATA\r\n", &["250", "250", "554"]),
        ("EHLO x\r\nMAIL FROM:<>\r\nMAIL FROM:<>\r\n", &["250", "250", "503"]),
        ("EHLO x\r\nMAIL FROM: <>\r\n", &["250", "501"]),
        ("EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:a@b\r\n", &["250", "250", "501"]),
        ("EHLO x\r\nMAIL FROM:<>\r\nRSET\r\nRCPT TO:<a@b>\r\n", &["250", "250", "250", "503"]),
        ("BDAT 3\r\n", &["500"]),
    ];
    for (input, expected) in rows {
        let outcome = run(&Behaviour::default(), &[input.as_bytes()]);
        assert_eq!(codes(&outcome)[1..], *expected, "{input:?}");
        assert!(!outcome.is_closed);
    }
}

#[test]
fn bad_lines_close_the_session() {
    let long = vec![b'x'; COMMAND_LENGTH_MAX + 1];
    for input in [&b"EHLO x\n"[..], &long] {
        let outcome = run(&Behaviour::default(), &[input]);
        assert_eq!(codes(&outcome), ["220", "500"]);
        assert!(outcome.is_closed);
    }
}

#[test]
fn content_above_the_limit_closes_the_session() {
    let behaviour = Behaviour { size_max: 100, ..Behaviour::default() };
    let mut input = b"HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n".to_vec();
    input.resize(input.len() + 101, b'x');
    let outcome = run(&behaviour, &[&input]);
    assert_eq!(codes(&outcome).last(), Some(&"552"));
    assert!(outcome.is_closed && outcome.contents.is_empty());
}

#[test]
fn misbehaviour_is_as_ordered() {
    let all = |change: fn(&mut Behaviour)| {
        let mut behaviour = Behaviour::default();
        change(&mut behaviour);
        run(&behaviour, &[&dialogue(2)])
    };
    let outcome = all(|behaviour| behaviour.rcpt_4xx_permille = 1000);
    assert_eq!(codes(&outcome)[2..6], ["250", "450", "450", "554"]);
    let outcome = all(|behaviour| behaviour.rcpt_5xx_permille = 1000);
    assert_eq!(codes(&outcome)[2..6], ["250", "550", "550", "554"]);
    let outcome = all(|behaviour| behaviour.close_after_dot_permille = 1000);
    assert_eq!(codes(&outcome).last(), Some(&"354"));
    assert!(outcome.is_closed && outcome.contents.len() == 1);
    let outcome = all(|behaviour| behaviour.messages_per_connection = Some(1));
    assert_eq!(codes(&outcome).last(), Some(&"421"));
    assert!(outcome.is_closed && outcome.contents.len() == 1);
}

#[test]
fn refusals_come_at_about_the_rate_asked_for() {
    let behaviour = Behaviour { rcpt_4xx_permille: 250, ..Behaviour::default() };
    let mut out = Vec::new();
    let mut session = SinkSession::new(9, &mut out);
    let mut input = b"HELO x\r\nMAIL FROM:<>\r\n".to_vec();
    for _ in 0..10_000 {
        input.extend_from_slice(b"RCPT TO:<a@b>\r\n");
    }
    session.handle_input(&behaviour, &input, &mut out);
    assert!((2300..2700).contains(&session.refusals().recipients_4xx));
}

#[test]
fn recipient_numbers() {
    for (path, number) in [
        ("load-0@x", 0),
        ("load-63@x", 63),
        ("load-64@x", 0),
        ("load-x@x", 0),
        ("bob@x", 0),
        ("load-7", 0),
    ] {
        assert_eq!(recipient_number(path.as_bytes()), number, "{path}");
    }
}

proptest! {
    #[test]
    fn splits_change_nothing(mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let input = dialogue(3);
        let whole = run(&Behaviour::default(), &[&input]);
        let mut at: Vec<usize> = cuts.drain(..).map(|cut| cut.index(input.len())).collect();
        at.sort_unstable();
        let mut parts = Vec::new();
        let mut start = 0;
        for end in at {
            parts.push(&input[start..end]);
            start = end;
        }
        parts.push(&input[start..]);
        prop_assert_eq!(run(&Behaviour::default(), &parts), whole);
    }

    #[test]
    fn arbitrary_octets_do_no_harm(octets in prop::collection::vec(any::<u8>(), 0..400)) {
        run(&Behaviour::default(), &[b"HELO x\r\nMAIL FROM:<>\r\n", &octets]);
    }
}
