//! How does a last answer reach a client that is still sending, and what of one that does not read?
//!
//! A socket that is closed with bytes unread resets the connection, and the reset may overtake the answer that says
//! what was wrong with them (RFC 9112, section 9.6). So the sending side is closed first, and what still comes is
//! read and forgotten for a moment.
//!
//! A client that does not read its answer would hold it, its connection and its place at a backend for ever: when
//! nothing can be written for as long as a stream may be silent, the connection ends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;

/// How long the other side has to notice the end.
const LINGER: Duration = Duration::from_millis(500);
/// Bytes that are read of what nobody wants.
const MOST_BYTES: u64 = 1024 * 1024;

/// A socket that lingers when it is dropped, and its place among the connections.
#[derive(Debug)]
pub(super) struct Lingering {
    /// `None` only while it is dropped.
    socket: Option<(TcpStream, OwnedSemaphorePermit)>,
    /// How long the other side may read nothing.
    patience: Duration,
    /// Set while it reads nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Lingering {
    pub(super) fn new(socket: TcpStream, permit: OwnedSemaphorePermit, patience: Duration) -> Self {
        Self { socket: Some((socket, permit)), patience, stalled: None }
    }

    /// The same unless nothing could be written for too long.
    fn unless_stalled(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn socket(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.socket
            .as_mut()
            .map(|(socket, _)| Pin::new(socket))
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for Lingering {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().socket()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = this.socket()?.poll_write(cx, buf);
        this.unless_stalled(cx, written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().socket()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().socket()?.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = this.socket()?.poll_write_vectored(cx, bufs);
        this.unless_stalled(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.as_ref().is_some_and(|(socket, _)| socket.is_write_vectored())
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some((mut socket, permit)) = self.socket.take() else { return };
        // Most often the other side has closed already, and nothing is left to say.
        if matches!(socket.try_read(&mut [0; 64]), Ok(0)) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let forget = async {
                if socket.shutdown().await.is_ok() {
                    // However it ends, it is over.
                    let _ =
                        tokio::io::copy(&mut (&mut socket).take(MOST_BYTES), &mut tokio::io::sink()).await;
                }
            };
            let _ = tokio::time::timeout(LINGER, forget).await;
            drop(permit);
        });
    }
}
