//! A session's byte stream: read in large pieces while much comes, at no cost while nothing does,
//! and with an eye on frames that carry next to nothing.
//!
//! The WebSocket library keeps one buffer of fixed size for as long as the connection lives, so
//! that is small, and what comes in bulk is read ahead here, into a buffer that goes when the peer
//! pauses.
//!
//! A peer may send pings, or a message in fragments, as fast as the network takes them; each costs
//! the node more than the peer, and the WebSocket library hands none of the fragments out. They are
//! counted here, by their heads, and a peer that sends too many reads an error. Knows the form of a
//! frame's head (RFC 6455, section 5.2) and nothing else of WebSocket.

use std::io;
use std::num::NonZeroU32;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// What is read at once while much comes.
const AHEAD_BYTES: usize = 64 << 10;
/// A fragment with less than this is small.
const SMALL_BYTES: u64 = 1 << 10;
/// As many may come at once as in so many seconds.
const BURST_S: NonZeroU32 = NonZeroU32::new(10).unwrap();

/// The stream.
#[derive(Debug)]
pub struct Metered<S> {
    inner: S,
    /// Read and not handed out.
    ahead: BytesMut,
    /// The last read has filled what it was given, so that more is likely to be there.
    busy: bool,
    heads: Heads,
    per_second: NonZeroU32,
    /// Made when the first small frame comes, since most sessions never send one.
    limiter: Option<Box<DefaultDirectRateLimiter>>,
    flooded: bool,
}

impl<S> Metered<S> {
    /// Nothing read yet.
    #[must_use]
    pub fn new(inner: S, small_frames_per_second: u32) -> Self {
        Self {
            inner,
            ahead: BytesMut::new(),
            busy: false,
            heads: Heads::default(),
            per_second: NonZeroU32::new(small_frames_per_second).unwrap_or(NonZeroU32::MIN),
            limiter: None,
            flooded: false,
        }
    }

    /// Whether the peer has sent too many small frames.
    pub(in crate::edge) const fn is_flooded(&self) -> bool {
        self.flooded
    }

    /// The stream without the eye on it.
    pub(in crate::edge) const fn inner(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Counts what has been read; `false` if it is too much.
    fn admit(&mut self, read: &[u8]) -> bool {
        let Some(small) = NonZeroU32::new(self.heads.feed(read)) else {
            return true;
        };
        let per_second = self.per_second;
        let limiter = self.limiter.get_or_insert_with(|| {
            let quota = Quota::per_second(per_second);
            let quota = quota.allow_burst(per_second.saturating_mul(BURST_S));
            Box::new(RateLimiter::direct(quota))
        });
        matches!(limiter.check_n(small), Ok(Ok(())))
    }
}

impl<S: AsyncRead + Unpin> Metered<S> {
    /// Reads ahead as much as there is, up to the size of the buffer.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ahead.reserve(AHEAD_BYTES);
        let read = pin!(self.inner.read_buf(&mut self.ahead)).poll(cx);
        if read.is_pending() {
            self.ahead = BytesMut::new();
            self.busy = false;
        }
        ready!(read)?;
        let ahead = std::mem::take(&mut self.ahead);
        self.flooded = !self.admit(&ahead);
        self.ahead = ahead;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        if this.ahead.is_empty() && !this.flooded {
            if this.busy {
                ready!(this.poll_ahead(cx))?;
            } else {
                ready!(Pin::new(&mut this.inner).poll_read(cx, buffer))?;
                this.busy = buffer.remaining() == 0;
                this.flooded = !this.admit(&buffer.filled()[before..]);
            }
        }
        if this.flooded {
            buffer.set_filled(before);
            return Poll::Ready(Err(io::Error::other("too many small frames")));
        }
        let taken = this.ahead.len().min(buffer.remaining());
        buffer.put_slice(&this.ahead[..taken]);
        this.ahead.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Finds the heads of frames in what is read.
#[derive(Debug, Default)]
struct Heads {
    /// The head that has begun: at most two bytes, a length of eight and a mask of four.
    head: [u8; 14],
    have: usize,
    /// What is left of the current frame's payload.
    left: u64,
}

impl Heads {
    /// Reads on; how many small frames have begun.
    fn feed(&mut self, mut bytes: &[u8]) -> u32 {
        let mut small = 0;
        loop {
            let skip = usize::try_from(self.left)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            self.left -= skip as u64;
            bytes = &bytes[skip..];
            let Some((next, rest)) = bytes.split_first() else {
                return small;
            };
            bytes = rest;
            self.head[self.have] = *next;
            self.have += 1;
            if self.have >= 2 && self.have == self.needed() {
                self.left = self.payload_len();
                self.have = 0;
                let (last, control) = (self.head[0] & 0x80 != 0, self.head[0] & 0x08 != 0);
                small += u32::from(control || (!last && self.left < SMALL_BYTES));
            }
        }
    }

