// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small NBD client that shares no code with the server that it judges: one connection, simple replies, any number of
//! requests in flight.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::report::{Context, Result, ensure};

const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;

/// `NBD_CMD_FLAG_FUA`.
pub(crate) const FUA: u16 = 1;

/// No request takes this long, not even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Read = 0,
    Write = 1,
    Flush = 3,
}

/// One connection in its transmission phase.
pub(crate) struct Client {
    stream: UnixStream,
    cookie: u64,
    /// Bytes of the export.
    pub(crate) size: u64,
}

impl Client {
    /// Connects and negotiates.
    pub(crate) fn connect(socket: &Path, export: &str) -> Result<Client> {
        let stream = UnixStream::connect(socket).context(socket.display())?;
        stream.set_read_timeout(Some(PATIENCE)).context(socket.display())?;
        stream.set_write_timeout(Some(PATIENCE)).context(socket.display())?;
        let mut client = Client { stream, cookie: 0, size: 0 };
        client.negotiate(export).context(format!("negotiating with {}", socket.display()))?;
        ensure(client.size > 0, || "the server told no size".to_owned())?;
        Ok(client)
    }

    /// Sends one request; gives the cookie that its reply will carry.
    pub(crate) fn send(
        &mut self,
        what: Command,
        flags: u16,
        at: u64,
        length: usize,
        data: &[u8],
    ) -> io::Result<u64> {
        self.cookie += 1;
        let length = u32::try_from(length).map_err(io::Error::other)?;
        let mut request = Vec::with_capacity(28 + data.len());
        request.extend(REQUEST.to_be_bytes());
        request.extend(flags.to_be_bytes());
        request.extend((what as u16).to_be_bytes());
        request.extend(self.cookie.to_be_bytes());
        request.extend(at.to_be_bytes());
        request.extend(length.to_be_bytes());
        request.extend_from_slice(data);
        self.stream.write_all(&request)?;
        Ok(self.cookie)
    }

    /// Receives one reply: its cookie and its error, 0 for none. The data of a read follow, by [`Client::data`].
    pub(crate) fn receive(&mut self) -> io::Result<(u64, u32)> {
        let magic = u32::from_be_bytes(self.take()?);
        if magic != SIMPLE_REPLY {
            return Err(io::Error::other(format!("a reply begins with {magic:#x}")));
        }
        let error = u32::from_be_bytes(self.take()?);
        Ok((u64::from_be_bytes(self.take()?), error))
    }

    /// The data behind a reply.
    pub(crate) fn data(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut data = vec![0; length];
        self.stream.read_exact(&mut data)?;
        Ok(data)
    }

    /// Writes and waits.
    pub(crate) fn write(&mut self, at: u64, data: &[u8], flags: u16) -> Result<()> {
        self.ask(Command::Write, flags, at, data.len(), data)
    }

    /// Flushes and waits.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.ask(Command::Flush, 0, 0, 0, &[])
    }

    /// Reads and waits.
    pub(crate) fn read(&mut self, at: u64, length: usize) -> Result<Vec<u8>> {
        self.ask(Command::Read, 0, at, length, &[])?;
        self.data(length).context("the data of a read")
    }

    fn ask(&mut self, what: Command, flags: u16, at: u64, length: usize, data: &[u8]) -> Result<()> {
        let doing = format!("{what:?} of {length} bytes at {at}");
        let cookie = self.send(what, flags, at, length, data).context(&doing)?;
        let (answered, error) = self.receive().context(&doing)?;
        ensure(answered == cookie && error == 0, || format!("{doing}: error {error}"))
    }

    fn negotiate(&mut self, export: &str) -> Result<()> {
        let doing = "the handshake";
        let greeting = [
            u64::from_be_bytes(self.take().context(doing)?),
            u64::from_be_bytes(self.take().context(doing)?),
        ];
        ensure(greeting == [NBDMAGIC, IHAVEOPT], || format!("the server greets with {greeting:x?}"))?;
        let flags = u16::from_be_bytes(self.take().context(doing)?);
        let name = export.as_bytes();
        let name_length = u32::try_from(name.len()).context("the export's name")?;
        let mut answer = Vec::new();
        answer.extend(u32::from(flags & 3).to_be_bytes());
        answer.extend(IHAVEOPT.to_be_bytes());
        answer.extend(OPT_GO.to_be_bytes());
        answer.extend((name_length + 6).to_be_bytes());
        answer.extend(name_length.to_be_bytes());
        answer.extend_from_slice(name);
        answer.extend(0_u16.to_be_bytes());
        self.stream.write_all(&answer).context(doing)?;
        loop {
            let magic = u64::from_be_bytes(self.take().context(doing)?);
            ensure(magic == OPTION_REPLY, || format!("an option reply begins with {magic:#x}"))?;
            let _option: [u8; 4] = self.take().context(doing)?;
            let kind = u32::from_be_bytes(self.take().context(doing)?);
            let length = u32::from_be_bytes(self.take().context(doing)?);
            ensure(length <= 4096, || format!("an option reply of {length} bytes"))?;
            let data = self.data(length as usize).context(doing)?;
            match (kind, data.as_slice()) {
                (REP_ACK, _) => return Ok(()),
                (REP_INFO, [0, 0, size @ .., _, _]) => {
                    self.size = <[u8; 8]>::try_from(size).map(u64::from_be_bytes).context(doing)?;
                }
                (REP_INFO, _) => {}
                _ => {
                    let words = String::from_utf8_lossy(&data);
                    return Err(format!("export '{export}': reply {kind:#x} {words}").into());
                }
            }
        }
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}
