//! What is refused, with the line and the reason.

use std::path::Path;

use super::{MINIMAL, facts, refused};
use crate::config::{ConfigError, SystemFacts, load, parse};

/// Text, line of the only problem, and a part of its reason.
const REFUSED: &[(&str, usize, &str)] = &[
    // Not TOML, unknown keys, wrong types, bad units: the line of the value or key.
    ("[server\n", 1, "unclosed table"),
    ("\n[server]\nhost_name = 'a'\n", 3, "unknown field `host_name`"),
    ("[serverr]\n", 1, "unknown field `serverr`"),
    ("[listener.a]\naddresses = ['127.0.0.1:1']\nsize_max = 1\n", 3, "unknown field `size_max`"),
    ("[queue]\nlifetime = 5\n", 2, "expected a duration with a unit"),
    ("[queue]\n\nlifetime = '5 days'\n", 3, "\"5 days\": not a duration"),
    ("[queue]\nsize_max = '16GB'\n", 2, "\"16GB\": not a size"),
    ("[server]\ncores = 'some'\n", 2, "\"all\", a number of cores"),
    ("[server]\ncores = -1\n", 2, "\"all\", a number of cores"),
    ("[listener.a]\ndata_rate_min = '4GiB'\n", 2, "the value is too large"),
    ("[aliases]\npostmaster = 'postmaster'\n", 2, "expected a sequence"),
    ("[server]\nscheduling = 'fifo'\n", 2, "unknown variant `fifo`"),
    ("[delivery]\nretry = ['5m', '1 h']\n", 2, "\"1 h\": not a duration"),
    ("[delivery]\nretry = '5m'\n", 2, "a list of durations"),
    ("[dns]\nservers = ['dns.example']\n", 2, "\"dns.example\": not a name server"),
    ("[[route]]\ndomain = 'a b'\nsmarthost = 'c:25'\n", 2, "\"a b\""),
    ("[[route]]\ndomain = 'a.example'\nsmarthost = 'c'\n", 3, "\"c\": not a smarthost"),
    ("[[route]]\nsmarthost = 'a.example:25'\n", 1, "missing field `domain`"),
    ("[[route]]\ndomain = 'a.example'\nretry = { first = '5m' }\n", 3, "missing field `max`"),
    ("[delivery]\nretry = { first = '5m', most = '1h' }\n", 2, "unknown field `most`"),
    ("[listener.a]\nrelay_networks = ['10.0.0.1/8']\n", 2, "bits set behind its prefix"),
    ("[listener.a]\nmt_priority_max = 10\n", 2, "a priority is a number from -9 to 9"),
    ("[listener.a]\nextensions_off = ['TURN']\n", 2, "\"TURN\": not an extension that could be"),
    (
        "[listener.a.auth]\nmechanisms = ['CRAM-MD5']\n",
        2,
        "\"CRAM-MD5\": not a mechanism that could",
    ),
    ("[control]\nlisten = 'localhost:1'\n", 2, "socket address"),
    ("[[route]]\ndomain = '*'\nauth = { user = 'u' }\n", 3, "missing field `password_file`"),
    (
        "[[route]]\ndomain = '*'\nauth = { user = 'u', password_file = '/p', password = 'x' }\n",
        3,
        "unknown field `password`",
    ),
    ("[delivery]\nextensions_off = ['TURN']\n", 2, "\"TURN\": not an extension that could be"),
    ("[[route]]\ndomain = '*'\nprotocol = 'uucp'\n", 3, "unknown variant `uucp`"),
    ("[delivery]\ntls = 'may'\n", 2, "unknown variant `may`"),
    ("[delivery]\ntls_version_min = '1.1'\n", 2, "unknown variant `1.1`"),
];

