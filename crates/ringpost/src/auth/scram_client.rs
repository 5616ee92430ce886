//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the client's part: it shows that it knows the password, and sees
//! whether the server does.
//!
//! Without channel binding, and it says so (`n`). The nonce and the keys come from outside: nothing here
//! takes long.

use std::fmt::Write as _;
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ringpost_protocol::sasl::{ScramServerFinal, ScramServerFirst, write_sasl_name};
use ringpost_session::client::AuthProblem;
use subtle::ConstantTimeEq as _;

use super::verifier::{SCRAM_ITERATIONS_RANGE, ScramKeys};

/// The gs2-header: no channel binding, and nobody but the user itself. And the same in base64.
const HEADER: &str = "n,,";
const HEADER_BASE64: &str = "biws";

/// With what a server mixes the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScramSalt {
    /// 1 to 1024 octets.
    pub(crate) salt: Box<[u8]>,
    /// Rounds of PBKDF2: 4096 to 1,000,000.
    pub(crate) iterations: NonZeroU32,
}

/// An exchange, from our first message on.
pub(crate) struct ScramClient {
    nonce: Box<str>,
    /// What both ends have said so far, without what is not signed.
    messages: String,
    /// What the server has to sign.
    expected: Option<hmac::Tag>,
}

impl ScramClient {
    /// Begins one for a user; the nonce is printable, without commas, and never used twice. Returns what is
    /// to be said.
    pub(crate) fn begin(name: &str, nonce: &str) -> (Self, String) {
        let mut messages = String::from("n=");
        write_sasl_name(name, &mut messages);
        // Writing to a string cannot fail.
        let _ = write!(messages, ",r={nonce}");
        let first = format!("{HEADER}{messages}");
        (Self { nonce: nonce.into(), messages, expected: None }, first)
    }

    /// Takes the first message of the server: what the password is to be mixed with.
    ///
    /// # Errors
    ///
    /// It is malformed, not an answer to us, or asks for too many or too few rounds.
    pub(crate) fn salt(&self, server_first: &[u8]) -> Result<ScramSalt, AuthProblem> {
        let first = ScramServerFirst::parse(server_first).ok_or(AuthProblem::Challenge)?;
        let own = first.nonce.strip_prefix(&*self.nonce);
        // RFC 5802 §5.1: it has to add something of its own.
        if own.is_none_or(str::is_empty) {
            return Err(AuthProblem::Challenge);
        }
        let iterations = NonZeroU32::new(first.iterations)
            .filter(|count| SCRAM_ITERATIONS_RANGE.contains(&count.get()))
            .ok_or(AuthProblem::Iterations(first.iterations))?;
        Ok(ScramSalt { salt: first.salt.into(), iterations })
    }

