//! Sends every message back: the node's way from a TCP connection to a WebSocket, with its limits,
//! and nothing behind it. Conformance suites run against it (`tools/autobahn`).
//!
//! ```bash
//! cargo run --example echo -- 127.0.0.1:9001
//! ```
//!
//! Prints `ready ADDRESS` when it listens. Limits are the node's, and are set as for the node:
//! `ARQONBUS_LIMITS__MESSAGE_BYTES_MAX=33554432`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use arqonbus::config::{Limits, layers};
use arqonbus::edge::handshake::{self, Subprotocol};
use arqonbus::edge::websocket::{self, Terms};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::{Error, Message};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).context("where to listen?")?;
    let limits = layers::load(None, std::env::vars(), &[])?.config.limits;
    let listener = TcpListener::bind(&address).await?;
    writeln!(std::io::stdout().lock(), "ready {}", listener.local_addr()?)?;
    loop {
        let (stream, peer) = listener.accept().await?;
        tokio::spawn(serve(stream, peer, limits.clone()));
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, limits: Limits) {
    let time = Duration::from_millis(limits.handshake_timeout_ms);
    let decide = async |head| match handshake::upgradable(&head) {
        Ok(accept) => (Some(()), accept.response(Subprotocol::Unnamed)),
        Err(refusal) => (None, refusal.response()),
    };
    let Some(upgraded) = websocket::upgrade(stream, peer, time, time / 2, decide).await else {
        return;
    };
    let Some(mut websocket) = Terms::of(&limits).begin(upgraded.accepted().0).await else {
        return;
    };
    loop {
        let outcome = match websocket.next().await {
            // tungstenite answers pings and closes itself.
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                websocket.send(message).await
            }
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(error),
            None => return,
        };
        match outcome {
            Ok(()) => {}
            Err(Error::ConnectionClosed) => return,
            Err(error) => return websocket::break_off(websocket, &error).await,
        }
    }
}