/// Keys put in front of the smallest file, and a part of the only problem's reason.
const CONTRADICTIONS: &[(&str, &str)] = &[
    ("server.hostname = 'a_b'", "server.hostname: \"a_b\" is not a domain name"),
    ("aliases.a = ['b']", "aliases.a.0: there is no alias b@relay.example.com"),
    (
        "listener.a = { recipients_max = 1, addresses = ['127.0.0.1:25'] }\naliases.a = ['b@c.test', 'd@c.test']",
        "listener.a.recipients_max: one of the aliases stands for 2 mailboxes",
    ),
    ("server.cores = 0", "server.cores: must not be zero"),
    ("server.cores = 5", "server.cores: 5 cores wanted, the process may use 4"),
    ("server.cores = []", "server.cores: the list is empty"),
    ("server.cores = [1, 1]", "server.cores: core 1 is listed twice"),
    ("server.cores = [9]", "server.cores: the process may not use core 9"),
    ("server.shutdown_timeout = '0s'", "server.shutdown_timeout: must not be zero"),
    ("listener.a = {}", "listener.a: no addresses"),
    ("listener.a.addresses = ['127.0.0.1:2525']", "127.0.0.1:2525 is used twice"),
    ("delivery.tls_handshake_timeout = '0s'", "delivery.tls_handshake_timeout: must not be zero"),
    ("delivery.tls_broken_per_core_max = 0", "delivery.tls_broken_per_core_max: must not be zero"),
    (
        "route = [{ domain = '*', smarthost = 'a.test:465', tls_implicit = true }]",
        "route.0.tls_implicit: there is nothing without TLS: set tls to encrypt or verify",
    ),
    (
        "route = [{ domain = 'a.test', tls_implicit = true, tls = 'verify' }]",
        "route.0.tls_implicit: only a smarthost can take TLS from the first octet",
    ),
    (
        "delivery.extensions_off = ['STARTTLS']",
        "delivery.extensions_off: STARTTLS cannot be left out here (PIPELINING, SIZE, 8BITMIME,",
    ),
    (
        "route = [{ domain = 'a.test', extensions_off = ['SIZE', 'AUTH'] }]",
        "route.0.extensions_off: AUTH cannot be left out here",
    ),
    (
        "route = [{ domain = 'a.test', protocol = 'lmtp' }]",
        "route.0.protocol: hosts found by MX speak SMTP: name a smarthost",
    ),
    (
        "route = [{ domain = '*', smarthost = 'a.test:25', protocol = 'lmtp' }]",
        "route.0.protocol: port 25 is for SMTP: LMTP must have another one",
    ),
    (
        "route = [{ domain = 'a.test', tls_name = 'b.test', tls = 'encrypt' }]",
        "route.0.tls_name: is looked at with tls = \"verify\" only",
    ),
    (
        "route = [{ domain = 'a.test', tls_name = 'b c', tls = 'verify' }]",
        "route.0.tls_name: \"b c\" is not a domain name",
    ),
    (
        "route = [{ domain = '*', tls = 'verify', auth = { user = 'u', password_file = '/p' } }]",
        "route.0.auth: only a smarthost is told who we are: set smarthost",
    ),
    (
        "route = [{ domain = '*', smarthost = 'a.test:25', auth = { user = 'u', password_file = '/p' } }]",
        "route.0.auth: PLAIN and LOGIN show the password to all on the way",
    ),
    (
        "route = [{ domain = '*', smarthost = 'a.test:25', tls = 'off', auth = { user = 'u', password_file = '/p', mechanisms = ['LOGIN'] } }]",
        "route.0.auth: PLAIN and LOGIN show the password to all on the way",
    ),
    (
        "route = [{ domain = '*', smarthost = 'a.test:25', tls = 'encrypt', auth = { user = '', password_file = '/p' } }]",
        "route.0.auth.user: must have 1 to 255 octets, and no control characters",
    ),
    (
        "route = [{ domain = '*', smarthost = 'a.test:25', tls = 'encrypt', auth = { user = 'u', password_file = 'p' } }]",
        "route.0.auth.password_file: must be an absolute path",
    ),
    (
        "route = [{ domain = '*', smarthost = 'a.test:25', tls = 'encrypt', auth = { user = 'u', password_file = '/p', mechanisms = [] } }]",
        "route.0.auth.mechanisms: there is none to log in by",
    ),
    (
        "route = [{ domain = '*', smarthost = 'a.test:25', tls = 'encrypt', auth = { user = 'u', password_file = '/p', mechanisms = ['PLAIN', 'EXTERNAL'] } }]",
        "route.0.auth.mechanisms: nobody logs in by EXTERNAL here (SCRAM-SHA-256, PLAIN, LOGIN)",
    ),
    (
        "route = [{ domain = '*', smarthost = 'a.test:25', tls = 'verify', auth = { user = 'u', password_file = '/p', without_tls_to = ['10.0.0.0/8'] } }]",
        "route.0.auth.without_tls_to: there is always TLS: leave it out",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], auth = { mechanisms = ['PLAIN'], without_tls = true } }",
        "listener.a.auth.mechanisms: for whom? auth.users names no file of users",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], auth = { mechanisms = ['PLAIN'] } }\nauth.users = '/u'",
        "listener.a.auth.mechanisms: only over TLS, which there is none of",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], auth = { required = true } }",
        "listener.a.auth.required: there is no mechanism to do it by",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], auth = { failures_max = 0 } }",
        "listener.a.auth.failures_max: must not be zero",
    ),
    ("auth.users = 'u'", "auth.users: must be an absolute path"),
    ("auth.failure_delay = '11s'", "auth.failure_delay: more than 10 s"),
    ("auth.password_queue_max = 0", "auth.password_queue_max: must not be zero"),
    (
        "listener.a = { addresses = ['[::1]:2'], relay_networks = ['10.0.0.0/8', '0.0.0.0/0'] }",
        "listener.a.relay_networks.1: 0.0.0.0/0 would let anyone relay",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], message_size_max = '9GiB' }",
        "listener.a.message_size_max: more than half of queue.size_max allows (8GiB)",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], connections_per_core_max = 10 }",
        "listener.a.connections_per_client_per_core_max: more than connections_per_core_max",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], command_timeout = '0s' }",
        "listener.a.command_timeout: must not be zero",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], tls = 'optional' }",
        "listener.a.tls: needs TLS, and certificates has none",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], role = 'submission' }",
        "listener.a.role: needs TLS, and certificates has none",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], role = 'submissions', tls = 'optional', \
         certificates = [{ chain = '/c', key = '/k' }] }",
        "listener.a.tls: with the role submissions there is nothing without TLS",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], tls = 'required', extensions_off = ['STARTTLS'], \
         certificates = [{ chain = '/c', key = '/k' }] }",
        "listener.a.extensions_off: STARTTLS is required",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], proxy_protocol_from = ['::/0'] }",
        "listener.a.proxy_protocol_from.0: ::/0 would let anyone say that he is somebody else",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], xclient_from = ['::1', '0.0.0.0/0'] }",
        "listener.a.xclient_from.1: 0.0.0.0/0 would let anyone say that he is somebody else",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], proxy_timeout = '0s' }",
        "listener.a.proxy_timeout: must not be zero",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], tls_handshake_timeout = '0s' }",
        "listener.a.tls_handshake_timeout: must not be zero",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], tls_handshakes_per_core_max = 0 }",
        "listener.a.tls_handshakes_per_core_max: must not be zero",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], future_release_max = '1500ms' }",
        "listener.a.future_release_max: not in whole seconds",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], not_before_header = 'X-Later:' }",
        "listener.a.not_before_header: \"X-Later:\" is not the name of a header field",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], not_before_header = 'date' }",
        "listener.a.not_before_header: date says something else",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], not_before_header = 'X', future_release_max = '0s' }",
        "listener.a.not_before_header: future_release_max holds no message",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], header.tenant = 'X Tenant' }",
        "listener.a.header.tenant: \"X Tenant\" is not the name of a header field",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], header.campaign = 'subject' }",
        "listener.a.header.campaign: subject says something else",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], header = { tenant = 'X-A', campaign = 'x-a' } }",
        "listener.a.header.campaign: x-a is taken out for something else",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], not_before_header = 'X-A', header.tenant = 'X-A' }",
        "listener.a.header.tenant: X-A is taken out for something else",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], extensions_off = ['chunking'], binary_mime = true }",
        "listener.a.binary_mime: comes by BDAT only, and extensions_off has CHUNKING",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], recipients_max = 30000 }",
        "listener.a.recipients_max: queue.segment_size has room for 26214 in one record",
    ),
    (
        "listener.a = { addresses = ['[::1]:2'], header_size_max = '0B' }",
        "listener.a.header_size_max: must not be zero",
    ),
    ("stress.enter_percent = 101", "stress.enter_percent: not from 1 to 100"),
    ("stress.leave_percent = 80", "stress.leave_percent: not below enter_percent"),
    ("stress.timeout = '0s'", "stress.timeout: must not be zero"),
    ("stress.errors_max = 0", "stress.errors_max: must not be zero"),
    ("queue.directory = 'spool'", "queue.directory: must be an absolute path"),
    ("queue.shards = 0", "queue.shards: must not be zero"),
    ("queue.shards = 1025", "queue.shards: more than 1024"),
    ("queue.segment_size = '2GiB'", "queue.segment_size: must be from 1MiB to 1GiB"),
    ("queue.segment_size = '5000001B'", "queue.segment_size: must be a multiple of 4KiB"),
    (
        "queue = { segment_size = '128MiB', size_max = '511MiB' }",
        "queue.size_max: less than 4 segments",
    ),
    ("queue.free_space_min_percent = 91", "queue.free_space_min_percent: more than 90"),
    ("queue.free_space_slow_percent = 91", "queue.free_space_slow_percent: more than 90"),
    ("queue.messages_per_core_max = 0", "queue.messages_per_core_max: must not be zero"),
    ("queue.recipients_per_core_max = 0", "queue.recipients_per_core_max: must not be zero"),
    ("queue.slow_delay = '11s'", "queue.slow_delay: more than 10 s"),
    ("server.memory_max = '63MiB'", "server.memory_max: less than 64MiB"),
    ("queue.lifetime = '5m'", "delivery.retry.0: not shorter than queue.lifetime"),
    ("delivery.helo_name = '[192.0.2.1]'", "delivery.helo_name: "),
    ("delivery.retry = []", "delivery.retry: no delay"),
    ("delivery.retry = ['1m', '500ms']", "delivery.retry.1: less than a second"),
    ("delivery.retry = { first = '0s', max = '1h' }", "delivery.retry.first: less than a second"),
    ("delivery.retry = { first = '1h', max = '1m' }", "delivery.retry.max: less than the first"),
    (
        "delivery.retry = { first = '1m', max = '1h', factor = 0.9 }",
        "delivery.retry.factor: must be from 1 to 100",
    ),
    ("queue.bounce_lifetime = '0s'", "queue.bounce_lifetime: must not be zero"),
    (
        "listener.a = { addresses = ['[::1]:2'], lifetime = '0s' }",
        "listener.a.lifetime: must not be zero",
    ),
    (
        "route = [{ domain = '*', retry = ['2h'], lifetime = '1h' }]",
        "route.0.retry.0: not shorter than the lifetime of the route",
    ),
    (
        "route = [{ domain = '*', lifetime = '1m' }]",
        "route.0.lifetime: not longer than the first delay of delivery.retry",
    ),
    ("route = [{ domain = '*', retry = [] }]", "route.0.retry: no delay"),
    ("delivery.retry_jitter_percent = 51", "delivery.retry_jitter_percent: more than 50"),
    ("delivery.idle_timeout = '0s'", "delivery.idle_timeout: must not be zero"),
    ("delivery.port = 0", "delivery.port: must not be zero"),
    (
        "route = [{ domain = '*', smarthost = 'a:25' }, { domain = '*', smarthost = 'b:25' }]",
        "route.1.domain: a second route for *",
    ),
    (
        "route = [{ domain = 'A.b', smarthost = 'a:1' }, { domain = 'a.B', smarthost = 'b:1' }]",
        "route.1.domain: a second route for a.b",
    ),
    (
        "route = [{ domain = '*', smarthost = '127.0.0.1:2525' }]",
        "route.0.smarthost: 127.0.0.1:2525 is a listener of ours",
    ),
    ("dns.timeout = '0s'", "dns.timeout: must not be zero"),
    ("dns.attempts = 0", "dns.attempts: must not be zero"),
    ("control.listen = '0.0.0.0:9925'", "control.listen: 0.0.0.0:9925 is not loopback"),
    ("control.listen = '127.0.0.1:2525'", "control.listen: 127.0.0.1:2525 is a mail listener"),
    ("events.path = 'events.jsonl'", "events.path: must be an absolute path"),
    ("log.level = 'chatty=loud'", "log.level: \"chatty=loud\""),
];

