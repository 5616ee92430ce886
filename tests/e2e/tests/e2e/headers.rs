//! The header section of messages that come in: missing fields are added, labels are taken out, and nothing else
//! changes.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ringpost_e2e::events::Event;
use ringpost_e2e::injector::Client;
use ringpost_e2e::message::{self, Mark};
use ringpost_e2e::peers;
use ringpost_e2e::ports;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Answer, Sink, SinkOptions, Step};
use ringpost_e2e::wait::{SOON, wait_until};

fn keeping() -> Result<Sink> {
    let options = SinkOptions { keep_content: true, ..SinkOptions::default() };
    Sink::with(ports::reserve()?, options, |_| Answer::Accept)
}

/// A server that adds what is missing.
fn mending(sink: &Sink) -> Result<Server> {
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address()).set("listener.main.header", "add_missing", "true");
    server.start()?;
    Ok(server)
}

fn contents(sink: &Sink) -> Result<Vec<String>> {
    sink.accepted().into_iter().map(|one| Ok(String::from_utf8(one.content)?)).collect()
}

/// Counts of the fields that were added: `Date`, `Message-ID`.
fn added(server: &Server) -> Result<(u64, u64)> {
    let metrics = server.metrics()?;
    let count = |field: &str| metrics.count_where("ringpost_header_fields_added_total", field);
    Ok((count("field=\"date\""), count("field=\"message_id\"")))
}

/// What a library that reads mail makes of what arrives.
#[test]
fn python_finds_the_fields_it_has_not_sent() -> Result<()> {
    let Some(python) = peers::program("python3") else {
        return peers::skip("python3 is not installed");
    };
    let sink = keeping()?;
    let server = mending(&sink)?;
    let script = "\
import smtplib, sys
with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), local_hostname='python.test', timeout=60) as client:
    for name, head in (
        ('none', ''), ('subject', 'Subject: a\\r\\n folded\\r\\n'), ('date', 'Date: Mon, 1 Jan 2024 00:00:00 +0100\\r\\n'),
        ('id', 'message-id: <own@a.test>\\r\\n'),
        ('both', 'Message-ID: <own@a.test>\\r\\nDATE: Mon, 1 Jan 2024 00:00:00 +0100\\r\\n'),
    ):
        client.sendmail('a@a.test', [name + '@b.test'], head + '\\r\\n.' + name + '\\r\\n\\r\\nDate: no field\\r\\n')
";
    peers::run(Command::new(&python).args(["-c", script, &server.smtp().port().to_string()]))?;
    wait_until("five messages", SOON, || Ok(sink.accepted_count() == 5))?;
    let directory = tempfile::tempdir()?;
    let mut files = Vec::new();
    for one in sink.accepted() {
        let name = one.forward_paths[0].trim_matches(['<', '>']).replace("@b.test", "");
        let file = directory.path().join(name);
        fs::write(&file, &one.content)?;
        files.push(file);
    }
    let script = "\
import datetime, email.parser, email.policy, email.utils, os, sys
ids = set()
for path in sys.argv[1:]:
    name = os.path.basename(path)
    message = email.parser.BytesParser(policy=email.policy.SMTP).parsebytes(open(path, 'rb').read())
    assert not message.defects, (name, message.defects)
    dates, own = message.get_all('Date'), message.get_all('Message-ID')
    assert len(dates) == len(own) == 1, (name, dates, own)
    date = email.utils.parsedate_to_datetime(dates[0])
    traced = email.utils.parsedate_to_datetime(message['Received'].rsplit(';', 1)[1].strip())
    if name in ('date', 'both'):
        assert date == datetime.datetime.fromisoformat('2024-01-01T00:00:00+01:00'), date
    else:
        assert date == traced, (date, traced)
    if name in ('id', 'both'):
        assert own[0] == '<own@a.test>', own
    else:
        assert own[0].endswith('@relay.test>') and own[0] not in ids, own
        ids.add(own[0])
    payload = message.get_payload()
    assert payload.replace('\\r\\n', '\\n') == '.' + name + '\\n\\nDate: no field\\n', (name, payload)
    names = [field for field in message.keys() if field != 'Received']
    assert names[0] == {'subject': 'Subject', 'date': 'Date', 'id': 'message-id', 'both': 'Message-ID', 'none': 'Date'}[name], names
";
    peers::run(Command::new(&python).args(["-c", script]).args(&files))?;
    assert_eq!(added(&server)?, (3, 3));
    Ok(())
}

