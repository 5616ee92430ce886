//! `ringpost queue` asks the running server, and says so when there is none.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use ringpost_e2e::injector::Load;
use ringpost_e2e::process::{self, Server};
use ringpost_e2e::sink::{Answer, Sink, Step};

/// Runs `ringpost queue`; whether it succeeded, and what it said.
fn queue(server: &Server, arguments: &[&str]) -> Result<(bool, String)> {
    let output = Command::new(process::binary()?)
        .arg("queue")
        .args(arguments)
        .arg("--config")
        .arg(server.config_path())
        .stdin(Stdio::null())
        .output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

#[test]
fn the_status_of_the_queue_is_shown() -> Result<()> {
    let sink = Sink::scripted(|step| match step {
        Step::Mail(_) => Answer::reply("451 4.3.0 not yet"),
        _ => Answer::Accept,
    })?;
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address()).set("queue", "shards", "2");
    server.write_config()?;
    let (success, text) = queue(&server, &["status"])?;
    assert!(!success && text.contains("no server answers"), "{text}");
    server.start()?;
    Load::new(server.smtp(), "held", 4, Some(30)).run()?;
    let (success, text) = queue(&server, &["status"])?;
    ensure!(success, "{text}");
    let sum = text.lines().find(|line| line.trim_start().starts_with("all")).context("no sum")?;
    let numbers: Vec<_> = sum.split_whitespace().skip(1).take(2).collect();
    assert_eq!(numbers, ["30", "30"], "{text}");
    let open = text.lines().filter(|line| line.contains(" open ")).count();
    assert_eq!(open, 2, "{text}");
    let (success, json) = queue(&server, &["status", "--json"])?;
    ensure!(success && json.starts_with("{\"shards\":["), "{json}");
    let mode = std::fs::metadata(server.queue().join("control.sock"))?.permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "for its owner alone");
    // A kill leaves the socket behind, in nobody's way.
    server.kill()?;
    let (success, text) = queue(&server, &["status"])?;
    assert!(!success && text.contains("no server answers"), "{text}");
    server.start()?;
    let (success, text) = queue(&server, &["status"])?;
    ensure!(success, "{text}");
    Ok(())
}
