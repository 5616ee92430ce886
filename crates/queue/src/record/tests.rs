use proptest::prelude::*;
use ringpost_protocol::label::LabelText;
use ringpost_protocol::notify::{
    DsnParameters, EnvelopeId, Notify, OriginalRecipient, RecipientDsn, Return,
};

use ringpost_protocol::deliver_by::{ByMode, DeliverBy};
use ringpost_protocol::envelope::Utf8;

use super::*;
use crate::id::ShardId;

fn id(sequence: u64) -> MessageId {
    MessageId::new(ShardId(1), sequence)
}

fn status() -> impl Strategy<Value = RecipientStatus> {
    (0u8..5).prop_map(|number| RecipientStatus::from_u8(number).unwrap())
}

fn recipients() -> impl Strategy<Value = Vec<(String, RecipientState)>> {
    prop::collection::vec(
        (
            "<[a-zü例]{1,20}@[a-z]{1,20}\\.test>",
            any::<u64>(),
            any::<u16>(),
            status(),
            any::<bool>(),
        )
            .prop_map(|(path, due_unix_ms, attempts, status, warned)| {
                (path, RecipientState { due_unix_ms, attempts, status, warned })
            }),
        0..20,
    )
}

fn dsn_parameters() -> impl Strategy<Value = DsnParameters> {
    let ret = prop::option::of(prop_oneof![Just(Return::Full), Just(Return::Headers)]);
    let recipient = (
        prop::option::of((0u8..8).prop_map(|bits| Notify::from_bits(bits).unwrap())),
        prop::option::of("[a-z]{1,9};[!-*a-z]{1,30}"),
    );
    let recipients = prop::collection::vec((0usize..30, recipient), 0..5);
    (ret, prop::option::of("[!-*a-z]{1,100}"), recipients).prop_map(|(ret, id, recipients)| {
        let mut dsn = DsnParameters::default();
        dsn.set_message(ret, id.and_then(|id| EnvelopeId::parse(&id)));
        for (at, (notify, original)) in recipients {
            let original = original.and_then(|text| OriginalRecipient::parse(&text));
            dsn.set_recipient(at, RecipientDsn::new(notify, original));
        }
        dsn
    })
}

fn dispositions() -> impl Strategy<Value = Vec<(RecipientIndex, Disposition)>> {
    let disposition = prop_oneof![
        Just(Disposition::Delivered),
        Just(Disposition::Bounced),
        Just(Disposition::Expired),
        (any::<u16>(), any::<u64>(), any::<bool>()).prop_map(|(attempts, due_unix_ms, warned)| {
            Disposition::Deferred { attempts, due_unix_ms, warned }
        }),
    ];
    prop::collection::vec((any::<u16>().prop_map(RecipientIndex), disposition), 0..20)
}

fn some_records() -> Vec<u8> {
    let mut out = Vec::new();
    encode_chunk(&mut out, &ChunkRecord { id: id(7), index: 3, content: b"piece" });
    let head = MessageHead {
        id: id(7),
        received_unix_ms: 1,
        expiry_unix_ms: 2,
        size: 9,
        chunks: 4,
        priority: Priority::NORMAL,
        tls_optional: false,
        deliver_by: None,
    };
    let states = [("<a@b.test>", RecipientState::default())];
    encode_message(&mut out, &head, "7BIT", &"<>", states.into_iter(), Extras::default(), b"rest");
    let recipients = vec![(RecipientIndex(0), Disposition::Delivered)];
    encode_outcome(&mut out, &Outcome { id: id(7), recipients });
    encode_events(&mut out, EventRecords { count: 2, octets: b"one\ntwo\n" });
    encode_event_mark(&mut out, Lsn(9));
    out
}

#[test]
fn events_and_marks_round_trip() {
    let events = EventRecords { count: 2, octets: b"one\ntwo\n" };
    let mut out = Vec::new();
    encode_events(&mut out, events);
    let len = out.len();
    encode_event_mark(&mut out, Lsn(9));
    assert_eq!(decode(&out), Ok((Record::Events(events), len)));
    assert_eq!(decode(&out[len..]), Ok((Record::EventMark(Lsn(9)), EVENT_MARK_SIZE)));
}