#[test]
fn swaks_sends_without_a_date() -> Result<()> {
    let Some(swaks) = peers::program("swaks") else {
        return peers::skip("swaks is not installed");
    };
    let sink = keeping()?;
    let server = mending(&sink)?;
    for data in ["Subject: hello\\n\\ntext\\n", "just text\\n"] {
        let output = Command::new(&swaks)
            .args(["--server", "127.0.0.1", "--port", &server.smtp().port().to_string()])
            .args(["--from", "a@a.test", "--to", "b@b.test", "--ehlo", "swaks.test"])
            .args(["--data", data])
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    wait_until("two messages", SOON, || Ok(sink.accepted_count() == 2))?;
    let mut ids = BTreeSet::new();
    for content in contents(&sink)? {
        let (head, body) = content.split_once("\r\n\r\n").context("no body")?;
        assert!(body.starts_with("text") || body.starts_with("just text"), "{content}");
        let of = |name: &str| head.lines().filter(|line| line.starts_with(name)).count();
        assert_eq!((of("Date: "), of("Message-ID: <")), (1, 1), "{content}");
        ids.extend(head.lines().find(|line| line.starts_with("Message-ID: ")).map(str::to_owned));
    }
    assert_eq!(ids.len(), 2, "each has its own");
    Ok(())
}

/// Small and streamed, by DATA and by BDAT: all octets that were there are there, in their order.
#[test]
fn what_is_there_stays_as_it_is() -> Result<()> {
    let sink = keeping()?;
    let server = mending(&sink)?;
    let mut client = Client::connect(server.smtp())?;
    let names = ["whole", "large", "cut", "cut-large", "chunks"];
    let sizes = [500, 3_000_000, 500, 3_000_000, 400_000];
    for (name, size) in names.into_iter().zip(sizes) {
        let mut content = message::build(name, size);
        if name.starts_with("cut") || name == "chunks" {
            content = without_date_and_id(&content)?;
        }
        if name != "chunks" {
            let reply = client.message("<a@a.test>", &["<b@b.test>"], &content)?;
            ensure!(reply.code == 250, "{reply:?}");
            continue;
        }
        client.expect("MAIL FROM:<a@a.test>", 250)?;
        client.expect("RCPT TO:<b@b.test>", 250)?;
        for chunk in content.chunks(7_001) {
            client.send(format!("BDAT {}\r\n", chunk.len()).as_bytes())?;
            client.send(chunk)?;
            client.expect_reply(250)?;
        }
        client.expect("BDAT 0 LAST", 250)?;
    }
    server.wait_drained(SOON)?;
    let mut found: Vec<_> = sink
        .accepted()
        .into_iter()
        .map(|one| (one.mark.id().unwrap_or_default().to_owned(), one))
        .collect();
    found.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(found.len(), names.len());
    for (name, one) in &found {
        if !(name.starts_with("cut") || name == "chunks") {
            assert_eq!(one.mark, Mark::Intact(name.clone()));
            continue;
        }
        let (_, size) = names.into_iter().zip(sizes).find(|(it, _)| it == name).context("name")?;
        let sent = without_date_and_id(&message::build(name, size))?;
        let came = without_date_and_id(&one.content)?;
        assert!(came.ends_with(&sent), "{name}: other octets");
        assert!(came.len() < one.content.len(), "{name}: nothing was added");
    }
    assert_eq!(added(&server)?, (3, 3));
    Ok(())
}

/// Content without the lines in front of the first empty one that are `Date` or `Message-ID`.
fn without_date_and_id(content: &[u8]) -> Result<Vec<u8>> {
    let at = content.windows(4).position(|four| four == b"\r\n\r\n").context("no body")?;
    let (head, body) = content.split_at(at + 2);
    let lines = head.split_inclusive(|&b| b == b'\n');
    let kept =
        lines.filter(|line| !line.starts_with(b"Date:") && !line.starts_with(b"Message-ID:"));
    Ok([kept.collect::<Vec<_>>().concat(), body.to_vec()].concat())
}

/// The twins: a relay mends nothing, nor does a listener that is told not to.
#[test]
fn a_relay_adds_nothing() -> Result<()> {
    let sink = keeping()?;
    let server = Server::relaying_to(sink.address())?;
    let mut client = Client::connect(server.smtp())?;
    let reply = client.message("<a@a.test>", &["<b@b.test>"], b"Subject: x\r\n\r\ntext\r\n")?;
    ensure!(reply.code == 250, "{reply:?}");
    wait_until("the message", SOON, || Ok(sink.accepted_count() == 1))?;
    let content = contents(&sink)?.remove(0);
    assert!(!content.contains("\r\nDate:") && !content.contains("Message-ID"), "{content}");
    assert!(content.ends_with("\r\nSubject: x\r\n\r\ntext\r\n"), "{content}");
    assert_eq!(added(&server)?, (0, 0));
    Ok(())
}

/// A server whose clients name tenants and campaigns.
fn labelling(sink: &Sink) -> Result<Server> {
    let mut server = Server::prepare()?;
    server
        .config
        .route("*", sink.address())
        .set("listener.main.header", "tenant", "\"X-Tenant\"")
        .set("listener.main.header", "campaign", "\"X-Campaign\"");
    server.start()?;
    Ok(server)
}

/// Tenant and campaign in an event record.
fn labels(event: &Event) -> (Option<&str>, Option<&str>) {
    (event.fields["tenant"].as_str(), event.fields["campaign"].as_str())
}

#[test]
fn labels_survive_a_restart_and_are_not_sent() -> Result<()> {
    let Some(python) = peers::program("python3") else {
        return peers::skip("python3 is not installed");
    };
    let sink = keeping()?;
    sink.set_script(|step| match step {
        Step::Rcpt(_) => Answer::reply("450 4.2.0 not yet"),
        _ => Answer::Accept,
    });
    let mut server = labelling(&sink)?;
    let script = "\
import smtplib, sys
with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), local_hostname='python.test', timeout=60) as client:
    text = 'Subject: a\\r\\nX-Campaign: may/1\\r\\nX-TENANT:\\r\\n acme\\r\\nDate: x\\r\\n\\r\\nX-Tenant: text\\r\\n'
    client.sendmail('a@a.test', ['labelled@b.test'], text)
    client.sendmail('a@a.test', ['plain@b.test'], 'Subject: b\\r\\n\\r\\ntext\\r\\n')
    for field in ('X-Tenant: a b', 'X-Campaign: a\\r\\nX-Campaign: a'):
        try:
            client.sendmail('a@a.test', ['c@b.test'], field + '\\r\\n\\r\\ntext\\r\\n')
            raise SystemExit('taken')
        except smtplib.SMTPDataError as error:
            assert error.smtp_code == 550 and field.split(':')[0].encode() in error.smtp_error, error
