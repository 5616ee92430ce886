//! The tools for a stopped queue: they find what is damaged, save the rest, and say what they did.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use ringpost_e2e::account::Account;
use ringpost_e2e::injector::Load;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::Sink;
use ringpost_e2e::wait::{SOON, wait_until};
use serde_json::Value;

use crate::isolation::{damage, two_shards};
use crate::{NONE, once_each};

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

fn json(output: &Output) -> Result<Value> {
    serde_json::from_slice(&output.stdout).with_context(|| text(output))
}

#[test]
fn damage_is_named_repaired_and_everything_else_is_delivered_once() -> Result<()> {
    let (mut server, sink, book) = two_shards("repair")?;
    let whole = server.queue_command(&["check", "--json"])?;
    assert_eq!(code(&whole), Some(0), "{}", text(&whole));
    let counted = |report: &Value, key: &str| -> u64 {
        let shards = report["shards"].as_array().into_iter().flatten();
        shards.filter_map(|shard| shard[key].as_u64()).sum()
    };
    let before = json(&whole)?;
    assert_eq!(before["intact"], true);
    assert_eq!(counted(&before, "messages"), book.len() as u64);

    damage(&server, 1)?;
    server.spawn(&[])?;
    wait_until("a shard that says what to do", SOON, || {
        Ok(server.log().contains("ringpost queue repair --config"))
    })?;
    // Not while the server runs.
    for command in ["check", "repair"] {
        let refused = server.queue_command(&[command])?;
        assert_eq!(code(&refused), Some(2), "{}", text(&refused));
        assert!(text(&refused).contains("stop the server first"), "{}", text(&refused));
    }
    server.terminate()?;
    let log = server.log();
    assert!(log.contains("segment 0000000000000001 is damaged at 4096"), "{log}");
    // The place is the same.
    let checked = server.queue_command(&["check"])?;
    assert_eq!(code(&checked), Some(1), "{}", text(&checked));
    let said = text(&checked);
    assert!(said.contains("shard 0: intact:") && said.contains("shard 1: DAMAGED:"), "{said}");
    assert!(said.contains("segment-0000000000000001 at 4096: a frame is damaged"), "{said}");
    assert_eq!(code(&server.queue_command(&["check", "--shard", "0"])?), Some(0));
    assert_eq!(code(&server.queue_command(&["check", "--shard", "2"])?), Some(2));
    let damaged = json(&server.queue_command(&["check", "--json"])?)?;
    let dry = server.queue_command(&["repair", "--dry-run"])?;
    assert_eq!(code(&dry), Some(1), "{}", text(&dry));

    let repaired = server.queue_command(&["repair"])?;
    let said = text(&repaired);
    assert_eq!(code(&repaired), Some(0), "{said}");
    assert!(said.contains("shard 1: repaired:") && said.contains("shard-001.damaged-"), "{said}");
    let checked = server.queue_command(&["check", "--json"])?;
    assert_eq!(code(&checked), Some(0), "{}", text(&checked));
    let after = json(&checked)?;
    assert_eq!(counted(&after, "messages"), counted(&damaged, "messages"));
    let gone = counted(&before, "messages") - counted(&after, "messages");
    assert!((1..book.len() as u64 / 2).contains(&gone), "{gone} message(s) are gone: {said}");

    // The other shard may have delivered some while the damaged one stood still; nothing comes twice.
    sink.accept_all();
    server.start()?;
    server.wait_drained(SOON)?;
    let account = Account::of(&book, &sink.accepted());
    assert_eq!(account.lost().len() as u64, gone, "{account}");
    assert_eq!(account.damaged(), NONE, "{account}");
    assert_eq!(account.repeated(), NONE, "{account}");
    // It takes mail as before.
    let more = Load::new(server.smtp(), "since", 4, Some(100)).run()?;
    server.wait_drained(SOON)?;
    let account = Account::of(&more, &sink.accepted());
    assert_eq!(account.lost(), NONE, "{account}");
    server.terminate()?;
    assert_eq!(code(&server.queue_command(&["check"])?), Some(0));
    Ok(())
}

#[test]
fn mail_moves_to_a_queue_with_other_shards_and_is_delivered_once() -> Result<()> {
    let (old, _refusing, book) = two_shards("move")?;
    let files = old.directory().join("files");
    let path = files.display().to_string();
    let exported = old.queue_command(&["export", "--to", &path])?;
    assert_eq!(code(&exported), Some(0), "{}", text(&exported));
    let count = |directory: &Path| -> Result<usize> {
        let names = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
        Ok(names.iter().filter(|entry| entry.path().is_file()).count())
    };
    assert_eq!(count(&files)?, 2 * book.len());

    let sink = Sink::start()?;
    let mut new = Server::with_shards(3, sink.address())?;
    new.start()?;
    let refused = new.queue_command(&["import", "--from", &path])?;
    assert_eq!(code(&refused), Some(2), "{}", text(&refused));
    assert!(text(&refused).contains("stop the server first"), "{}", text(&refused));
    new.terminate()?;
    let imported = new.queue_command(&["import", "--from", &path])?;
    assert_eq!(code(&imported), Some(0), "{}", text(&imported));
    assert_eq!((count(&files)?, count(&files.join("imported"))?), (0, 2 * book.len()));
    assert_eq!(code(&new.queue_command(&["check"])?), Some(0));
    new.start()?;
    new.wait_drained(SOON)?;
    let account = Account::of(&book, &sink.accepted());
    once_each(&account);
    Ok(())
}

#[test]
fn without_a_queue_or_a_configuration_the_tools_say_so() -> Result<()> {
    let mut server = Server::prepare()?;
    server.config.route("*", Sink::start()?.address());
    server.write_config()?;
    let none = server.queue_command(&["check"])?;
    assert_eq!(code(&none), Some(2), "{}", text(&none));
    assert!(text(&none).contains("cannot open the queue directory"), "{}", text(&none));
    ensure!(!server.queue().exists(), "a check makes no queue");
    server.config.append("nonsense = 1\n");
    server.write_config()?;
    for command in ["check", "repair"] {
        let refused = server.queue_command(&[command])?;
        assert_eq!(code(&refused), Some(78), "{}", text(&refused));
    }
    Ok(())
}
