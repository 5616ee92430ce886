//! Reads the pages of the control address.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// Fetches `path`; returns the status code and the body.
///
/// # Errors
///
/// Fails when nothing answers there within ten seconds, or not in HTTP.
pub fn fetch(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let deadline = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&address, deadline)?;
    stream.set_read_timeout(Some(deadline))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the HTTP header")?;
    let status =
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP status")?;
    ensure!(
        !head.to_ascii_lowercase().contains("transfer-encoding: chunked"),
        "a chunked answer, which this reader does not know"
    );
    Ok((status, body.to_owned()))
}

/// All samples of one look at `/metrics`.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Debug, Clone)]
struct Sample {
    name: String,
    labels: String,
    value: f64,
}

impl Metrics {
    /// Looks at `/metrics` once.
    ///
    /// # Errors
    ///
    /// Fails when the page is not there or a line of it cannot be read.
    pub fn read(address: SocketAddr) -> Result<Self> {
        let (status, body) = fetch(address, "/metrics")?;
        ensure!(status == 200, "/metrics answers {status}");
        Self::parse(&body)
    }

    /// Reads the text format of Prometheus.
    ///
    /// # Errors
    ///
    /// Fails on a line that is neither a comment nor a sample.
    pub fn parse(text: &str) -> Result<Self> {
        let mut samples = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (key, value) =
                line.rsplit_once(' ').with_context(|| format!("not a sample: {line}"))?;
            let (name, labels) = key.split_once('{').unwrap_or((key, "}"));
            samples.push(Sample {
                name: name.to_owned(),
                labels: labels.strip_suffix('}').unwrap_or(labels).to_owned(),
                value: value.parse().with_context(|| format!("not a sample: {line}"))?,
            });
        }
        Ok(Self { samples })
    }

    /// The sum of `name` over all its labels, which must be whole. 0 where there is no such sample.
    pub fn count(&self, name: &str) -> u64 {
        self.count_where(name, "")
    }

    /// The same over the samples that have `label`, written `key="value"`.
    pub fn count_where(&self, name: &str, label: &str) -> u64 {
        let sum: f64 = self.matching(name, label).map(|sample| sample.value).sum();
        assert!(sum >= 0.0 && sum.fract() == 0.0, "{name} is no count: {sum}");
        #[expect(clippy::cast_sign_loss, reason = "asserted above")]
        let count = sum as u64;
        count
    }

    /// The samples of `name`, by their labels.
    pub fn each<'a>(&'a self, name: &'a str) -> BTreeMap<&'a str, f64> {
        self.matching(name, "").map(|sample| (sample.labels.as_str(), sample.value)).collect()
    }

    /// The largest sample of `name`.
    pub fn max(&self, name: &str) -> Option<f64> {
        self.matching(name, "").map(|sample| sample.value).reduce(f64::max)
    }

    /// Whether there is a sample of `name`.
    pub fn has(&self, name: &str) -> bool {
        self.matching(name, "").next().is_some()
    }

    fn matching<'a>(&'a self, name: &'a str, label: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples
            .iter()
            .filter(move |sample| sample.name == name && sample.labels.contains(label))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_labels() {
        let page =
            "# HELP a x\n# TYPE a counter\na{core=\"0\"} 1\na{core=\"1\",k=\"v w\"} 2\nb 7\n";
        let metrics = Metrics::parse(page).unwrap();
        assert_eq!(metrics.count("a"), 3);
        assert_eq!(metrics.count_where("a", "core=\"1\""), 2);
        assert_eq!(metrics.count("b"), 7);
        assert_eq!(metrics.max("a"), Some(2.0));
        assert_eq!(metrics.each("b").into_iter().collect::<Vec<_>>(), [("", 7.0)]);
        assert!(metrics.has("b") && !metrics.has("c"));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Metrics::parse("nonsense\n").is_err());
        assert!(Metrics::parse("a{} x\n").is_err());
    }
}