";
    peers::run(Command::new(&python).args(["-c", script, &server.smtp().port().to_string()]))?;
    server.wait_events("deferred", 2)?;
    let metrics = server.metrics()?;
    let labelled = |label: &str| metrics.count_where("ringpost_messages_labelled_total", label);
    assert_eq!((labelled("label=\"tenant\""), labelled("label=\"campaign\"")), (1, 1));
    let refused = metrics.count_where("ringpost_messages_refused_total", "reason=\"label\"");
    assert_eq!(refused, 2);
    server.kill()?;
    sink.accept_all();
    server.start()?;
    server.wait_events("delivered", 2)?;
    for event in server.events()? {
        let Some(path) = event.forward_path.as_deref() else { continue };
        let is_labelled = path == "labelled@b.test";
        let expected = if is_labelled { (Some("acme"), Some("may/1")) } else { (None, None) };
        assert_eq!(labels(&event), expected, "{event:?}");
    }
    let events = server.events()?;
    let received = events.iter().filter(|event| event.kind == "received");
    let mut known: Vec<_> = received.map(labels).collect();
    known.sort_unstable();
    assert_eq!(known, [(None, None), (Some("acme"), Some("may/1"))]);
    let contents = contents(&sink)?;
    let with = contents.iter().find(|content| content.contains("Subject: a")).context("none")?;
    let sent = "Subject: a\r\nDate: x\r\n\r\nX-Tenant: text\r\n";
    assert!(with.ends_with(sent), "the fields alone are taken out: {with}");
    Ok(())
}

/// The twin: where no field is looked for, it is sent.
#[test]
fn labels_are_text_where_nobody_asks_for_them() -> Result<()> {
    let sink = keeping()?;
    let server = Server::relaying_to(sink.address())?;
    let mut client = Client::connect(server.smtp())?;
    let content = b"X-Tenant: acme\r\nSubject: a\r\n\r\ntext\r\n";
    let reply = client.message("<a@a.test>", &["<b@b.test>"], content)?;
    ensure!(reply.code == 250, "{reply:?}");
    let events = server.wait_events("delivered", 1)?;
    assert!(events.iter().all(|event| labels(event) == (None, None)), "{events:?}");
    assert!(contents(&sink)?.remove(0).contains("\r\nX-Tenant: acme\r\n"));
    Ok(())
}