    /// Length of the head that has begun.
    const fn needed(&self) -> usize {
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        mask + match self.head[1] & 0x7f {
            126 => 4,
            127 => 10,
            _ => 2,
        }
    }

    fn payload_len(&self) -> u64 {
        let long = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |len, byte| len << 8 | u64::from(*byte))
        };
        match self.head[1] & 0x7f {
            126 => long(&self.head[2..4]),
            127 => long(&self.head[2..10]),
            short => u64::from(short),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    // PERF-05
    #[tokio::test]
    async fn bulk_is_read_ahead_and_nothing_is_kept_in_a_pause() {
        let (mut ours, theirs) = tokio::io::duplex(1 << 20);
        let mut metered = Metered::new(theirs, 1);
        let sent: Vec<u8> = frame(0x82, 500_000);
        for _ in 0..2 {
            ours.write_all(&sent).await.unwrap();
            let mut found = vec![0; sent.len()];
            let mut most = 0;
            for piece in found.chunks_mut(4 << 10) {
                metered.read_exact(piece).await.unwrap();
                most = most.max(metered.ahead.len());
            }
            assert!(found == sent, "not what was sent");
            assert!(most > 8 << 10, "read in pieces of at most {most}");
            let nothing =
                tokio::time::timeout(std::time::Duration::from_millis(1), metered.read_u8());
            assert!(nothing.await.is_err());
            assert_eq!(metered.ahead.capacity(), 0);
        }
        drop(ours);
        assert_eq!(metered.read(&mut [0; 9]).await.unwrap(), 0);
    }

    #[expect(
        clippy::big_endian_bytes,
        reason = "RFC 6455 writes lengths in network order"
    )]
    fn network(len: usize) -> [u8; 8] {
        (len as u64).to_be_bytes()
    }

    fn frame(first: u8, len: usize) -> Vec<u8> {
        let mut bytes = vec![first];
        match len {
            0..=125 => bytes.push(0x80 | u8::try_from(len).unwrap()),
            126..=0xffff => {
                bytes.push(0x80 | 126);
                let [.., high, low] = network(len);
                bytes.extend([high, low]);
            }
            _ => {
                bytes.push(0x80 | 127);
                bytes.extend(network(len));
            }
        }
        bytes.extend([1, 2, 3, 4]);
        bytes.extend(std::iter::repeat_n(0xff, len));
        bytes
    }

    // EDGE-10
    #[test]
    fn small_frames_are_counted_however_they_are_cut() {
        // With the first byte of its head, its length, and whether it counts.
        let table: [(u8, usize, u32); 10] = [
            (0x82, 0, 0),
            (0x82, 100, 0),
            (0x82, 70_000, 0),
            (0x02, 1_023, 1),
            (0x00, 1_024, 0),
            (0x00, 0, 1),
            (0x80, 3, 0),
            (0x89, 0, 1),
            (0x8a, 125, 1),
            (0x88, 2, 1),
        ];
        let all: Vec<u8> = table
            .iter()
            .flat_map(|(first, len, _)| frame(*first, *len))
            .collect();
        let expected: u32 = table.iter().map(|(_, _, small)| small).sum();
        for cut in [1, 2, 3, 7, 13, 1_000, all.len()] {
            let mut heads = Heads::default();
            let found: u32 = all.chunks(cut).map(|chunk| heads.feed(chunk)).sum();
            assert_eq!(found, expected, "in pieces of {cut}");
            assert_eq!((heads.left, heads.have), (0, 0));
        }
        // The greatest length that a head can claim.
        let mut heads = Heads::default();
        heads.feed(&[
            0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 9,
        ]);
        assert_eq!(heads.left, u64::MAX - 1);
    }
}
