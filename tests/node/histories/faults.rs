//! What goes wrong while the clients of a history are at work: lines that are cut, nodes that are
//! killed or told to end.
//!
//! Knows no history; whoever starts a node decides when its life is over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::dice::Dice;
use crate::support::Node;

/// A way to the node that can be cut in the middle of a frame. Connections after the cut work.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) address: SocketAddr,
    cut: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Line {
    pub(super) async fn to(node: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let cut = Arc::new(Notify::new());
        let task = tokio::spawn(forward(listener, node, Arc::clone(&cut)));
        Self { address, cut, task }
    }

    /// Ends all connections over this line. What is in its buffers is lost, in both directions.
    pub(super) fn cut(&self) {
        self.cut.notify_waiters();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(listener: TcpListener, node: SocketAddr, cut: Arc<Notify>) {
    while let Ok((mut client, _)) = listener.accept().await {
        let cut = Arc::clone(&cut);
        tokio::spawn(async move {
            let Ok(mut server) = TcpStream::connect(node).await else {
                return;
            };
            tokio::select! {
                // Either side may hang up at any time; that is what it is for.
                _ended = copy_bidirectional(&mut client, &mut server) => {}
                () = cut.notified() => {}
            }
        });
    }
}

/// How the life of a node ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Kill,
    Drain,
    /// Killed while it drains.
    KillInDrain,
}

impl End {
    pub(super) fn roll(dice: &mut Dice) -> Self {
        match dice.below(10) {
            0..6 => Self::Kill,
            6..8 => Self::Drain,
            _ => Self::KillInDrain,
        }
    }

    /// Ends the node and returns when it is certainly dead.
    pub(super) async fn of(self, node: Node, dice: &mut Dice) {
        match self {
            Self::Kill => node.signal("KILL"),
            Self::Drain => node.signal("TERM"),
            Self::KillInDrain => {
                node.signal("TERM");
                pause(dice, 40).await;
                // It may have ended in order by now; nobody else can have its number before it
                // has been waited for.
                node.signal("KILL");
            }
        }
        let (status, log) = node.ended();
        assert!(!log.contains("panicked"), "the node panicked: {log}");
        assert!(self != Self::Drain || status.success(), "{status}: {log}");
    }
}

/// Waits up to `ms` milliseconds.
pub(super) async fn pause(dice: &mut Dice, ms: u64) {
    tokio::time::sleep(Duration::from_millis(dice.below(ms))).await;
}
