//! Reads `/metrics` the plain way: one request, one page, sums over labels.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, ensure};

/// Limit of each step of the request.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest page that is read.
const PAGE_LENGTH_MAX: u64 = 8 << 20;

/// A page of metrics in the text format.
#[derive(Debug)]
pub(crate) struct Page(String);

impl Page {
    /// Fetches the page.
    ///
    /// # Errors
    ///
    /// When the server does not answer with one in time.
    pub(crate) fn fetch(address: SocketAddr) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(PAGE_LENGTH_MAX).read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
        let status = head.lines().next().unwrap_or_default();
        ensure!(status.split(' ').nth(1) == Some("200"), "the answer is {status:?}");
        Ok(Self(body.to_owned()))
    }

    /// The sum of all series of `name` whose labels contain `label`, such as `outcome="x"`; all
    /// series for an empty one. `None` when there is no such series.
    pub(crate) fn sum(&self, name: &str, label: &str) -> Option<f64> {
        let values = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            if !label.is_empty() && !labels.split(',').any(|own| own == label) {
                return None;
            }
            value.split(' ').next()?.parse::<f64>().ok()
        });
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed() {
        let page = Page(
            "# HELP a_total Text.\n# TYPE a_total counter\na_total{core=\"0\",outcome=\"x\"} 1\n\
             a_total{core=\"1\",outcome=\"x\"} 2.5\na_total{core=\"1\",outcome=\"y\"} 4\n\
             a_total_more{core=\"0\"} 100\nplain 7\n"
                .to_owned(),
        );
        assert_eq!(page.sum("a_total", ""), Some(7.5));
        assert_eq!(page.sum("a_total", "outcome=\"x\""), Some(3.5));
        assert_eq!(page.sum("a_total", "outcome=\"z\""), None);
        assert_eq!(page.sum("plain", ""), Some(7.0));
        assert_eq!(page.sum("absent", ""), None);
    }
}
