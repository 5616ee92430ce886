//! The body of an order to purge: [`PurgeOrder::parse`]. The rest of the HTTP side is that of its crate.

use ringpost::control::admin::PurgeOrder;
use ringpost_protocol::address::Host;
use ringpost_queue::Purge;
use serde_json::Value;

use super::is_plain;
use crate::{Target, Verdict, must};

/// The target.
pub const TARGET: Target = Target {
    name: "http",
    check,
    seeds,
    words: &[
        "{\"all\":true}",
        "\"all\":",
        "true",
        "false",
        "\"domain\":",
        "\"a.test\"",
        "\"received_before_unix_ms\":",
        "null",
        "1700000000000",
        "{",
        "}",
        "[",
        "]",
        ",",
        "\\u0000",
        "[192.0.2.1]",
    ],
    size_max: 300,
    cost: 1,
};

type Parse = fn(&[u8]) -> Result<Purge, String>;

fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "{\"all\":true}",
        "{\"all\":false,\"domain\":\"A.test\",\"received_before_unix_ms\":1700000000000}",
        "{\"domain\":\"[IPv6:2001:db8::1]\"}",
        "{\"domain\":null,\"received_before_unix_ms\":0}",
        "{}",
        "{\"all\":true,\"domain\":\"a.test\"}",
        "{\"all\":true,\"all\":false}",
        "{\"every\":true}",
        "[true,null,null]",
        "{\"domain\":\"a b\"}",
        "{\"domain\":\"\\u0000\"}",
        "{\"all\":1}",
        "true",
        "",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Says whether nothing is removed but what the order says.
pub fn check(octets: &[u8]) -> Verdict {
    check_with(octets, PurgeOrder::parse)
}

fn check_with(octets: &[u8], parse: Parse) -> Verdict {
    let purge = match parse(octets) {
        Ok(purge) => purge,
        Err(error) => {
            must!(!error.is_empty() && error.len() < 1000, "an error of {} octets", error.len());
            must!(!error.contains(['\r', '\n', '\0']), "{error:?} is not one line");
            return Ok(());
        }
    };
    let Ok(Value::Object(order)) = serde_json::from_slice(octets) else {
        return Err(format!("{purge:?} is not an object"));
    };
    let known = ["all", "domain", "received_before_unix_ms"];
    must!(order.keys().all(|key| known.contains(&&**key)), "{order:?} has more than we know");
    let is_all = order.get("all") == Some(&Value::Bool(true));
    let domain = order.get("domain").and_then(Value::as_str);
    let before = order.get("received_before_unix_ms").and_then(Value::as_u64);
    must!(is_all == (domain.is_none() && before.is_none()), "{order:?} says nothing, or too much");
    must!(purge.received_before_unix_ms == before.unwrap_or(u64::MAX), "{purge:?} for {order:?}");
    let host = domain.map(Host::parse).transpose().map_err(|error| error.to_string())?;
    must!(purge.host == host, "{purge:?} for {order:?}");
    must!(host.is_none_or(|host| is_plain(&host.to_string())), "{order:?} cannot go to a log");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Purge = Purge { host: None, received_before_unix_ms: u64::MAX };

    fn is_found(wrong: Parse) -> bool {
        seeds().iter().any(|octets| check_with(octets, wrong).is_err())
    }

    #[test]
    fn wrong_readers_are_found() {
        assert!(!is_found(PurgeOrder::parse));
        let accepted = seeds().iter().filter(|octets| PurgeOrder::parse(octets).is_ok()).count();
        assert_eq!(accepted, 4);
        // Takes an order that it does not understand for one to remove everything.
        assert!(is_found(|body| PurgeOrder::parse(body).or(Ok(ALL))));
        assert!(
            is_found(|body| PurgeOrder::parse(body).map(|purge| Purge { host: None, ..purge }))
        );
        assert!(is_found(|body| {
            PurgeOrder::parse(body).map(|purge| Purge { received_before_unix_ms: 7, ..purge })
        }));
        assert!(is_found(|body| PurgeOrder::parse(body).map_err(|error| format!("{error}\n"))));
    }
}
