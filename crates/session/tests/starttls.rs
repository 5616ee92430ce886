//! STARTTLS: what is forgotten, what is refused, and that nothing from before it is obeyed after it.

mod support;

use std::time::Duration;

use ringpost_protocol::extension::{Extension, ExtensionSet};
use ringpost_session::server::{
    Admission, CloseReason, ServerConfig, ServerLimit, TlsInfo, TlsPolicy, TlsVersion,
};
use support::{Server, TRUSTED};

fn config(tls: TlsPolicy) -> ServerConfig {
    ServerConfig { hostname: "mx.test".into(), tls, ..ServerConfig::default() }
}

fn introduced(tls: TlsPolicy) -> Server {
    Server::introduced(config(tls), TRUSTED)
}

fn info() -> TlsInfo {
    TlsInfo {
        version: TlsVersion::V1_3,
        cipher: "TLS_AES_256_GCM_SHA384",
        server_name: Some("mx.test".into()),
    }
}

/// Lets the handshake that was asked for come to its end.
fn shake_hands(server: &mut Server) {
    assert!(std::mem::take(&mut server.starts_tls), "no handshake was asked for");
    server.session.handle_tls(server.now, info());
    server.flush();
}

/// What each line is answered with.
fn codes(server: &mut Server, lines: &[&str]) -> Vec<String> {
    server.said.clear();
    for line in lines {
        server.send(format!("{line}\r\n").as_bytes());
    }
    server.replies().iter().map(|reply| reply.chars().take(9).collect()).collect()
}

#[test]
fn mail_goes_on_over_tls() {
    let mut server = introduced(TlsPolicy::Optional);
    assert_eq!(codes(&mut server, &["STARTTLS"]), ["220 2.0.0"]);
    shake_hands(&mut server);
    assert_eq!(server.session.tls(), Some(&info()));
    server.send(b"EHLO c.test\r\n");
    assert_eq!(server.session.protocol(), "ESMTPS");
    server.said.clear();
    server.send(b"MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n");
    server.send(b"Subject: x\r\n\r\nx\r\n.\r\n");
    assert_eq!(server.queued.len(), 1);
}

/// RFC 3207 §4.2. T3: the client has to introduce itself again, and no transaction is left.
#[test]
fn nothing_said_before_tls_counts_after_it() {
    let mut server = introduced(TlsPolicy::Optional);
    server.send(b"STARTTLS\r\n");
    shake_hands(&mut server);
    assert_eq!((server.session.helo(), server.session.envelope()), (None, None));
    assert_eq!(codes(&mut server, &["MAIL FROM:<a@a.test>"]), ["503 5.5.1"]);
    assert_eq!(codes(&mut server, &["RCPT TO:<b@b.test>"]), ["503 5.5.1"]);
    assert_eq!(codes(&mut server, &["HELO c.test", "MAIL FROM:<a@a.test>"]).len(), 2);
    assert_eq!(server.session.protocol(), "SMTP");
}

/// T1, CVE-2011-0411: commands behind STARTTLS are not obeyed, neither before nor after TLS, however
/// they are cut, and not by a lenient listener either.
#[test]
fn what_is_sent_ahead_of_the_handshake_ends_the_session() {
    for lenient in [false, true] {
        for behind in ["R", "RSET\r\n", "MAIL FROM:<evil@a.test>\r\n", "\r\n", "\u{16}\u{3}\u{1}"] {
            let config = ServerConfig { lenient, ..config(TlsPolicy::Optional) };
            let mut server = Server::introduced(config, TRUSTED);
            let sent = format!("STARTTLS\r\n{behind}");
            let mut segment = sent.as_bytes();
            server.send_some(&mut segment);
            assert_eq!(server.closed, Some(CloseReason::EarlyInput), "{behind:?}");
            assert_eq!(server.replies().len(), 1, "{behind:?}");
            assert!(server.replies()[0].starts_with("554 5.5.0"), "{behind:?}");
            assert!(!server.starts_tls && segment.len() == behind.len(), "{behind:?}");
        }
    }
}

