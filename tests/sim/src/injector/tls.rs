//! How an application goes on over TLS.

use ringpost::runtime::Runtime;

use super::{Over, Session};
use crate::wire::Gone;

/// Sessions over TLS that begin with a command which needs what was said before, in percent.
const HASTY_PERCENT: u8 = 30;

impl<R: Runtime> Session<'_, R> {
    /// Says STARTTLS, shakes hands, and begins anew; goes on as it was when the server has no room.
    pub(super) async fn start_tls(&mut self) -> Result<(), Over> {
        self.write("STARTTLS\r\n").await?;
        if !self.reply().await?.is_good() {
            return Ok(());
        }
        let shaken = self.wire.connect_tls(&self.application.trust).await;
        if let Err(gone) = shaken {
            if gone == Gone::TimedOut {
                self.is_owed_a_reply();
            }
            return Err(Over);
        }
        // RFC 3207 section 4.2: what was said before is forgotten, so nobody has said EHLO.
        if self.random.fork("hasty").percent(HASTY_PERCENT) {
            self.write("MAIL FROM:<>\r\n").await?;
            if self.reply().await?.is_good() {
                self.violate("state is kept over STARTTLS", "MAIL is taken without EHLO");
            }
        }
        self.hello().await?;
        if self.offers.starttls {
            self.violate("STARTTLS is offered under TLS", "");
        }
        Ok(())
    }

    fn violate(&self, rule: &'static str, text: &str) {
        let now = self.runtime.now();
        self.application.ledger.borrow_mut().violate(rule, now, text.to_owned());
    }
}
