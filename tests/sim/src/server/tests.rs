use std::net::SocketAddr;

use ringpost::runtime::{Listener as _, Read, Stream as _};

use super::*;
use crate::{checks, disk::DiskFaults, executor::RunEnd, net::SimStream};

const SERVER: &str = "10.0.0.1";
const REMOTE: &str = "10.0.1.1";
const CLIENT: &str = "10.0.2.1";

const CONFIG: &str = r#"
[listener.main]
addresses = ["10.0.0.1:25"]
relay_networks = ["10.0.0.0/8"]
message_size_max = "1MiB"
recipients_max = 100
[queue]
segment_size = "1MiB"
size_max = "8MiB"
[delivery]
retry = ["5s"]
[[route]]
domain = "*"
smarthost = "10.0.1.1:25"
"#;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn world(seed: u64) -> (World, Server) {
    let world = World::new(seed);
    let server = Server::start(&world, &[ip(SERVER)], CONFIG, 2).unwrap();
    (world, server)
}

/// Lines of a stream.
struct Lines {
    stream: SimStream,
    input: Vec<u8>,
}

impl Lines {
    fn new(stream: SimStream) -> Self {
        Self { stream, input: Vec::new() }
    }

    /// The next line without its end; `None` when there are no more.
    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.input.iter().position(|octet| *octet == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            let mut block = [0; 512];
            match self.stream.read(&mut block).await {
                Ok(Read::Data(count)) => self.input.extend_from_slice(&block[..count]),
                Ok(Read::Notified) => {}
                Ok(Read::End | Read::TimedOut) | Err(_) => return None,
            }
        }
    }

    async fn say(&mut self, text: &str) -> Option<()> {
        self.stream.write_all(format!("{text}\r\n").as_bytes()).await.ok()
    }

    /// Says something and gives the last line of the reply.
    async fn ask(&mut self, text: &str) -> Option<String> {
        self.say(text).await?;
        self.reply().await
    }

    async fn reply(&mut self) -> Option<String> {
        loop {
            let line = self.line().await?;
            if line.as_bytes().get(3) != Some(&b'-') {
                return Some(line);
            }
        }
    }
}

type Taken = Rc<RefCell<Vec<String>>>;

/// A remote host that takes everything; the subjects of what it took.
fn remote(world: &World) -> Taken {
    let (runtime, taken) = (world.host(&[ip(REMOTE)]), Taken::default());
    let (spawner, all) = (runtime.clone(), Rc::clone(&taken));
    runtime.spawn(Containment::Process, async move {
        let mut listener = spawner.listen(SocketAddr::new(ip(REMOTE), 25)).unwrap();
        while let Ok(stream) = listener.accept().await {
            let taken = Rc::clone(&all);
            spawner.spawn(Containment::Session, async move {
                let _ = take_mail(Lines::new(stream), &taken).await;
            });
        }
    });
    taken
}

async fn take_mail(mut client: Lines, taken: &Taken) -> Option<()> {
    client.say("220 remote.sim").await?;
    loop {
        let line = client.line().await?;
        match line.split([' ', ':']).next().unwrap_or_default() {
            "DATA" => {
                client.say("354 go on").await?;
                let mut subject = String::new();
                loop {
                    let line = client.line().await?;
                    if let Some(text) = line.strip_prefix("Subject: ") {
                        text.clone_into(&mut subject);
                    }
                    if line == "." {
                        break;
                    }
                }
                taken.borrow_mut().push(subject);
                client.say("250 taken").await?;
            }
            "QUIT" => return client.say("221 bye").await,
            _ => client.say("250 ok").await?,
        }
    }
}

type Acked = Rc<RefCell<Vec<String>>>;