/// While the driver shakes hands, octets that it hands in by mistake are not taken.
#[test]
fn no_input_is_taken_during_the_handshake() {
    let mut server = introduced(TlsPolicy::Optional);
    server.send(b"STARTTLS\r\n");
    assert!(server.starts_tls);
    let mut segment = &b"MAIL FROM:<evil@a.test>\r\n"[..];
    server.send_some(&mut segment);
    assert_eq!(segment.len(), 25);
}

/// A command that was cut by the handshake does not go on behind it.
#[test]
fn a_part_of_a_line_does_not_cross_the_handshake() {
    let mut server = introduced(TlsPolicy::Optional);
    server.send(b"NOOP\r\nSTART");
    server.send(b"TLS\r\n");
    shake_hands(&mut server);
    assert_eq!(codes(&mut server, &["", "NOOP"]), ["500 5.5.2", "250 2.0.0"]);
}

#[test]
fn starttls_is_offered_where_it_can_be_taken() {
    for (policy, is_offered) in
        [(TlsPolicy::Off, false), (TlsPolicy::Optional, true), (TlsPolicy::Required, true)]
    {
        let mut server = introduced(policy);
        let ehlo = |server: &mut Server| {
            server.said.clear();
            server.send(b"EHLO c.test\r\n");
            String::from_utf8_lossy(&server.said).contains("STARTTLS\r\n")
        };
        assert_eq!(ehlo(&mut server), is_offered, "{policy:?}");
        server.said.clear();
        server.send(b"STARTTLS\r\n");
        assert_eq!(server.replies()[0].starts_with("220"), is_offered, "{policy:?}");
        if is_offered {
            shake_hands(&mut server);
            assert!(!ehlo(&mut server), "offered twice");
            assert_eq!(codes(&mut server, &["STARTTLS"]), ["554 5.5.1"]);
        } else {
            assert!(server.replies()[0].starts_with("502"), "{policy:?}");
        }
    }
    let extensions = ExtensionSet::ALL.without(Extension::StartTls);
    let config = ServerConfig { extensions, ..config(TlsPolicy::Optional) };
    let mut server = Server::introduced(config, TRUSTED);
    assert_eq!(codes(&mut server, &["STARTTLS"]), ["502 5.5.1"]);
}

/// T2.
#[test]
fn starttls_out_of_place_is_refused() {
    let mut server = introduced(TlsPolicy::Optional);
    assert_eq!(codes(&mut server, &["STARTTLS now"]), ["501 5.5.4"]);
    assert_eq!(codes(&mut server, &["MAIL FROM:<a@a.test>", "STARTTLS"])[1], "503 5.5.1");
    assert_eq!(codes(&mut server, &["RSET", "STARTTLS"])[1], "220 2.0.0");
}

#[test]
fn starttls_is_put_off_while_there_is_no_room_for_handshakes() {
    let mut server = introduced(TlsPolicy::Optional);
    server.session.set_tls_available(false);
    assert_eq!(codes(&mut server, &["STARTTLS", "NOOP"]), ["454 4.7.0", "250 2.0.0"]);
    assert_eq!(server.session.stats().limit_hits(ServerLimit::TlsHandshakes), 1);
    server.session.set_tls_available(true);
    assert_eq!(codes(&mut server, &["STARTTLS"]), ["220 2.0.0"]);
}

