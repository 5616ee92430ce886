//! Logging in at smarthosts: Postfix, Exim and ourselves let us in, and who does not know the password gets
//! no mail.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use ringpost_e2e::injector::Client;
use ringpost_e2e::message;
use ringpost_e2e::peers::{self, Exim, Postfix};
use ringpost_e2e::ports;
use ringpost_e2e::process::{Server, Signal};
use ringpost_e2e::sink::Sink;
use ringpost_e2e::tls_sink::{TlsSink, TlsSinkOptions};
use ringpost_e2e::wait::{SOON, wait_until};

use crate::auth::Submission;
use crate::tls_out::World;

const VERIFIED: &str = "tls = \"verify\"\ntls_name = \"mx.test\"\n";

/// Writes a file with a password that nobody else can read.
fn write_password(path: &Path, password: &str) -> Result<()> {
    fs::write(path, format!("{password}\n"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

/// The keys of a route that logs in as `user` over verified TLS, by some mechanisms or by all.
fn keys(password: &Path, mechanisms: &str) -> String {
    let file = password.display();
    let mechanisms = match mechanisms {
        "" => String::new(),
        list => format!(", mechanisms = [{list}]"),
    };
    format!("{VERIFIED}auth = {{ user = \"user\", password_file = \"{file}\"{mechanisms} }}")
}

fn send(server: &Server, to: &str) -> Result<()> {
    let mut client = Client::connect(server.smtp())?;
    client.expect("EHLO client.test", 250)?;
    client.expect("MAIL FROM:<a@a.test>", 250)?;
    client.expect(&format!("RCPT TO:<{to}>"), 250)?;
    client.expect("DATA", 354)?;
    client.send(&message::stuff(&message::build("auth-out", 5_000)))?;
    client.expect_reply(250)?;
    client.expect("QUIT", 221)?;
    Ok(())
}

fn logins(server: &Server, result: &str) -> Result<u64> {
    let label = format!("result=\"{result}\"");
    Ok(server.metrics()?.count_where("ringpost_outbound_auth_total", &label))
}

/// What an operator is told.
fn told(server: &Server) -> usize {
    server.log().matches("cannot log in at a smarthost").count()
}

/// The library that Postfix asks, with a file of passwords of our own: `user` has `secret`.
fn cyrus(directory: &Path) -> Result<String> {
    // Debian's Postfix looks beside its configuration, whatever `cyrus_sasl_config_path` says.
    let sasl = directory.join("etc/sasl");
    fs::create_dir_all(&sasl)?;
    let database = sasl.join("sasldb2");
    let script = "my %h; tie %h, 'DB_File', $ARGV[0], O_RDWR|O_CREAT, 0644, $DB_HASH or die $!; \
                  $h{\"user\\0postfix.test\\0userPassword\"} = 'secret'; untie %h";
    peers::run(Command::new("perl").args(["-MDB_File", "-MFcntl", "-e", script]).arg(&database))?;
    let settings = format!(
        "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {}\n\
         mech_list: PLAIN LOGIN CRAM-MD5 SCRAM-SHA-1 SCRAM-SHA-256\n",
        database.display()
    );
    fs::write(sasl.join("smtpd.conf"), settings)?;
    peers::run(Command::new("chown").args(["-R", "postfix"]).arg(&sasl))?;
    Ok(format!(
        "smtpd_sasl_auth_enable = yes\nsmtpd_sasl_path = smtpd\ncyrus_sasl_config_path = {}\n\
         smtpd_sasl_local_domain = postfix.test\nsmtpd_tls_auth_only = yes\n\
         smtpd_relay_restrictions = permit_sasl_authenticated, reject\n",
        sasl.display()
    ))
}

#[test]
fn postfix_lets_us_in_by_each_mechanism_and_mail_waits_for_the_right_password() -> Result<()> {
    if let Some(reason) = Postfix::missing() {
        return peers::skip(reason);
    }
    if !Path::new("/usr/lib/x86_64-linux-gnu/sasl2/libscram.so").exists()
        || peers::program("perl").is_none()
    {
        return peers::skip("Cyrus SASL with its modules, or perl, is not installed");
    }
    let mut world = World::new()?;
    let sink = Sink::start()?;
    let listen = ports::reserve()?;
    let directory = tempfile::tempdir()?;
    let sasl = cyrus(directory.path())?;
    let postfix = Postfix::start(
        directory.path(),
        listen,
        &format!(
            "relayhost = [127.0.0.1]:{}\nsmtpd_tls_security_level = encrypt\n\
             smtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\n{sasl}",
            sink.address().port(),
            world.good.chain.display(),
            world.good.key.display(),
        ),
    )?;
    let right = world.directory().join("right.password");
    let changing = world.directory().join("changing.password");
    write_password(&right, "secret")?;
    write_password(&changing, "wrong")?;
    let domains = [
        ("best.test", "", "SCRAM-SHA-256"),
        ("scram.test", "\"SCRAM-SHA-256\"", "SCRAM-SHA-256"),
        ("plain.test", "\"PLAIN\"", "PLAIN"),
        ("login.test", "\"LOGIN\"", "LOGIN"),
    ];
    let to = listen.to_string();
    for (domain, mechanisms, _) in domains {
        world.route(domain, &to, &keys(&right, mechanisms));
    }
    world.route("wrong.test", &to, &keys(&changing, ""));
    world.route("open.test", &to, VERIFIED);
    world.server.start()?;
    for (domain, _, method) in domains {
        world.send(&format!("a@{domain}"), 50_000)?;
        let event = world.event_of(&["delivered", "deferred"], &format!("a@{domain}"))?;
        assert_eq!(event.kind, "delivered", "{:?}\n{}", event.fields, postfix.log());
        let said = format!("sasl_method={method}, sasl_username=user");
        wait_until(&said, SOON, || Ok(postfix.log().contains(&said)))
            .with_context(|| postfix.log())?;
    }
    assert_eq!(logins(&world.server, "success")?, 4, "{}", world.server.log());
    assert_eq!(told(&world.server), 0);
    // The twin: without a login it takes nothing, so that it is us whom it has let in.
    world.send("a@open.test", 1_000)?;
    world.event("bounced", "a@open.test")?;
    // And with a wrong one the mail is not to blame.
    world.send("a@wrong.test", 1_000)?;
    let event = world.event_of(&["deferred", "bounced"], "a@wrong.test")?;
    assert_eq!(
        (event.kind.as_str(), &event.fields["reply"]["enhanced"]),
        ("deferred", &"4.7.8".into())
    );
    assert_eq!(event.fields["reply"]["code"], 535, "{:?}", event.fields);
    assert_eq!(event.fields["stage"], "auth");
    wait_until("further attempts", SOON * 2, || Ok(logins(&world.server, "refused")? >= 3))?;
    assert_eq!(told(&world.server), 1, "it is told once");
    write_password(&changing, "secret")?;
    world.server.signal(Signal::HUP)?;
    world.event("delivered", "a@wrong.test")?;
    wait_until("five messages", SOON * 2, || Ok(sink.accepted_count() == 5))?;
    assert!(sink.accepted().iter().all(|one| matches!(one.mark, message::Mark::Intact(_))));
    let log = world.server.log();
    assert!(!log.contains("secret") && !log.contains("c2VjcmV0"), "a password is in the log");
    Ok(())
}

#[test]
fn exim_lets_us_in_by_plain_and_login() -> Result<()> {
    if let Some(reason) = Exim::missing() {
        return peers::skip(reason);
    }
    let mut world = World::new()?;
    let sink = Sink::start()?;
    let listen = ports::reserve()?;
    let directory = tempfile::tempdir()?;
    let main = format!(
        "tls_advertise_hosts = *\ntls_certificate = {}\ntls_privatekey = {}\n\
         auth_advertise_hosts = ${{if eq{{$tls_in_cipher}}{{}}{{}}{{*}}}}\n\
         acl_smtp_mail = ${{if def:authenticated_id{{accept}}{{deny}}}}\n",
        world.good.chain.display(),
        world.good.key.display(),
    );
    let check = "server_set_id = $auth1\n";
    let authenticators = format!(
        "begin authenticators\nPLAIN:\n  driver = plaintext\n  public_name = PLAIN\n  \
         server_prompts = :\n  server_condition = ${{if and{{{{eq{{$auth2}}{{user}}}}{{eq{{$auth3}}{{secret}}}}}}}}\n  \
         server_set_id = $auth2\n\
         LOGIN:\n  driver = plaintext\n  public_name = LOGIN\n  server_prompts = <| Username: | Password:\n  \
         server_condition = ${{if and{{{{eq{{$auth1}}{{user}}}}{{eq{{$auth2}}{{secret}}}}}}}}\n  {check}"
    );
    peers::run(Command::new("chmod").arg("644").arg(&world.good.key))?;
    peers::run(Command::new("chmod").arg("755").arg(world.directory()))?;
    let exim = Exim::start_as(directory.path(), listen, sink.address(), &main, &authenticators)?;
    let (right, wrong) =
        (world.directory().join("right.password"), world.directory().join("wrong.password"));
    write_password(&right, "secret")?;
    write_password(&wrong, "wrong")?;
    let to = listen.to_string();
    world.route("best.test", &to, &keys(&right, ""));
    world.route("login.test", &to, &keys(&right, "\"LOGIN\""));
    world.route("scram.test", &to, &keys(&right, "\"SCRAM-SHA-256\""));
    world.route("wrong.test", &to, &keys(&wrong, ""));
    world.server.start()?;
    for (domain, mechanism) in [("best.test", "PLAIN"), ("login.test", "LOGIN")] {
        world.send(&format!("a@{domain}"), 50_000)?;
        world.event("delivered", &format!("a@{domain}")).with_context(|| exim.log())?;
        let said = format!("A={mechanism}:user");
        wait_until(&said, SOON, || Ok(exim.log().contains(&said))).with_context(|| exim.log())?;
    }
    for (domain, result, status) in
        [("scram.test", "no_mechanism", "4.7.4"), ("wrong.test", "refused", "4.7.8")]
    {
        world.send(&format!("a@{domain}"), 1_000)?;
        let event = world.event_of(&["deferred", "bounced"], &format!("a@{domain}"))?;
        assert_eq!(
            (event.kind.as_str(), &event.fields["reply"]["enhanced"]),
            ("deferred", &status.into())
        );
        assert!(logins(&world.server, result)? > 0, "{result}");
    }
    assert_eq!((told(&world.server), logins(&world.server, "success")?), (2, 2));
    wait_until("two messages", SOON * 2, || Ok(sink.accepted_count() == 2))?;
    Ok(())
}

/// Our own server offers all mechanisms; a proof goes to it without TLS, too.
#[test]
fn ringpost_lets_ringpost_in() -> Result<()> {
    let sink = Sink::start()?;
    let smarthost = Submission::start(sink.address(), |server| {
        let all = "[\"SCRAM-SHA-256\", \"PLAIN\", \"LOGIN\"]";
        server.config.set("listener.main.auth", "mechanisms", all);
        server.config.set("listener.main.auth", "without_tls", "true");
        server.config.set("listener.main", "tls", "\"optional\"");
    })?;
    // `user` has no verifier for SCRAM, as a user of old; this one has.
    let users = smarthost.server.directory().join("users.toml");
    crate::auth::user(&users, &["add", "scram"], "secret")?;
    smarthost.server.signal(Signal::HUP)?;
    let mut server = Server::prepare()?;
    let password = server.directory().join("password");
    write_password(&password, "secret")?;
    let file = password.display();
    let to = smarthost.server.smtp();
    let mut route = |domain: &str, to: &str, keys: &str| {
        let text = format!("[[route]]\ndomain = \"{domain}\"\nsmarthost = \"{to}\"\n{keys}\n");
        server.config.append(&text);
    };
    let auth = |user: &str, more: &str| {
        format!("auth = {{ user = \"{user}\", password_file = \"{file}\"{more} }}\n")
    };
    let by = |list: &str| format!(", mechanisms = [{list}]");
    let implicit = smarthost.implicit.to_string();
    let (encrypted, first) = ("tls = \"encrypt\"\n", "tls = \"encrypt\"\ntls_implicit = true\n");
    let to = to.to_string();
    let scram = by("\"SCRAM-SHA-256\"");
    let trusting = ", mechanisms = [\"PLAIN\"], without_tls_to = [\"127.0.0.0/8\"]";
    route("tls.test", &to, &format!("{encrypted}{}", auth("user", &by("\"LOGIN\""))));
    route("first.test", &implicit, &format!("{first}{}", auth("user", &by("\"PLAIN\""))));
    route("plain.test", &to, &format!("tls = \"off\"\n{}", auth("scram", &scram)));
    route("trusting.test", &to, &format!("tls = \"off\"\n{}", auth("user", trusting)));
    server.start()?;
    let mut expected = 0;
    for domain in ["tls.test", "first.test", "trusting.test", "plain.test"] {
        for number in 0..5 {
            send(&server, &format!("a{number}@{domain}"))?;
            expected += 1;
        }
    }
    wait_until("all mail", SOON * 4, || Ok(sink.accepted_count() == expected))
        .with_context(|| server.log())?;
    assert!(sink.accepted().iter().all(|one| matches!(one.mark, message::Mark::Intact(_))));
    assert_eq!(told(&server), 0, "{}", server.log());
    assert!(smarthost.count("ringpost_auth_succeeded_total", "scram-sha-256")? > 0);
    server.terminate()?;
    Ok(())
}

/// Who does not know the password gets neither it nor mail, whatever its certificate.
#[test]
fn an_impostor_gets_no_mail() -> Result<()> {
    if let Some(reason) = TlsSink::missing() {
        return peers::skip(reason);
    }
    let mut world = World::new()?;
    let password = world.directory().join("password");
    write_password(&password, "secret")?;
    let good = world.good.clone();
    let mut sinks = Vec::new();
    for how in ["scram", "impostor", "yes-man", "good"] {
        let options = TlsSinkOptions { how, ..TlsSinkOptions::default() };
        sinks.push(world.sink(&format!("{how}.test"), &good, options, &keys(&password, ""))?);
    }
    world.server.start()?;
    world.send("a@scram.test", 1_000)?;
    world.event("delivered", "a@scram.test")?;
    assert_eq!(sinks[0].count("proof True"), 1, "{:?}", sinks[0].lines());
    for (at, domain, result) in [
        (1, "impostor.test", "not_proven"),
        (2, "yes-man.test", "not_proven"),
        (3, "good.test", "not_offered"),
    ] {
        world.send(&format!("a@{domain}"), 1_000)?;
        let event = world.event_of(&["deferred", "bounced"], &format!("a@{domain}"))?;
        assert_eq!(event.kind, "deferred", "{domain}: {:?}", event.fields);
        assert!(logins(&world.server, result)? > 0, "{domain}");
        assert_eq!(sinks[at].count("mail"), 0, "{domain}: {:?}", sinks[at].lines());
    }
    assert_eq!((told(&world.server), logins(&world.server, "success")?), (3, 1));
    Ok(())
}
