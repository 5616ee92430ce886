//! 8-bit content towards hosts without 8BITMIME (RFC 6152 §3): converted, bounced, or sent all the same.

use std::process::Command;

use anyhow::Result;
use ringpost_e2e::injector::Client;
use ringpost_e2e::peers;
use ringpost_e2e::ports;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Answer, Delivery, Sink, SinkOptions};
use ringpost_e2e::wait::{SOON, wait_until};

use crate::NONE;

const HEADER: &str =
    "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n";
const PLAIN: &str = "--b\r\n\r\nplain\r\n";
const TEXT: &str = "--b\r\nContent-Type: text/plain; charset=utf-8\r\n\
                    Content-Transfer-Encoding: 8bit\r\n\r\ngrüße, and more text than that\r\n.dot\r\n";
const IMAGE: &str =
    "--b\r\nContent-Type: image/x\r\nContent-Transfer-Encoding: 8bit\r\n\r\nüöäüöä\r\n";
const MESSAGE: &str = "--b\r\nContent-Type: message/rfc822\r\n\r\na: b\r\n\r\nü\r\n";
const END: &str = "--b--\r\n";

/// What a host gets that does or does not offer 8BITMIME, with a setting of ours.
fn sent(parts: &[&str], offers: bool, setting: &str) -> Result<Vec<Delivery>> {
    let mut options = SinkOptions { keep_content: true, ..SinkOptions::default() };
    options.keywords.retain(|keyword| offers || keyword != "8BITMIME");
    let sink = Sink::with(ports::reserve()?, options, |_| Answer::Accept)?;
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address());
    if !setting.is_empty() {
        server.config.set("delivery", "eight_bit", &format!("\"{setting}\""));
    }
    server.start()?;
    let mut client = Client::connect(server.smtp())?;
    client.expect("EHLO client.test", 250)?;
    client.expect("MAIL FROM:<a@a.test> BODY=8BITMIME", 250)?;
    client.expect("RCPT TO:<b@b.test>", 250)?;
    client.expect("DATA", 354)?;
    let content = [&[HEADER], parts, &[END]].concat().concat();
    client.send(&ringpost_e2e::message::stuff(content.as_bytes()))?;
    client.expect_reply(250)?;
    wait_until("the message, or a report", SOON * 2, || Ok(sink.accepted_count() == 1))?;
    server.wait_drained(SOON)?;
    let converted = server.metrics()?.count("ringpost_transactions_converted_total");
    let is_converted = !offers && matches!(setting, "" | "convert") && !parts.contains(&MESSAGE);
    assert_eq!(converted, u64::from(is_converted));
    assert_eq!(sink.violations(), NONE);
    Ok(sink.accepted())
}

fn text(delivery: &Delivery) -> String {
    let content = String::from_utf8_lossy(&delivery.content);
    let at = content.find("Subject: x").unwrap_or_default();
    content.get(at..).unwrap_or_default().to_owned()
}

#[test]
fn what_can_be_converted_is() -> Result<()> {
    let deliveries = sent(&[PLAIN, TEXT, IMAGE], false, "")?;
    let taken = &deliveries[0];
    assert!(!taken.reverse_path.contains("BODY="), "{}", taken.reverse_path);
    assert!(taken.content.is_ascii());
    let expected = [
        HEADER,
        PLAIN,
        "--b\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: quoted-printable\r\n\r\n\
         gr=C3=BC=C3=9Fe, and more text than that\r\n.dot\r\n",
        "--b\r\nContent-Type: image/x\r\nContent-Transfer-Encoding: base64\r\n\r\n\
         w7zDtsOkw7zDtsOk\r\n",
        END,
    ];
    assert_eq!(text(taken), expected.concat());
    Ok(())
}

/// The same by somebody else's reading.
#[test]
fn python_reads_what_was_meant() -> Result<()> {
    let Some(python) = peers::program("python3") else {
        return peers::skip("python3 is not installed");
    };
    let script = "\
import email, email.policy, sys
message = email.message_from_binary_file(open(sys.argv[1], 'rb'), policy=email.policy.default)
plain, text, image = message.iter_parts()
assert plain.get_content().splitlines() == ['plain'], plain
assert text.get_content().splitlines() == ['grüße, and more text than that', '.dot'], text
assert image.get_content() == 'üöäüöä'.encode(), image.get_content()
assert not message.defects and not text.defects and not image.defects
";
    let deliveries = sent(&[PLAIN, TEXT, IMAGE], false, "convert")?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), &deliveries[0].content)?;
    peers::run(Command::new(python).args(["-c", script]).arg(file.path()).env("PYTHONUTF8", "1"))?;
    Ok(())
}

#[test]
fn what_cannot_be_converted_is_bounced() -> Result<()> {
    for (parts, setting) in [(&[PLAIN, MESSAGE][..], "convert"), (&[PLAIN, TEXT][..], "bounce")] {
        let deliveries = sent(parts, false, setting)?;
        let report = String::from_utf8_lossy(&deliveries[0].content).into_owned();
        assert_eq!(deliveries[0].forward_paths, ["<a@a.test>"], "{report}");
        assert!(report.contains("\r\nStatus: 5.6.3\r\n"), "{report}");
    }
    Ok(())
}

#[test]
fn hosts_that_take_it_get_it_and_others_by_choice() -> Result<()> {
    for (offers, setting) in [(true, ""), (false, "send_anyway")] {
        let deliveries = sent(&[TEXT, MESSAGE], offers, setting)?;
        let taken = &deliveries[0];
        assert_eq!(taken.reverse_path.contains("BODY=8BITMIME"), offers, "{}", taken.reverse_path);
        assert_eq!(text(taken), [HEADER, TEXT, MESSAGE, END].concat());
    }
    Ok(())
}
