//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's part: what a client says against a verifier.
//!
//! It costs a few hashes and is done where it is asked; the long work is the client's.

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{digest, hmac};
use ringpost_protocol::sasl::{ScramClientFinal, ScramClientFirst};
use ringpost_session::server::AuthRefusal;
use subtle::ConstantTimeEq as _;

use super::users::{Account, Users};
use super::verifier::ScramVerifier;

/// Octets of randomness in our part of the nonce.
const NONCE_SIZE: usize = 18;

/// Why a client is not who it says, and who that is, if there is such a user.
pub type ScramRefusal = (AuthRefusal, Option<Arc<Account>>);

/// An exchange after the client's first message.
#[derive(Debug)]
pub struct ScramExchange {
    /// `None` for a name that nobody has, and for a user without a verifier: no proof is good then.
    account: Option<Arc<Account>>,
    verifier: ScramVerifier,
    header: Box<str>,
    nonce: Box<str>,
    /// What both ends have said so far, without what is not signed.
    messages: String,
}

impl ScramExchange {
    /// Takes the first message of a client; what is to be answered comes with the exchange.
    ///
    /// # Errors
    ///
    /// It is malformed, or there is no randomness.
    pub fn begin(users: &Users, message: &[u8]) -> Result<(Self, String), AuthRefusal> {
        let mut random = [0; NONCE_SIZE];
        SystemRandom::new().fill(&mut random).map_err(|_| AuthRefusal::Unavailable)?;
        Self::begin_with(users, message, &STANDARD.encode(random))
    }

    fn begin_with(
        users: &Users,
        message: &[u8],
        own_nonce: &str,
    ) -> Result<(Self, String), AuthRefusal> {
        let first = ScramClientFirst::parse(message).ok_or(AuthRefusal::Malformed)?;
        let is_itself = first.authorization.as_ref().is_none_or(|it| *it == first.name);
        let (account, verifier) = users.scram(&first.name);
        let account = account.filter(|_| is_itself);
        let nonce = format!("{}{own_nonce}", first.nonce);
        let salt = STANDARD.encode(&verifier.salt);
        let answer = format!("r={nonce},s={salt},i={}", verifier.iterations);
        let mut messages = String::from(first.bare);
        // Writing to a string cannot fail.
        let _ = write!(messages, ",{answer},");
        let exchange =
            Self { account, verifier, header: first.header.into(), nonce: nonce.into(), messages };
        Ok((exchange, answer))
    }

    /// Takes the last message of a client; says who it is, and what shows to it that we know.
    ///
    /// # Errors
    ///
    /// It is malformed, or its proof is none.
    pub fn finish(self, message: &[u8]) -> Result<(Arc<Account>, String), ScramRefusal> {
        let Self { account, verifier, header, nonce, mut messages } = self;
        let Some(last) = ScramClientFinal::parse(message) else {
            return Err((AuthRefusal::Malformed, account));
        };
        messages.push_str(last.without_proof);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &verifier.stored_key);
        let signature = hmac::sign(&key, messages.as_bytes());
        let client_key: Vec<u8> =
            last.proof.iter().zip(signature.as_ref()).map(|(proof, it)| proof ^ it).collect();
        let stored_key = digest::digest(&digest::SHA256, &client_key);
        let is_proven = bool::from(stored_key.as_ref().ct_eq(&verifier.stored_key))
            && last.proof.len() == signature.as_ref().len()
            && last.nonce == &*nonce
            && last.channel_binding == header.as_bytes();
        match account {
            Some(account) if is_proven => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, &verifier.server_key);
                let signature = hmac::sign(&key, messages.as_bytes());
                Ok((account, format!("v={}", STANDARD.encode(signature))))
            }
            account => Err((AuthRefusal::Credentials, account)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verifier of `pencil` in RFC 7677 §3.
    const USERS: &str = "[user.user]\nscram_sha_256 = \"SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                         WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                         wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=\"\n";

    const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const OWN_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const LAST: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn begin(first: &str) -> (ScramExchange, String) {
        let users = Users::parse(USERS).unwrap();
        ScramExchange::begin_with(&users, first.as_bytes(), OWN_NONCE).unwrap()
    }

    /// RFC 7677 §3, from end to end.
    #[test]
    fn the_example_is_played() {
        let (exchange, answer) = begin(FIRST);
        let expected = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        assert_eq!(answer, expected);
        let (account, answer) = exchange.finish(LAST.as_bytes()).unwrap();
        assert_eq!(&*account.user.name, "user");
        assert_eq!(answer, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn anything_else_is_refused() {
        let proof = "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        for (first, last, expected) in [
            // A proof of something else, none, one that is too long.
            (FIRST, LAST.replace("dHzb", "dHzc"), AuthRefusal::Credentials),
            (FIRST, LAST.replace(proof, "p="), AuthRefusal::Credentials),
            (FIRST, LAST.replace("VQ=", "VQA"), AuthRefusal::Credentials),
            // Of another exchange.
            (FIRST, LAST.replace("F$k0", "F$k1"), AuthRefusal::Credentials),
            // Another header than at first: somebody has been at it.
            (FIRST, LAST.replace("biws", "eSws"), AuthRefusal::Credentials),
            // Another user, and the same under another name.
            ("n,,n=users,r=rOprNGfwEbeRWgbNEkqO", LAST.to_owned(), AuthRefusal::Credentials),
            ("n,a=boss,n=user,r=rOprNGfwEbeRWgbNEkqO", LAST.to_owned(), AuthRefusal::Credentials),
            (FIRST, "c=biws".to_owned(), AuthRefusal::Malformed),
        ] {
            let refused = begin(first).0.finish(last.as_bytes()).map(drop);
            assert_eq!(refused.map_err(|(refusal, _)| refusal), Err(expected), "{first} {last}");
        }
        let users = Users::parse(USERS).unwrap();
        let malformed = ScramExchange::begin(&users, b"n,,n=user").map(drop);
        assert_eq!(malformed, Err(AuthRefusal::Malformed));
    }

    /// Nobody learns by the answer whether there is such a user.
    #[test]
    fn a_name_that_nobody_has_gets_a_salt_of_its_own() {
        let users = Users::parse(USERS).unwrap();
        let answer = |name: &str| {
            let first = format!("n,,n={name},r=x");
            let (_, answer) = ScramExchange::begin_with(&users, first.as_bytes(), "y").unwrap();
            answer
        };
        assert_eq!(answer("nobody"), answer("nobody"));
        assert_ne!(answer("nobody"), answer("somebody"));
        assert_eq!(answer("nobody").len(), answer("user").len());
        assert!(answer("nobody").ends_with(",i=4096"), "as the users have it");
        let nonce = || ScramExchange::begin(&users, FIRST.as_bytes()).unwrap().1;
        assert_ne!(nonce(), nonce());
    }
}
