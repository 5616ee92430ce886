//! The file of users.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use ring::{hmac, rand::SystemRandom};
use ringpost_protocol::limits::AUTH_NAME_MAX;
use ringpost_session::server::{Password, ReversePathRule, ReversePaths, User};
use serde::Deserialize;

use super::certificate::CertificateRule;
use super::rate::{Rate, RateMeter};
use super::verifier::{Argon2Verifier, ScramVerifier, Verifiers};
use crate::config::line_at;

/// A larger file is not one of users.
const FILE_SIZE_MAX: u64 = 64 << 20;

/// Octets in the name of a tenant.
const TENANT_MAX: usize = 128;

/// Others may neither read nor write the file.
const OTHERS: u32 = 0o007;

/// Why a file of users cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsersError {
    /// It cannot be read.
    #[error("cannot read the file: {0}")]
    Unreadable(io::Error),
    /// Everybody on the machine could read or change it.
    #[error("others can get at it (mode {0:04o}): chmod o= FILE")]
    Exposed(u32),
    /// Something in it is wrong.
    #[error("line {line}: {reason}")]
    Content {
        /// The line, from 1.
        line: usize,
        /// What is wrong, without a full stop.
        reason: String,
    },
}

impl UsersError {
    /// The line that is wrong, from 1; 1 when it is the file.
    pub fn line(&self) -> usize {
        match self {
            Self::Content { line, .. } => *line,
            Self::Unreadable(_) | Self::Exposed(_) => 1,
        }
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UsersFile {
    #[serde(default)]
    user: BTreeMap<toml::Spanned<String>, UserSection>,
}

/// `[user.NAME]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserSection {
    argon2id: Option<toml::Spanned<String>>,
    scram_sha_256: Option<toml::Spanned<String>>,
    tenant: Option<toml::Spanned<String>>,
    certificates: Option<Vec<toml::Spanned<String>>>,
    reverse_paths: Option<Vec<toml::Spanned<String>>>,
    rate: Option<toml::Spanned<String>>,
}

/// A user with what it needs to show, and what it may do.
#[derive(Debug)]
pub struct Account {
    /// What sessions know of it.
    pub user: Arc<User>,
    /// What is known of its password.
    pub verifiers: Verifiers,
    /// By which certificates it is known; any of them.
    pub certificates: Vec<CertificateRule>,
    /// What it may send.
    pub rate: Option<(Rate, Arc<RateMeter>)>,
}

impl Account {
    /// Whether whoever has shown to be this user would have shown to be that one.
    pub fn is_shown_like(&self, other: &Self) -> bool {
        self.user.name == other.user.name
            && self.verifiers == other.verifiers
            && self.certificates == other.certificates
    }

    /// Whether it may send one more message now.
    pub fn may_send(&self, unix_ms: u64) -> bool {
        self.rate.as_ref().is_none_or(|(rate, meter)| meter.has_room(rate, unix_ms))
    }

    /// Counts a message, if it may be sent.
    pub fn count_message(&self, unix_ms: u64) -> bool {
        self.rate.as_ref().is_none_or(|(rate, meter)| meter.take(rate, unix_ms))
    }
}

/// Whom a password may belong to.
///
/// For a name that nobody has it is another user, and the password is wrong whatever it is: so the answer
/// takes as long as for a user.
#[derive(Debug, Clone)]
pub struct Candidate {
    account: Option<Arc<Account>>,
    is_real: bool,
}

impl Candidate {
    /// Whether this is the password. It takes long.
    pub(super) fn is_password(&self, password: &Password) -> bool {
        let account = self.account.as_ref();
        let is_right = account.is_some_and(|it| it.verifiers.is_password(password.expose()));
        is_right && self.is_real
    }

    /// The user, if the name is one's.
    pub fn account(&self) -> Option<&Arc<Account>> {
        self.account.as_ref().filter(|_| self.is_real)
    }

    /// The same, whose password is wrong whatever it is.
    #[must_use]
    pub fn refused(self) -> Self {
        Self { is_real: false, ..self }
    }
}

/// All users.
pub struct Users {
    accounts: BTreeMap<Box<str>, Arc<Account>>,
    /// Names of users by their certificates.
    by_certificate: BTreeMap<CertificateRule, Vec<Box<str>>>,
    /// Chooses whom a name is measured by that nobody has; not known outside.
    key: hmac::Key,
}

impl fmt::Debug for Users {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Users").field("count", &self.accounts.len()).finish_non_exhaustive()
    }
}