/// Sends messages one by one, each on a connection of its own, until each has got its 250.
fn inject(world: &World, first: u32, count: u32) -> Acked {
    let (runtime, acked) = (world.host(&[ip(CLIENT)]), Acked::default());
    for number in first..first + count {
        let (runtime, acked) = (runtime.clone(), Rc::clone(&acked));
        runtime.clone().spawn(Containment::Session, async move {
            // Each try is a message of its own.
            for attempt in 0.. {
                let subject = format!("{number}.{attempt}");
                if send(&runtime, &subject).await.is_some() {
                    return acked.borrow_mut().push(subject);
                }
                runtime.sleep(Duration::from_secs(1)).await;
            }
        });
    }
    acked
}

async fn send(runtime: &SimRuntime, subject: &str) -> Option<()> {
    let address = SocketAddr::new(ip(SERVER), 25);
    let stream = runtime.connect(address, None, Duration::from_secs(5)).await.ok()?;
    stream.watch().set_deadline(Some(runtime.now() + Duration::from_mins(1)));
    let mut server = Lines::new(stream);
    let mut replies = vec![server.reply().await?];
    for line in ["EHLO client.sim", "MAIL FROM:<a@client.sim>", "RCPT TO:<b@remote.sim>", "DATA"] {
        replies.push(server.ask(line).await?);
    }
    replies.push(server.ask(&format!("Subject: {subject}\r\n\r\ntext\r\n.")).await?);
    let is_taken = replies.last().is_some_and(|reply| reply.starts_with("250"));
    let _ = server.say("QUIT").await;
    is_taken.then_some(())
}

/// Runs until a number of messages is acknowledged.
fn run_until_acked(world: &World, acked: &Acked, count: usize) {
    let end = world.run_for(Duration::from_mins(10), || acked.borrow().len() >= count);
    assert_eq!((end, world.violations()), (RunEnd::Done, vec![]), "{}", acked.borrow().len());
}

fn run_until_taken(world: &World, taken: &Taken, acked: &Acked) {
    let all = || acked.borrow().iter().all(|subject| taken.borrow().contains(subject));
    let end = world.run_for(Duration::from_mins(30), all);
    assert_eq!((end, world.violations()), (RunEnd::Done, vec![]));
}

/// Stops the server from a task of the world.
fn stop(world: &World, server: &Server) -> bool {
    let stopped = Rc::new(Cell::new(None));
    let (said, stopping) = (Rc::clone(&stopped), server.clone());
    world.executor().spawn(Group::WORLD, async move { said.set(Some(stopping.stop().await)) });
    world.run_for(Duration::from_mins(1), || stopped.get().is_some());
    stopped.get().unwrap()
}

#[test]
fn mail_goes_in_and_out_and_the_same_seed_is_the_same_run() {
    let run = |seed| {
        let (world, server) = world(seed);
        let taken = remote(&world);
        let acked = inject(&world, 0, 20);
        run_until_acked(&world, &acked, 20);
        run_until_taken(&world, &taken, &acked);
        assert_eq!(taken.borrow().len(), 20);
        assert!(stop(&world, &server));
        assert!(!server.is_up());
        assert_eq!(server.counter("ringpost_messages_received_total"), 20);
        assert_eq!(server.counter("ringpost_outcomes_total"), 20);
        let events = server.events();
        let count = |kind: &str| events.iter().filter(|line| line.text.contains(kind)).count();
        assert_eq!((count("\"received\""), count("\"delivered\"")), (20, 20), "{events:?}");
        (world.trace().hash(), world.clock().elapsed(), taken.take())
    };
    let first = run(1);
    assert_eq!(first, run(1));
    assert_ne!(first.0, run(2).0);
}

#[test]
fn a_message_is_on_the_disk_when_it_is_acknowledged_and_gone_when_it_is_delivered() {
    let (world, server) = world(3);
    let acked = inject(&world, 0, 5);
    run_until_acked(&world, &acked, 5);
    let mut found = Vec::new();
    for shard in 0..2 {
        let look = server.look(shard, Survival::Nothing).unwrap();
        found.extend(look.messages().unwrap());
    }
    assert_eq!(found.len(), 5);
    for message in &found {
        let content = String::from_utf8_lossy(&message.content).into_owned();
        assert!(acked.borrow().iter().any(|subject| content.contains(subject)), "{content}");
        assert!(!message.recipients[0].status.is_settled());
    }
    let taken = remote(&world);
    run_until_taken(&world, &taken, &acked);
    assert!(stop(&world, &server));
    assert!((0..2).all(|shard| server.look(shard, Survival::Nothing).unwrap().ids().is_empty()));
}