#[test]
fn each_error_has_its_line() {
    for (text, line, reason) in REFUSED {
        let problems = refused(text);
        assert_eq!(problems.len(), 1, "{problems:?}\n{text}");
        assert_eq!(problems[0].line, *line, "{problems:?}\n{text}");
        assert!(problems[0].reason.contains(reason), "{problems:?}\n{text}");
    }
}

#[test]
fn each_contradiction_is_found_at_its_key() {
    for (keys, reason) in CONTRADICTIONS {
        // Keys of a table cannot be split between dotted and headed form, hence the empty header.
        let text = format!("# comment\n\n{keys}\n{MINIMAL}");
        let text = if keys.starts_with("listener") {
            format!("# comment\n\n{keys}\nlistener.main.addresses = ['127.0.0.1:2525']\n")
        } else {
            text
        };
        let problems = refused(&text);
        assert_eq!(problems.len(), 1, "{problems:?}\n{text}");
        assert!(problems[0].reason.contains(reason), "{problems:?}\n{text}");
        let second = reason.contains("used twice") || reason.starts_with("delivery.retry.0");
        assert!(problems[0].line == 3 || second, "{problems:?}\n{text}");
    }
}

#[test]
fn what_the_machine_cannot_tell_has_to_be_set() {
    let unknown = SystemFacts {
        hostname: String::new(),
        cores: Vec::new(),
        name_servers: Vec::new(),
        memory: None,
    };
    let problems = parse(MINIMAL, &unknown).unwrap_err();
    let reasons: Vec<&str> =
        problems.iter().filter_map(|problem| problem.reason.split(':').next()).collect();
    assert_eq!(reasons, ["server.hostname", "server.cores", "dns.servers"]);
    let text = format!(
        "server = {{ hostname = 'a.example', cores = [0] }}\ndns.servers = ['192.0.2.1']\n{MINIMAL}"
    );
    assert!(parse(&text, &unknown).is_ok());
}