impl Users {
    /// Reads a file, which others must not be able to read or change.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn load(path: &Path) -> Result<Self, UsersError> {
        Self::parse(&read(path)?)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn parse(text: &str) -> Result<Self, UsersError> {
        let error = |offset: usize, reason: String| {
            let reason = reason.replace('\n', " ");
            UsersError::Content { line: line_at(text, offset), reason }
        };
        let file: UsersFile = toml::from_str(text).map_err(|found| {
            error(found.span().map_or(0, |span| span.start), found.message().to_owned())
        })?;
        let mut accounts = BTreeMap::<Box<str>, _>::new();
        for (name, section) in file.user {
            let start = name.span().start;
            let name = name.into_inner();
            check_name(&name).map_err(|reason| error(start, format!("{name:?}: {reason}")))?;
            let account = section.account(&name).map_err(|(offset, reason)| {
                error(offset.unwrap_or(start), format!("user {name:?}: {reason}"))
            })?;
            accounts.insert(name.into(), Arc::new(account));
        }
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| UsersError::Unreadable(io::Error::other("no randomness")))?;
        let mut by_certificate = BTreeMap::<_, Vec<Box<str>>>::new();
        for (name, account) in &accounts {
            for rule in &account.certificates {
                by_certificate.entry(rule.clone()).or_default().push(name.clone());
            }
        }
        Ok(Self { accounts, by_certificate, key })
    }

    /// Goes on with what the users of `old` have sent.
    pub fn adopt_rates(&mut self, old: &Self) {
        for (name, account) in &mut self.accounts {
            let meter = old.accounts.get(name).and_then(|old| old.rate.as_ref());
            // Nobody else has it yet.
            if let (Some((_, meter)), Some(account)) = (meter, Arc::get_mut(account))
                && let Some((_, own)) = &mut account.rate
            {
                *own = Arc::clone(meter);
            }
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.accounts.len()
    }

    /// All of them, by name.
    pub fn accounts(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.accounts.values()
    }

    /// The user of a name.
    pub fn account(&self, name: &str) -> Option<&Arc<Account>> {
        self.accounts.get(name)
    }

    /// Whether all that have a password have a verifier for SCRAM; not without passwords.
    pub fn have_scram(&self) -> bool {
        let passwords = || self.accounts.values().map(|account| &account.verifiers);
        let passwords = || passwords().filter(|it| **it != Verifiers::default());
        passwords().next().is_some() && passwords().all(|verifiers| verifiers.scram.is_some())
    }

    /// The names of all users that one of the rules fits, in order and each once.
    pub fn by_certificate(&self, rules: &BTreeSet<CertificateRule>) -> BTreeSet<&str> {
        let names = rules.iter().filter_map(|rule| self.by_certificate.get(rule));
        names.flatten().map(AsRef::as_ref).collect()
    }

    /// The user of a name with its verifier for SCRAM. Without one it is no user, and the verifier one that
    /// looks like those of others, always the same for a name, and that nothing fits.
    pub(super) fn scram(&self, name: &str) -> (Option<Arc<Account>>, ScramVerifier) {
        if let Some(account) = self.account(name)
            && let Some(verifier) = &account.verifiers.scram
        {
            return (Some(Arc::clone(account)), verifier.clone());
        }
        let known = || self.accounts.values().find_map(|account| account.verifiers.scram.as_ref());
        let like = known().map(|verifier| (verifier.iterations, verifier.salt.len()));
        let seed = hmac::sign(&self.key, &[b"scram ", name.as_bytes()].concat());
        (None, ScramVerifier::impossible(like, seed.as_ref()))
    }

    /// Whose password is to be compared when a client says that it is `name`.
    pub fn candidate(&self, name: &str) -> Candidate {
        if let Some(account) = self.account(name) {
            return Candidate { account: Some(Arc::clone(account)), is_real: true };
        }
        let tag = hmac::sign(&self.key, name.as_bytes());
        let number =
            tag.as_ref().iter().take(4).fold(0, |sum, octet| sum << 8 | usize::from(*octet));
        let account = self.accounts.values().nth(number % self.accounts.len().max(1));
        Candidate { account: account.cloned(), is_real: false }
    }
}