#[test]
fn what_was_acknowledged_outlives_every_kind_of_crash() {
    let kinds = [
        Survival::ProcessOnly,
        Survival::All,
        Survival::Nothing,
        Survival::Prefix(5000),
        Survival::Subset(9),
    ];
    let (world, server) = world(4);
    let taken = remote(&world);
    let mut all = Vec::new();
    for (number, survival) in (0..).zip(kinds) {
        let acked = inject(&world, number * 100, 50);
        run_until_acked(&world, &acked, 20);
        server.crash(survival);
        assert!(!server.is_up());
        world.run_for(Duration::from_secs(3), || false);
        server.restart().unwrap();
        run_until_acked(&world, &acked, 50);
        all.push(acked);
    }
    for acked in &all {
        run_until_taken(&world, &taken, acked);
    }
    assert_eq!((server.lives(), server.damaged()), (6, vec![]));
    assert!(stop(&world, &server));
}

/// The twin of the test above: on a disk that lies, mail has to be lost.
#[test]
fn a_disk_that_ignores_syncs_loses_mail() {
    let (world, server) = world(5);
    server.disk().set_faults(DiskFaults { ignores_syncs: true, ..DiskFaults::default() });
    let acked = inject(&world, 0, 20);
    run_until_acked(&world, &acked, 20);
    server.crash(Survival::Nothing);
    server.disk().set_faults(DiskFaults::default());
    server.restart().unwrap();
    let taken = remote(&world);
    world.run_for(Duration::from_mins(5), || false);
    assert!(taken.borrow().is_empty() && world.is_sound());
}

#[test]
fn a_disk_that_fails_stops_a_shard_and_a_restart_mends_it() {
    let (world, server) = world(6);
    let taken = remote(&world);
    let acked = inject(&world, 0, 10);
    run_until_acked(&world, &acked, 10);
    server.disk().set_faults(DiskFaults { sync_error_ppm: 1_000_000, ..DiskFaults::default() });
    let more = inject(&world, 100, 10);
    world.run_for(Duration::from_secs(30), || false);
    assert!(more.borrow().is_empty());
    assert!(!server.health().unwrap().is_healthy());
    server.disk().set_faults(DiskFaults::default());
    server.crash(Survival::ProcessOnly);
    server.restart().unwrap();
    run_until_acked(&world, &more, 10);
    run_until_taken(&world, &taken, &acked);
    run_until_taken(&world, &taken, &more);
    assert!(server.counter("ringpost_commit_failures_total") >= 1);
}

#[test]
fn a_full_disk_is_told_of_and_mail_goes_on_when_there_is_room() {
    let (world, server) = world(7);
    let acked = inject(&world, 0, 5);
    run_until_acked(&world, &acked, 5);
    // Segments of 1 MiB: there is no room for two more.
    let full = DiskFaults { capacity: Some(3 << 20), ..DiskFaults::default() };
    server.disk().set_faults(full);
    world.run_for(Duration::from_secs(1), || false);
    let more = inject(&world, 100, 5);
    world.run_for(Duration::from_secs(20), || false);
    assert!(more.borrow().is_empty());
    assert!(server.counter("ringpost_limit_hits_total") > 0);
    server.disk().set_faults(DiskFaults::default());
    server.disk().set_faults(DiskFaults { capacity: Some(64 << 20), ..DiskFaults::default() });
    run_until_acked(&world, &more, 5);
}

