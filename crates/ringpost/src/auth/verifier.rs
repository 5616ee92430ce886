//! What is known of a password instead of the password.

use std::fmt;
use std::num::NonZeroU32;

use argon2::password_hash::{PasswordHash, SaltString};
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{digest, hmac, pbkdf2};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// Rounds of PBKDF2 in a new SCRAM verifier. The client has to make them at each login, which bounds what
/// can be asked of it.
pub const SCRAM_ITERATIONS: u32 = 20_000;

/// Fewest rounds of PBKDF2 (RFC 7677 §4), and most, for the sake of clients and of our own time.
pub(super) const SCRAM_ITERATIONS_RANGE: std::ops::RangeInclusive<u32> = 4096..=1_000_000;

/// Most memory for one argon2id, in KiB: what a check takes of ours.
const ARGON2_MEMORY_KIB_MAX: u32 = 256 * 1024;

/// Most passes and lanes of one argon2id.
const ARGON2_PASSES_MAX: u32 = 16;

/// Octets of a salt: those of a new one, and the fewest and most that are taken.
const SALT_SIZE: usize = 16;
const SALT_SIZE_RANGE: std::ops::RangeInclusive<usize> = 8..=64;

/// The first word of a SCRAM verifier.
const SCRAM_SHA_256: &str = "SCRAM-SHA-256";

/// Octets of a key.
const KEY_SIZE: usize = 32;

/// Why a verifier cannot be used, for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifierError {
    /// Not the text of an argon2id hash.
    #[error("not an argon2id hash as `ringpost user add` writes it")]
    Argon2,
    /// It would take too much of the machine at each login.
    #[error("an argon2id hash that asks for too much: at most m=262144, t=16 and p=16")]
    Argon2Cost,
    /// Not the text of a SCRAM verifier.
    #[error("not SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY")]
    Scram,
    /// Too few iterations to be safe, or too many to wait for.
    #[error("iterations must be from 4096 to 1000000")]
    Iterations,
    /// The machine has no randomness, or no memory.
    #[error("the machine could not do it")]
    Machine,
}

/// What a password comes to with a salt (RFC 5802 §3). With the first of the keys one can log in without
/// the password.
pub(crate) struct ScramKeys {
    pub(crate) client: Zeroizing<[u8; KEY_SIZE]>,
    pub(crate) stored: [u8; KEY_SIZE],
    pub(crate) server: [u8; KEY_SIZE],
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ScramKeys").finish_non_exhaustive()
    }
}

impl ScramKeys {
    /// It is made to take long: never on a core that carries mail.
    pub(crate) fn derive(password: &[u8], iterations: NonZeroU32, salt: &[u8]) -> Self {
        let mut salted = Zeroizing::new([0; KEY_SIZE]);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password, &mut *salted);
        let salted = hmac::Key::new(hmac::HMAC_SHA256, &*salted);
        let client = Zeroizing::new(key_of(hmac::sign(&salted, b"Client Key").as_ref()));
        let stored = key_of(digest::digest(&digest::SHA256, &*client).as_ref());
        let server = key_of(hmac::sign(&salted, b"Server Key").as_ref());
        Self { client, stored, server }
    }
}

/// What SCRAM-SHA-256 knows of a password (RFC 5802 §3, RFC 7677).
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    /// Rounds of PBKDF2.
    pub(crate) iterations: NonZeroU32,
    pub(crate) salt: Box<[u8]>,
    pub(crate) stored_key: [u8; KEY_SIZE],
    pub(crate) server_key: [u8; KEY_SIZE],
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ScramVerifier").finish_non_exhaustive()
    }
}

impl ScramVerifier {
    /// Makes one of a password, with a salt of its own.
    ///
    /// # Errors
    ///
    /// [`VerifierError::Machine`] without randomness.
    pub fn new(password: &[u8]) -> Result<Self, VerifierError> {
        let mut salt = [0; SALT_SIZE];
        SystemRandom::new().fill(&mut salt).map_err(|_| VerifierError::Machine)?;
        let iterations = NonZeroU32::new(SCRAM_ITERATIONS).ok_or(VerifierError::Iterations)?;
        Ok(Self::derive(password, iterations, &salt))
    }

    /// Makes one of a password, a salt and a number of rounds.
    pub(crate) fn derive(password: &[u8], iterations: NonZeroU32, salt: &[u8]) -> Self {
        let keys = ScramKeys::derive(password, iterations, salt);
        let (stored_key, server_key) = (keys.stored, keys.server);
        Self { iterations, salt: salt.into(), stored_key, server_key }
    }

