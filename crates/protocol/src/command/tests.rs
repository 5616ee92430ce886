use super::*;
use crate::address::Mailbox;
use crate::chunking::Chunk;
use crate::envelope::BodyType;
use crate::hold::Hold;
use crate::notify::Return;
use proptest::prelude::*;
use std::time::Duration;

fn mailbox(text: &str) -> Mailbox {
    Mailbox::parse_with(text, Syntax::Lenient).unwrap()
}

fn mail(text: &str, size: Option<u64>, body: Option<BodyType>) -> Command<'static> {
    let path =
        if text.is_empty() { ReversePath::Null } else { ReversePath::Mailbox(mailbox(text)) };
    Command::Mail { path, parameters: MailParameters { size, body, ..MailParameters::default() } }
}

fn held(hold: Hold) -> Command<'static> {
    let parameters = MailParameters { hold: Some(hold), ..MailParameters::default() };
    Command::Mail { path: ReversePath::Mailbox(mailbox("a@b.test")), parameters }
}

fn rcpt(text: &str) -> Command<'static> {
    Command::Rcpt {
        path: ForwardPath::Mailbox(mailbox(text)),
        parameters: RcptParameters::default(),
    }
}

#[test]
fn commands_are_understood() {
    let table = [
        ("EHLO client.test", Command::Ehlo("client.test")),
        ("ehlo [192.0.2.1]", Command::Ehlo("[192.0.2.1]")),
        ("EHLO [IPv6:::1]", Command::Ehlo("[IPv6:::1]")),
        ("EHLO WIN_HOST ", Command::Ehlo("WIN_HOST")),
        ("hElO client.test", Command::Helo("client.test")),
        ("MAIL FROM:<a@b.test>", mail("a@b.test", None, None)),
        ("mail from:<>", mail("", None, None)),
        ("MAIL FROM:<a@b.test> SIZE=100", mail("a@b.test", Some(100), None)),
        (
            "MAIL FROM:<a@b.test> body=8bitmime size=0",
            mail("a@b.test", Some(0), Some(BodyType::EightBitMime)),
        ),
        (
            "MAIL FROM:<a@b.test> SIZE=99999999999999999999999999",
            mail("a@b.test", Some(u64::MAX), None),
        ),
        (
            "MAIL FROM:<\"a> b\"@b.test> BODY=7BIT",
            mail("\"a> b\"@b.test", None, Some(BodyType::SevenBit)),
        ),
        ("MAIL FROM:<a@b.test> HOLDFOR=1", held(Hold::For(Duration::from_secs(1)))),
        (
            "MAIL FROM:<a@b.test> holdfor=999999999",
            held(Hold::For(Duration::from_secs(999_999_999))),
        ),
        (
            "MAIL FROM:<a@b.test> HoldUntil=2023-11-14T22:13:20Z",
            held(Hold::Until { unix_ms: 1_700_000_000_000 }),
        ),
        (
            "MAIL FROM:<a@b.test> HOLDUNTIL=2023-11-15T00:13:20.5+02:00",
            held(Hold::Until { unix_ms: 1_700_000_000_500 }),
        ),
        ("RCPT TO:<a@b.test>", rcpt("a@b.test")),
        (
            "rcpt to:<Postmaster>",
            Command::Rcpt { path: ForwardPath::Postmaster, parameters: RcptParameters::default() },
        ),
        ("DATA", Command::Data),
        ("data  ", Command::Data),
        ("RSET", Command::Rset),
        ("NOOP", Command::Noop),
        ("NOOP anything", Command::Noop),
        ("QUIT", Command::Quit),
        ("QUIT now", Command::Quit),
        ("HELP", Command::Help(None)),
        ("HELP mail", Command::Help(Some("mail"))),
        ("VRFY bob", Command::Vrfy("bob")),
        ("EXPN list", Command::Expn("list")),
        ("etrn @b.test", Command::Etrn("@b.test")),
        ("XCLIENT ADDR=192.0.2.1", Command::Xclient("ADDR=192.0.2.1")),
        ("XFORWARD NAME=x", Command::Privileged),
        ("STARTTLS", Command::StartTls),
        ("starttls ", Command::StartTls),
        ("BDAT 5 LAST", Command::Bdat(Chunk { size: 5, is_last: true })),
        ("bdat 70 ", Command::Bdat(Chunk { size: 70, is_last: false })),
        ("TURN", Command::NotImplemented),
        ("GET / HTTP/1.1", Command::Foreign),
        ("options *", Command::Foreign),
        ("Host: mx.test", Command::Foreign),
        ("Content-Type: text/plain", Command::Foreign),
    ];
    for (line, command) in table {
        assert_eq!(Command::parse(line.as_bytes()), Ok(command), "{line}");
    }
}

