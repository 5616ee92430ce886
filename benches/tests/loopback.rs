//! The tools against each other over the loopback, and the demo against servers that cheat.
//!
//! Needs io_uring. What a tool reports is compared with what the tool on the other side wrote
//! down; a demo that cannot report a loss would prove nothing, so that is tried, too.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may be as blunt as tests")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// No tool here has more to do than a second's work.
const DEADLINE: Duration = Duration::from_mins(1);

fn tool(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost-load"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for a child that was started here; kills it, and fails, when it takes too long.
fn finish(mut child: Child) -> Output {
    let deadline = Instant::now() + DEADLINE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("still running after a minute: {:?}", child.wait_with_output().unwrap());
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A sink on a port of the system's choice.
struct Sink {
    child: Child,
    address: String,
    /// Kept open: the sink may have more to say.
    _stderr: BufReader<ChildStderr>,
}

impl Sink {
    fn start(arguments: &[&str]) -> Self {
        let start = ["sink", "--json", "--listen", "127.0.0.1:0"];
        let mut child = tool(&[&start, arguments].concat()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let Some(address) = line.trim().strip_prefix("listening on ") else {
            let mut rest = String::new();
            let _ = stderr.read_to_string(&mut rest);
            panic!("no address: {line}{rest}")
        };
        Self { child, address: address.to_owned(), _stderr: stderr }
    }

    fn stop(self) -> Output {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        finish(self.child)
    }
}

fn send(sink: &Sink, arguments: &[&str]) -> Output {
    let start = ["source", "--json", "--sessions", "8", "--size", "2000", "--to", &sink.address];
    finish(tool(&[&start, arguments].concat()).spawn().unwrap())
}

fn first_words(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn both_ends_agree() {
    let directory = TempDir::new().unwrap();
    let file = |name: &str| directory.path().join(name).display().to_string();
    let (acked, record) = (file("acked"), file("record"));
    for mode in [&[][..], &["--keep"], &["--pipeline"], &["--keep", "--pipeline"]] {
        let _ = (fs::remove_file(&acked), fs::remove_file(&record));
        let sink = Sink::start(&["--record", &record, "--messages", "300", "--cores", "2"]);
        let mut arguments = vec!["--messages", "300", "--cores", "2", "--acked", &acked];
        arguments.extend_from_slice(mode);
        let sent = send(&sink, &arguments);
        assert!(sent.status.success(), "{mode:?}: {sent:?}");
        // It ends by itself, having taken what it was to take.
        let taken = finish(sink.child);
        assert!(taken.status.success(), "{mode:?}: {taken:?}");
        let (sent, taken) = (report(&sent), report(&taken));
        assert_eq!(sent["accepted"], 300, "{mode:?}");
        assert_eq!(sent["dot_to_reply"]["count"], 300, "{mode:?}");
        assert_eq!((&taken["intact"], &taken["damaged"]), (&300.into(), &0.into()), "{mode:?}");
        assert_eq!((&taken["recipients"], &taken["duplicates"]), (&300.into(), &0.into()));
        let (acked, recorded) = (first_words(acked.as_ref()), first_words(record.as_ref()));
        assert_eq!((acked.len(), recorded.len()), (300, 300), "{mode:?}");
        let set = |ids: Vec<String>| ids.into_iter().collect::<BTreeSet<_>>();
        assert_eq!(set(acked), set(recorded), "{mode:?}");
    }
}

#[test]
fn refusals_that_pass_are_tried_again() {
    let sink = Sink::start(&["--rcpt-4xx", "200", "--messages-per-connection", "3"]);
    let sent = send(&sink, &["--messages", "100", "--keep", "--pipeline"]);
    assert!(sent.status.success(), "{sent:?}");
    let (sent, taken) = (report(&sent), report(&sink.stop()));
    assert!(sent["retried"].as_u64().unwrap() > 0);
    assert_eq!(sent["accepted"], 100);
    assert!(taken["recipients_4xx"].as_u64().unwrap() > 0);
    assert_eq!((&taken["messages"], &taken["duplicates"]), (&100.into(), &0.into()));
}

#[test]
fn refusals_for_good_are_not_tried_again() {
    let sink = Sink::start(&["--rcpt-5xx", "1000"]);
    let sent = send(&sink, &["--messages", "20"]);
    assert_eq!(sent.status.code(), Some(1));
    let (sent, taken) = (report(&sent), report(&sink.stop()));
    assert_eq!((&sent["accepted"], &sent["refused"]), (&0.into(), &20.into()));
    assert_eq!(sent["failures"][0], "RCPT: 550 5.1.1 No such mailbox");
    assert_eq!(taken["recipients_5xx"], 20);
}

#[test]
fn a_dot_without_reply_is_not_sent_again() {
    let sink = Sink::start(&["--close-after-dot", "1000"]);
    let sent = send(&sink, &["--messages", "20", "--pipeline"]);
    assert_eq!(sent.status.code(), Some(1));
    let (sent, taken) = (report(&sent), report(&sink.stop()));
    assert_eq!((&sent["accepted"], &sent["unknown"]), (&0.into(), &20.into()));
    assert_eq!((&taken["messages"], &taken["closed_after_dot"]), (&0.into(), &20.into()));
}

#[test]
fn recipients_are_accounted_for_one_by_one() {
    let sink = Sink::start(&["--rcpt-5xx", "300"]);
    let sent =
        send(&sink, &["--messages", "50", "--recipients", "9", "--domains", "a.example,b.example"]);
    let (sent, taken) = (report(&sent), report(&sink.stop()));
    assert!(sent["recipients_refused"].as_u64().unwrap() > 0);
    assert_eq!(sent["recipients"], taken["recipients"]);
    assert_eq!(sent["accepted"], taken["messages"]);
}

#[test]
fn damage_and_repetition_are_seen() {
    let sink = Sink::start(&[]);
    let sent = send(&sink, &["--messages", "1"]);
    assert!(sent.status.success());
    // A message of our own making: an id with a checksum that does not fit, twice.
    let mut stream = TcpStream::connect(&sink.address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let text = "HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<load-0@x>\r\nDATA\r\n\
                X-Ringpost-Load-Id: 00000000-00000000\r\n\
                X-Ringpost-Load-Sum: 00000000-00000000\r\n\r\n";
    let damaged = format!("{text}x\r\n.\r\n");
    // The CRC-32C of nothing is 0, so without a body the sum fits.
    let intact = format!("{text}.\r\nRSET\r\n").replace("HELO", "EHLO");
    let all = format!("{damaged}{intact}{intact}QUIT\r\n");
    stream.write_all(all.as_bytes()).unwrap();
    let mut replies = String::new();
    stream.read_to_string(&mut replies).unwrap();
    assert!(replies.contains("\r\n221 "), "{replies}");
    let taken = sink.stop();
    assert_eq!(taken.status.code(), Some(1), "{taken:?}");
    let taken = report(&taken);
    assert_eq!((&taken["damaged"], &taken["intact"]), (&1.into(), &3.into()));
    assert_eq!(taken["duplicates"], 1);
    assert_eq!(taken["damages"][0], "00000000-00000000: length");
}

#[test]
fn a_rate_is_kept() {
    let sink = Sink::start(&[]);
    let sent = send(&sink, &["--messages", "50", "--rate", "100", "--keep"]);
    assert!(sent.status.success(), "{sent:?}");
    // The last of 50 is due after 0.49 s: not a limit on the machine's speed.
    assert!(report(&sent)["seconds"].as_f64().unwrap() >= 0.49);
    drop(sink.stop());
}

/// A script that the demo takes for a server.
fn server(directory: &TempDir, script: &str) -> PathBuf {
    let path = directory.path().join("server");
    fs::write(&path, format!("#!/bin/sh\nset -eu\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A server that takes all mail and delivers none; called as `server run --config FILE`.
fn swallower(directory: &TempDir) -> PathBuf {
    let script = format!(
        "listen=$(sed -n 's/^addresses = \\[\"\\(.*\\)\"\\]$/\\1/p' \"$3\")\n\
         exec {} sink --listen \"$listen\"",
        env!("CARGO_BIN_EXE_ringpost-load")
    );
    server(directory, &script)
}

fn demo(server: &Path) -> Output {
    let server = server.display().to_string();
    let arguments = ["demo", "--messages", "50", "--sessions", "2", "--patience", "2"];
    finish(tool(&[&arguments, &["--ringpost", &server][..]].concat()).spawn().unwrap())
}

#[test]
fn the_demo_reports_what_a_server_swallows() {
    let directory = TempDir::new().unwrap();
    let output = demo(&swallower(&directory));
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        text.contains("account: accepted 50, delivered 0, duplicates 0, damaged 0, lost 50\n"),
        "{text}"
    );
}

#[test]
fn the_demo_says_why_a_server_does_not_start() {
    let directory = TempDir::new().unwrap();
    let output = demo(&server(&directory, "echo no ring today >&2; exit 3"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text.contains("no ring today") && text.contains("exit status: 3"), "{text}");
}

#[test]
fn an_interrupted_demo_takes_its_server_with_it() {
    let directory = TempDir::new().unwrap();
    let server = swallower(&directory).display().to_string();
    let arguments = ["demo", "--messages", "10", "--patience", "50", "--ringpost", &server];
    let mut child = tool(&arguments).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    // The first progress line: by then it waits for deliveries that never come.
    while !text.contains("delivered 0") {
        assert_ne!(stderr.read_line(&mut text).unwrap(), 0, "{text}");
    }
    let (_, rest) = text.split_once("(process ").unwrap();
    let process = Path::new("/proc").join(rest.split_once(')').unwrap().0);
    assert!(process.exists());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = finish(child);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.starts_with(b"interrupted"), "{output:?}");
    assert!(!process.exists());
}
