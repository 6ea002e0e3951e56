// SPDX-License-Identifier: MIT OR Apache-2.0
//! A connected socket, and why a connection ends.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, sockopt};

use crate::proto::Malformed;

/// Why a connection ends. None of these is anybody else's business, so nobody is told.
#[derive(Debug)]
pub(crate) enum End {
    /// The client is done, or the server is: nothing more can be received.
    Closed,
    /// The client took too long in the middle of something.
    Stalled,
    /// The client does not speak the protocol.
    Malformed,
    /// A reply that had begun cannot be finished truthfully.
    Broken,
    /// The socket failed.
    Socket,
}

impl From<Malformed> for End {
    fn from(_: Malformed) -> End {
        End::Malformed
    }
}

/// A connected socket of either family.
#[derive(Debug)]
pub(crate) struct Stream(OwnedFd);

impl Stream {
    /// A unix socket as it was accepted. Failure to tune it costs speed only.
    pub(crate) fn unix(fd: impl Into<OwnedFd>) -> Stream {
        let fd = fd.into();
        // A whole batch of replies then leaves without waiting for the client to read. The system's limit caps it.
        let _ = sockopt::set_socket_send_buffer_size(&fd, 1 << 20);
        Stream(fd)
    }

    /// A TCP socket as it was accepted.
    pub(crate) fn tcp(fd: impl Into<OwnedFd>) -> Stream {
        let fd = fd.into();
        let _ = sockopt::set_tcp_nodelay(&fd, true);
        // A host that vanished never closes its end; without probes its connection would stay for ever.
        let _ = sockopt::set_socket_keepalive(&fd, true);
        let _ = sockopt::set_tcp_keepidle(&fd, Duration::from_secs(60));
        let _ = sockopt::set_tcp_keepintvl(&fd, Duration::from_secs(10));
        let _ = sockopt::set_tcp_keepcnt(&fd, 6);
        Stream(fd)
    }

    /// Longest time that a receive waits before it gives [`End::Stalled`].
    pub(crate) fn receive_within(&self, time: Duration) -> Result<(), End> {
        self.within(sockopt::Timeout::Recv, time)
    }

    /// Longest time that a send waits for the client to read anything at all.
    pub(crate) fn send_within(&self, time: Duration) -> Result<(), End> {
        self.within(sockopt::Timeout::Send, time)
    }

    fn within(&self, which: sockopt::Timeout, time: Duration) -> Result<(), End> {
        // Zero would mean for ever.
        let time = time.max(Duration::from_millis(1));
        sockopt::set_socket_timeout(&self.0, which, Some(time)).map_err(|_| End::Socket)
    }

    /// Receives at least one byte.
    pub(crate) fn receive(&self, into: &mut [u8]) -> Result<usize, End> {
        loop {
            match rustix::net::recv(&self.0, &mut *into, RecvFlags::empty()) {
                Ok((0, _)) => return Err(End::Closed),
                Ok((n, _)) => return Ok(n),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(End::Stalled),
                Err(_) => return Err(End::Socket),
            }
        }
    }

    /// Sends all of it.
    pub(crate) fn send(&self, mut from: &[u8]) -> Result<(), End> {
        while !from.is_empty() {
            match rustix::net::send(&self.0, from, SendFlags::NOSIGNAL) {
                Ok(n) => from = from.get(n..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(End::Stalled),
                Err(_) => return Err(End::Socket),
            }
        }
        Ok(())
    }

    /// Bytes that have been received and not read.
    pub(crate) fn waiting(&self) -> usize {
        let bytes = rustix::io::ioctl_fionread(&self.0).unwrap_or(0);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Nothing more will be received than what has been; a receive that waits wakes up.
    pub(crate) fn stop_receiving(&self) {
        let _ = rustix::net::shutdown(&self.0, Shutdown::Read);
    }

    /// Cuts the connection; whatever waits on it wakes up.
    pub(crate) fn cut(&self) {
        let _ = rustix::net::shutdown(&self.0, Shutdown::Both);
    }
}
