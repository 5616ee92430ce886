//! Every encoded record is one line of JSON that says what was put in.

use proptest::prelude::*;
use serde_json::Value;

use crate::event::{Event, EventLabels, EventRecord, EventReply, Reception, Removal, Settlement};

fn parse(record: &EventRecord<'_>) -> Value {
    let mut line = Vec::from(&b"kept\n"[..]);
    record.encode(&mut line);
    let line = String::from_utf8(line).unwrap();
    let line = line.strip_prefix("kept\n").unwrap();
    let line = line.strip_suffix('\n').unwrap();
    assert!(!line.chars().any(char::is_control), "{line:?}");
    serde_json::from_str(line).unwrap()
}

fn settlement<'a>() -> Settlement<'a> {
    Settlement {
        id: &"A1",
        labels: EventLabels::default(),
        reverse_path: &"",
        forward_path: &"user@example.com",
        size: 5120,
        site: Some(&"mx.example.com"),
        mx_host: Some(&"mx.example.com"),
        remote: Some(&"192.0.2.1:25"),
        stage: "final_reply",
        reply: Some(EventReply { code: Some(250), enhanced: Some(&"2.0.0"), text: &"Ok" }),
        rule: None,
        recipient: 0,
        attempts: 1,
        queued_ms: 12,
        transaction_ms: Some(3),
        tls: Some(("1.3", "TLS_AES_128_GCM_SHA256", true)),
    }
}

#[test]
fn a_delivery_looks_like_this() {
    let record = EventRecord {
        time_unix_ms: 1_700_000_000_123,
        event: Event::Delivered { settlement: settlement(), dsn_id: None },
    };
    let mut line = Vec::new();
    record.encode(&mut line);
    assert_eq!(
        String::from_utf8(line).unwrap(),
        concat!(
            r#"{"time":"2023-11-14T22:13:20.123Z","type":"delivered","id":"A1","record":"A1.0","#,
            r#""reverse_path":"","forward_path":"user@example.com","size":5120,"site":"mx.example.com","#,
            r#""mx_host":"mx.example.com","remote":"192.0.2.1:25","stage":"final_reply","#,
            r#""reply":{"code":250,"enhanced":"2.0.0","text":"Ok"},"attempts":1,"queued_ms":12,"#,
            r#""transaction_ms":3,"tls_version":"1.3","tls_cipher":"TLS_AES_128_GCM_SHA256","#,
            r#""tls_verified":true}"#,
            "\n"
        )
    );
}

#[test]
fn absent_fields_are_left_out() {
    let bare = Settlement {
        site: None,
        mx_host: None,
        remote: None,
        reply: Some(EventReply { code: None, enhanced: None, text: &"no such domain" }),
        transaction_ms: None,
        tls: None,
        ..settlement()
    };
    let value = parse(&EventRecord {
        time_unix_ms: 0,
        event: Event::Bounced { settlement: bare, dsn_id: None },
    });
    for key in ["site", "mx_host", "remote", "transaction_ms", "tls_version", "dsn_id", "due"] {
        assert!(value.get(key).is_none(), "{key}: {value}");
    }
    assert_eq!(value["reply"], serde_json::json!({ "text": "no such domain" }));
}

#[test]
fn what_a_message_is_known_by_is_in_its_records() {
    let labels = EventLabels { tenant: Some("acme"), campaign: Some("may") };
    let settlement = Settlement { labels, ..settlement() };
    let delivered = Event::Delivered { settlement, dsn_id: None };
    let value = parse(&EventRecord { time_unix_ms: 0, event: delivered });
    assert_eq!((&value["tenant"], &value["campaign"]), (&"acme".into(), &"may".into()));
}

#[test]
fn each_type_has_its_own_fields() {
    let deferred = Event::Deferred { settlement: settlement(), due_unix_ms: 60_000 };
    let bounced = Event::Bounced { settlement: settlement(), dsn_id: Some(&"B2") };
    let expired = Event::Expired { settlement: settlement(), dsn_id: Some(&"C3") };
    let host = "b.test";
    let removal = Removal {
        id: &"D4",
        user: Some(1000),
        host: Some(&host),
        received_before_unix_ms: Some(60_000),
        recipients: 3,
        messages: 2,
    };
    let removed = parse(&EventRecord { time_unix_ms: 0, event: Event::Purged(removal) });
    assert_eq!(removed["user"], 1000);
    assert_eq!((&removed["recipients"], &removed["messages"]), (&3.into(), &2.into()));
    let delayed = Event::Delayed { settlement: settlement(), dsn_id: Some(&"E5") };
    let relayed = Event::Delivered { settlement: settlement(), dsn_id: Some(&"F6") };
    let table = [
        (delayed, "delayed", "dsn_id", "E5"),
        (relayed, "delivered", "dsn_id", "F6"),
        (Event::Purged(removal), "purged", "host", "b.test"),
        (Event::Purged(removal), "purged", "received_before", "1970-01-01T00:01:00.000Z"),
        (deferred, "deferred", "due", "1970-01-01T00:01:00.000Z"),
        (bounced, "bounced", "dsn_id", "B2"),
        (expired, "expired", "dsn_id", "C3"),
    ];
    for (event, name, key, expected) in table {
        let value = parse(&EventRecord { time_unix_ms: 0, event });
        assert_eq!(value["type"], name);
        assert_eq!(value[key], expected, "{name}");
    }
}

