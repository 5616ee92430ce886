//! The header that a proxy puts in front of a connection, and whose connection it is then.

use std::io;

use ringpost_metrics::label::{Limit, ProxyHeader as HeaderLabel};
use ringpost_protocol::limits::PROXY_HEADER_SIZE_MAX;
use ringpost_protocol::proxy::{ProxyError, ProxyHeader, read_header};

use super::buffers::{COMMAND_BLOCK_SIZE, Input};
use crate::{
    runtime::{Read, Runtime, Stream},
    shard::{
        Shard,
        listener::{Admitted, NO_HEADER, SHUTTING_DOWN, words},
    },
};

// A header has to fit the block that it is read into.
const _: () = assert!(PROXY_HEADER_SIZE_MAX <= COMMAND_BLOCK_SIZE);

/// Reads the header that the peer has to send, and admits the client that it tells of; whether there
/// is one to serve. What came behind the header is left in `input`.
pub(super) async fn admit<R: Runtime>(
    shard: &Shard<R>,
    admitted: &mut Admitted,
    stream: &mut R::Stream,
    input: &mut Input,
) -> bool {
    let timeout = admitted.listener.proxy_timeout();
    stream.watch().set_deadline(Some(shard.runtime.now() + timeout));
    let (result, reply) = match read(shard, stream, input).await {
        Ok(header) => {
            input.consume(header.size);
            let client = header.ends.map(|ends| ends.source.ip());
            let result = client.map_or(HeaderLabel::Own, |_| HeaderLabel::Client);
            match admitted.name_client(shard.runtime.now(), client) {
                Ok(()) => {
                    admitted.listener.metrics().proxy_headers.increment(result);
                    return true;
                }
                Err(limit) => {
                    admitted.listener.metrics().sessions_refused.increment(1);
                    shard.metrics.limit_hits.increment(limit);
                    (result, words(limit))
                }
            }
        }
        Err(Failure::Refused(error)) => {
            let result = match error {
                ProxyError::Absent => HeaderLabel::Absent,
                ProxyError::TooLong => {
                    shard.metrics.limit_hits.increment(Limit::ProxyHeader);
                    HeaderLabel::TooLong
                }
                ProxyError::NotTcp => HeaderLabel::NotTcp,
                _ => HeaderLabel::Malformed,
            };
            let (proxy, listener) = (admitted.peer, admitted.listener.name());
            tracing::debug!(%proxy, listener, %error, "a connection was refused");
            (result, NO_HEADER)
        }
        Err(Failure::TimedOut) => {
            shard.metrics.limit_hits.increment(Limit::ProxyTimeout);
            (HeaderLabel::Timeout, NO_HEADER)
        }
        Err(Failure::Draining) => (HeaderLabel::Closed, SHUTTING_DOWN),
        // Balancers look that way whether somebody listens.
        Err(Failure::Closed) => (HeaderLabel::Closed, &[][..]),
    };
    admitted.listener.metrics().proxy_headers.increment(result);
    if admitted.listener.speaks_first() && !reply.is_empty() {
        // The connection ends, heard or not.
        let _ = stream.write_all(reply).await;
        let _ = stream.shut_down_write().await;
    }
    false
}

/// Why there is no header.
enum Failure {
    Refused(ProxyError),
    TimedOut,
    Draining,
    Closed,
}

async fn read<R: Runtime>(
    shard: &Shard<R>,
    stream: &mut R::Stream,
    input: &mut Input,
) -> Result<ProxyHeader, Failure> {
    loop {
        if let Some(header) = read_header(input.bytes()).map_err(Failure::Refused)? {
            return Ok(header);
        }
        match stream.read(input.space()).await {
            Ok(Read::Data(count)) => input.filled(count),
            Ok(Read::TimedOut) => return Err(Failure::TimedOut),
            Ok(Read::Notified) if shard.is_draining() => return Err(Failure::Draining),
            Ok(Read::Notified) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(Failure::TimedOut),
            Ok(Read::End) | Err(_) => return Err(Failure::Closed),
        }
    }
}
