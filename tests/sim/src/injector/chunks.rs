//! Content by BDAT (RFC 3030).

use std::time::Duration;

use ringpost::runtime::Runtime;

use super::{Drop, Over, Session, Ways};

/// Chunks of one message, at most; far fewer than the server lets pass when they are small.
const CHUNKS_MAX: u64 = 6;

impl<R: Runtime> Session<'_, R> {
    /// Sends the content in chunks, all at once where groups are allowed, else one after the other.
    pub(super) async fn send_chunks(
        &mut self,
        number: u32,
        ways: &Ways,
        content: &[u8],
        leaves: Drop,
    ) -> Result<(), Over> {
        let is_grouped = ways.pipelining && self.offers.pipelining && self.random.coin();
        let chunks = self.cut(content);
        let mut wire = Vec::new();
        for (index, chunk) in chunks.iter().enumerate() {
            let is_last = index + 1 == chunks.len();
            let last = if is_last { " LAST" } else { "" };
            wire.extend_from_slice(format!("BDAT {}{last}\r\n", chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            if is_grouped && !is_last {
                continue;
            }
            if leaves == Drop::InContent && (is_last || self.random.coin()) {
                let piece = wire.get(..self.random.index(wire.len())).unwrap_or_default();
                let _ = self.wire.write(piece).await;
                return Err(Over);
            }
            if is_last {
                self.application.ledger.borrow_mut().sent(number, self.runtime.now());
            }
            self.write_slowly(ways, &wire).await?;
            wire.clear();
            if is_last && leaves == Drop::AfterDot {
                return Err(Over);
            }
            // The replies to what has been sent.
            let replies = if is_grouped { chunks.len() } else { 1 };
            for reply_index in 1..=replies {
                let reply = self.reply().await?;
                // Nothing is wrong with what was said, so the server must have taken content for it.
                if (500..505).contains(&reply.code) {
                    let now = self.runtime.now();
                    let mut ledger = self.application.ledger.borrow_mut();
                    ledger.violate("BDAT answered as if out of step", now, reply.text);
                    return Err(Over);
                }
                if !reply.is_good() {
                    for _ in reply_index..replies {
                        self.reply().await?;
                    }
                    return self.refused(&reply);
                }
                if is_last && reply_index == replies {
                    return self.told(number, &reply);
                }
            }
        }
        Ok(())
    }

    /// Some chunks of any sizes; the last one may be empty.
    fn cut<'a>(&mut self, content: &'a [u8]) -> Vec<&'a [u8]> {
        let (mut chunks, mut rest) = (Vec::new(), content);
        for _ in 0..self.random.below(CHUNKS_MAX) {
            let (chunk, behind) = rest.split_at(self.random.index(rest.len() + 1));
            chunks.push(chunk);
            rest = behind;
        }
        chunks.push(rest);
        chunks
    }

    async fn write_slowly(&mut self, ways: &Ways, mut octets: &[u8]) -> Result<(), Over> {
        if self.random.percent(ways.slow_percent) {
            let (piece, behind) = octets.split_at(self.random.index(octets.len()));
            self.wire.write(piece).await.map_err(|_| Over)?;
            octets = behind;
            let pause = self.random.duration(Duration::ZERO, ways.pause_max);
            self.runtime.sleep(pause).await;
        }
        self.wire.write(octets).await.map_err(|_| Over)
    }
}