/// What is wrong, and where, if it is not the user as a whole.
type Wrong = (Option<usize>, String);

impl UserSection {
    fn account(self, name: &str) -> Result<Account, Wrong> {
        let verifiers = Verifiers {
            argon2id: parse(self.argon2id, Argon2Verifier::parse)?,
            scram: parse(self.scram_sha_256, ScramVerifier::parse)?,
        };
        let tenant = parse(self.tenant, |text| match check_label(text, TENANT_MAX) {
            Ok(()) => Ok(text.into()),
            Err(reason) => Err(format!("tenant {text:?}: {reason}")),
        })?;
        let rate = parse(self.rate, |text| {
            text.parse::<Rate>().map_err(|reason| format!("rate {text:?}: {reason}"))
        })?;
        let certificates = self.certificates.unwrap_or_default().into_iter().map(|text| {
            let rule = CertificateRule::parse(text.get_ref());
            rule.map_err(|reason| {
                (Some(text.span().start), format!("{:?} is {reason}", text.get_ref()))
            })
        });
        let certificates = certificates.collect::<Result<_, _>>()?;
        let reverse_paths = match self.reverse_paths {
            None => ReversePaths::Any,
            Some(list) if list.iter().any(|text| text.get_ref() == "*") => ReversePaths::Any,
            Some(list) => ReversePaths::Listed(
                list.into_iter()
                    .map(|text| {
                        ReversePathRule::parse(text.get_ref()).ok_or_else(|| {
                            let found = text.get_ref();
                            let reason =
                                format!("{found:?} is no mailbox, no domain, and not \"*\"");
                            (Some(text.span().start), reason)
                        })
                    })
                    .collect::<Result<_, _>>()?,
            ),
        };
        let user = Arc::new(User { name: name.into(), tenant, reverse_paths });
        Ok(Account { user, verifiers, certificates, rate: rate.map(|rate| (rate, Arc::default())) })
    }
}

/// Reads a value that may be there.
fn parse<T, E: fmt::Display>(
    value: Option<toml::Spanned<String>>,
    read: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, Wrong> {
    value
        .map(|text| {
            read(text.get_ref()).map_err(|error| (Some(text.span().start), error.to_string()))
        })
        .transpose()
}

/// Says what is wrong with the name of a user.
///
/// # Errors
///
/// It is empty, too long, or has white space or control characters.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    check_label(name, AUTH_NAME_MAX)
}

fn check_label(text: &str, size_max: usize) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("must not be empty");
    }
    if text.len() > size_max {
        return Err("too long");
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("must not have white space or control characters");
    }
    Ok(())
}

