//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677), the server's part: what a client says against a verifier.
//!
//! It costs a few hashes and is done where it is asked; the long work is the client's.

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{digest, hmac};
use ringpost_protocol::sasl::{ScramBinding, ScramClientFinal, ScramClientFirst};
use ringpost_session::server::AuthRefusal;
use subtle::ConstantTimeEq as _;

use super::channel::Channel;
use super::users::{Account, Users};
use super::verifier::ScramVerifier;

/// Octets of randomness in our part of the nonce.
const NONCE_SIZE: usize = 18;

/// What a client can make of channel binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// Nothing: it is not offered on this connection.
    Unavailable,
    /// It could have chosen it, and has chosen the mechanism without.
    Declined,
    /// It has chosen the mechanism with it, on this channel.
    To(Channel),
}

/// Why a client is not who it says, and who that is, if there is such a user.
pub type ScramRefusal = (AuthRefusal, Option<Arc<Account>>);

/// An exchange after the client's first message.
#[derive(Debug)]
pub struct ScramExchange {
    /// `None` for a name that nobody has, and for a user without a verifier: no proof is good then.
    account: Option<Arc<Account>>,
    verifier: ScramVerifier,
    /// What the client has to say again: its header, and what its channel is bound to.
    bound: Box<[u8]>,
    nonce: Box<str>,
    /// What both ends have said so far, without what is not signed.
    messages: String,
}

impl ScramExchange {
    /// Takes the first message of a client; what is to be answered comes with the exchange.
    ///
    /// # Errors
    ///
    /// It is malformed, it does not fit the mechanism, or there is no randomness.
    pub fn begin(
        users: &Users,
        message: &[u8],
        binding: &Binding,
    ) -> Result<(Self, String), AuthRefusal> {
        let mut random = [0; NONCE_SIZE];
        SystemRandom::new().fill(&mut random).map_err(|_| AuthRefusal::Unavailable)?;
        Self::begin_with(users, message, binding, &STANDARD.encode(random))
    }

    fn begin_with(
        users: &Users,
        message: &[u8],
        binding: &Binding,
        own_nonce: &str,
    ) -> Result<(Self, String), AuthRefusal> {
        let first = ScramClientFirst::parse(message).ok_or(AuthRefusal::Malformed)?;
        let bound = bound(&first, binding)?;
        let is_itself = first.authorization.as_ref().is_none_or(|it| *it == first.name);
        let (account, verifier) = users.scram(&first.name);
        let account = account.filter(|_| is_itself);
        let nonce = format!("{}{own_nonce}", first.nonce);
        let salt = STANDARD.encode(&verifier.salt);
        let answer = format!("r={nonce},s={salt},i={}", verifier.iterations);
        let mut messages = String::from(first.bare);
        // Writing to a string cannot fail.
        let _ = write!(messages, ",{answer},");
        let exchange = Self { account, verifier, bound, nonce: nonce.into(), messages };
        Ok((exchange, answer))
    }

    /// Takes the last message of a client; says who it is, and what shows to it that we know.
    ///
    /// # Errors
    ///
    /// It is malformed, its proof is none, or it is bound to another channel.
    pub fn finish(self, message: &[u8]) -> Result<(Arc<Account>, String), ScramRefusal> {
        let Self { account, verifier, bound, nonce, mut messages } = self;
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
            && last.nonce == &*nonce;
        match account {
            Some(account) if is_proven && last.channel_binding != *bound => {
                // Somebody who has the password speaks over another channel: there is one in between.
                Err((AuthRefusal::Binding, Some(account)))
            }
            Some(account) if is_proven => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, &verifier.server_key);
                let signature = hmac::sign(&key, messages.as_bytes());
                Ok((account, format!("v={}", STANDARD.encode(signature))))
            }
            account => Err((AuthRefusal::Credentials, account)),
        }
    }
}

