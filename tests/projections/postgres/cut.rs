//! Connections that are cut just where it hurts, by a proxy between the sink and the server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{ready, sink};
use crate::episodes::{Episodes, drive, expected, held, place, trouble};

/// When a connection is cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// The server never sees the commit.
    BeforeCommit,
    /// The server has committed, and nobody is told.
    AfterCommit,
    /// In the middle of the rows.
    InStatements,
}

/// Passes everything on, but cuts every third time that it could.
#[derive(Debug)]
struct Proxy {
    address: SocketAddr,
    cuts: Arc<AtomicU32>,
}

impl Proxy {
    async fn start(server: u16, cut: Cut) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let cuts = Arc::new(AtomicU32::new(0));
        let (counted, chances) = (Arc::clone(&cuts), Arc::new(AtomicU32::new(0)));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (counted, chances) = (Arc::clone(&counted), Arc::clone(&chances));
                tokio::spawn(async move {
                    let server = TcpStream::connect(("127.0.0.1", server)).await;
                    let server = server.expect("the server");
                    if pass(client, server, cut, &chances).await {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        Self { address, cuts }
    }
}

/// Until one side ends, or the connection is cut; which of the two.
async fn pass(mut client: TcpStream, mut server: TcpStream, cut: Cut, chances: &AtomicU32) -> bool {
    let (mut to_server, mut to_client) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            read = client.read(&mut to_server) => {
                let Ok(count @ 1..) = read else { return false };
                let sent = &to_server[..count];
                let of = |wanted: &[u8]| sent.windows(wanted.len()).any(|part| part == wanted);
                // A commit is a request of its own; rows come with the name of their tenant.
                let is_chance = match cut {
                    Cut::BeforeCommit | Cut::AfterCommit => of(b"COMMIT\0"),
                    Cut::InStatements => count > 2_000 && of(b"acme"),
                };
                if is_chance && chances.fetch_add(1, Ordering::Relaxed) % 3 == 1 {
                    match cut {
                        Cut::BeforeCommit => {}
                        Cut::InStatements => {
                            server.write_all(&sent[..count / 2]).await.expect("sent");
                        }
                        Cut::AfterCommit => {
                            server.write_all(sent).await.expect("sent");
                            let answer = server.read(&mut to_client).await.expect("answered");
                            let answer = &to_client[..answer];
                            assert!(answer.windows(6).any(|part| part == b"COMMIT"), "{answer:?}");
                        }
                    }
                    return true;
                }
                if server.write_all(sent).await.is_err() { return false }
            }
            read = server.read(&mut to_client) => {
                let Ok(count @ 1..) = read else { return false };
                if client.write_all(&to_client[..count]).await.is_err() { return false }
            }
        }
    }
}

async fn cut_again_and_again(cut: Cut) {
    let (server, database, _sink) = ready().await;
    let proxy = Proxy::start(server.port, cut).await;
    let url = database
        .url
        .replace(&server.port.to_string(), &proxy.address.port().to_string());
    let sink = sink(&url);
    let (episodes, place) = (Episodes::new(), place("acme"));
    let entries = trouble("acme", 500);
    let errors = drive(&sink, &episodes, &place, &entries, |_| {}).await;
    let cuts = proxy.cuts.load(Ordering::Relaxed);
    assert!(cuts >= 5, "{cuts} cuts");
    assert_eq!(errors.len(), cuts as usize, "each is noticed: {errors:?}");
    assert_eq!(
        held(&sink, &episodes, &place).await,
        expected(&episodes, &entries)
    );
}

// PRJ-01 PRJ-13: a batch whose commit never arrived is not there.
#[tokio::test]
async fn cut_before_the_commit() {
    cut_again_and_again(Cut::BeforeCommit).await;
}

// PRJ-01 PRJ-13: a batch whose commit was not answered is there, once.
#[tokio::test]
async fn cut_after_the_commit() {
    cut_again_and_again(Cut::AfterCommit).await;
}

// PRJ-01 PRJ-13: half a batch leaves nothing.
#[tokio::test]
async fn cut_in_the_rows() {
    cut_again_and_again(Cut::InStatements).await;
}
