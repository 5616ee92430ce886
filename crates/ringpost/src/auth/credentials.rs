//! Who we are at a smarthost: name and password, and how they are shown.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};
use ringpost_delivery::LoginProfile;
use ringpost_metrics::label::OutboundAuth;
use ringpost_protocol::{
    limits::AUTH_PASSWORD_MAX,
    sasl::{MechanismSet, PlainMessage},
};
use ringpost_session::client::{AuthProblem, AuthPrompt, ClientAuth};
use zeroize::Zeroizing;

use super::scram_client::{ScramClient, ScramSalt};
use super::users::{self, UsersError};
use super::verifier::ScramKeys;
use super::worker::PasswordChecker;
use crate::config::Network;

/// Octets of randomness in a nonce.
const NONCE_SIZE: usize = 18;

/// Keys that are kept of one password: for so many salts and rounds of servers. Beyond that the oldest is
/// forgotten, and made anew when it is asked for.
const KEYS_KEPT_MAX: usize = 8;

/// Addresses of which is known how the last login went. Of others failures are not told but in metrics and
/// events.
const ADDRESSES_KNOWN_MAX: usize = 64;

/// Why the password of a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordError {
    /// The file cannot be read, or others can get at it.
    #[error(transparent)]
    File(#[from] UsersError),
    /// What is in it is not a password.
    #[error(
        "not a password: one line of 1 to {AUTH_PASSWORD_MAX} octets, without control characters"
    )]
    Content,
}

/// A user name and a password of ours, and what may be done with them.
pub struct Credentials {
    name: Box<str>,
    password: Zeroizing<String>,
    mechanisms: MechanismSet,
    without_tls_to: Vec<Network>,
    profile: LoginProfile,
    keys: Mutex<VecDeque<(ScramSalt, Arc<ScramKeys>)>>,
    /// How the last login went, by address.
    told: Mutex<BTreeMap<SocketAddr, OutboundAuth>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Credentials").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Takes what a route says. `without_tls_to` is where PLAIN and LOGIN go without TLS.
    pub fn new(
        name: &str,
        password: Zeroizing<String>,
        mechanisms: MechanismSet,
        without_tls_to: &[Network],
    ) -> Self {
        // With fixed keys: the same in all runs, and on all cores.
        let mut hasher = DefaultHasher::new();
        (name, password.as_str()).hash(&mut hasher);
        mechanisms.hash(&mut hasher);
        for network in without_tls_to {
            format!("{network:?}").hash(&mut hasher);
        }
        Self {
            name: name.into(),
            password,
            mechanisms,
            without_tls_to: without_tls_to.to_vec(),
            profile: LoginProfile(hasher.finish()),
            keys: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// Reads a password: the one line of a file that nobody else may read.
    ///
    /// # Errors
    ///
    /// Others may, or there is no password in it.
    pub fn read_password(path: &Path) -> Result<Zeroizing<String>, PasswordError> {
        let text = Zeroizing::new(users::read(path)?);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        let is_good =
            (1..=AUTH_PASSWORD_MAX).contains(&line.len()) && !line.chars().any(char::is_control);
        if is_good { Ok(Zeroizing::new(line.to_owned())) } else { Err(PasswordError::Content) }
    }

    /// The number by which routes name them.
    pub fn profile(&self) -> LoginProfile {
        self.profile
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a session to an address makes of them.
    pub fn session(&self, address: IpAddr) -> ClientAuth {
        let without_tls = self.without_tls_to.iter().any(|network| network.contains(address));
        ClientAuth { mechanisms: self.mechanisms, without_tls }
    }

    /// The keys for a salt, if they are known.
    fn known(&self, salt: &ScramSalt) -> Option<Arc<ScramKeys>> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.iter().find(|(known, _)| known == salt).map(|(_, keys)| Arc::clone(keys))
    }

    /// The keys for a salt; to find them takes long. Never on a core that carries mail.
    pub(super) fn derive(&self, salt: &ScramSalt) -> Arc<ScramKeys> {
        // Several connections may have asked at once.
        if let Some(known) = self.known(salt) {
            return known;
        }
        let password = self.password.as_bytes();
        let made = Arc::new(ScramKeys::derive(password, salt.iterations, &salt.salt));
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= KEYS_KEPT_MAX {
            keys.pop_front();
        }
        keys.push_back((salt.clone(), Arc::clone(&made)));
        made
    }

    /// Notes how a login at an address went. Whether that is new: what stays as it is an operator is not told
    /// again.
    pub fn is_news(&self, address: SocketAddr, result: OutboundAuth) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if result == OutboundAuth::Success {
            return told.remove(&address).is_some();
        }
        if told.len() >= ADDRESSES_KNOWN_MAX && !told.contains_key(&address) {
            return false;
        }
        told.insert(address, result) != Some(result)
    }
}

/// A login under way, or still to come.
pub struct Login {
    /// `None` when a reload has taken them away since the connection was asked for.
    credentials: Option<Arc<Credentials>>,
    scram: Option<Box<ScramClient>>,
}

impl fmt::Debug for Login {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Login")
            .field("credentials", &self.credentials)
            .finish_non_exhaustive()
    }
}