proptest! {
    #[test]
    fn chunks_round_trip(
        number in any::<u64>(), index in any::<u32>(),
        content in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let chunk = ChunkRecord { id: MessageId::from_u64(number), index, content: &content };
        let mut out = b"front".to_vec();
        encode_chunk(&mut out, &chunk);
        out.extend_from_slice(b"behind");
        let (record, len) = decode(&out[5..]).unwrap();
        prop_assert_eq!(len, out.len() - 5 - 6);
        prop_assert_eq!(record, Record::Chunk(chunk));
    }

    #[test]
    fn messages_round_trip(
        numbers in any::<[u64; 4]>(), chunks in any::<u32>(), recipients in recipients(),
        given in dsn_parameters(), utf8 in 0..3usize, level in -9..=9_i8, require_tls in any::<bool>(), tls_optional in any::<bool>(), by in any::<Option<(u64, bool, bool, bool)>>(), labels in any::<[bool; 2]>(), content in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let mut dsn = given;
        dsn.move_recipients(|at| (at < recipients.len()).then_some(at));
        let dsn_octets = encode_dsn(&dsn).unwrap_or_default();
        prop_assert_eq!(dsn_octets.is_empty(), dsn.is_empty());
        let mut options_of = Envelope::new(ReversePath::Null, Vec::new(), BodyType::SevenBit);
        options_of.utf8 = [Utf8::Unmarked, Utf8::Marked, Utf8::Header][utf8];
        let priority = Priority::new(level).unwrap();
        options_of.priority = priority;
        options_of.require_tls = require_tls;
        options_of.tls_optional = tls_optional;
        let deliver_by = by.map(|(by_unix_ms, returns, trace, is_told)| {
            let mode = if returns { ByMode::Return } else { ByMode::Notify };
            DeliverBy { by_unix_ms, mode, trace, is_told }
        });
        options_of.deliver_by = deliver_by;
        options_of.labels.tenant = labels[0].then(|| LabelText::new(&"t".repeat(128)).unwrap());
        options_of.labels.campaign = labels[1].then(|| LabelText::new(&"c".repeat(64)).unwrap());
        let options = encode_options(&options_of);
        let extras = Extras { dsn: &dsn_octets, options: &options };
        let head = MessageHead {
            id: MessageId::from_u64(numbers[0]),
            received_unix_ms: numbers[1],
            expiry_unix_ms: numbers[2],
            size: numbers[3],
            chunks,
            priority,
            tls_optional,
            deliver_by,
        };
        let mut out = Vec::new();
        let states = recipients.iter().map(|(path, state)| (path, *state));
        encode_message(&mut out, &head, "8BITMIME", &"<s@x.test>", states, extras, &content);
        let (Record::Message(message), len) = decode(&out).unwrap() else { panic!("kind") };
        prop_assert_eq!(len, out.len());
        prop_assert_eq!(message.head, head);
        prop_assert_eq!(message.content, &content[..]);
        let envelope = message.envelope().unwrap();
        prop_assert_eq!(envelope.reverse_path.to_string(), "<s@x.test>");
        prop_assert_eq!(envelope.body, BodyType::EightBitMime);
        prop_assert_eq!(envelope.dsn, dsn);
        prop_assert_eq!(envelope.utf8, options_of.utf8);
        prop_assert_eq!(envelope.priority, priority);
        prop_assert_eq!(envelope.require_tls, require_tls);
        prop_assert_eq!(envelope.tls_optional, tls_optional);
        prop_assert_eq!(envelope.deliver_by, deliver_by);
        prop_assert_eq!(envelope.labels, options_of.labels);
        for (place, (path, state)) in recipients.iter().enumerate() {
            prop_assert_eq!(&envelope.forward_paths[place].to_string(), path);
            prop_assert_eq!(message.recipients[place].1, *state);
        }
    }

    #[test]
    fn outcomes_round_trip(number in any::<u64>(), recipients in dispositions()) {
        let outcome = Outcome { id: MessageId::from_u64(number), recipients };
        let mut out = Vec::new();
        encode_outcome(&mut out, &outcome);
        prop_assert_eq!(decode(&out).unwrap(), (Record::Outcome(outcome), out.len()));
    }

    #[test]
    fn purges_events_and_marks_round_trip(
        host in prop::option::of("[a-z]{1,9}\\.test"), before in any::<u64>(), marked in any::<u64>(),
        count in any::<u32>(), octets in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let host = host.map(|host| Host::parse(&host).unwrap());
        let purge = Purge { host, received_before_unix_ms: before };
        let events = EventRecords { count, octets: &octets };
        let mut out = Vec::new();
        encode_purge(&mut out, &purge);
        let first = out.len();
        encode_events(&mut out, events);
        let second = out.len();
        encode_event_mark(&mut out, Lsn(marked));
        prop_assert_eq!(decode(&out), Ok((Record::Purge(purge), first)));
        prop_assert_eq!(decode(&out[first..]), Ok((Record::Events(events), second - first)));
        prop_assert_eq!(decode(&out[second..]), Ok((Record::EventMark(Lsn(marked)), EVENT_MARK_SIZE)));
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0..=KIND_MAX + 1,
    ) {
        prop_assert!(decode(&bytes).is_err());
        // Behind a right checksum a body may be read or not, but must not harm.
        let _ = decode_body(kind, &bytes);
    }
}

#[test]
fn every_changed_bit_is_noticed() {
    let good = some_records();
    let mut at = 0;
    let mut records = 0;
    while at < good.len() {
        let (_, len) = decode(&good[at..]).unwrap();
        for bit in 0..len * 8 {
            let mut bad = good[at..].to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err(), "bit {bit} of the record at {at}");
        }
        for cut in 0..len {
            assert_eq!(decode(&good[at..at + cut]), Err(RecordError::Short));
        }
        at += len;
        records += 1;
    }
    assert_eq!(records, 5);
}

