//! Content by BDAT (RFC 3030).

use ringpost::runtime::Runtime;

use super::{Over, Session};

/// Octets of one chunk, at most: more than any message has.
const CHUNK_SIZE_MAX: usize = 16 << 20;

impl<R: Runtime> Session<R> {
    /// Takes the chunk that follows, which has to be the only one.
    pub(super) async fn bdat(&mut self, line: &str) -> Result<(), Over> {
        let mut words = line.split(' ').skip(1);
        let size = words.next().and_then(|size| size.parse::<usize>().ok());
        let Some(size) = size.filter(|size| *size <= CHUNK_SIZE_MAX) else {
            self.violate("BDAT that cannot be read", line);
            return Err(Over::Break);
        };
        if !self.takes_binary {
            self.violate("extension used that was not offered", line);
        }
        if words.next() != Some("LAST") {
            self.violate("content in more chunks than one", line);
        }
        let is_wanted =
            self.transaction.as_ref().is_some_and(|transaction| !transaction.parties.is_empty());
        if is_wanted {
            self.while_content_comes().await?;
        }
        while self.wire.pending().len() < size {
            self.wire.more().await?;
        }
        let content = self.wire.take(size);
        if !is_wanted {
            self.violate("content sent though nobody is to get it", line);
            self.transaction = None;
            return self.write("554 5.5.1 nobody to send to\r\n").await;
        }
        self.examine(&content, true).await
    }
}
