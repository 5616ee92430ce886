//! Trace fields (RFC 5321 §4.4).

use std::net::IpAddr;

use crate::address::AddressLiteral;
use crate::priority::Priority;
use crate::time::write_rfc5322;

/// The `Received` field that goes in front of an accepted message.
///
/// The texts have to be free of control characters and parentheses: names and paths that this crate's
/// parsers let pass are.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// What the client called itself in EHLO or HELO.
    pub from_helo: &'a str,
    /// The name that the client's address has in the DNS, if that is known.
    pub peer_name: Option<&'a str>,
    /// The client's address.
    pub peer: IpAddr,
    /// Our host name.
    pub by: &'a str,
    /// `ESMTP` after EHLO, `ESMTPS` if that was said over TLS (RFC 3848), `SMTP` after HELO.
    pub protocol: &'a str,
    /// The queue id of the message.
    pub id: &'a str,
    /// The recipient in its wire form, brackets included; only when there is exactly one, so as not
    /// to tell recipients of each other (RFC 5321 §7.2).
    pub recipient: Option<&'a str>,
    /// The cipher suite by its registered name, if the message came over TLS and that is to be told
    /// (RFC 8314 §4.3).
    pub tls_cipher: Option<&'a str>,
    /// The priority that the message has got, if the client has said one (RFC 6710).
    pub priority: Option<Priority>,
    /// When the message was received.
    pub unix_seconds: u64,
}

impl Received<'_> {
    /// Appends the field, folded, with its CRLF.
    pub fn write(&self, out: &mut Vec<u8>) {
        use std::io::Write as _;

        let literal = AddressLiteral::from(self.peer.to_canonical());
        // Writing to a vector cannot fail.
        let _ = write!(
            out,
            "Received: from {} ({}{}{literal})\r\n\tby {} with {} id {}",
            self.from_helo,
            self.peer_name.unwrap_or_default(),
            if self.peer_name.is_some() { " " } else { "" },
            self.by,
            self.protocol,
            self.id
        );
        if self.tls_cipher.is_some() || self.priority.is_some() {
            if let Some(recipient) = self.recipient {
                let _ = write!(out, "\r\n\tfor {recipient}");
            }
            if let Some(cipher) = self.tls_cipher {
                let _ = write!(out, "\r\n\ttls {cipher}");
            }
            if let Some(priority) = self.priority {
                let _ = write!(out, "\r\n\tpriority {priority}");
            }
            out.extend_from_slice(b";\r\n\t");
            write_rfc5322(self.unix_seconds, out);
            return out.extend_from_slice(b"\r\n");
        }
        match self.recipient {
            Some(recipient) => {
                let _ = write!(out, "\r\n\tfor {recipient}; ");
                // The date goes to a line of its own when it does not fit.
                if recipient.len() > 34 {
                    out.truncate(out.len() - 1);
                    out.extend_from_slice(b"\r\n\t");
                }
            }
            None => out.extend_from_slice(b";\r\n\t"),
        }
        write_rfc5322(self.unix_seconds, out);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(recipient: Option<&str>, peer: &str) -> String {
        let mut out = Vec::new();
        let received = Received {
            from_helo: "client.test",
            peer_name: None,
            peer: peer.parse().unwrap(),
            by: "mx.test",
            protocol: "ESMTP",
            id: "00a1",
            recipient,
            tls_cipher: None,
            priority: None,
            unix_seconds: 0,
        };
        received.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_recipient_is_named() {
        assert_eq!(
            field(Some("<a@b.test>"), "192.0.2.1"),
            "Received: from client.test ([192.0.2.1])\r\n\tby mx.test with ESMTP id 00a1\r\n\
             \tfor <a@b.test>; Thu, 01 Jan 1970 00:00:00 +0000\r\n"
        );
    }

    #[test]
    fn several_recipients_are_not() {
        assert_eq!(
            field(None, "2001:db8::1"),
            "Received: from client.test ([IPv6:2001:db8::1])\r\n\tby mx.test with ESMTP id 00a1;\r\n\
             \tThu, 01 Jan 1970 00:00:00 +0000\r\n"
        );
    }

    /// RFC 8314 §4.3: the clause stands behind the one of RFC 5321 for the recipient.
    #[test]
    fn the_cipher_is_named() {
        for (recipient, clause) in [(Some("<a@b.test>"), "\r\n\tfor <a@b.test>"), (None, "")] {
            let received = Received {
                peer_name: None,
                from_helo: "client.test",
                peer: "192.0.2.1".parse().unwrap(),
                by: "mx.test",
                protocol: "ESMTPS",
                id: "00a1",
                recipient,
                tls_cipher: Some("TLS_AES_256_GCM_SHA384"),
                priority: None,
                unix_seconds: 0,
            };
            let mut out = Vec::new();
            received.write(&mut out);
            let expected = format!(
                "Received: from client.test ([192.0.2.1])\r\n\tby mx.test with ESMTPS id 00a1{clause}\r\n\
                 \ttls TLS_AES_256_GCM_SHA384;\r\n\tThu, 01 Jan 1970 00:00:00 +0000\r\n"
            );
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn the_priority_is_told_behind_the_others() {
        let given = |recipient, tls_cipher, level| {
            let received = Received {
                peer_name: None,
                from_helo: "client.test",
                peer: "192.0.2.1".parse().unwrap(),
                by: "mx.test",
                protocol: "ESMTP",
                id: "00a1",
                recipient,
                tls_cipher,
                priority: Priority::new(level),
                unix_seconds: 0,
            };
            let mut out = Vec::new();
            received.write(&mut out);
            String::from_utf8(out).unwrap()
        };
        let end = ";\r\n\tThu, 01 Jan 1970 00:00:00 +0000\r\n";
        for (field, expected) in [
            (given(None, None, -3), "\r\n\tpriority -3"),
            (given(Some("<a@b.test>"), None, 0), "\r\n\tfor <a@b.test>\r\n\tpriority 0"),
            (given(None, Some("X"), 9), "\r\n\ttls X\r\n\tpriority 9"),
        ] {
            assert!(field.ends_with(&format!(" id 00a1{expected}{end}")), "{field}");
        }
    }

    /// RFC 5321 §4.4: the name stands in front of the address.
    #[test]
    fn the_name_of_the_address_is_told() {
        let received = Received {
            from_helo: "client.test",
            peer_name: Some("host.test"),
            peer: "192.0.2.1".parse().unwrap(),
            by: "mx.test",
            protocol: "SMTP",
            id: "00a1",
            recipient: None,
            tls_cipher: None,
            priority: None,
            unix_seconds: 0,
        };
        let mut out = Vec::new();
        received.write(&mut out);
        assert!(out.starts_with(b"Received: from client.test (host.test [192.0.2.1])\r\n\tby "));
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        assert!(field(None, "::ffff:192.0.2.1").contains("([192.0.2.1])"));
    }

    #[test]
    fn a_long_recipient_pushes_the_date_down() {
        let recipient = format!("<{}@b.test>", "a".repeat(60));
        let field = field(Some(&recipient), "192.0.2.1");
        assert!(field.lines().all(|line| line.len() < 78), "{field}");
        assert!(field.ends_with(";\r\n\tThu, 01 Jan 1970 00:00:00 +0000\r\n"));
    }
}
