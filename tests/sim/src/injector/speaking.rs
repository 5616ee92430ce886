//! Applications that speak for others: by the PROXY protocol, as a load balancer does, or by XCLIENT, as a filter.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ringpost::runtime::Runtime;

use super::{Application, Over, Session};
use crate::random::Random;

/// Sessions for clients that may not relay, in percent of those for others.
const STRANGERS_PERCENT: u8 = 20;

/// Whom a session is for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spoken {
    /// The client that is named; `None` if it speaks for itself.
    pub(super) client: Option<IpAddr>,
    /// Whether the PROXY protocol names it; otherwise XCLIENT does, once it is offered.
    pub(super) by_proxy: bool,
    /// Whether the server now takes it for that client.
    is_said: bool,
}

impl Spoken {
    /// Draws whom a session is for.
    pub(super) fn draw(random: &Random, application: &Application) -> Self {
        let mut random = random.fork("speaking");
        if !random.percent(application.ways.speaking_percent) {
            return Self::default();
        }
        let host = random.within(1..=250) as u8;
        // The one is of the networks that may relay, the other is not.
        let is_stranger = random.percent(STRANGERS_PERCENT);
        let [a, b, c] = if is_stranger { [192, 0, 2] } else { [10, 7, 7] };
        let by_proxy = random.coin() && !application.proxied.is_empty();
        Self { client: Some(Ipv4Addr::new(a, b, c, host).into()), by_proxy, is_said: false }
    }

    /// Without EHLO there is no XCLIENT.
    pub(super) fn without_extensions(&mut self) {
        self.client = self.client.filter(|_| self.by_proxy);
    }

    fn is_stranger(&self) -> bool {
        self.is_said && self.client.is_some_and(|client| client.to_string().starts_with("192.0.2."))
    }
}

impl<R: Runtime> Session<'_, R> {
    /// Says for whom the connection is, in front of everything.
    pub(super) async fn say_proxy_header(&mut self) -> Result<(), Over> {
        let Some(client) = self.spoken.client.filter(|_| self.spoken.by_proxy) else {
            return Ok(());
        };
        let mut random = self.random.fork("proxy");
        let IpAddr::V4(client) = client else { return Ok(()) };
        let server = self.application.proxied.first().map(SocketAddr::ip);
        let Some(IpAddr::V4(server)) = server else { return Ok(()) };
        let header = if random.coin() {
            format!("PROXY TCP4 {client} {server} 4000 25\r\n").into_bytes()
        } else {
            let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
            header.extend_from_slice(&client.octets());
            header.extend_from_slice(&server.octets());
            header.extend_from_slice(&[0x0f, 0xa0, 0, 25]);
            header
        };
        let (first, second) = header.split_at(random.index(header.len()));
        self.wire.write(first).await.map_err(|_| Over)?;
        if random.coin() {
            self.runtime.sleep(self.application.ways.gap_max).await;
        }
        self.wire.write(second).await.map_err(|_| Over)?;
        self.spoken.is_said = true;
        Ok(())
    }

    /// Names the client by XCLIENT, and begins anew; speaks for itself if that is not offered.
    pub(super) async fn say_xclient(&mut self) -> Result<(), Over> {
        let Some(client) = self.spoken.client.filter(|_| !self.spoken.by_proxy) else {
            return Ok(());
        };
        if !self.offers.xclient {
            self.spoken.without_extensions();
            return Ok(());
        }
        self.write(&format!("XCLIENT NAME=[UNAVAILABLE] ADDR={client}\r\n")).await?;
        self.expect_good().await?;
        self.spoken.is_said = true;
        self.hello().await
    }

    /// Takes note that the server has said yes to a recipient.
    pub(super) fn is_let_relay(&self) {
        if self.spoken.is_stranger() {
            let text = format!("for {:?}", self.spoken.client);
            let now = self.runtime.now();
            self.application.ledger.borrow_mut().violate("relays for a stranger", now, text);
        }
    }
}