#[test]
fn an_operator_can_remove_what_is_queued() {
    let (world, server) = world(8);
    let acked = inject(&world, 0, 10);
    run_until_acked(&world, &acked, 10);
    let answers = Rc::new(RefCell::new(Vec::new()));
    let (given, asked) = (Rc::clone(&answers), server.clone());
    world.executor().spawn(Group::WORLD, async move {
        let all = Purge { host: None, received_before_unix_ms: u64::MAX };
        let answered = asked.purge(&all).await;
        *given.borrow_mut() = answered;
    });
    world.run_for(Duration::from_mins(1), || answers.borrow().len() == 2);
    let removed: u64 = answers.borrow().iter().flatten().map(|purged| purged.recipients).sum();
    assert_eq!(removed, 10);
    let taken = remote(&world);
    world.run_for(Duration::from_mins(2), || false);
    assert!(taken.borrow().is_empty());
}

#[test]
fn a_new_configuration_is_taken_while_it_runs() {
    let (world, server) = world(9);
    let acked = inject(&world, 0, 3);
    run_until_acked(&world, &acked, 3);
    server.reload("nonsense").unwrap_err();
    let moved = CONFIG.replace("10.0.1.1:25", "10.0.1.2:25");
    server.reload(&moved).unwrap();
    let taken = remote(&world);
    world.run_for(Duration::from_mins(1), || false);
    assert!(taken.borrow().is_empty(), "the old address is not used any more");
    server.reload(CONFIG).unwrap();
    run_until_taken(&world, &taken, &acked);
}

#[test]
fn an_event_log_that_fails_gets_its_lines_later() {
    let (world, server) = world(10);
    server.set_event_log_faults(EventLogFaults { sync_error_percent: 60, is_stuck: false });
    let taken = remote(&world);
    let acked = inject(&world, 0, 20);
    run_until_acked(&world, &acked, 20);
    run_until_taken(&world, &taken, &acked);
    world.run_for(Duration::from_secs(30), || false);
    server.set_event_log_faults(EventLogFaults::default());
    world.run_for(Duration::from_secs(5), || false);
    assert!(stop(&world, &server));
    let events = server.events();
    let ids = |kind: &str| {
        let lines = events.iter().filter(|line| line.text.contains(kind));
        let id = |line: &EventLine| {
            let (_, rest) = line.text.split_once("\"id\":\"")?;
            Some(rest.split('"').next()?.to_owned())
        };
        lines.filter_map(id).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!((ids("\"received\"").len(), ids("\"delivered\"").len()), (20, 20));
}

/// The check of flipped bits can fail: a log with one more message is another log, and so is one in which a
/// message has other octets.
#[test]
fn a_log_that_holds_something_else_is_told_from_the_same_log() {
    let look_at_all = |server: &Server| {
        (0..2).map(|shard| server.look(shard, Survival::Nothing).unwrap()).collect::<Vec<_>>()
    };
    let sent = |first: u32| {
        let (world, server) = world(11);
        run_until_acked(&world, &inject(&world, first, 5), 5);
        (world, server)
    };
    let wrong = |before: &[Look], after: &[Look]| {
        let pairs = before.iter().zip(after);
        pairs.filter_map(|(before, after)| checks::flipped(before, after).err()).collect::<Vec<_>>()
    };
    let (world, server) = sent(0);
    let before = look_at_all(&server);
    assert_eq!(wrong(&before, &look_at_all(&server)), [""; 0]);
    run_until_acked(&world, &inject(&world, 100, 1), 1);
    let mut after = look_at_all(&server);
    let found = wrong(&before, &after);
    assert!(found.iter().any(|text| text.contains("messages were there")), "{found:?}");
    // Recovery has said that it cut something off.
    for look in &mut after {
        look.recovered.tail_truncated_bytes += 1;
    }
    assert_eq!(wrong(&before, &after), [""; 0]);
    // The same run with other subjects, which are as long.
    let (_, server) = sent(5);
    let found = wrong(&before, &look_at_all(&server));
    assert!(
        !found.is_empty() && found.iter().all(|text| text.contains("is another one")),
        "{found:?}"
    );
}