    /// One that nothing fits, with a salt that is a part of `seed`; like others in rounds and size of salt.
    pub(super) fn impossible(like: Option<(NonZeroU32, usize)>, seed: &[u8]) -> Self {
        let usual = NonZeroU32::new(SCRAM_ITERATIONS).unwrap_or(NonZeroU32::MIN);
        let (iterations, salt_size) = like.unwrap_or((usual, SALT_SIZE));
        let salt: Box<[u8]> = seed.iter().copied().cycle().take(salt_size).collect();
        // Nobody knows what these are the hash of.
        let key = key_of(digest::digest(&digest::SHA256, seed).as_ref());
        Self { iterations, salt, stored_key: key, server_key: key }
    }

    /// Reads `SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY`, with base64 in it.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, VerifierError> {
        let parts = text.strip_prefix(SCRAM_SHA_256).and_then(|rest| {
            let (cost, keys) = rest.strip_prefix('$')?.split_once('$')?;
            Some((cost.split_once(':')?, keys.split_once(':')?))
        });
        let ((iterations, salt), (stored_key, server_key)) = parts.ok_or(VerifierError::Scram)?;
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| VerifierError::Scram);
        let key = |text: &str| decode(text)?.try_into().map_err(|_| VerifierError::Scram);
        let iterations: u32 = iterations.parse().map_err(|_| VerifierError::Scram)?;
        if !SCRAM_ITERATIONS_RANGE.contains(&iterations) {
            return Err(VerifierError::Iterations);
        }
        let salt = decode(salt)?;
        if !SALT_SIZE_RANGE.contains(&salt.len()) {
            return Err(VerifierError::Scram);
        }
        Ok(Self {
            iterations: NonZeroU32::new(iterations).ok_or(VerifierError::Iterations)?,
            salt: salt.into(),
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }

    /// Whether this is the password; takes as long for every answer.
    pub fn is_password(&self, password: &[u8]) -> bool {
        let found = Self::derive(password, self.iterations, &self.salt);
        found.stored_key.ct_eq(&self.stored_key).into()
    }
}

impl fmt::Display for ScramVerifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{SCRAM_SHA_256}${}:{}${}:{}",
            self.iterations,
            STANDARD.encode(&self.salt),
            STANDARD.encode(self.stored_key),
            STANDARD.encode(self.server_key)
        )
    }
}

fn key_of(octets: &[u8]) -> [u8; KEY_SIZE] {
    octets.try_into().unwrap_or([0; KEY_SIZE])
}

/// The text of an argon2id hash (PHC string format), which has been checked.
#[derive(Clone, PartialEq, Eq)]
pub struct Argon2Verifier(Box<str>);

impl fmt::Debug for Argon2Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Argon2Verifier")
    }
}

impl Argon2Verifier {
    /// Makes one of a password, with a salt of its own: 19 MiB, two passes, one lane.
    ///
    /// # Errors
    ///
    /// [`VerifierError::Machine`] without randomness or memory.
    pub fn new(password: &[u8]) -> Result<Self, VerifierError> {
        let mut salt = [0; SALT_SIZE];
        SystemRandom::new().fill(&mut salt).map_err(|_| VerifierError::Machine)?;
        let salt = SaltString::encode_b64(&salt).map_err(|_| VerifierError::Machine)?;
        let hash = Argon2::default().hash_password(password, &salt);
        Ok(Self(hash.map_err(|_| VerifierError::Machine)?.to_string().into()))
    }

    /// Reads the text of one.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, VerifierError> {
        let hash = PasswordHash::new(text).map_err(|_| VerifierError::Argon2)?;
        let is_argon2id = Algorithm::try_from(hash.algorithm) == Ok(Algorithm::Argon2id)
            && hash.version == Some(Version::V0x13.into());
        let params = Params::try_from(&hash).map_err(|_| VerifierError::Argon2)?;
        if !is_argon2id || hash.salt.is_none() || hash.hash.is_none() {
            return Err(VerifierError::Argon2);
        }
        let is_cheap = params.m_cost() <= ARGON2_MEMORY_KIB_MAX
            && params.t_cost().max(params.p_cost()) <= ARGON2_PASSES_MAX;
        if !is_cheap {
            return Err(VerifierError::Argon2Cost);
        }
        Ok(Self(text.into()))
    }

    /// Whether this is the password.
    pub fn is_password(&self, password: &[u8]) -> bool {
        let hash = PasswordHash::new(&self.0);
        hash.is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
    }
}