/// What the client has to repeat at the end, if what it says of channel binding can be (RFC 5802 §6).
fn bound(first: &ScramClientFirst<'_>, binding: &Binding) -> Result<Box<[u8]>, AuthRefusal> {
    let header = first.header.as_bytes();
    match (first.binding, binding) {
        (ScramBinding::Type(name), Binding::To(channel)) => {
            let data = channel.binding(name).ok_or(AuthRefusal::Binding)?;
            Ok([header, data].concat().into())
        }
        // It thinks that we cannot, and we have said that we can: somebody has changed our words.
        (ScramBinding::NotOffered, Binding::Declined) => Err(AuthRefusal::Binding),
        (ScramBinding::Type(_), _) | (_, Binding::To(_)) => Err(AuthRefusal::Malformed),
        (_, Binding::Unavailable | Binding::Declined) => Ok(header.into()),
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
        let binding = &Binding::Unavailable;
        ScramExchange::begin_with(&users, first.as_bytes(), binding, OWN_NONCE).unwrap()
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
        let malformed = ScramExchange::begin(&users, b"n,,n=user", &Binding::Unavailable).map(drop);
        assert_eq!(malformed, Err(AuthRefusal::Malformed));
    }

    /// Nobody learns by the answer whether there is such a user.
    #[test]
    fn a_name_that_nobody_has_gets_a_salt_of_its_own() {
        let users = Users::parse(USERS).unwrap();
        let answer = |name: &str| {
            let first = format!("n,,n={name},r=x");
            let binding = &Binding::Unavailable;
            ScramExchange::begin_with(&users, first.as_bytes(), binding, "y").unwrap().1
        };
        assert_eq!(answer("nobody"), answer("nobody"));
        assert_ne!(answer("nobody"), answer("somebody"));
        assert_eq!(answer("nobody").len(), answer("user").len());
        assert!(answer("nobody").ends_with(",i=4096"), "as the users have it");
        let nonce =
            || ScramExchange::begin(&users, FIRST.as_bytes(), &Binding::Unavailable).unwrap().1;
        assert_ne!(nonce(), nonce());
    }

    /// What a client says at the end that has the password, whose channel is bound to `data`.
    fn last(first: &str, answer: &str, data: &[u8]) -> String {
        let parsed = ScramClientFirst::parse(first.as_bytes()).unwrap();
        let bound = STANDARD.encode([parsed.header.as_bytes(), data].concat());
        let nonce = answer.strip_prefix("r=").unwrap().split(',').next().unwrap();
        let without_proof = format!("c={bound},r={nonce}");
        let signed = format!("{},{answer},{without_proof}", parsed.bare);
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let mut salted = [0; 32];
        let rounds = 4096.try_into().unwrap();
        ring::pbkdf2::derive(
            ring::pbkdf2::PBKDF2_HMAC_SHA256,
            rounds,
            &salt,
            b"pencil",
            &mut salted,
        );
        let hmac = |key: &[u8], text: &[u8]| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
        };
        let client_key = hmac(&salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, &client_key);
        let signature = hmac(stored_key.as_ref(), signed.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        format!("{without_proof},p={}", STANDARD.encode(proof))
    }

    /// Who is bound to this channel gets in, and who to another does not, password or not.
    #[test]
    fn a_client_is_bound_to_its_channel() {
        let users = Users::parse(USERS).unwrap();
        let channel = Channel { exporter: Some([7; 32]), end_point: Some([9; 48].into()) };
        let play = |name: &str, data: &[u8]| {
            let first = format!("p={name},,n=user,r=x");
            let binding = Binding::To(channel.clone());
            let (exchange, answer) = ScramExchange::begin(&users, first.as_bytes(), &binding)?;
            let finished = exchange.finish(last(&first, &answer, data).as_bytes());
            finished.map(|(account, _)| account.user.name.clone()).map_err(|(refusal, _)| refusal)
        };
        assert_eq!(play("tls-exporter", &[7; 32]).as_deref(), Ok("user"));
        assert_eq!(play("tls-server-end-point", &[9; 48]).as_deref(), Ok("user"));
        for (name, data) in [
            ("tls-exporter", &[8; 32][..]),
            ("tls-exporter", &[9; 48]),
            ("tls-exporter", &[]),
            ("tls-server-end-point", &[7; 32]),
            // We do not have it, whatever it is.
            ("tls-unique", &[7; 32]),
            ("tls-unique", &[]),
        ] {
            assert_eq!(play(name, data), Err(AuthRefusal::Binding), "{name} {data:?}");
        }
    }

    /// Nobody in between can talk the client out of it (RFC 5802 §6).
    #[test]
    fn a_binding_that_is_hidden_or_out_of_place_is_refused() {
        let users = Users::parse(USERS).unwrap();
        let channel = || Binding::To(Channel { exporter: Some([7; 32]), end_point: None });
        for (flag, binding, expected) in [
            ("n", Binding::Unavailable, Ok(())),
            ("y", Binding::Unavailable, Ok(())),
            ("n", Binding::Declined, Ok(())),
            ("y", Binding::Declined, Err(AuthRefusal::Binding)),
            ("p=tls-exporter", Binding::Unavailable, Err(AuthRefusal::Malformed)),
            ("p=tls-exporter", Binding::Declined, Err(AuthRefusal::Malformed)),
            ("p=tls-exporter", channel(), Ok(())),
            ("p=tls-server-end-point", channel(), Err(AuthRefusal::Binding)),
            ("n", channel(), Err(AuthRefusal::Malformed)),
            ("y", channel(), Err(AuthRefusal::Malformed)),
        ] {
            let first = format!("{flag},,n=user,r=x");
            let begun = ScramExchange::begin(&users, first.as_bytes(), &binding).map(drop);
            assert_eq!(begun, expected, "{flag} {binding:?}");
        }
    }
}