    /// Proves that we know the password; `keys` are what it comes to with the salt of this message.
    ///
    /// # Errors
    ///
    /// The message is malformed.
    pub(crate) fn prove(
        &mut self,
        server_first: &[u8],
        keys: &ScramKeys,
    ) -> Result<String, AuthProblem> {
        let first = ScramServerFirst::parse(server_first).ok_or(AuthProblem::Challenge)?;
        let text = str::from_utf8(server_first).map_err(|_| AuthProblem::Challenge)?;
        let mut last = format!("c={HEADER_BASE64},r={}", first.nonce);
        let _ = write!(self.messages, ",{text},{last}");
        let sign = |key: &[u8]| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), self.messages.as_bytes())
        };
        let signature = sign(&keys.stored);
        let mut proof = *keys.client;
        for (octet, other) in proof.iter_mut().zip(signature.as_ref()) {
            *octet ^= other;
        }
        let _ = write!(last, ",p={}", STANDARD.encode(proof));
        self.expected = Some(sign(&keys.server));
        Ok(last)
    }

    /// Takes the last message of the server: whether it knows the password, too.
    ///
    /// # Errors
    ///
    /// It does not, it refuses us, or the message is malformed.
    pub(crate) fn verify(&self, server_final: &[u8]) -> Result<(), AuthProblem> {
        match ScramServerFinal::parse(server_final).ok_or(AuthProblem::Challenge)? {
            ScramServerFinal::Error(word) => Err(AuthProblem::Refused(word.into())),
            ScramServerFinal::Signature(signature) => {
                let expected = self.expected.as_ref().ok_or(AuthProblem::NotProven)?;
                let is_right: bool = expected.as_ref().ct_eq(&signature).into();
                if is_right { Ok(()) } else { Err(AuthProblem::NotProven) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::scram::Binding;
    use crate::auth::{ScramExchange, Users};

    const FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn begun() -> ScramClient {
        ScramClient::begin("user", "rOprNGfwEbeRWgbNEkqO").0
    }

    fn proven(password: &[u8]) -> (ScramClient, String) {
        let mut client = begun();
        let salt = client.salt(FIRST.as_bytes()).unwrap();
        let keys = ScramKeys::derive(password, salt.iterations, &salt.salt);
        let last = client.prove(FIRST.as_bytes(), &keys).unwrap();
        (client, last)
    }

    /// RFC 7677 §3, from end to end.
    #[test]
    fn the_example_is_played() {
        let (_, first) = ScramClient::begin("user", "rOprNGfwEbeRWgbNEkqO");
        assert_eq!(first, "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (client, last) = proven(b"pencil");
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(last, expected);
        let right = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(client.verify(right), Ok(()));
    }

    /// Who does not know the password cannot pass for the server.
    #[test]
    fn only_the_right_signature_is_taken() {
        let (client, _) = proven(b"pencil");
        let right = "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(client.verify(format!("v={right}").as_bytes()), Ok(()));
        for (wrong, expected) in [
            (format!("v={}", right.replace("6rri", "7rri")), AuthProblem::NotProven),
            (format!("v={}", right.replace("l95G4=", "l95G5=")), AuthProblem::Challenge),
            ("v=".to_owned(), AuthProblem::NotProven),
            ("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl9".to_owned(), AuthProblem::NotProven),
            ("e=invalid-proof".to_owned(), AuthProblem::Refused("invalid-proof".into())),
            (String::new(), AuthProblem::Challenge),
        ] {
            assert_eq!(client.verify(wrong.as_bytes()), Err(expected), "{wrong}");
        }
        // That of another password, and of an exchange in which nothing was proven.
        let (other, _) = proven(b"pencils");
        for client in [other, begun()] {
            let verified = client.verify(format!("v={right}").as_bytes());
            assert_eq!(verified, Err(AuthProblem::NotProven));
        }
    }

    #[test]
    fn a_server_can_neither_weaken_the_password_nor_have_us_work_for_ever() {
        for (from, to, expected) in [
            ("i=4096", "i=4095", AuthProblem::Iterations(4095)),
            ("i=4096", "i=1", AuthProblem::Iterations(1)),
            ("i=4096", "i=1000001", AuthProblem::Iterations(1_000_001)),
            ("i=4096", "i=99999999999", AuthProblem::Iterations(u32::MAX)),
            // Another's nonce, ours alone, and none.
            ("r=rOprN", "r=rOprM", AuthProblem::Challenge),
            ("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", "", AuthProblem::Challenge),
            ("s=W22ZaJ0SNY7soEsUEjb6gQ==", "s=", AuthProblem::Challenge),
            ("i=4096", "i=4096,m=x", AuthProblem::Challenge),
        ] {
            let text = FIRST.replace(from, to);
            assert_eq!(begun().salt(text.as_bytes()), Err(expected), "{text}");
        }
        let most = begun().salt(FIRST.replace("4096", "1000000").as_bytes());
        assert_eq!(most.unwrap().iterations.get(), 1_000_000);
    }

    /// The two ends of this very server understand each other, whatever the name.
    #[test]
    fn our_server_lets_our_client_in() {
        for (name, password, is_right) in
            [("a=b,c", "secret", true), ("\u{fc}", "p\u{e4}ss word", true), ("a=b,c", "x", false)]
        {
            let verifier = crate::auth::ScramVerifier::new(password.as_bytes()).unwrap();
            let users =
                Users::parse(&format!("[user.\"{name}\"]\nscram_sha_256 = \"{verifier}\"\n"));
            let (mut client, first) = ScramClient::begin(name, "nonce");
            let (server, answer) =
                ScramExchange::begin(&users.unwrap(), first.as_bytes(), &Binding::Unavailable)
                    .unwrap();
            let salt = client.salt(answer.as_bytes()).unwrap();
            let password = if is_right { password } else { "y" };
            let keys = ScramKeys::derive(password.as_bytes(), salt.iterations, &salt.salt);
            let last = client.prove(answer.as_bytes(), &keys).unwrap();
            let finished = server.finish(last.as_bytes());
            assert_eq!(finished.is_ok(), is_right);
            if let Ok((_, signature)) = finished {
                assert_eq!(client.verify(signature.as_bytes()), Ok(()));
            }
        }
    }
}
