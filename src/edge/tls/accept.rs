//! A connection from its first byte to the end of its TLS handshake.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

/// First byte of a TLS record that holds a part of a handshake (RFC 8446 section 5.1).
const HANDSHAKE_RECORD: u8 = 22;
/// What somebody who speaks HTTP here without TLS is told.
pub const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 130\r\n\r\n{\"error\":{\"code\":\"INFRA_PROTOCOL_ERROR\",\"reason\":\"tls_required\",\"message\":\"this address speaks TLS only; use wss:// or https://\"}}";

/// Why there is no TLS on a connection. What is left of it can still be said goodbye to; what it
/// was to be told about TLS itself has been sent.
#[derive(Debug)]
pub enum Denied {
    /// It took too long.
    Slow,
    /// What came first is no TLS.
    Plain(TcpStream),
    /// Client and node did not agree, or the client's certificate was refused.
    Failed {
        /// Why.
        error: io::Error,
        /// The connection.
        stream: TcpStream,
    },
}

/// Does the handshake within `limit`. On the heap, because what TLS needs of a connection is moved
/// about with it, and stays as long as it.
///
/// # Errors
/// [`Denied`]; a connection that broke off counts as failed.
pub async fn accept(
    config: Arc<ServerConfig>,
    stream: TcpStream,
    limit: Duration,
) -> Result<Box<TlsStream<TcpStream>>, Denied> {
    let handshake = async {
        let mut first = [0];
        match stream.peek(&mut first).await {
            Ok(1) if first != [HANDSHAKE_RECORD] => return Err(Denied::Plain(stream)),
            Ok(_) => {}
            Err(error) => return Err(Denied::Failed { error, stream }),
        }
        TlsAcceptor::from(config)
            .accept(stream)
            .into_fallible()
            .await
            .map(Box::new)
            .map_err(|(error, stream)| Denied::Failed { error, stream })
    };
    timeout(limit, Box::pin(handshake))
        .await
        .unwrap_or(Err(Denied::Slow))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_plain_http_is_as_long_as_it_says() {
        let text = std::str::from_utf8(PLAIN_HTTP).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{}",
            body.len()
        );
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
