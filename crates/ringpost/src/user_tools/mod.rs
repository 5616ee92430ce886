//! `ringpost user`: the file of users, from the command line.

mod file;
mod password;

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, bail};
use ringpost_session::server::Password;

use self::file::UsersFile;
use crate::{
    auth::{
        Users,
        users::check_name,
        verifier::{Argon2Verifier, ScramVerifier},
    },
    cli::{NewUser, VerifierKind},
};

/// Adds a user to a file, or gives one another password; reads it from standard input.
///
/// # Errors
///
/// What is wrong with the name, the password or the file, which stays as it was then.
pub fn add(path: &Path, user: &NewUser) -> anyhow::Result<String> {
    add_with(path, user, password::read_new)
}

fn add_with(
    path: &Path,
    user: &NewUser,
    read: impl FnOnce() -> anyhow::Result<Password>,
) -> anyhow::Result<String> {
    let name = &user.name;
    check_name(name).map_err(|reason| anyhow::anyhow!("{name:?}: {reason}"))?;
    let mut file = UsersFile::open_or_new(path)?;
    let is_new = !file.has(name);
    if !is_new && !user.replace {
        bail!("there is a user {name} already: give --replace for another password");
    }
    if user.no_password {
        file.remove_verifiers(name);
    } else {
        let password = read()?;
        let (key, verifier) = match user.kind() {
            VerifierKind::Argon2id => {
                ("argon2id", Argon2Verifier::new(password.expose())?.to_string())
            }
            VerifierKind::Scram => {
                ("scram_sha_256", ScramVerifier::new(password.expose())?.to_string())
            }
        };
        file.set_verifier(name, key, &verifier);
    }
    if !user.certificate.is_empty() {
        file.set_list(name, "certificates", &user.certificate);
    }
    if let Some(tenant) = &user.tenant {
        file.set(name, "tenant", tenant);
    }
    if let Some(rate) = &user.rate {
        file.set(name, "rate", rate);
    }
    if !user.reverse_path.is_empty() {
        file.set_list(name, "reverse_paths", &user.reverse_path);
    }
    file.save(path)?;
    let what = if is_new { "added" } else { "changed" };
    Ok(format!("{name}: {what}; a running server takes it at HUP\n"))
}

/// Removes a user from a file.
///
/// # Errors
///
/// There is no such user, or something is wrong with the file.
pub fn remove(path: &Path, name: &str) -> anyhow::Result<String> {
    let mut file = UsersFile::open(path)?;
    if !file.remove(name) {
        bail!("there is no user {name}");
    }
    file.save(path)?;
    Ok(format!(
        "{name}: removed; a running server takes it at HUP, and its sessions may send no more then\n"
    ))
}

/// Lists users, what they can do, and nothing of their passwords.
///
/// # Errors
///
/// What is wrong with the file.
pub fn list(path: &Path) -> anyhow::Result<String> {
    let users = load(path)?;
    let mut text = String::new();
    for account in users.accounts() {
        let user = &account.user;
        let kinds = [
            account.verifiers.argon2id.is_some().then_some("argon2id"),
            account.verifiers.scram.is_some().then_some("scram-sha-256"),
            (!account.certificates.is_empty()).then_some("certificate"),
        ];
        let kinds: Vec<&str> = kinds.into_iter().flatten().collect();
        let kinds = if kinds.is_empty() { "nothing".to_owned() } else { kinds.join("+") };
        let tenant = user.tenant.as_deref().unwrap_or("-");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}\t{kinds}\t{tenant}", user.name);
    }
    Ok(text)
}

/// Says whether a user has the password that comes by standard input.
///
/// # Errors
///
/// It has not, there is no such user, or something is wrong with the file.
pub fn check(path: &Path, name: &str) -> anyhow::Result<String> {
    let users = load(path)?;
    let account = users.account(name).with_context(|| format!("there is no user {name}"))?;
    let password = password::read()?;
    if !account.verifiers.is_password(password.expose()) {
        bail!("{name}: this is not the password");
    }
    Ok(format!("{name}: this is the password\n"))
}

fn load(path: &Path) -> anyhow::Result<Users> {
    Users::load(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn user(name: &str) -> NewUser {
        NewUser { name: name.into(), ..NewUser::default() }
    }

    /// What there is to be typed.
    type Typed = fn() -> anyhow::Result<Password>;

    const SECRET: Typed = || Ok(Password::new("secret"));

    #[test]
    fn users_come_and_go_and_the_rest_of_the_file_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users.toml");
        let full = NewUser {
            scram: true,
            tenant: Some("t".into()),
            rate: Some("10/1h".into()),
            reverse_path: vec!["a.test".into(), "b@b.test".into()],
            ..user("a@a.test")
        };
        assert!(add_with(&path, &full, SECRET).unwrap().contains("added"));
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("# ours\n{text}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let argon2id = NewUser { argon2id: true, ..user("b") };
        assert!(add_with(&path, &argon2id, SECRET).unwrap().contains("added"));
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o640, "the mode stays");
        let users = load(&path).unwrap();
        let a = users.account("a@a.test").unwrap();
        assert!(a.verifiers.argon2id.is_none() && a.rate.is_some());
        assert_eq!(a.user.tenant.as_deref(), Some("t"));
        assert!(users.account("b").unwrap().verifiers.is_password(b"secret"));
        assert_eq!(list(&path).unwrap(), "a@a.test\tscram-sha-256\tt\nb\targon2id\t-\n");

        // Another password replaces the verifiers, and leaves the rest.
        assert!(add_with(&path, &user("a@a.test"), SECRET).is_err());
        let other = NewUser { replace: true, ..user("a@a.test") };
        add_with(&path, &other, || Ok(Password::new("other"))).unwrap();
        let users = load(&path).unwrap();
        let a = users.account("a@a.test").unwrap();
        assert!(a.verifiers.is_password(b"other") && a.verifiers.argon2id.is_none());
        assert_eq!(a.user.tenant.as_deref(), Some("t"));

        // One that is known by a certificate alone, and is asked for no password.
        let certificate = vec!["dns:c.test".to_owned()];
        let known = NewUser { no_password: true, certificate, ..user("c") };
        add_with(&path, &known, || bail!("asked for a password")).unwrap();
        assert!(list(&path).unwrap().ends_with("c\tcertificate\t-\n"));
        let wrong = NewUser { certificate: vec!["c.test".to_owned()], ..known.clone() };
        assert!(add_with(&path, &NewUser { replace: true, ..wrong }, SECRET).is_err());
        let replaced = NewUser { replace: true, name: "a@a.test".into(), ..known };
        add_with(&path, &replaced, || bail!("asked for a password")).unwrap();
        let users = load(&path).unwrap();
        assert!(!users.account("a@a.test").unwrap().verifiers.is_password(b"other"));

        remove(&path, "b").unwrap();
        assert!(remove(&path, "b").is_err());
        assert!(load(&path).unwrap().account("b").is_none());
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# ours\n") && !text.contains("other"), "{text}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_would_be_wrong_is_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users.toml");
        let wrong = NewUser { rate: Some("many".into()), ..user("a") };
        assert!(add_with(&path, &wrong, SECRET).is_err());
        assert!(add_with(&path, &user("a b"), SECRET).is_err());
        assert!(add_with(&path, &user("a"), || bail!("no password")).is_err());
        assert!(!path.exists());
        assert!(remove(&path, "a").is_err() && list(&path).is_err());
        fs::write(&path, "[user.a\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(add_with(&path, &user("b"), SECRET).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "[user.a\n");
    }
}