impl fmt::Display for Argon2Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What is known of a user's password: one of them, or both. With none there is no password.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verifiers {
    /// For PLAIN and LOGIN.
    pub argon2id: Option<Argon2Verifier>,
    /// For the mechanisms of SCRAM, and for PLAIN and LOGIN where there is no other.
    pub scram: Option<ScramVerifier>,
}

impl Verifiers {
    /// Whether this is the password. It is made to take long: never on a core that carries mail.
    pub fn is_password(&self, password: &[u8]) -> bool {
        match (&self.argon2id, &self.scram) {
            (Some(argon2id), _) => argon2id.is_password(password),
            (None, Some(scram)) => scram.is_password(password),
            (None, None) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677 §3: the password of the example is `pencil`.
    #[test]
    fn keys_are_those_of_the_example() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = ScramVerifier::derive(b"pencil", NonZeroU32::new(4096).unwrap(), &salt);
        let text = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                    WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                    wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        assert_eq!(verifier.to_string(), text);
        assert_eq!(ScramVerifier::parse(text), Ok(verifier.clone()));
        assert!(verifier.is_password(b"pencil") && !verifier.is_password(b"pencils"));
    }

    #[test]
    fn what_is_made_is_read_and_knows_its_password() {
        let scram = ScramVerifier::new(b"secret").unwrap();
        let argon2id = Argon2Verifier::new(b"secret").unwrap();
        assert_ne!(scram, ScramVerifier::new(b"secret").unwrap(), "salts differ");
        assert_ne!(argon2id, Argon2Verifier::new(b"secret").unwrap(), "salts differ");
        let (scram, argon2id) = (scram.to_string(), argon2id.to_string());
        assert!(argon2id.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{argon2id}");
        let scram = Some(ScramVerifier::parse(&scram).unwrap());
        let argon2id = Some(Argon2Verifier::parse(&argon2id).unwrap());
        for verifiers in [
            Verifiers { scram: scram.clone(), argon2id: None },
            Verifiers { scram: None, argon2id: argon2id.clone() },
            Verifiers { argon2id, scram },
        ] {
            assert!(verifiers.is_password(b"secret"));
            for wrong in [&b"Secret"[..], b"", b"secret "] {
                assert!(!verifiers.is_password(wrong));
            }
            let shown = format!("{verifiers:?}");
            assert!(!shown.contains('$'), "{shown}");
        }
        assert!(!Verifiers::default().is_password(b""));
    }

    #[test]
    fn what_is_no_verifier_is_refused() {
        let keys = "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                    wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        for (text, expected) in [
            (
                format!("SCRAM-SHA-256$4095:W22ZaJ0SNY7soEsUEjb6gQ==${keys}"),
                VerifierError::Iterations,
            ),
            (
                format!("SCRAM-SHA-256$1000001:W22ZaJ0SNY7soEsUEjb6gQ==${keys}"),
                VerifierError::Iterations,
            ),
            (format!("SCRAM-SHA-256$4096:W22ZaA==${keys}"), VerifierError::Scram),
            (format!("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==${keys}A"), VerifierError::Scram),
            (format!("SCRAM-SHA-1$4096:W22ZaJ0SNY7soEsUEjb6gQ==${keys}"), VerifierError::Scram),
            ("SCRAM-SHA-256$4096".to_owned(), VerifierError::Scram),
        ] {
            assert_eq!(ScramVerifier::parse(&text), Err(expected), "{text}");
        }
        let good = Argon2Verifier::new(b"x").unwrap().to_string();
        for (from, to, expected) in [
            ("argon2id", "argon2i", VerifierError::Argon2),
            ("v=19", "v=16", VerifierError::Argon2),
            ("m=19456", "m=262145", VerifierError::Argon2Cost),
            ("t=2", "t=17", VerifierError::Argon2Cost),
        ] {
            let text = good.replace(from, to);
            assert_eq!(Argon2Verifier::parse(&text), Err(expected), "{text}");
        }
        let cut = good.rsplit_once('$').unwrap().0;
        for text in ["", "secret", "{PLAIN}secret", "$2y$05$abc", cut] {
            assert_eq!(Argon2Verifier::parse(text), Err(VerifierError::Argon2), "{text}");
        }
    }
}
