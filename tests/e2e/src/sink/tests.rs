use super::*;
use crate::injector::Client;
use crate::message::{build, stuff};

#[test]
fn a_message_is_recorded_before_its_reply() {
    let sink = Sink::start().unwrap();
    let mut client = Client::connect(sink.address()).unwrap();
    let message = build("one", 2_000);
    let reply = client.message("<a@a.test>", &["<b@b.test>", "<c@b.test>"], &message).unwrap();
    assert_eq!(reply.code, 250);
    let accepted = sink.accepted();
    assert_eq!(accepted.len(), 1);
    assert_eq!(accepted[0].mark, Mark::Intact("one".into()));
    assert_eq!(accepted[0].reverse_path, "<a@a.test>");
    assert_eq!(accepted[0].forward_paths, ["<b@b.test>", "<c@b.test>"]);
    assert_eq!(sink.violations(), Vec::<String>::new());
}

#[test]
fn the_script_answers_each_step() {
    let sink = Sink::scripted(|step| match step {
        Step::Rcpt(to) if to.contains("later") => Answer::reply("450 4.2.0 later"),
        Step::Content(_) => Answer::Close,
        _ => Answer::Accept,
    })
    .unwrap();
    let mut client = Client::connect(sink.address()).unwrap();
    client.expect("EHLO a.test", 250).unwrap();
    client.expect("MAIL FROM:<>", 250).unwrap();
    client.expect("RCPT TO:<later@b.test>", 450).unwrap();
    client.expect("RCPT TO:<now@b.test>", 250).unwrap();
    client.expect("DATA", 354).unwrap();
    client.send(&stuff(b"Subject: x\r\n\r\nx\r\n")).unwrap();
    assert!(client.reply().is_err(), "the script closes at the dot");
    let all = sink.deliveries();
    assert_eq!(all.len(), 1);
    assert!(!all[0].accepted);
    assert_eq!(all[0].forward_paths, ["<now@b.test>"]);
}

#[test]
fn a_bad_client_is_noticed() {
    let sink = Sink::start().unwrap();
    let mut client = Client::connect(sink.address()).unwrap();
    client.expect("EHLO a.test", 250).unwrap();
    client.expect("MAIL FROM:<>", 250).unwrap();
    client.expect("RCPT TO:<a@b.test>", 250).unwrap();
    client.expect("DATA", 354).unwrap();
    client.send(b"a\nb\r\n.c\r\n.\r\nQUIT\r\n").unwrap();
    client.reply().unwrap();
    let seen = sink.violations().join("\n");
    for needle in ["bare LF", "one leading dot", "behind the final dot"] {
        assert!(seen.contains(needle), "{needle} in {seen}");
    }
}