#[test]
fn bad_lines_get_their_replies() {
    let long_name = format!("EHLO {}", "a".repeat(300));
    let long_local_part = format!("RCPT TO:<{}@b.test>", "a".repeat(65));
    let table: [(&[u8], &str); 91] = [
        (b"", "500 5.5.2"),
        (b" ", "500 5.5.2"),
        (b"   NOOP", "500 5.5.2"),
        (b"\tNOOP", "500 5.5.2"),
        (b"FOO", "500 5.5.2"),
        (b"MAILX FROM:<a@b.test>", "500 5.5.2"),
        (b"\xc3\xbcNOOP", "500 5.5.2"),
        (b":", "500 5.5.2"),
        (b"MAIL FROM:<a\0@b.test>", "501 5.5.2"),
        (b"NOOP\0", "501 5.5.2"),
        (b"EHLO a\x01b.test", "501 5.5.2"),
        (b"NOOP \x7f", "501 5.5.2"),
        (b"EHLO", "501 5.5.4"),
        (b"EHLO ", "501 5.5.4"),
        (b"EHLO a b", "501 5.5.4"),
        (b"EHLO [999.1.1.1]", "501 5.5.4"),
        (b"EHLO a(b)", "501 5.5.4"),
        (b"EHLO b\xc3\xbccher.test", "501 5.5.4"),
        (long_name.as_bytes(), "501 5.5.4"),
        (b"HELO", "501 5.5.4"),
        (b"DATA now", "501 5.5.4"),
        (b"RSET x", "501 5.5.4"),
        (b"VRFY", "501 5.5.4"),
        (b"MAIL", "501 5.5.4"),
        (b"MAIL TO:<a@b.test>", "501 5.5.4"),
        (b"MAIL FROM <a@b.test>", "501 5.5.4"),
        (b"MAIL FROM: <a@b.test>", "501 5.5.4"),
        (b"MAIL FROM:a@b.test", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> ", "501 5.5.4"),
        (b"MAIL FROM:", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test", "501 5.1.7"),
        (b"MAIL FROM:<a@b.test>x", "501 5.1.7"),
        (b"MAIL FROM:<a>", "501 5.1.7"),
        (b"MAIL FROM:<;for i in x;do true;done;@a>", "501 5.1.7"),
        (b"MAIL FROM:<a@b.test> FOO=bar", "555 5.5.4"),
        (b"MAIL FROM:<a@b.test> REQUIRETLS=YES", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> REQUIRETLS requiretls", "501 5.5.4"),
        (b"RCPT TO:<a@b.test> REQUIRETLS", "555 5.5.4"),
        (b"MAIL FROM:<a@b.test> SMTPUTF8=1", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> SMTPUTF8 SMTPUTF8", "501 5.5.4"),
        (b"RCPT TO:<a@b.test> SMTPUTF8", "555 5.5.4"),
        (b"MAIL FROM:<a@b.test> BODY=9BIT", "501 5.5.4"),
        (b"BDAT", "501 5.5.4"),
        (b"BDAT 5 FIRST", "501 5.5.4"),
        (b"BDAT\t5", "501 5.5.4"),
        (b"bdat 5\0", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> BODY=FOO", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> BODY", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> =", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test>  SIZE=1", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> SIZE=1 SIZE=2", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> SIZE=-1", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> SIZE=x", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> SIZE=", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> HOLDFOR", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> HOLDFOR=", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> HOLDFOR=0", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> HOLDFOR=-5", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> HOLDFOR=1h", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> HOLDFOR=1000000000", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> HOLDFOR=1 HOLDFOR=1", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> HOLDFOR=1 HOLDUNTIL=2038-01-19T03:14:08Z", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> HOLDUNTIL", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> BY", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> BY=", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> BY=5", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> BY=0;R", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> BY=-5;R", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> BY=5;X", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> BY=1000000000;N", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> BY=5;N BY=5;N", "501 5.5.4"),
        (b"RCPT TO:<a@b.test> BY=5;N", "555 5.5.4"),
        (b"MAIL FROM:<a@b.test> HOLDUNTIL=1700000000", "501 5.5.4"),
        (b"MAIL FROM:<a@b.test> HOLDUNTIL=2038-01-19T03:14:08", "501 5.5.4"),
        (b"RCPT TO:<a@b.test> HOLDFOR=1", "555 5.5.4"),
        (b"MAIL FROM:<\xc3\xbc@b.test>", "550 5.6.7"),
        (b"MAIL FROM:<\xc3\xbc@b.test> SIZE=1", "550 5.6.7"),
        (b"MAIL FROM:<\xff@b.test> SMTPUTF8", "501 5.1.7"),
        (b"MAIL FROM:<\xc0\x80@b.test> SMTPUTF8", "501 5.1.7"),
        (b"MAIL FROM:<\xed\xa0\x80@b.test> SMTPUTF8", "501 5.1.7"),
        (b"RCPT TO:<>", "501 5.1.3"),
        (b"RCPT TO:<bob>", "501 5.1.3"),
        (b"RCPT TO:<@x,@y:b@b.test>", "501 5.1.3"),
        (b"RCPT TO:<a@10.1.1.1>", "501 5.1.3"),
        (b"RCPT TO:<a@b.test.>", "501 5.1.3"),
        (b"RCPT TO:<a@b@c.test>", "501 5.1.3"),
        (long_local_part.as_bytes(), "501 5.1.3"),
        (b"RCPT TO:<a@b.test> SIZE=1", "555 5.5.4"),
        (b"RCPT TO:<\xff@b.test>", "501 5.1.3"),
        (b"RCPT TO:<a@b.test> ORCPT=rfc822;\xc3\xbc@b.test", "501 5.5.4"),
        (b"RCPT TO:<a@b.test> ORCPT=utf-8;\xff@b.test", "501 5.1.3"),
    ];
    for (line, reply) in table {
        let shown = String::from_utf8_lossy(line);
        let found = Command::parse(line).map_err(|error| error.reply().line());
        assert!(matches!(found, Err(line) if line.starts_with(reply)), "{shown:?}: {found:?}");
    }
}

#[test]
fn a_lenient_listener_takes_what_injectors_send() {
    let table = [
        ("MAIL FROM: <a@b.test>", mail("a@b.test", None, None)),
        ("MAIL FROM:a@b.test", mail("a@b.test", None, None)),
        ("MAIL FROM:a@b.test SIZE=3", mail("a@b.test", Some(3), None)),
        ("MAIL FROM:<a@b.test> ", mail("a@b.test", None, None)),
        ("MAIL FROM:<a..b@b.test>", mail("a..b@b.test", None, None)),
        ("RCPT TO:<@x,@y:b@b.test>", rcpt("b@b.test")),
        ("RCPT TO:<b@b_c.test>", rcpt("b@b_c.test")),
    ];
    for (line, command) in table {
        let line = line.as_bytes();
        assert_eq!(Command::parse_with(line, Syntax::Lenient), Ok(command));
        assert!(Command::parse(line).is_err());
    }
}

#[test]
fn parameters_of_the_dsn_extension_are_read() {
    let line = "MAIL FROM:<a@b.test> ret=hdrs ENVID=QQ+2B1 SIZE=5";
    let Ok(Command::Mail { parameters, .. }) = Command::parse(line.as_bytes()) else {
        panic!("{line}")
    };
    assert_eq!((parameters.ret, parameters.size), (Some(Return::Headers), Some(5)));
    assert_eq!(parameters.envelope_id.map(|id| id.decoded()).as_deref(), Some("QQ+1"));
    let line = "RCPT TO:<a@b.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Bob@x.test";
    let Ok(Command::Rcpt { parameters, .. }) = Command::parse(line.as_bytes()) else {
        panic!("{line}")
    };
    assert!(parameters.has_dsn());
    assert_eq!(parameters.notify.map(|one| one.to_string()).as_deref(), Some("SUCCESS,DELAY"));
    assert_eq!(parameters.original.map(|one| one.address()).as_deref(), Some("Bob@x.test"));
    let long = format!("ENVID={}", "x".repeat(101));
    let longer = format!("ORCPT=rfc822;{}", "x".repeat(494));
    for (parameters, expected) in [
        ("RET=FULL RET=FULL", CommandError::ParameterSyntax),
        ("RET=ALL", CommandError::ParameterSyntax),
        ("RET=", CommandError::ParameterSyntax),
        ("RET", CommandError::ParameterSyntax),
        ("ENVID=a ENVID=b", CommandError::ParameterSyntax),
        ("ENVID=", CommandError::ParameterSyntax),
        ("ENVID=a=b", CommandError::ParameterSyntax),
        ("ENVID=a+2b", CommandError::ParameterSyntax),
        (&*long, CommandError::ParameterSyntax),
        ("NOTIFY=NEVER", CommandError::UnknownParameter),
        ("ORCPT=rfc822;a@b.test", CommandError::UnknownParameter),
    ] {
        let line = format!("MAIL FROM:<a@b.test> {parameters}");
        assert_eq!(Command::parse(line.as_bytes()), Err(expected), "{parameters}");
    }
    for (parameters, expected) in [
        ("NOTIFY=NEVER NOTIFY=NEVER", CommandError::ParameterSyntax),
        ("NOTIFY=NEVER,DELAY", CommandError::ParameterSyntax),
        ("NOTIFY=", CommandError::ParameterSyntax),
        ("NOTIFY", CommandError::ParameterSyntax),
        ("ORCPT=rfc822;a ORCPT=rfc822;a", CommandError::ParameterSyntax),
        ("ORCPT=a@b.test", CommandError::ParameterSyntax),
        ("ORCPT=rfc822;a=b", CommandError::ParameterSyntax),
        (&*longer, CommandError::ParameterSyntax),
        ("RET=FULL", CommandError::UnknownParameter),
        ("ENVID=a", CommandError::UnknownParameter),
        ("SIZE=1", CommandError::UnknownParameter),
    ] {
        let line = format!("RCPT TO:<a@b.test> {parameters}");
        assert_eq!(Command::parse(line.as_bytes()), Err(expected), "{parameters}");
    }
}

proptest! {
    #[test]
    fn any_line_is_parsed_or_refused(line in prop::collection::vec(any::<u8>(), 0..100)) {
        for syntax in [Syntax::Strict, Syntax::Lenient] {
            if let Err(error) = Command::parse_with(&line, syntax) {
                prop_assert!(error.reply().line().starts_with('5'));
            }
        }
    }

    /// What passes goes to the queue and on to other servers: it can always be read back.
    #[test]
    fn accepted_paths_can_be_read_back(argument in "[ -~]{0,40}") {
        for lenient in [Syntax::Strict, Syntax::Lenient] {
            let line = format!("RCPT TO:<{argument}>");
            if let Ok(Command::Rcpt { path, .. }) = Command::parse_with(line.as_bytes(), lenient) {
                prop_assert_eq!(ForwardPath::parse(&path.to_string()), Ok(path));
            }
            let line = format!("MAIL FROM:<{argument}>");
            if let Ok(Command::Mail { path, .. }) = Command::parse_with(line.as_bytes(), lenient) {
                prop_assert_eq!(ReversePath::parse(&path.to_string()), Ok(path));
            }
        }
    }
}
