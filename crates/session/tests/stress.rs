//! Limits while the server is short of something.

mod support;

use std::time::Duration;

use ringpost_session::server::{CloseReason, ServerConfig, ServerLimit, StressLimits};
use support::{STRANGER, Server, TRUSTED};

const ENVELOPE_AND_DATA: &[u8] = b"MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n";

fn stress(server: &mut Server, is_stressed: bool) {
    let now = server.now;
    server.session.set_stress(now, is_stressed);
}

fn server() -> Server {
    Server::introduced(ServerConfig::default(), TRUSTED)
}

/// A deadline that runs is shortened, and one that begins is short, in every state.
#[test]
fn clients_are_waited_for_ten_seconds() {
    let states: [&[&[u8]]; 5] = [
        &[],
        &[b"MAIL FROM:<a@a.test>\r\n"],
        &[ENVELOPE_AND_DATA],
        &[ENVELOPE_AND_DATA, b"0123456789"],
        &[b"MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nBDAT 9\r\n123"],
    ];
    for segments in states {
        for early in [false, true] {
            let mut server = server();
            stress(&mut server, early);
            for segment in segments {
                server.send(segment);
            }
            stress(&mut server, true);
            server.wait(Duration::from_millis(9_999));
            assert_eq!(server.closed, None, "{segments:?}");
            server.wait(Duration::from_millis(1));
            assert_eq!(server.closed, Some(CloseReason::TimedOut), "{segments:?}");
            assert!(server.replies().last().unwrap().starts_with("421 4.4.2"));
        }
    }
    // With the protection off the same client is waited for.
    let mut server = server();
    server.wait(Duration::from_secs(299));
    assert_eq!(server.closed, None);
}

#[test]
fn the_grace_of_slow_content_is_short() {
    let mut server = server();
    server.send(ENVELOPE_AND_DATA);
    let piece = [b"x".repeat(448), b"\r\n".to_vec()].concat();
    let mut seconds = 0;
    while server.closed.is_none() && seconds < 2000 {
        stress(&mut server, true);
        server.send(&piece);
        server.wait(Duration::from_secs(1));
        seconds += 1;
    }
    assert_eq!(server.session.stats().limit_hits(ServerLimit::DataRate), 1);
    // 500 - 450 octets a second behind, and ten seconds of grace: not the ten minutes of a calm server.
    assert!((90..=110).contains(&seconds), "{seconds}");
}

#[test]
fn calm_gives_the_usual_time_for_what_comes_next() {
    let mut server = server();
    stress(&mut server, true);
    stress(&mut server, false);
    server.send(b"NOOP\r\n");
    server.wait(Duration::from_secs(299));
    assert_eq!(server.closed, None);
    server.wait(Duration::from_secs(1));
    assert_eq!(server.closed, Some(CloseReason::TimedOut));
}

/// Those who may relay are ours: their errors are suffered as ever.
#[test]
fn strangers_may_err_once() {
    for (peer, is_stressed, suffered) in
        [(STRANGER, true, 1), (STRANGER, false, 19), (TRUSTED, true, 19)]
    {
        let mut server = Server::introduced(ServerConfig::default(), peer);
        stress(&mut server, is_stressed);
        server.said.clear();
        for _ in 0..30 {
            if server.closed.is_none() {
                server.send(b"RCPT TO:<b@b.test>\r\n");
            }
        }
        assert_eq!(server.closed, Some(CloseReason::TooManyErrors));
        let replies = server.replies();
        assert_eq!(replies.iter().filter(|reply| reply.starts_with("503")).count(), suffered);
        assert_eq!(replies.last().unwrap(), "421 4.7.0 Too many errors, closing");
    }
}

#[test]
fn strangers_may_say_little_without_a_message() {
    for (peer, is_stressed, suffered) in [(STRANGER, true, 3), (TRUSTED, true, 100)] {
        let limits = StressLimits { junk_commands_max: 4, ..StressLimits::default() };
        let config = ServerConfig { stress: limits, ..ServerConfig::default() };
        let mut server = Server::introduced(config, peer);
        stress(&mut server, is_stressed);
        server.said.clear();
        for _ in 0..200 {
            if server.closed.is_none() {
                server.send(b"NOOP\r\n");
            }
        }
        assert_eq!(server.closed, Some(CloseReason::TooManyJunkCommands));
        let taken = server.replies().iter().filter(|reply| reply.starts_with("250")).count();
        // EHLO is one of them.
        assert!(taken == suffered || taken + 1 == suffered, "{taken}");
    }
}
