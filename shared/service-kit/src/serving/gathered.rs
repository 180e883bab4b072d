//! A connection whose small writes leave together with what follows them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The largest write that is held back, in bytes: the head of a response, or all of a small one.
const SMALL: usize = 1024;

/// Holds small writes back until more is written or a flush asks for them.
///
/// It says that it takes no vectored writes. Then h2 copies messages of up to 1 KiB behind their heads, instead of 256 bytes, and
/// the trailers behind them, so that a small answer leaves by one system call and not by two, and wakes its client once
/// (`CHAIN_THRESHOLD_WITHOUT_VECTORED_IO` of h2). What is larger comes here as a head and a message, and leaves by one vectored write, as it
/// would have anyway.
#[derive(Debug)]
pub(super) struct Gathered<T> {
    inner: T,
    held: Vec<u8>,
}

impl<T> Gathered<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner, held: Vec::new() }
    }
}

impl<T: AsyncWrite + Unpin> Gathered<T> {
    /// Writes what is held, and with it as much of `more` as goes. Returns how much of `more` went.
    fn poll_write_held(&mut self, cx: &mut Context<'_>, more: &[u8]) -> Poll<io::Result<usize>> {
        while !self.held.is_empty() {
            let slices = [IoSlice::new(&self.held), IoSlice::new(more)];
            let slices = if more.is_empty() { &slices[..1] } else { &slices[..] };
            let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, slices))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_held = written.min(self.held.len());
            self.held.drain(..of_held);
            if written > of_held {
                return Poll::Ready(Ok(written - of_held));
            }
        }
        Poll::Ready(Ok(0))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.held.len() + bytes.len() <= SMALL {
            self.held.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        match ready!(self.poll_write_held(cx, bytes))? {
            0 => Pin::new(&mut self.inner).poll_write(cx, bytes),
            written => Poll::Ready(Ok(written)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_held(cx, &[]))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_held(cx, &[]))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// Takes at most so many bytes a write, every other time only after a pause, and keeps the size of each.
    #[derive(Debug, Default)]
    struct Sink {
        most: usize,
        pauses: bool,
        paused: bool,
        taken: Vec<u8>,
        writes: Vec<usize>,
    }

    impl Sink {
        fn take(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
            self.paused = self.pauses && !self.paused;
            if self.paused {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let before = self.taken.len();
            self.taken.extend(slices.iter().flat_map(|slice| slice.iter()).take(self.most));
            self.writes.push(self.taken.len() - before);
            Poll::Ready(Ok(self.taken.len() - before))
        }
    }

    impl AsyncWrite for Sink {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.take(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.take(cx, slices)
        }

        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn sink(most: usize) -> Gathered<Sink> {
        Gathered::new(Sink { most, ..Sink::default() })
    }

    #[tokio::test]
    async fn small_writes_leave_together_and_a_head_with_its_message() {
        let mut small = sink(usize::MAX);
        for part in ["head ", "message ", "trailers"] {
            small.write_all(part.as_bytes()).await.unwrap();
        }
        assert!(small.inner.writes.is_empty());
        small.flush().await.unwrap();
        assert_eq!(
            (small.inner.taken.as_slice(), small.inner.writes.len()),
            (&b"head message trailers"[..], 1)
        );

        let mut large = sink(usize::MAX);
        large.write_all(b"head").await.unwrap();
        large.write_all(&[b'x'; 4000]).await.unwrap();
        assert_eq!(large.inner.writes, [4004]);
    }

    #[tokio::test]
    async fn what_is_held_leaves_at_the_end_too() {
        let mut held = sink(3);
        held.write_all(b"held").await.unwrap();
        held.shutdown().await.unwrap();
        assert_eq!(held.inner.taken, b"held");
    }

    #[tokio::test]
    async fn a_connection_that_takes_nothing_is_an_error() {
        let mut stuck = sink(0);
        stuck.write_all(b"held").await.unwrap();
        assert_eq!(stuck.flush().await.unwrap_err().kind(), io::ErrorKind::WriteZero);
    }

    proptest! {
        #[test]
        fn every_byte_arrives_once_and_in_order(
            parts in prop::collection::vec(0_usize..3000, 0..12),
            flushes in prop::collection::vec(any::<bool>(), 12),
            most in 1_usize..3000,
            pauses in any::<bool>(),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let mut gathered = sink(most);
                gathered.inner.pauses = pauses;
                let bytes: Vec<u8> = (0..=250).cycle().take(parts.iter().sum()).collect();
                let mut rest = bytes.as_slice();
                for (length, flush) in parts.iter().zip(flushes) {
                    let (part, after) = rest.split_at(*length);
                    gathered.write_all(part).await.unwrap();
                    if flush {
                        gathered.flush().await.unwrap();
                    }
                    rest = after;
                }
                gathered.flush().await.unwrap();
                assert_eq!(gathered.inner.taken, bytes);
            });
        }
    }
}
