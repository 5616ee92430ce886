//! The control side over real sockets and files, on loopback.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use ringpost_metrics::label::QueueState;
use ringpost_metrics::{MetricsRecorder, ShardMetrics};

use ringpost_queue::Lsn;

use super::*;

struct Control {
    handle: ControlHandle,
    health: Arc<HealthState>,
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn start_control(events: Option<(PathBuf, EventReceiver)>) -> Control {
    let (recorder, exposition) = MetricsRecorder::new();
    let metrics = metrics_of(&recorder);
    let health = Arc::new(HealthState::new(1, Instant::now()));
    let options = ControlOptions { listen: loopback(), admin: None, events };
    let handle = start(options, exposition, Arc::clone(&health), metrics).unwrap();
    Control { handle, health }
}

fn metrics_of(recorder: &MetricsRecorder) -> ControlMetrics {
    ringpost_metrics::with_local_recorder(recorder, || {
        ringpost_metrics::catalog::describe_all();
        ShardMetrics::register(0).messages_held.increment(42);
        ControlMetrics::register()
    })
}

/// Status line, headers and body of a request.
fn request(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "{head}\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

/// Waits until a file has this text.
fn expect_text(path: &Path, expected: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{}: {text:?}", path.display());
        thread::yield_now();
    }
}

#[test]
fn metrics_are_served_as_prometheus_text() {
    let control = start_control(None);
    let response = request(control.handle.address(), "GET /metrics HTTP/1.1");
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.contains("content-type: text/plain; version=0.0.4"), "{response}");
    assert!(response.contains("\nringpost_messages_held_total{core=\"0\"} 42\n"), "{response}");
    assert!(response.contains("\nringpost_control_requests_total 1\n"), "{response}");
    control.handle.stop();
}

#[test]
fn health_is_503_until_every_shard_is_open() {
    let control = start_control(None);
    let address = control.handle.address();
    let response = request(address, "GET /health HTTP/1.1");
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
    assert!(response.contains("\"reasons\":[\"shard 0 is recovering\"]"), "{response}");
    let shard = control.health.shard(0).unwrap();
    shard.set_state(QueueState::Open);
    shard.tick(Instant::now());
    let response = request(address, "GET /health HTTP/1.1");
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.contains("{\"status\":\"ok\",\"reasons\":[],\"shards\":[\"open\"]}"));
    control.handle.stop();
}

#[test]
fn nothing_else_is_served() {
    let control = start_control(None);
    let address = control.handle.address();
    for (head, status) in [
        ("GET / HTTP/1.1", "404"),
        ("GET /metrics/../etc HTTP/1.1", "404"),
        ("POST /metrics HTTP/1.1", "405"),
        ("garbage", "400"),
    ] {
        let response = request(address, head);
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {response}");
    }
    control.handle.stop();
}

#[test]
fn an_address_in_use_is_a_startup_error() {
    let taken = TcpListener::bind(loopback()).unwrap();
    let address = taken.local_addr().unwrap();
    let (_, exposition) = MetricsRecorder::new();
    let health = Arc::new(HealthState::new(1, Instant::now()));
    let options = ControlOptions { listen: address, admin: None, events: None };
    let error = start(options, exposition, health, ControlMetrics::noop()).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on {address} (control.listen)"));
}

#[test]
fn an_event_log_that_cannot_be_opened_is_a_startup_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("missing/events.jsonl");
    let (_sender, receiver) = event_channel(1);
    let (_, exposition) = MetricsRecorder::new();
    let health = Arc::new(HealthState::new(1, Instant::now()));
    let events = Some((path, receiver));
    let options = ControlOptions { listen: loopback(), admin: None, events };
    let error = start(options, exposition, health, ControlMetrics::noop()).unwrap_err();
    assert!(matches!(error, ControlError::EventLog { .. }), "{error}");
}

#[test]
fn events_are_appended_and_follow_a_rotation() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.jsonl");
    let rotated = directory.path().join("events.jsonl.1");
    std::fs::write(&path, "old\n").unwrap();
    let (sender, receiver) = event_channel(16);
    let control = start_control(Some((path.clone(), receiver)));
    sender.send(b"a\n".to_vec(), Lsn(1), 0).unwrap();
    expect_text(&path, "old\na\n");
    std::fs::rename(&path, &rotated).unwrap();
    sender.send(b"b\n".to_vec(), Lsn(1), 0).unwrap();
    expect_text(&rotated, "old\na\nb\n");
    control.handle.reopen_events();
    // The file exists once it has been opened again.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !path.exists() {
        assert!(Instant::now() < deadline);
        thread::yield_now();
    }
    sender.send(b"c\n".to_vec(), Lsn(1), 0).unwrap();
    expect_text(&path, "c\n");
    control.handle.stop();
    assert_eq!(std::fs::read_to_string(&rotated).unwrap(), "old\na\nb\n");
}

#[test]
fn stopping_writes_every_record_that_was_taken() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.jsonl");
    let (sender, receiver) = event_channel(1000);
    let control = start_control(Some((path.clone(), receiver)));
    let mut expected = String::new();
    for number in 0..1000 {
        let line = format!("{number}\n");
        expected.push_str(&line);
        sender.send(line.into_bytes(), Lsn(number), 0).unwrap();
    }
    control.handle.stop();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
}

#[test]
fn the_admin_socket_is_private_and_tells_which_shards_do_not_answer() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use super::admin::{QueueSummary, ShardQueue};
    use crate::shard::shard_inbox;

    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("control.sock");
    // What an earlier process left behind is in nobody's way.
    drop(UnixListener::bind(&socket).unwrap());
    let queue = ShardQueue {
        messages: 1,
        recipients: 2,
        segments: 3,
        bytes: 4,
        bytes_max: 5,
        live_bytes: 6,
    };
    let (shard, inbox) = shard_inbox();
    let (gone, _) = shard_inbox();
    let answers = queue.clone();
    thread::spawn(move || {
        while let Some(request) = inbox.wait_for_request() {
            match request {
                AdminRequest::Summary(reply) => reply.send(answers.clone()).unwrap(),
                other => panic!("{other:?}"),
            }
        }
    });
    let (recorder, exposition) = MetricsRecorder::new();
    let health = Arc::new(HealthState::new(2, Instant::now()));
    health.shard(0).unwrap().set_state(QueueState::Open);
    health.shard(1).unwrap().set_state(QueueState::Damaged);
    health.shard(1).unwrap().set_reason("a flipped bit");
    let options = ControlOptions {
        listen: loopback(),
        admin: Some(AdminOptions { socket: socket.clone(), shards: [shard, gone].into() }),
        events: None,
    };
    let handle = start(options, exposition, health, metrics_of(&recorder)).unwrap();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let ask = |head: &str| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(stream, "{head}\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    };
    let response = ask("GET /queue/summary HTTP/1.1");
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let summary: QueueSummary = serde_json::from_str(body).unwrap();
    assert_eq!(summary.shards[0].queue, Some(queue));
    assert_eq!(summary.shards[0].state, "open");
    assert_eq!(summary.shards[1].queue, None);
    assert_eq!(summary.shards[1].reason.as_deref(), Some("a flipped bit"));
    assert_eq!(summary.reasons, ["shard 1 is damaged: a flipped bit"]);
    // Not there, nor on the public side.
    assert!(ask("GET /metrics HTTP/1.1").starts_with("HTTP/1.1 404 "));
    let public = request(handle.address(), "GET /queue/summary HTTP/1.1");
    assert!(public.starts_with("HTTP/1.1 404 "), "{public}");
    handle.stop();
}
