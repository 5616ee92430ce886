use super::*;

fn ledger() -> (Ledger, Instant) {
    let start = Instant::now();
    let mut ledger = Ledger::new(start);
    ledger.begin_life(start);
    ledger.begin(Some("home.test"), &["a.test", "b.test"]);
    (ledger, start)
}

/// A taking whose content was asked for at one second and that was taken at another.
fn taking(ledger: &Ledger, begun: u64, at: u64) -> Taking {
    Taking {
        message: 0,
        recipients: vec![0],
        life: ledger.life(),
        begun: ledger.start + Duration::from_secs(begun),
        at: ledger.start + Duration::from_secs(at),
        told: Some(250),
        confirmed: None,
        reports: false,
        tls: None,
    }
}

fn rules(ledger: &Ledger) -> Vec<&'static str> {
    ledger.violations().iter().map(|violation| violation.rule).collect()
}

#[test]
fn addresses_name_their_message() {
    let (ledger, _) = ledger();
    assert_eq!(ledger.messages()[0].reverse_path, "s0@home.test");
    let address = &ledger.messages()[0].recipients[1].address;
    assert_eq!(address, "m0.1@b.test");
    let key = Key { message: 0, recipient: 1 };
    assert_eq!(Party::read(&format!("<{address}>")), Some(Party::Recipient(key)));
    assert_eq!(Party::read("s77@x.test"), Some(Party::Originator(77)));
    assert_eq!(Party::read("postmaster@x.test"), None);
    assert_eq!(Party::read("m1@x.test"), None);
}

#[test]
fn a_copy_after_a_reply_that_was_read_is_wrong() {
    let (mut ledger, start) = ledger();
    let first = ledger.take(taking(&ledger, 1, 2));
    ledger.confirm(first, start + Duration::from_secs(3));
    assert_eq!(rules(&ledger), [""; 0]);
    ledger.take(taking(&ledger, 4, 5));
    assert_eq!(rules(&ledger), ["delivered twice"]);
}

#[test]
fn a_copy_after_a_reply_that_got_lost_is_no_mistake() {
    let (mut ledger, start) = ledger();
    ledger.take(taking(&ledger, 1, 2));
    let second = ledger.take(taking(&ledger, 4, 5));
    ledger.confirm(second, start + Duration::from_secs(6));
    // What the client had given up before it began the second comes in late.
    ledger.take(taking(&ledger, 1, 7));
    assert_eq!(rules(&ledger), [""; 0]);
}

#[test]
fn two_replies_that_were_read_are_one_too_many() {
    let (mut ledger, start) = ledger();
    let first = ledger.take(taking(&ledger, 1, 2));
    let second = ledger.take(taking(&ledger, 1, 2));
    ledger.confirm(first, start + Duration::from_secs(3));
    assert_eq!(rules(&ledger), [""; 0]);
    ledger.confirm(second, start + Duration::from_secs(3));
    assert_eq!(rules(&ledger), ["delivered twice"]);
}

#[test]
fn a_crash_explains_a_copy_and_a_clean_stop_does_not() {
    for (how, expected) in [(LifeEnd::Crash, 0), (LifeEnd::Clean, 1)] {
        let (mut ledger, start) = ledger();
        let first = ledger.take(taking(&ledger, 1, 2));
        ledger.confirm(first, start + Duration::from_secs(3));
        ledger.end_life(start + Duration::from_secs(4), how);
        ledger.begin_life(start + Duration::from_secs(5));
        ledger.take(taking(&ledger, 6, 7));
        assert_eq!(rules(&ledger).len(), expected, "{how:?}");
    }
}

#[test]
fn no_crash_explains_a_copy_of_what_was_settled() {
    let (mut ledger, start) = ledger();
    let first = ledger.take(taking(&ledger, 1, 2));
    ledger.confirm(first, start + Duration::from_secs(3));
    ledger.recipient_mut(Key { message: 0, recipient: 0 }).unwrap().settled =
        Some(start + Duration::from_secs(4));
    ledger.end_life(start + Duration::from_secs(4), LifeEnd::Crash);
    ledger.begin_life(start + Duration::from_secs(5));
    ledger.take(taking(&ledger, 6, 7));
    assert_eq!(rules(&ledger), ["sent again after its end"]);
}

#[test]
fn a_queue_id_is_that_of_one_message() {
    let (mut ledger, start) = ledger();
    ledger.begin(None, &["a.test"]);
    ledger.ack(0, start, "A");
    ledger.ack(1, start, "A");
    assert_eq!(rules(&ledger), ["one queue id, two messages"]);
    ledger.ack(0, start, "B");
    assert!(rules(&ledger).contains(&"one message, two queue ids"));
}

#[test]
fn contents_of_equal_length_are_told_apart() {
    assert_ne!(Fingerprint::of(b"0123456789"), Fingerprint::of(b"0123456798"));
    assert_eq!(Fingerprint::of(b"0123456789"), Fingerprint::of(b"0123456789"));
}

#[test]
fn a_reply_is_owed_by_the_life_that_took_the_connection() {
    let mut ledger = Ledger::new(Instant::now());
    let now = ledger.start;
    let owed = |ledger: &mut Ledger, life| {
        let before = ledger.violations().len();
        ledger.owed(life, "DATA", now);
        ledger.violations().len() > before
    };
    assert!(!owed(&mut ledger, 0));
    ledger.begin_life(now);
    assert!(owed(&mut ledger, 1));
    ledger.end_life(now, LifeEnd::Crash);
    assert!(!owed(&mut ledger, 1));
    ledger.begin_life(now);
    assert!(!owed(&mut ledger, 1) && owed(&mut ledger, 2));
}