/// Reads the text of the file, if it is one, and nobody else's business.
pub(crate) fn read(path: &Path) -> Result<String, UsersError> {
    let file = File::open(path).map_err(UsersError::Unreadable)?;
    let metadata = file.metadata().map_err(UsersError::Unreadable)?;
    if !metadata.is_file() {
        return Err(UsersError::Unreadable(io::Error::other("not a file")));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(UsersError::Exposed(mode));
    }
    let mut text = String::new();
    file.take(FILE_SIZE_MAX + 1).read_to_string(&mut text).map_err(UsersError::Unreadable)?;
    if text.len() as u64 > FILE_SIZE_MAX {
        return Err(UsersError::Unreadable(io::Error::other("too large")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SCRAM: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                         WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                         wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    fn user(name: &str, more: &str) -> String {
        format!("[user.{name}]\nscram_sha_256 = \"{SCRAM}\"\n{more}\n")
    }

    #[test]
    fn users_are_read_with_what_they_may_do() {
        let text = user(
            "a",
            "tenant = \"t-1\"\nreverse_paths = [\"x@a.test\", \"b.test\"]\nrate = \"2/1h\"",
        ) + &user("\"b@b.test\"", "")
            + &user("c", "reverse_paths = [\"*\"]");
        let users = Users::parse(&text).unwrap();
        let a = users.account("a").unwrap();
        assert_eq!((&*a.user.name, a.user.tenant.as_deref()), ("a", Some("t-1")));
        assert!(matches!(&a.user.reverse_paths, ReversePaths::Listed(rules) if rules.len() == 2));
        assert!(a.may_send(5) && a.count_message(5) && a.count_message(5));
        assert!(!a.may_send(5) && !a.count_message(5));
        let b = users.account("b@b.test").unwrap();
        assert_eq!((&b.user.tenant, &b.user.reverse_paths), (&None, &ReversePaths::Any));
        assert!(b.may_send(5) && b.count_message(5));
        assert_eq!(users.account("c").unwrap().user.reverse_paths, ReversePaths::Any);
        assert!(users.account("A").is_none(), "names are compared to the letter");

        // What was sent before a reload counts after it.
        let mut reloaded = Users::parse(&text).unwrap();
        assert!(reloaded.account("a").unwrap().may_send(5));
        reloaded.adopt_rates(&users);
        assert!(!reloaded.account("a").unwrap().may_send(5));
    }

    #[test]
    fn users_are_known_by_their_certificates() {
        let text = user("a", "")
            + "[user.d]\ncertificates = [\"email:d@A.test\", \"dns:a.test\"]\n"
            + "[user.e]\ncertificates = [\"dns:A.test\"]\n";
        let users = Users::parse(&text).unwrap();
        assert!(users.have_scram(), "there is no password without");
        let by = |texts: &[&str]| {
            let rules = texts.iter().map(|text| CertificateRule::parse(text).unwrap()).collect();
            users.by_certificate(&rules).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(by(&["email:d@a.test", "dns:x.test"]), ["d"]);
        assert_eq!(by(&["email:d@a.test", "dns:a.test"]), ["d", "e"]);
        assert_eq!(by(&["email:D@a.test", "subject:CN=a"]), [""; 0]);
    }

    #[test]
    fn a_name_that_nobody_has_is_measured_by_another() {
        let users = Users::parse(&(user("a", "") + &user("b", ""))).unwrap();
        let real = users.candidate("a");
        assert_eq!(real.account().map(|account| &*account.user.name), Some("a"));
        assert!(real.is_password(&Password::new("pencil")));
        assert!(!real.is_password(&Password::new("pen")));
        assert!(!real.refused().is_password(&Password::new("pencil")));
        let measured_by = |name: &str| {
            let candidate = users.candidate(name);
            assert!(candidate.account().is_none());
            assert!(!candidate.is_password(&Password::new("pencil")), "{name}");
            candidate.account.map(|account| account.user.name.clone()).unwrap()
        };
        assert_eq!(measured_by("x"), measured_by("x"), "always by the same");
        let all: BTreeSet<_> = (0..64).map(|number| measured_by(&number.to_string())).collect();
        assert_eq!(all.len(), 2);
        assert!(!Users::parse("").unwrap().candidate("a").is_password(&Password::new("pencil")));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, line, reason) in [
            ("x = 1\n".to_owned(), 1, "unknown field"),
            ("\n[user.a]\nfoo = 1\n".to_owned(), 3, "unknown field"),
            ("[user.a]\nargon2id = \"secret\"\n".to_owned(), 2, "not an argon2id hash"),
            (user("a", "rate = \"many\""), 3, "rate \"many\""),
            (user("a", "tenant = \"\""), 3, "tenant"),
            (user("a", "certificates = [\n\"x\"]"), 4, "sha256"),
            (user("a", "reverse_paths = [\n\"a.test\",\n\"@\"]"), 5, "\"@\" is no mailbox"),
            (user("a", "") + &user("\"b c\"", ""), 4, "white space"),
        ] {
            let error = Users::parse(&text).unwrap_err();
            assert_eq!(error.line(), line, "{text}: {error}");
            assert!(error.to_string().contains(reason), "{text}: {error}");
            assert!(!error.to_string().contains("\"secret\""), "{error}");
        }
    }

    #[test]
    fn a_file_for_everybody_to_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users.toml");
        fs::write(&path, user("a", "")).unwrap();
        for (mode, is_good) in [(0o600, true), (0o640, true), (0o644, false), (0o602, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Users::load(&path).is_ok(), is_good, "{mode:o}");
        }
        assert!(matches!(Users::load(directory.path()), Err(UsersError::Unreadable(_))));
    }
}
