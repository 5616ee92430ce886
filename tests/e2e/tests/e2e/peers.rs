//! Other people's mail programs on either side.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringpost_e2e::account::Account;
use ringpost_e2e::injector::Load;
use ringpost_e2e::message::{self, Mark};
use ringpost_e2e::peers::{self, Exim, Postfix};
use ringpost_e2e::ports;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Delivery, Sink};
use ringpost_e2e::wait::{SOON, wait_until};

use crate::{NONE, once_each};

const MESSAGES: u64 = 200;

/// A directory that daemons which are not root can walk into.
fn open_directory() -> Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    peers::run(Command::new("chmod").arg("755").arg(directory.path()))?;
    Ok(directory)
}

fn wait_taken(sink: &Sink, count: u64) -> Result<Vec<Delivery>> {
    wait_until(&format!("{count} messages"), SOON * 2, || {
        Ok(sink.accepted_count() as u64 >= count)
    })?;
    Ok(sink.accepted())
}

/// Sends through another relay, then through us, and accounts for every octet.
fn relay_through(first_hop: std::net::SocketAddr, sink: &Sink, run: &str) -> Result<()> {
    let mut load = Load::new(first_hop, run, 4, Some(MESSAGES));
    load.size = 4_000;
    let book = load.run()?;
    let accepted = wait_taken(sink, MESSAGES)?;
    let account = Account::of(&book, &accepted);
    assert_eq!(account.acked() as u64, MESSAGES, "{account}");
    once_each(&account);
    Ok(())
}

/// The control: a relay known to be good must come out well, or the tests below say nothing.
#[test]
fn the_accounting_finds_no_fault_with_postfix_and_exim_alone() -> Result<()> {
    if let Some(reason) = Postfix::missing().or_else(Exim::missing) {
        return peers::skip(reason);
    }
    let sink = Sink::start()?;
    let (postfix, exim) = (open_directory()?, open_directory()?);
    let (first, second) = (ports::reserve()?, ports::reserve()?);
    let _exim = Exim::start(exim.path(), second, sink.address())?;
    let settings = format!("relayhost = [127.0.0.1]:{}\n", second.port());
    let _postfix = Postfix::start(postfix.path(), first, &settings)?;
    relay_through(first, &sink, "control")
}

#[test]
fn postfix_sends_to_us() -> Result<()> {
    if let Some(reason) = Postfix::missing() {
        return peers::skip(reason);
    }
    let sink = Sink::start()?;
    let server = Server::relaying_to(sink.address())?;
    let (directory, listen) = (open_directory()?, ports::reserve()?);
    let settings = format!("relayhost = [127.0.0.1]:{}\n", server.smtp().port());
    let _postfix = Postfix::start(directory.path(), listen, &settings)?;
    relay_through(listen, &sink, "postfix-in")?;
    assert_eq!(sink.violations(), NONE);
    Ok(())
}

#[test]
fn exim_sends_to_us() -> Result<()> {
    if let Some(reason) = Exim::missing() {
        return peers::skip(reason);
    }
    let sink = Sink::start()?;
    let server = Server::relaying_to(sink.address())?;
    let (directory, listen) = (open_directory()?, ports::reserve()?);
    let _exim = Exim::start(directory.path(), listen, server.smtp())?;
    relay_through(listen, &sink, "exim-in")?;
    assert_eq!(sink.violations(), NONE);
    Ok(())
}

#[test]
fn we_send_to_exim() -> Result<()> {
    if let Some(reason) = Exim::missing() {
        return peers::skip(reason);
    }
    let sink = Sink::start()?;
    let (directory, listen) = (open_directory()?, ports::reserve()?);
    let _exim = Exim::start(directory.path(), listen, sink.address())?;
    let server = Server::relaying_to(listen)?;
    relay_through(server.smtp(), &sink, "exim-out")
}

/// The files of a Maildir.
fn maildir(directory: &Path) -> Result<Vec<Vec<u8>>> {
    let Ok(entries) = fs::read_dir(directory.join("new")) else { return Ok(Vec::new()) };
    entries.map(|entry| Ok(fs::read(entry?.path())?)).collect()
}

