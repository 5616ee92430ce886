//! What a remote host offers in reply to EHLO.

use std::fmt::Write as _;

use ringpost::runtime::Runtime;

use super::{Over, Phase, Session};

impl<R: Runtime> Session<R> {
    /// Answers EHLO or HELO.
    pub(super) async fn hello(&mut self, is_extended: bool) -> Result<(), Over> {
        let habits = &self.host.habits;
        if is_extended && !habits.knows_ehlo {
            if self.is_confused {
                self.host.ledger.borrow_mut().causes().out_of_step.insert(502);
            }
            return self.write("502 5.5.1 what?\r\n").await;
        }
        self.transaction = None;
        let tls = habits.tls.as_ref().filter(|_| is_extended);
        // Some offer little to those without TLS, and some things only to them.
        let is_shy = tls.is_some_and(|tls| tls.is_shy);
        let (more, less) = (!is_shy || self.is_private, !is_shy || !self.is_private);
        self.may_pipeline = is_extended && habits.pipelining && more;
        self.reports = is_extended && habits.dsn && less;
        self.takes_eight_bit = is_extended && habits.eight_bit && less;
        self.takes_binary = is_extended && habits.binary && more;
        self.takes_utf8 = is_extended && habits.utf8 && more;
        self.takes_priority = is_extended && habits.priority && less;
        self.offers_tls = tls.is_some_and(|tls| tls.starttls && (!self.is_private || tls.again));
        self.takes_requiretls = tls.is_some_and(|tls| tls.requiretls && self.is_private);
        let mut good = format!("250-{}\n250-HELP\n", self.host.name);
        if is_extended {
            for (is_offered, keyword) in [
                (self.may_pipeline, "PIPELINING"),
                (self.takes_eight_bit, "8BITMIME"),
                (self.takes_utf8, "SMTPUTF8"),
                (self.reports, "DSN"),
                (self.takes_priority, "MT-PRIORITY"),
                (self.takes_binary, "CHUNKING"),
                (self.takes_binary, "BINARYMIME"),
                (self.offers_tls, "STARTTLS"),
                (self.takes_requiretls, "REQUIRETLS"),
            ] {
                if is_offered {
                    let _ = writeln!(good, "250-{keyword}");
                }
            }
            if let Some(size) = habits.size {
                let _ = writeln!(good, "250-SIZE {size}");
            }
        }
        {
            let mut ledger = self.host.ledger.borrow_mut();
            let causes = ledger.causes();
            causes.lacks_eight_bit |= !self.takes_eight_bit;
            causes.lacks_binary |= !self.takes_binary;
            causes.lacks_utf8 |= !self.takes_utf8;
            causes.lacks_requiretls |= self.is_known() == Some(true) && !self.takes_requiretls;
            if let Some(size) = habits.size.filter(|_| is_extended) {
                causes.size_min = Some(causes.size_min.map_or(size, |least| least.min(size)));
            }
        }
        good.push_str("250 ENHANCEDSTATUSCODES");
        self.answer(Phase::Hello, &good).await?;
        Ok(())
    }

    /// Nothing is offered until EHLO is answered.
    pub(super) fn forget_offers(&mut self) {
        self.may_pipeline = false;
        self.reports = false;
        self.takes_eight_bit = false;
        self.takes_binary = false;
        self.takes_utf8 = false;
        self.takes_priority = false;
        self.takes_requiretls = false;
        self.offers_tls = false;
    }
}