impl Login {
    /// One with these credentials. Without any it fails.
    pub fn new(credentials: Option<Arc<Credentials>>) -> Self {
        Self { credentials, scram: None }
    }

    /// With what it is done.
    pub fn credentials(&self) -> Option<&Arc<Credentials>> {
        self.credentials.as_ref()
    }

    /// What a session to an address makes of it.
    pub fn session(&self, address: IpAddr) -> ClientAuth {
        let none = ClientAuth { mechanisms: MechanismSet::NONE, without_tls: false };
        self.credentials.as_ref().map_or(none, |credentials| credentials.session(address))
    }

    /// What is to be answered to the server. Keys that are not known are made by `passwords`.
    ///
    /// # Errors
    ///
    /// There is nothing to be answered, and why.
    pub async fn answer(
        &mut self,
        prompt: AuthPrompt,
        passwords: &PasswordChecker,
    ) -> Result<Zeroizing<Vec<u8>>, AuthProblem> {
        let credentials = self.credentials.clone().ok_or(AuthProblem::Unavailable)?;
        let (name, password) = (&*credentials.name, credentials.password.as_str());
        let mut answer = Zeroizing::new(Vec::new());
        match prompt {
            AuthPrompt::Plain => {
                PlainMessage { authorization: "", name, password }.write(&mut answer);
            }
            AuthPrompt::LoginName => answer.extend_from_slice(name.as_bytes()),
            AuthPrompt::LoginPassword => answer.extend_from_slice(password.as_bytes()),
            AuthPrompt::ScramFirst => {
                let mut random = [0; NONCE_SIZE];
                SystemRandom::new().fill(&mut random).map_err(|_| AuthProblem::Unavailable)?;
                let (scram, first) = ScramClient::begin(name, &STANDARD.encode(random));
                self.scram = Some(Box::new(scram));
                answer.extend_from_slice(first.as_bytes());
            }
            AuthPrompt::ScramProof(server_first) => {
                let scram = self.scram.as_deref_mut().ok_or(AuthProblem::Challenge)?;
                let salt = scram.salt(&server_first)?;
                let keys = if let Some(known) = credentials.known(&salt) {
                    known
                } else {
                    let made = passwords.derive(Arc::clone(&credentials), salt);
                    let made = made.map_err(|_| AuthProblem::Unavailable)?;
                    made.await.map_err(|_| AuthProblem::Unavailable)?
                };
                answer.extend_from_slice(scram.prove(&server_first, &keys)?.as_bytes());
            }
            AuthPrompt::ScramVerify(server_final) => {
                self.scram.take().ok_or(AuthProblem::Challenge)?.verify(&server_final)?;
            }
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use futures_lite::future::block_on;
    use ringpost_protocol::sasl::Mechanism;

    use super::*;

    fn credentials(name: &str, password: &str) -> Credentials {
        let mechanisms = MechanismSet::NONE.with(Mechanism::Plain);
        Credentials::new(name, Zeroizing::new(password.to_owned()), mechanisms, &[])
    }

    #[test]
    fn a_password_is_one_line_of_a_file_that_others_cannot_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let read = |content: &[u8], mode| {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Credentials::read_password(&path)
        };
        for good in [&b"se cret"[..], b"se cret\n", b"se cret\r\n"] {
            assert_eq!(*read(good, 0o640).unwrap(), "se cret");
        }
        assert_eq!(read("x".repeat(AUTH_PASSWORD_MAX).as_bytes(), 0o600).unwrap().len(), 1024);
        for bad in
            [&b""[..], b"\n", b"a\nb\n", b"a\0b", b"a\tb", &[b'x'; AUTH_PASSWORD_MAX + 1], b"a\n\n"]
        {
            assert!(matches!(read(bad, 0o600), Err(PasswordError::Content)), "{bad:?}");
        }
        assert!(matches!(read(b"\xff", 0o600), Err(PasswordError::File(_))));
        for mode in [0o644, 0o602] {
            let error = read(b"secret", mode).unwrap_err().to_string();
            assert!(error.contains("chmod o= ") && !error.contains("secret"), "{error}");
        }
        assert!(Credentials::read_password(directory.path()).is_err());
    }

    #[test]
    fn profiles_are_as_equal_as_credentials() {
        let profile = |name, password| credentials(name, password).profile();
        assert_eq!(profile("a", "b"), profile("a", "b"));
        assert_ne!(profile("a", "b"), profile("a", "c"));
        assert_ne!(profile("ab", "c"), profile("a", "bc"));
        let other = MechanismSet::NONE.with(Mechanism::Login);
        let other = Credentials::new("a", Zeroizing::new("b".into()), other, &[]);
        assert_ne!(other.profile(), profile("a", "b"));
        let network: Network = "10.0.0.0/8".parse().unwrap();
        let plain = MechanismSet::NONE.with(Mechanism::Plain);
        let trusting = Credentials::new("a", Zeroizing::new("b".into()), plain, &[network]);
        assert_ne!(trusting.profile(), profile("a", "b"));
        assert!(trusting.session([10, 1, 1, 1].into()).without_tls);
        assert!(!trusting.session([11, 1, 1, 1].into()).without_tls);
    }

    #[test]
    fn nothing_shows_the_password() {
        let shown = format!("{:?}", credentials("user", "secret"));
        assert!(shown.contains("user") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn keys_are_made_once_for_each_salt_and_few_are_kept() {
        let credentials = credentials("user", "pencil");
        let salt = |number: u8| ScramSalt {
            salt: Box::new([number; 16]),
            iterations: 4096.try_into().unwrap(),
        };
        assert!(credentials.known(&salt(0)).is_none());
        let first = credentials.derive(&salt(0));
        assert!(Arc::ptr_eq(&first, &credentials.derive(&salt(0))));
        assert!(Arc::ptr_eq(&first, &credentials.known(&salt(0)).unwrap()));
        let more = ScramSalt { iterations: 4097.try_into().unwrap(), ..salt(0) };
        assert!(credentials.known(&more).is_none(), "rounds are a part of it");
        for number in 1..=u8::try_from(KEYS_KEPT_MAX).unwrap() {
            credentials.derive(&salt(number));
        }
        assert!(credentials.known(&salt(0)).is_none(), "the oldest makes room");
        assert_eq!(credentials.keys.lock().unwrap().len(), KEYS_KEPT_MAX);
    }

    #[test]
    fn operators_are_told_of_changes_only() {
        let credentials = credentials("user", "x");
        let one = SocketAddr::from(([192, 0, 2, 1], 25));
        let other = SocketAddr::from(([192, 0, 2, 1], 587));
        let table = [
            (one, OutboundAuth::Success, false),
            (one, OutboundAuth::Refused, true),
            (one, OutboundAuth::Refused, false),
            (other, OutboundAuth::Success, false),
            (other, OutboundAuth::Refused, true),
            (one, OutboundAuth::Temporary, true),
            (one, OutboundAuth::Success, true),
            (one, OutboundAuth::Success, false),
            (one, OutboundAuth::Refused, true),
        ];
        for (at, (address, result, expected)) in table.into_iter().enumerate() {
            assert_eq!(credentials.is_news(address, result), expected, "{at}");
        }
        for number in 0..200 {
            credentials.is_news(([198, 51, 100, number], 25).into(), OutboundAuth::Refused);
        }
        assert_eq!(credentials.told.lock().unwrap().len(), ADDRESSES_KNOWN_MAX);
    }

    fn ask(login: &mut Login, prompt: AuthPrompt) -> Result<String, AuthProblem> {
        let answer = block_on(login.answer(prompt, &PasswordChecker::inline()))?;
        Ok(String::from_utf8(answer.to_vec()).unwrap())
    }

    #[test]
    fn each_prompt_has_its_answer() {
        let mut login = Login::new(Some(Arc::new(credentials("us=er", "pencil"))));
        assert_eq!(ask(&mut login, AuthPrompt::Plain).unwrap(), "\0us=er\0pencil");
        assert_eq!(ask(&mut login, AuthPrompt::LoginName).unwrap(), "us=er");
        assert_eq!(ask(&mut login, AuthPrompt::LoginPassword).unwrap(), "pencil");
        let proof = |nonce: &str| {
            let text = format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
            AuthPrompt::ScramProof(text.into_bytes().into())
        };
        assert_eq!(ask(&mut login, proof("x")), Err(AuthProblem::Challenge), "not begun");
        let first = ask(&mut login, AuthPrompt::ScramFirst).unwrap();
        let nonce = first.strip_prefix("n,,n=us=3Der,r=").unwrap();
        assert_eq!(nonce.len(), 24);
        assert_eq!(ask(&mut login, proof("x")), Err(AuthProblem::Challenge));
        let last = ask(&mut login, proof(&format!("{nonce}more"))).unwrap();
        assert!(last.starts_with(&format!("c=biws,r={nonce}more,p=")), "{last}");
        let verify = || AuthPrompt::ScramVerify(Box::new(*b"v=AAAA"));
        assert_eq!(ask(&mut login, verify()), Err(AuthProblem::NotProven));
        assert_eq!(ask(&mut login, verify()), Err(AuthProblem::Challenge), "it is over");
        let mut missing = Login::new(None);
        assert_eq!(ask(&mut missing, AuthPrompt::Plain), Err(AuthProblem::Unavailable));
        assert!(missing.session([127, 0, 0, 1].into()).mechanisms.is_empty());
    }

    #[test]
    fn keys_are_made_by_the_thread_of_passwords() {
        let passwords = PasswordChecker::start(1).unwrap();
        let mut login = Login::new(Some(Arc::new(credentials("user", "pencil"))));
        let first = block_on(login.answer(AuthPrompt::ScramFirst, &passwords)).unwrap();
        let nonce = String::from_utf8(first.to_vec()).unwrap();
        let nonce = nonce.rsplit_once("r=").unwrap().1.to_owned();
        let text = format!("r={nonce}x,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        let prompt = AuthPrompt::ScramProof(text.into_bytes().into());
        let last = block_on(login.answer(prompt, &passwords)).unwrap();
        assert!(last.starts_with(b"c=biws,r="));
        assert_eq!(login.credentials().unwrap().keys.lock().unwrap().len(), 1);
    }
}