#[test]
fn an_empty_file_has_no_listener() {
    let problems = refused("");
    assert_eq!(problems.len(), 1);
    assert!(problems[0].reason.starts_with("listener: no listener"), "{problems:?}");
}

#[test]
fn all_contradictions_are_reported_in_the_order_of_lines() {
    let problems = refused(
        "[dns]\nattempts = 0\n\n[listener.b]\naddresses = ['127.0.0.1:2525']\nerrors_max = 0\n\n\
         [[route]]\ndomain = 'a.example'\nsmarthost = 'b:25'\n\n[[route]]\nsmarthost = 'b:25'\n\
         domain = 'a.example'\n",
    );
    let lines: Vec<usize> = problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [2, 6, 14], "{problems:?}");
}

#[test]
fn errors_are_shown_as_file_line_reason() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.toml");
    std::fs::write(&path, "[listener.a]\naddresses = []\nerrors_max = 0\n").unwrap();
    let shown = load(&path, &facts()).unwrap_err().to_string();
    let expected = format!(
        "{0}:1: listener.a: no addresses\n{0}:3: listener.a.errors_max: must not be zero",
        path.display()
    );
    assert_eq!(shown, expected);
}

#[test]
fn a_missing_file_is_an_error_with_its_name() {
    let error = load(Path::new("/no/such/file.toml"), &facts()).unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }));
    assert!(error.to_string().starts_with("/no/such/file.toml: cannot read the file: "));
}
