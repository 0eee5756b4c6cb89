//! Connections after their handshake.
//!
//! They hide the TLS library from the rest of the program. The client's begins with the bytes that were read to learn
//! whether the server accepts it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A client's connection, seen from the issuer.
#[derive(Debug)]
pub struct PeerStream(tokio_rustls::server::TlsStream<TcpStream>);

impl PeerStream {
    pub(crate) fn new(stream: tokio_rustls::server::TlsStream<TcpStream>) -> Self {
        Self(stream)
    }

    fn inner(self: Pin<&mut Self>) -> Pin<&mut tokio_rustls::server::TlsStream<TcpStream>> {
        Pin::new(&mut self.get_mut().0)
    }
}

/// The connection to the issuer, seen from a client.
#[derive(Debug)]
pub struct IssuerStream {
    first: Vec<u8>,
    replayed: usize,
    stream: tokio_rustls::client::TlsStream<TcpStream>,
}

impl IssuerStream {
    pub(crate) fn new(first: Vec<u8>, stream: tokio_rustls::client::TlsStream<TcpStream>) -> Self {
        Self { first, replayed: 0, stream }
    }

    fn inner(self: Pin<&mut Self>) -> Pin<&mut tokio_rustls::client::TlsStream<TcpStream>> {
        Pin::new(&mut self.get_mut().stream)
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, buffer)
    }
}

impl AsyncRead for IssuerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let left = &this.first[this.replayed..];
        if left.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        }
        let length = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..length]);
        this.replayed += length;
        Poll::Ready(Ok(()))
    }
}

macro_rules! write_through {
    ($stream:ty) => {
        impl AsyncWrite for $stream {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.inner().poll_write(cx, bytes)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                self.inner().poll_write_vectored(cx, bytes)
            }

            fn is_write_vectored(&self) -> bool {
                true
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.inner().poll_flush(cx)
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.inner().poll_shutdown(cx)
            }
        }
    };
}

write_through!(PeerStream);
write_through!(IssuerStream);
