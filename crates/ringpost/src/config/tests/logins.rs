//! Credentials at smarthosts: passwords are read from files, and change with them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use ringpost_delivery::LoginProfile;
use ringpost_protocol::sasl::Mechanism;

use super::facts;
use crate::config::{ConfigSnapshot, parse, parse_with_files};

fn write(path: &Path, content: &str, mode: u32) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn text(password: &Path) -> String {
    let file = password.display();
    format!(
        "[listener.main]\naddresses = ['127.0.0.1:2525']\n\
         [[route]]\ndomain = 'a.test'\nsmarthost = 'h:587'\ntls = 'verify'\n\
         auth = {{ user = 'u', password_file = '{file}' }}\n\
         [[route]]\ndomain = 'b.test'\nsmarthost = 'h:587'\ntls = 'verify'\n\
         auth = {{ user = 'v', password_file = '{file}' }}\n\
         [[route]]\ndomain = 'c.test'\nsmarthost = '127.0.0.1:587'\n\
         auth = {{ user = 'u', password_file = '{file}', mechanisms = ['plain'], without_tls_to = ['127.0.0.0/8'] }}\n\
         [[route]]\ndomain = 'd.test'\nsmarthost = 'h:25'\n"
    )
}

fn logins(snapshot: &ConfigSnapshot) -> Vec<Option<LoginProfile>> {
    snapshot.delivery_config().routes.iter().map(|route| route.login).collect()
}

#[test]
fn each_route_has_its_credentials_and_a_new_password_makes_new_ones() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("password");
    write(&path, "secret\n", 0o640);
    let load = || parse_with_files(&text(&path), &facts()).unwrap();
    let first = load();
    let profiles = logins(&first);
    assert!(profiles[0].is_some() && profiles[0] != profiles[1] && profiles[0] != profiles[2]);
    assert_eq!(profiles[3], None);
    let of = |snapshot: &ConfigSnapshot, at: usize| {
        let profile = logins(snapshot)[at].unwrap();
        Arc::clone(snapshot.credentials(profile).unwrap())
    };
    assert_eq!((of(&first, 0).name(), of(&first, 1).name()), ("u", "v"));
    let lax = of(&first, 2).session([127, 0, 0, 1].into());
    assert!(lax.without_tls && lax.mechanisms.iter().eq([Mechanism::Plain]));
    assert!(!of(&first, 2).session([192, 0, 2, 1].into()).without_tls);
    let strict = of(&first, 0).session([127, 0, 0, 1].into());
    assert!(!strict.without_tls);
    let all = [Mechanism::ScramSha256, Mechanism::Plain, Mechanism::Login];
    assert!(strict.mechanisms.iter().eq(all));
    // What is known of them stays known over a reload that changes nothing of theirs.
    let mut same = load();
    assert_eq!(same, first);
    same.adopt(&first);
    assert!(Arc::ptr_eq(&of(&same, 0), &of(&first, 0)));
    write(&path, "other\n", 0o640);
    let mut other = load();
    other.adopt(&first);
    assert_ne!(other, first);
    assert!(logins(&other).iter().zip(&profiles).take(3).all(|(new, old)| new != old));
    assert!(other.credentials(profiles[0].unwrap()).is_none());
}

#[test]
fn a_password_that_cannot_be_used_is_refused_where_it_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("password");
    for (content, mode, expected) in [
        ("secret\n", 0o644, "others can get at it (mode 0644): chmod o= FILE"),
        ("", 0o600, "not a password: one line of 1 to 1024 octets"),
        ("a\nb\n", 0o600, "not a password"),
    ] {
        write(&path, content, mode);
        let problems = parse_with_files(&text(&path), &facts()).unwrap_err();
        let lines: Vec<usize> = problems.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [7, 12, 16], "{problems:?}");
        assert!(problems[0].reason.starts_with("route.0.auth.password_file: /"), "{problems:?}");
        assert!(problems[0].reason.contains(expected), "{problems:?}");
        assert!(!problems[0].reason.contains("secret"));
    }
    fs::remove_file(&path).unwrap();
    let problems = parse_with_files(&text(&path), &facts()).unwrap_err();
    assert!(problems[0].reason.contains("cannot read the file"), "{problems:?}");
    // Without the files there is nothing to log in with, and no way around that.
    let snapshot = parse(&text(&path), &facts()).unwrap();
    let profile = logins(&snapshot)[0].unwrap();
    assert!(snapshot.credentials(profile).is_none());
}