#[test]
fn we_send_to_a_mailbox_of_postfix() -> Result<()> {
    if let Some(reason) = Postfix::missing() {
        return peers::skip(reason);
    }
    let (directory, listen) = (open_directory()?, ports::reserve()?);
    let mail = directory.path().join("mail");
    fs::create_dir(&mail)?;
    peers::run(Command::new("chown").arg("nobody").arg(&mail))?;
    let id = |option: &str| -> Result<String> {
        Ok(peers::run(Command::new("id").args([option, "nobody"]))?.trim().to_owned())
    };
    let settings = format!(
        "virtual_mailbox_domains = box.test\nvirtual_mailbox_base = {}\n\
         virtual_mailbox_maps = static:inbox/\nvirtual_minimum_uid = 1\n\
         virtual_uid_maps = static:{}\nvirtual_gid_maps = static:{}\n",
        mail.display(),
        id("-u")?,
        id("-g")?
    );
    let postfix = Postfix::start(directory.path(), listen, &settings)?;
    let server = Server::relaying_to(listen)?;
    let mut load = Load::new(server.smtp(), "mailbox", 4, Some(MESSAGES));
    load.domains = vec!["box.test".to_owned()];
    load.size = 4_000;
    load.run()?;
    server.wait_drained(SOON)?;
    let inbox = mail.join("inbox");
    let all = usize::try_from(MESSAGES)?;
    wait_until("the mailbox", SOON, || Ok(maildir(&inbox)?.len() >= all))
        .with_context(|| postfix.log())?;
    let mut ids = Vec::new();
    for file in maildir(&inbox)? {
        // A Maildir has lines that end in LF; the message came with CRLF.
        let content = String::from_utf8(file)?.replace('\n', "\r\n");
        match message::verify(content.as_bytes()) {
            Mark::Intact(id) => ids.push(id),
            other => anyhow::bail!("{other:?} in\n{content}"),
        }
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), all);
    Ok(())
}

#[test]
fn swaks_sends_to_us() -> Result<()> {
    let Some(swaks) = peers::program("swaks") else {
        return peers::skip("swaks is not installed");
    };
    let sink = Sink::start()?;
    let server = Server::relaying_to(sink.address())?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("message");
    // It would change the content in small ways; told not to, it wants dots and terminator done.
    fs::write(&file, message::stuff(&message::build("swaks", 5_000)))?;
    let output = peers::run(
        Command::new(swaks)
            .args(["--server", "127.0.0.1", "--port", &server.smtp().port().to_string()])
            .args(["--from", "a@a.test", "--to", "b@b.test,c@c.test", "--ehlo", "swaks.test"])
            .args(["--no-data-fixup", "--suppress-data", "--data"])
            .arg(format!("@{}", file.display())),
    )?;
    assert!(output.contains("queued as"), "{output}");
    let taken = wait_taken(&sink, 1)?;
    assert_eq!(taken[0].mark, Mark::Intact("swaks".into()));
    let mut paths: Vec<_> = taken.iter().flat_map(|one| one.forward_paths.clone()).collect();
    paths.sort();
    assert_eq!(paths, ["<b@b.test>", "<c@c.test>"]);
    Ok(())
}

#[test]
fn python_sends_to_us() -> Result<()> {
    let Some(python) = peers::program("python3") else {
        return peers::skip("python3 is not installed");
    };
    let sink = Sink::start()?;
    let server = Server::relaying_to(sink.address())?;
    let directory = tempfile::tempdir()?;
    for number in 0..3 {
        fs::write(
            directory.path().join(format!("{number}")),
            message::build(&format!("python-{number}"), 3_000),
        )?;
    }
    // One connection, three messages; the second has a refused recipient beside a good one.
    let script = "\
import smtplib, sys
port, directory = int(sys.argv[1]), sys.argv[2]
with smtplib.SMTP('127.0.0.1', port, local_hostname='python.test', timeout=60) as client:
    for number in range(3):
        content = open(f'{directory}/{number}', 'rb').read()
        to = ['b@b.test'] + (['b@bad..domain'] if number == 1 else [])
        refused = client.sendmail('a@a.test', to, content, ['BODY=8BITMIME'])
        assert len(refused) == (number == 1), refused
    code, text = client.docmd('NOOP')
    assert code == 250, text
";
    peers::run(
        Command::new(python)
            .args(["-c", script, &server.smtp().port().to_string()])
            .arg(directory.path()),
    )?;
    let taken = wait_taken(&sink, 3)?;
    let mut marks: Vec<_> = taken.into_iter().map(|one| one.mark).collect();
    marks.sort_by_key(|mark| mark.id().map(str::to_owned));
    let expected: Vec<_> = (0..3).map(|number| Mark::Intact(format!("python-{number}"))).collect();
    assert_eq!(marks, expected);
    Ok(())
}

#[test]
fn a_postfix_on_both_sides() -> Result<()> {
    if let Some(reason) = Postfix::missing() {
        return peers::skip(reason);
    }
    // Postfix -> us -> Postfix -> sink: what one of them does to a message would show at the end.
    let sink = Sink::start()?;
    let (before, after) = (open_directory()?, open_directory()?);
    let (first, last) = (ports::reserve()?, ports::reserve()?);
    let _after = Postfix::start(
        after.path(),
        last,
        &format!("relayhost = [127.0.0.1]:{}\n", sink.address().port()),
    )?;
    let server = Server::relaying_to(last)?;
    let _before = Postfix::start(
        before.path(),
        first,
        &format!("relayhost = [127.0.0.1]:{}\n", server.smtp().port()),
    )?;
    relay_through(first, &sink, "both")?;
    let hops = Duration::from_mins(1);
    server.wait_drained(hops)?;
    ensure!(server.metrics()?.count("ringpost_messages_received_total") == MESSAGES);
    Ok(())
}
