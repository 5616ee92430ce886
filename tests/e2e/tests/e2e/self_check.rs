//! A start that cannot work says why, at once, and touches nothing.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringpost_e2e::injector::Load;
use ringpost_e2e::peers;
use ringpost_e2e::ports;
use ringpost_e2e::process::{self, Server};
use ringpost_e2e::queue_files;
use ringpost_e2e::sink::{Answer, Sink, Step};
use ringpost_e2e::wait::{SOON, wait_until};

/// A start that must fail: its end is awaited, and its log returned.
fn refused(server: &mut Server, prefix: &[&str]) -> Result<String> {
    server.spawn(prefix)?;
    let status = server.wait_exit(Duration::from_secs(20))?;
    let log = server.log();
    ensure!(!status.success(), "it started, or ended with 0:\n{log}");
    ensure!(status.code().is_some_and(|code| code != 101), "not by a panic: {status}\n{log}");
    ensure!(!log.contains("panicked"), "not by a panic:\n{log}");
    Ok(log)
}

/// Name, size and content of every file, and the identity of every socket, below `directory`.
fn fingerprint(directory: &Path) -> Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.append(&mut fingerprint(&path)?);
        } else {
            let mut hasher = DefaultHasher::new();
            if path.is_file() {
                hasher.write(&fs::read(&path)?);
            } else {
                // A socket has no content, but it is another one when it is made anew.
                hasher.write_u64(fs::metadata(&path)?.ino());
            }
            found.insert(path.display().to_string(), hasher.finish());
        }
    }
    Ok(found)
}

#[test]
fn a_queue_in_use_is_refused_and_left_alone() -> Result<()> {
    let sink = Sink::scripted(|step| match step {
        Step::Mail(_) => Answer::reply("451 4.3.0 not now"),
        _ => Answer::Accept,
    })?;
    let mut first = Server::prepare()?;
    // Nothing moves in the queue while the second one tries.
    first.config.route("*", sink.address()).set("delivery", "retry", "[\"1h\"]");
    first.start()?;
    Load::new(first.smtp(), "held", 1, Some(10)).run()?;
    first.wait_events("deferred", 10)?;
    // The segment ahead of need is made beside the mail.
    let mut before = BTreeMap::new();
    wait_until("a queue at rest", SOON, || {
        let unfinished = queue_files::unfinished_segments(&first.queue())?;
        let Ok(now) = fingerprint(&first.queue()) else { return Ok(false) };
        let is_at_rest = now == before && unfinished.is_empty();
        before = now;
        Ok(is_at_rest)
    })?;
    let mut second = Server::prepare()?;
    second.config.route("*", sink.address());
    let queue = first.queue();
    second.config.set("queue", "directory", &format!("\"{}\"", queue.display()));
    let log = refused(&mut second, &[])?;
    assert!(log.contains(&queue.display().to_string()), "names the directory:\n{log}");
    assert!(log.contains("use") || log.contains("lock"), "names the reason:\n{log}");
    assert_eq!(fingerprint(&queue)?, before, "untouched");
    first.wait_queued(10).context("the first goes on")
}

#[test]
fn a_directory_that_cannot_be_written_is_named() -> Result<()> {
    let mut server = Server::prepare()?;
    server.config.route("*", ports::reserve()?);
    // Where even root may not: below a file, and on a file system of the kernel.
    let file = server.directory().join("file");
    fs::write(&file, "")?;
    for place in [file.join("queue").display().to_string(), "/proc/ringpost-queue".to_owned()] {
        server.config.set("queue", "directory", &format!("\"{place}\""));
        let log = refused(&mut server, &[])?;
        assert!(log.contains(&place), "names {place}:\n{log}");
    }
    Ok(())
}

#[test]
fn a_port_in_use_is_named() -> Result<()> {
    let taken = ports::listen(ports::reserve()?)?;
    let address = taken.local_addr()?;
    let mut server = Server::prepare_at(address, ports::reserve()?)?;
    server.config.route("*", ports::reserve()?);
    let log = refused(&mut server, &[])?;
    assert!(log.contains(&address.to_string()), "names the address:\n{log}");
    Ok(())
}

#[test]
fn too_few_descriptors_are_named() -> Result<()> {
    let mut server = Server::prepare()?;
    server.config.route("*", ports::reserve()?);
    let log = refused(&mut server, &["prlimit", "--nofile=32:32"])?;
    let text = log.to_ascii_lowercase();
    assert!(
        text.contains("nofile") || text.contains("open files") || text.contains("descriptors"),
        "names the limit:\n{log}"
    );
    Ok(())
}

#[test]
fn too_little_lockable_memory_is_named() -> Result<()> {
    let mut server = Server::prepare()?;
    server.config.route("*", ports::reserve()?);
    let log = refused(&mut server, &["prlimit", "--memlock=65536:65536"])?;
    let text = log.to_ascii_lowercase();
    assert!(text.contains("memlock") || text.contains("locked memory"), "names it:\n{log}");
    Ok(())
}

#[test]
fn a_kernel_that_refuses_io_uring_is_named() -> Result<()> {
    if peers::program("strace").is_none() {
        return peers::skip("strace is not installed");
    }
    let works = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=io_uring_setup:error=EPERM", "true"])
        .stdin(Stdio::null())
        .output()?;
    if !works.status.success() {
        return peers::skip("strace cannot make a system call fail here");
    }
    let mut server = Server::prepare()?;
    server.config.route("*", ports::reserve()?);
    let log = refused(
        &mut server,
        &["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=io_uring_setup:error=EPERM"],
    )?;
    assert!(log.contains("io_uring"), "names it:\n{log}");
    Ok(())
}

#[test]
fn a_configuration_is_checked_without_a_start() -> Result<()> {
    let mut server = Server::prepare()?;
    server.config.route("*", ports::reserve()?);
    server.write_config()?;
    let check = || -> Result<(bool, String)> {
        let output = Command::new(process::binary()?)
            .arg("check-config")
            .arg(server.config_path())
            .stdin(Stdio::null())
            .output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    };
    let (good, text) = check()?;
    assert!(good, "{text}");
    assert!(!server.queue().exists(), "a check makes nothing");
    let good_file = fs::read_to_string(server.config_path())?;
    for (broken, named) in [
        ("[delivery]\nretry = []\n", "retry"),
        ("[surprise]\nx = 1\n", "surprise"),
        ("[log]\nlevel = \"info\n", ""),
    ] {
        let section = broken.lines().next().unwrap_or_default();
        let kept: Vec<_> = good_file
            .split_inclusive("\n[")
            .map(str::to_owned)
            .collect::<String>()
            .lines()
            .map(str::to_owned)
            .collect();
        // Replaces the section of the same name, if there is one.
        let mut inside = false;
        let mut file = String::new();
        for line in kept {
            if line.starts_with('[') {
                inside = line == section;
            }
            if !inside {
                file.push_str(&line);
                file.push('\n');
            }
        }
        fs::write(server.config_path(), format!("{file}{broken}"))?;
        let (good, text) = check()?;
        assert!(!good, "{broken}");
        assert!(text.contains(named), "{named} in {text}");
        let place = format!("{}:", server.config_path().display());
        assert!(text.contains(&place), "says where: {text}");
    }
    fs::write(server.config_path(), good_file)?;
    server.start()?;
    server.wait_drained(SOON)
}
