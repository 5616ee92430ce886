//! Messages as a remote can take them: 8-bit content made 7-bit for hosts without 8BITMIME.

use std::rc::Rc;

use futures_lite::future::yield_now;
use ringpost_protocol::{
    envelope::BodyType,
    extension::Extensions,
    seven_bit::{Converter, Inconvertible, Survey},
};

use super::{Shard, cache::CachedMessage};
use crate::{config::schema::EightBit, runtime::Runtime};

/// Octets that are walked before other tasks get a turn: well below a millisecond.
const TURN_SIZE: usize = 64 * 1024;

impl<R: Runtime> Shard<R> {
    /// The message as a host with these extensions takes it, or as it is.
    pub(super) async fn fitted(
        &self,
        message: &Rc<CachedMessage>,
        extensions: &Extensions,
    ) -> Rc<CachedMessage> {
        let is_eight_bit = message.envelope.body == BodyType::EightBitMime;
        if !is_eight_bit || extensions.eight_bit_mime {
            return Rc::clone(message);
        }
        let setting = self.config().config().delivery.eight_bit;
        let content = match setting {
            EightBit::Bounce => return Rc::clone(message),
            EightBit::SendAnyway => message.content.clone(),
            EightBit::Convert => match converted(&message.content).await {
                Ok(content) => {
                    self.metrics.transactions_converted.increment(1);
                    vec![content]
                }
                // It is bounced: the host is not offered it.
                Err(why) => {
                    tracing::debug!(%why, "8-bit content cannot be made 7-bit");
                    return Rc::clone(message);
                }
            },
        };
        let mut envelope = message.envelope.clone();
        envelope.body = BodyType::SevenBit;
        Rc::new(CachedMessage { envelope, content })
    }
}

async fn converted(content: &[Vec<u8>]) -> Result<Vec<u8>, Inconvertible> {
    let pieces = || content.iter().flat_map(|part| part.chunks(TURN_SIZE));
    let mut survey = Survey::new();
    for piece in pieces() {
        survey.feed(piece);
        yield_now().await;
    }
    let mut converter = Converter::new(survey.finish()?);
    let mut out = Vec::with_capacity(content.iter().map(Vec::len).sum());
    for piece in pieces() {
        converter.feed(piece, &mut out);
        yield_now().await;
    }
    converter.finish(&mut out)?;
    Ok(out)
}