#[test]
fn records_of_different_things_have_different_names() {
    let other = Settlement { recipient: 1, ..settlement() };
    let later = Settlement { attempts: 2, ..settlement() };
    let reception = Reception {
        id: &"A1",
        reverse_path: &"",
        recipients: 2,
        size: 1,
        client: &"",
        proxy: None,
        login: None,
        helo: &"",
        protocol: "internal",
        user: None,
        labels: EventLabels::default(),
        listener: None,
        tls: None,
        hold_until_unix_ms: None,
        priority: 0,
        tls_optional: false,
        deliver_by: None,
    };
    let events = [
        (Event::Received(reception), "A1"),
        (Event::Deferred { settlement: settlement(), due_unix_ms: 1 }, "A1.0.1"),
        (Event::Deferred { settlement: later, due_unix_ms: 1 }, "A1.0.2"),
        (Event::Delayed { settlement: later, dsn_id: None }, "A1.0.delayed"),
        (Event::Expired { settlement: later, dsn_id: None }, "A1.0"),
        (Event::Delivered { settlement: other, dsn_id: None }, "A1.1"),
    ];
    for (event, name) in events {
        assert_eq!(parse(&EventRecord { time_unix_ms: 0, event })["record"], name);
    }
}

proptest! {
    #[test]
    fn any_text_comes_back(
        id in any::<String>(),
        reverse_path in any::<String>(),
        text in any::<String>(),
        helo in any::<String>(),
        numbers in any::<[u64; 4]>(),
        code in any::<Option<u16>>(),
        is_held in any::<bool>(),
        priority in any::<i8>(),
        control in "[\\x00-\\x1f\\x7f-\\u{9f}\"\\\\]{0,20}",
    ) {
        let reception = Reception {
            id: &id,
            reverse_path: &reverse_path,
            recipients: numbers[0],
            size: numbers[1],
            client: &"2001:db8::1",
            proxy: if is_held { Some(&"192.0.2.9") } else { None },
            login: if is_held { Some(&text) } else { None },
            helo: &helo,
            protocol: "ESMTP",
            user: is_held.then_some(&*helo),
            labels: EventLabels {
                tenant: is_held.then_some(&*reverse_path),
                campaign: is_held.then_some(&*helo),
            },
            listener: is_held.then_some("main"),
            tls: is_held.then_some(("1.3", "TLS_AES_256_GCM_SHA384")),
            hold_until_unix_ms: is_held.then_some(1_700_000_000_045),
            priority,
            tls_optional: is_held,
            deliver_by: is_held.then_some((1_700_000_000_045, "notify")),
        };
        let value = parse(&EventRecord { time_unix_ms: numbers[3], event: Event::Received(reception) });
        prop_assert_eq!(&value["id"], &id);
        prop_assert_eq!(&value["reverse_path"], &reverse_path);
        prop_assert_eq!(&value["helo"], &helo);
        let said = value.get("priority").and_then(Value::as_i64);
        prop_assert_eq!(said, (priority != 0).then_some(priority.into()));
        prop_assert_eq!(value.get("tls_optional"), is_held.then_some(&Value::Bool(true)));
        let hold_until = is_held.then_some("2023-11-14T22:13:20.045Z");
        prop_assert_eq!(value.get("deliver_by").and_then(Value::as_str), hold_until);
        let mode = is_held.then_some("notify");
        prop_assert_eq!(value.get("deliver_by_mode").and_then(Value::as_str), mode);
        prop_assert_eq!(value.get("hold_until").and_then(Value::as_str), hold_until);
        prop_assert_eq!(value.get("tls_version").and_then(Value::as_str), is_held.then_some("1.3"));
        let cipher = is_held.then_some("TLS_AES_256_GCM_SHA384");
        prop_assert_eq!(value.get("tls_cipher").and_then(Value::as_str), cipher);
        prop_assert_eq!(value.get("proxy").and_then(Value::as_str), is_held.then_some("192.0.2.9"));
        prop_assert_eq!(value.get("login").and_then(Value::as_str), is_held.then_some(&*text));
        prop_assert_eq!(value.get("listener").and_then(Value::as_str), is_held.then_some("main"));
        let user = is_held.then_some(&*helo);
        prop_assert_eq!(value.get("user").and_then(Value::as_str), user);
        let tenant = is_held.then_some(&*reverse_path);
        prop_assert_eq!(value.get("tenant").and_then(Value::as_str), tenant);
        prop_assert_eq!(&value["recipients"], numbers[0]);
        prop_assert_eq!(&value["size"], numbers[1]);

        let settlement = Settlement {
            id: &id,
            forward_path: &control,
            reply: Some(EventReply { code, enhanced: None, text: &text }),
            ..settlement()
        };
        let event = Event::Deferred { settlement, due_unix_ms: numbers[2] };
        let value = parse(&EventRecord { time_unix_ms: numbers[3], event });
        prop_assert_eq!(&value["forward_path"], &control);
        prop_assert_eq!(&value["reply"]["text"], &text);
        prop_assert_eq!(value["reply"].get("code").and_then(Value::as_u64), code.map(u64::from));
    }
}
