//! Rules on replies, in the real binary: what they change, and that HUP reads them again.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use ringpost_e2e::injector::Client;
use ringpost_e2e::message;
use ringpost_e2e::process::{Server, Signal, binary};
use ringpost_e2e::sink::{Answer, Sink, Step};
use ringpost_e2e::wait::{SOON, wait_until};

const BOUNCES: &str = "[[rule]]\nname = \"gone\"\nstage = \"rcpt\"\ncode = \"450\"\ntext = \"no*longer\"\naction = \"bounce\"\n";
const WAITS: &str =
    "[[rule]]\nname = \"wait\"\nstage = \"rcpt\"\ncode = \"450\"\nretry_after = \"1s\"\n";

fn send(server: &Server, id: &str) -> Result<()> {
    let mut client = Client::connect(server.smtp())?;
    let reply = client.message("<>", &["<b@b.test>"], &message::build(id, 500))?;
    ensure!(reply.code == 250, "{reply:?}");
    Ok(())
}

#[test]
fn rules_decide_and_are_read_again() -> Result<()> {
    let sink = Sink::scripted(|step| match step {
        Step::Rcpt(_) => Answer::reply("450 4.1.1 is no more, and no longer wanted"),
        _ => Answer::Accept,
    })?;
    let mut server = Server::prepare()?;
    let rules = server.directory().join("rules.toml");
    fs::write(&rules, BOUNCES)?;
    server.config.route("*", sink.address());
    server.config.set("delivery", "rules", &format!("{:?}", rules.display().to_string()));
    server.config.set("delivery", "retry", "[\"1h\"]");
    server.start()?;
    send(&server, "gone")?;
    server.wait_drained(SOON)?;
    let events = server.wait_events("bounced", 1)?;
    let bounced = events.iter().find(|event| event.kind == "bounced").map(|one| &one.fields);
    ensure!(
        bounced.is_some_and(|it| it["rule"] == "gone" && it["reply"]["code"] == 450),
        "{bounced:?}"
    );
    wait_until("the rule's count", SOON, || {
        let label = "action=\"bounce\"";
        Ok(server.metrics()?.count_where("ringpost_reply_rules_total", label) == 1)
    })?;
    // A mistake is told, and changes nothing.
    fs::write(&rules, "[[rule]]\nname = \"bad\"\ncode = \"45\"\naction = \"defer\"\n")?;
    server.signal(Signal::HUP)?;
    wait_until("the refusal of the rules", SOON, || {
        Ok(server.log().contains("rules.toml:1: rule \"bad\": code: \"45\" is not one"))
    })?;
    send(&server, "still")?;
    server.wait_events("bounced", 2)?;
    fs::write(&rules, WAITS)?;
    server.signal(Signal::HUP)?;
    // Which rules hold is seen by what they do.
    let mut number = 0;
    wait_until("the new rules", SOON, || {
        number += 1;
        send(&server, &format!("wait-{number}"))?;
        let events = server.events()?;
        Ok(events.iter().any(|event| event.kind == "deferred" && event.fields["rule"] == "wait"))
    })?;
    sink.accept_all();
    // Without the rule it would be an hour.
    server.wait_drained(SOON)?;
    Ok(())
}

#[test]
fn the_command_line_says_which_rule_matches() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let rules = directory.path().join("rules.toml");
    fs::write(&rules, format!("{BOUNCES}{WAITS}"))?;
    let test = |stage: &str, reply: &str| -> Result<(bool, String)> {
        let output = Command::new(binary()?)
            .args(["rules", "test", "--rules"])
            .arg(&rules)
            .args(["--stage", stage, "--host", "mx.test", reply])
            .output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8(text)?))
    };
    let (ok, text) = test("rcpt", "450 4.1.1 no longer here")?;
    ensure!(ok && text == "rule: gone\noutcome: bounced 5.1.1\n", "{text}");
    let (ok, text) = test("rcpt", "450 busy")?;
    ensure!(
        ok && text.contains("rule: wait\noutcome: deferred") && text.contains("after: 1 s"),
        "{text}"
    );
    let (ok, text) = test("mail", "550 5.7.1 no")?;
    ensure!(ok && text == "rule: none\noutcome: bounced 5.7.1\n", "{text}");
    let (ok, text) = test("helo", "550 5.7.1 no")?;
    ensure!(!ok && text.contains("\"helo\" is no stage"), "{text}");
    fs::write(&rules, "[[rule]]\nname = 'x'\ncode = 'y'\n")?;
    let (ok, text) = test("rcpt", "450 4.1.1 x")?;
    ensure!(!ok && text.contains("rules.toml:1: rule \"x\": code: \"y\" is not one"), "{text}");
    Ok(())
}
