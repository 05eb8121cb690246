//! A client whose test sees every byte.

use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::response::{Answer, Reader, excerpt};
use super::{LIMIT, get};

/// The client's end of a connection. Its [`Reader`] reads the responses.
#[derive(Debug)]
pub(crate) struct Client<S = TcpStream>(Reader<S>);

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        Self::of(TcpStream::connect_timeout(&addr, LIMIT).unwrap())
    }

    /// Makes a client of a connection that was made elsewhere.
    pub(crate) fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(Reader::over(stream))
    }

    /// Connects with a receive buffer so small that the kernel takes little before the client
    /// reads.
    pub(crate) fn connect_narrow(addr: SocketAddr) -> Self {
        Self::connect_with_buffer(addr, 32 << 10)
    }

    /// Connects with a receive buffer of about so many bytes, which the kernel takes before the
    /// client reads.
    pub(crate) fn connect_with_buffer(addr: SocketAddr, bytes: usize) -> Self {
        use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_recv_buffer_size(&socket, bytes).unwrap();
        connect(&socket, &addr).unwrap();
        Self::of(socket.into())
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.stream().local_addr().unwrap()
    }

    /// Returns whether bytes have come that were not read, or the end.
    pub(crate) fn is_readable(&self) -> bool {
        self.stream().set_nonblocking(true).unwrap();
        let peeked = self.stream().peek(&mut [0; 1]);
        self.stream().set_nonblocking(false).unwrap();
        !matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Asserts that nothing has come so far. On one machine, all that the server has sent is here.
    #[track_caller]
    pub(crate) fn expect_nothing_yet(&mut self) {
        assert_eq!(excerpt(self.unread()), "");
        self.stream().set_nonblocking(true).unwrap();
        let peeked = self.stream().peek(&mut [0; 16]);
        self.stream().set_nonblocking(false).unwrap();
        match peeked {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => panic!("something came: {other:?}"),
        }
    }

    /// Returns a second client on the same connection, for reading on another thread.
    pub(crate) fn second(&self) -> Self {
        assert!(self.unread().is_empty());
        Self(Reader::over(self.stream().try_clone().unwrap()))
    }

    /// Finishes the client's side; it can still read.
    pub(crate) fn half_close(&self) {
        self.try_half_close().unwrap();
    }

    /// Finishes the client's side of a connection that the server may have closed.
    pub(crate) fn try_half_close(&self) -> io::Result<()> {
        self.stream().shutdown(Shutdown::Write)
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        rustix::net::sockopt::set_socket_linger(self.stream(), Some(Duration::ZERO)).unwrap();
    }
}

impl Client<UnixStream> {
    pub(crate) fn connect_unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Self(Reader::over(stream))
    }
}

impl<S: io::Read + Write> Client<S> {
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap();
    }

    /// Sends to a server that may have stopped reading.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream_mut().write_all(bytes.as_ref())
    }

    #[track_caller]
    pub(crate) fn send_get(&mut self, target: &str) {
        self.send(get(target));
    }

    #[track_caller]
    pub(crate) fn get(&mut self, target: &str) -> Answer {
        self.send_get(target);
        self.read_response()
    }

    #[track_caller]
    pub(crate) fn head(&mut self, target: &str) -> Answer {
        self.send(format!("HEAD {target} HTTP/1.1\r\nHost: test\r\n\r\n"));
        self.read_response_to_head()
    }

    /// Waits for the server's end, as [`Reader::expect_eof`] does.
    #[track_caller]
    pub(crate) fn expect_eof(&mut self) {
        self.0.expect_eof();
    }
}

impl<S> Deref for Client<S> {
    type Target = Reader<S>;

    fn deref(&self) -> &Reader<S> {
        &self.0
    }
}

impl<S> DerefMut for Client<S> {
    fn deref_mut(&mut self) -> &mut Reader<S> {
        &mut self.0
    }
}