#[test]
fn a_path_that_is_none_is_an_error_and_not_a_panic() {
    let head = MessageHead {
        id: id(1),
        received_unix_ms: 0,
        expiry_unix_ms: 0,
        size: 0,
        chunks: 0,
        priority: Priority::NORMAL,
        tls_optional: false,
        deliver_by: None,
    };
    for (body, reverse, forward) in
        [("7BIT", "a@b.test", "<a@b.test>"), ("7BIT", "<>", "<>"), ("9BIT", "<>", "<a@b.test>")]
    {
        let mut out = Vec::new();
        let states = [(forward, RecipientState::default())];
        encode_message(&mut out, &head, body, &reverse, states.into_iter(), Extras::default(), b"");
        let (Record::Message(message), _) = decode(&out).unwrap() else { panic!("kind") };
        assert_eq!(message.envelope(), Err(RecordError::Envelope), "{body} {reverse} {forward}");
    }
}

#[test]
fn parameters_that_are_none_are_an_error_and_not_a_panic() {
    let good = [1, 1, b'e', 0, 0, 0x80, 2, 0, b'x', b';'];
    let table: [&[u8]; 13] = [
        &[3, 0],
        &[0],
        &[0, 1],
        &[0, 1, b'='],
        &[0, 0, 1],
        // Of the second of one recipient; of the first twice.
        &[0, 0, 1, 0, 0x80, 0, 0],
        &[0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0x80, 0, 0],
        &[0, 0, 0, 0, 0x88, 0, 0],
        &[0, 0, 0, 0, 1, 0, 0],
        &[0, 0, 0, 0, 0x80, 1],
        &[0, 0, 0, 0, 0x80, 1, 0],
        &[0, 0, 0, 0, 0x80, 1, 0, b'x'],
        &good,
    ];
    for octets in table {
        assert_eq!(dsn::decode(octets, 1), None, "{octets:?}");
    }
    let mut better = good.to_vec();
    better[6] = 3;
    better.push(b'y');
    let dsn = dsn::decode(&better, 1).unwrap();
    assert_eq!((dsn.ret(), dsn.notify(0)), (Some(Return::Full), Notify::NEVER));
    assert_eq!(encode_dsn(&dsn), Some(better.clone()));
    for cut in 4..better.len() {
        assert_eq!(dsn::decode(&better[..cut], 1), None, "{cut}");
    }

    // A message without any is as it was before there were parameters.
    let head = MessageHead {
        id: id(1),
        received_unix_ms: 0,
        expiry_unix_ms: 0,
        size: 0,
        chunks: 0,
        priority: Priority::NORMAL,
        tls_optional: false,
        deliver_by: None,
    };
    let encoded = |dsn: &[u8]| {
        let states = [("<a@b.test>", RecipientState::default())];
        let mut out = Vec::new();
        encode_message(
            &mut out,
            &head,
            "7BIT",
            &"<>",
            states.into_iter(),
            Extras { dsn, options: b"" },
            b"rest",
        );
        out
    };
    assert_eq!(encoded(&better).len(), encoded(b"").len() + 4 + better.len());
    let with = encoded(&[9, 9]);
    let (Record::Message(message), _) = decode(&with).unwrap() else { panic!("kind") };
    assert_eq!(message.envelope(), Err(RecordError::Envelope));
    assert_eq!(message.content, b"rest");
}

#[test]
fn options_that_cannot_have_been_written_are_not_read() {
    let envelope = Envelope::new(ReversePath::Null, Vec::new(), BodyType::SevenBit);
    for octets in [
        &[1][..],
        &[1, 1],
        &[1, 0],
        &[1, 1, 2],
        &[1, 2, 0, 0],
        &[1, 1, 0, 1, 1, 0],
        &[0, 0],
        &[99, 0],
        &[2, 1],
        &[2, 1, 0],
        &[2, 1, 10],
        &[2, 1, 0xF6],
        &[2, 2, 1, 1],
        &[2, 1, 1, 1, 1, 0],
        &[10, 1, 0],
        &[10, 0, 4, 0],
        &[4, 1, 0],
        &[4, 0, 4, 0],
        &[4, 0, 1, 1, 0],
        &[8, 0],
        &[8, 1],
        &[8, 1, b' '],
        &[9, 1, 0xff],
        &[9, 1, b'a', 8, 1, b'a'],
    ] {
        // What was read before the fault does not matter.
        let mut envelope = envelope.clone();
        assert_eq!(options::decode(octets, &mut envelope), None, "{octets:?}");
    }
    let known = [envelope.utf8.is_marked(), !envelope.priority.is_normal()];
    let known = 3 * known.into_iter().filter(|one| *one).count();
    let tls = 2 * usize::from(envelope.require_tls);
    assert_eq!(encode_options(&envelope).len(), known + tls);
    let plain = Envelope::new(ReversePath::Null, Vec::new(), BodyType::SevenBit);
    assert_eq!(encode_options(&plain), b"", "most messages have none");
}