/// RFC 3207 §4: all but NOOP, EHLO, STARTTLS and QUIT is refused.
#[test]
fn where_tls_is_required_nothing_is_done_without() {
    let mut server = introduced(TlsPolicy::Required);
    let refused = ["MAIL FROM:<a@a.test>", "RCPT TO:<b@b.test>", "DATA", "RSET", "VRFY a", "HELP"];
    for line in refused {
        assert_eq!(codes(&mut server, &[line]), ["530 5.7.0"], "{line}");
    }
    assert_eq!(codes(&mut server, &["HELO c.test", "XCLIENT ADDR=a"]), ["530 5.7.0"; 2]);
    assert_eq!(codes(&mut server, &["NOOP", "TURN"]), ["250 2.0.0", "502 5.5.1"]);
    server.send(b"STARTTLS\r\n");
    shake_hands(&mut server);
    let lines = ["EHLO c.test", "MAIL FROM:<a@a.test>"];
    assert_eq!(codes(&mut server, &lines)[1], "250 2.1.0");
    assert_eq!(codes(&mut introduced(TlsPolicy::Required), &["QUIT"]), ["221 2.0.0"]);
}

/// RFC 8314: nothing is said before the handshake.
#[test]
fn implicit_tls_comes_before_the_greeting() {
    let mut server = Server::new(config(TlsPolicy::Implicit), TRUSTED);
    assert!(server.handle_events());
    server.flush();
    assert_eq!(server.said, b"");
    shake_hands(&mut server);
    assert_eq!(server.replies(), ["220 mx.test ESMTP"]);
    assert_eq!(codes(&mut server, &["STARTTLS"]), ["554 5.5.1"]);
    server.said.clear();
    server.send(b"EHLO c.test\r\n");
    assert!(!String::from_utf8_lossy(&server.said).contains("STARTTLS"));
    assert_eq!(server.session.protocol(), "ESMTPS");
}

#[test]
fn an_implicit_session_without_a_handshake_hears_nothing() {
    let shut_down: fn(&mut Server) = |server| server.session.shut_down(server.now);
    let time_out: fn(&mut Server) = |server| server.wait(Duration::from_secs(30));
    let fail: fn(&mut Server) = |server| server.session.handle_tls_failure(server.now);
    let hang_up: fn(&mut Server) = |server| server.session.handle_eof(server.now);
    for (end, reason) in [
        (shut_down, CloseReason::ShuttingDown),
        (time_out, CloseReason::TimedOut),
        (fail, CloseReason::TlsFailed),
        (hang_up, CloseReason::PeerClosed),
    ] {
        let mut server = Server::new(config(TlsPolicy::Implicit), TRUSTED);
        server.handle_events();
        end(&mut server);
        server.handle_events();
        server.flush();
        assert_eq!((server.closed, &*server.said), (Some(reason), &b""[..]));
        assert_eq!(server.session.poll_timeout(), None);
    }
}

#[test]
fn a_handshake_has_a_deadline() {
    let mut server = introduced(TlsPolicy::Optional);
    server.send(b"STARTTLS\r\n");
    server.wait(Duration::from_millis(29_999));
    assert_eq!(server.closed, None);
    server.wait(Duration::from_millis(1));
    assert_eq!(server.closed, Some(CloseReason::TimedOut));
    assert_eq!(server.replies(), ["220 2.0.0 Ready to start TLS"]);
    assert_eq!(server.session.stats().limit_hits(ServerLimit::TlsHandshakeTimeout), 1);
}

/// A server that stops meanwhile says so instead of greeting.
#[test]
fn a_greeting_behind_a_handshake_may_be_a_refusal() {
    let mut server = Server::new(config(TlsPolicy::Implicit), TRUSTED);
    server.handle_events();
    server.session.set_admission(Admission::ShuttingDown);
    shake_hands(&mut server);
    server.handle_events();
    assert_eq!(server.replies(), ["421 4.3.2 Service shutting down, try again later"]);
    assert_eq!(server.closed, Some(CloseReason::ShuttingDown));
}

/// Results of handshakes that nobody has asked for change nothing.
#[test]
fn a_result_without_a_handshake_is_not_taken() {
    let mut server = introduced(TlsPolicy::Optional);
    server.session.handle_tls(server.now, info());
    server.session.handle_tls_failure(server.now);
    assert!(server.session.tls().is_none() && server.session.helo().is_some());
    assert_eq!(server.closed, None);
}
