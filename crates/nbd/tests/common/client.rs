// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client that says exactly what it is told to, true or not.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// A chunk of a structured reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    None,
    Data(u64, Vec<u8>),
    Hole(u64, u32),
    Status(u32, Vec<(u32, u32)>),
    Error(u32, String),
    ErrorAt(u32, String, u64),
}

/// An answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Simple(u64, u32),
    Chunk(u64, bool, Chunk),
}

pub struct Client<S = UnixStream> {
    pub socket: S,
    pub structured: bool,
    pub size: u64,
    pub flags: u16,
    cookie: u64,
}

pub const EPERM: u32 = 1;
pub const EIO: u32 = 5;
pub const EINVAL: u32 = 22;
pub const ENOSPC: u32 = 28;

impl<S: Read + Write> Client<S> {
    /// Reads the greeting and answers it as modern clients do.
    pub fn greeted(socket: S) -> Client<S> {
        Client::greeted_with(socket, 3)
    }

    pub fn greeted_with(socket: S, flags: u32) -> Client<S> {
        let mut client =
            Client { socket, structured: false, size: 0, flags: 0, cookie: 0x0102_0304_0506_0708 };
        assert_eq!(client.bytes(18), b"NBDMAGICIHAVEOPT\0\x03");
        client.send(&flags.to_be_bytes());
        client
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.socket.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.bytes(2).try_into().unwrap())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes(4).try_into().unwrap())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes(8).try_into().unwrap())
    }

    /// Nothing more comes: the server has ended the connection.
    pub fn assert_ended(&mut self) {
        let mut rest = Vec::new();
        match self.socket.read_to_end(&mut rest) {
            Ok(_) => assert_eq!(rest, b"", "bytes before the end"),
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "{e}"),
        }
    }

    // Negotiation.

    pub fn option(&mut self, code: u32, data: &[u8]) {
        self.option_head(code, data.len() as u32);
        self.send(data);
    }

    pub fn option_head(&mut self, code: u32, len: u32) {
        let mut head = b"IHAVEOPT".to_vec();
        head.extend(code.to_be_bytes());
        head.extend(len.to_be_bytes());
        self.send(&head);
    }

    /// One reply to an option: its code and data.
    pub fn option_reply(&mut self, option: u32) -> (u32, Vec<u8>) {
        assert_eq!(self.u64(), 0x3e889045565a9);
        assert_eq!(self.u32(), option);
        let code = self.u32();
        let len = self.u32() as usize;
        (code, self.bytes(len))
    }

    /// All replies to an option, the last one included.
    pub fn option_replies(&mut self, option: u32) -> Vec<(u32, Vec<u8>)> {
        let mut replies = vec![];
        loop {
            let reply = self.option_reply(option);
            let last = reply.0 == 1 || reply.0 >> 31 == 1;
            replies.push(reply);
            if last {
                return replies;
            }
        }
    }

    pub fn structured_reply(&mut self) {
        self.option(8, &[]);
        assert_eq!(self.option_replies(8), [(1, vec![])]);
        self.structured = true;
    }

    /// GO or INFO: the infos by number, or the error.
    pub fn info(&mut self, option: u32, name: &str, wishes: &[u16]) -> Result<Vec<(u16, Vec<u8>)>, u32> {
        let mut data = (name.len() as u32).to_be_bytes().to_vec();
        data.extend(name.as_bytes());
        data.extend((wishes.len() as u16).to_be_bytes());
        data.extend(wishes.iter().flat_map(|w| w.to_be_bytes()));
        self.option(option, &data);
        let mut replies = self.option_replies(option);
        let (last, _) = replies.pop().unwrap();
        if last != 1 {
            return Err(last);
        }
        let mut infos = vec![];
        for (code, data) in replies {
            assert_eq!(code, 3);
            let info = u16::from_be_bytes(data[..2].try_into().unwrap());
            if info == 0 {
                self.size = u64::from_be_bytes(data[2..10].try_into().unwrap());
                self.flags = u16::from_be_bytes(data[10..12].try_into().unwrap());
            }
            infos.push((info, data[2..].to_vec()));
        }
        Ok(infos)
    }

    pub fn go(&mut self, name: &str) -> Result<Vec<(u16, Vec<u8>)>, u32> {
        self.info(7, name, &[3])
    }

    /// LIST_META_CONTEXT (9) or SET_META_CONTEXT (10): ids and names, or the error.
    pub fn meta(&mut self, option: u32, name: &str, queries: &[&str]) -> Result<Vec<(u32, String)>, u32> {
        let mut data = (name.len() as u32).to_be_bytes().to_vec();
        data.extend(name.as_bytes());
        data.extend((queries.len() as u32).to_be_bytes());
        for query in queries {
            data.extend((query.len() as u32).to_be_bytes());
            data.extend(query.as_bytes());
        }
        self.option(option, &data);
        let mut replies = self.option_replies(option);
        let (last, _) = replies.pop().unwrap();
        if last != 1 {
            return Err(last);
        }
        let context = |(code, data): (u32, Vec<u8>)| {
            assert_eq!(code, 4);
            (
                u32::from_be_bytes(data[..4].try_into().unwrap()),
                String::from_utf8(data[4..].to_vec()).unwrap(),
            )
        };
        Ok(replies.into_iter().map(context).collect())
    }

    pub fn set_meta_context(&mut self, name: &str, queries: &[&str]) -> Vec<(u32, String)> {
        self.meta(10, name, queries).unwrap()
    }

    // Transmission.

    /// Sends a request and gives its cookie.
    pub fn request(&mut self, command: u16, flags: u16, offset: u64, len: u32) -> u64 {
        self.cookie = self.cookie.wrapping_add(1);
        let request = encode(command, flags, self.cookie, offset, len);
        self.send(&request);
        self.cookie
    }

    pub fn reply(&mut self) -> Reply {
        match self.u32() {
            0x67446698 => {
                let error = self.u32();
                Reply::Simple(self.u64(), error)
            }
            0x668e33ef => {
                let flags = self.u16();
                assert_eq!(flags & !1, 0);
                let (kind, cookie, len) = (self.u16(), self.u64(), self.u32() as usize);
                let payload = self.bytes(len);
                let u32_at = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
                let u64_at = |at: usize| u64::from_be_bytes(payload[at..at + 8].try_into().unwrap());
                let message = || {
                    let len = u16::from_be_bytes(payload[4..6].try_into().unwrap()) as usize;
                    (String::from_utf8(payload[6..6 + len].to_vec()).unwrap(), 6 + len)
                };
                let chunk = match kind {
                    0 => Chunk::None,
                    1 => Chunk::Data(u64_at(0), payload[8..].to_vec()),
                    2 => Chunk::Hole(u64_at(0), u32_at(8)),
                    5 => {
                        assert_eq!((len - 4) % 8, 0);
                        let extents = (4..len).step_by(8).map(|at| (u32_at(at), u32_at(at + 4)));
                        Chunk::Status(u32_at(0), extents.collect())
                    }
                    0x8001 => {
                        let (text, end) = message();
                        assert_eq!(end, len);
                        Chunk::Error(u32_at(0), text)
                    }
                    0x8002 => {
                        let (text, end) = message();
                        assert_eq!(end + 8, len);
                        Chunk::ErrorAt(u32_at(0), text, u64_at(end))
                    }
                    other => panic!("chunk type {other:#x}"),
                };
                Reply::Chunk(cookie, flags & 1 == 1, chunk)
            }
            other => panic!("reply magic {other:#x}"),
        }
    }

    /// The error of a reply without data, 0 for none.
    pub fn status(&mut self, cookie: u64) -> u32 {
        match self.reply() {
            Reply::Simple(c, error) if c == cookie => error,
            Reply::Chunk(c, true, Chunk::Error(error, _)) if c == cookie => error,
            other => panic!("{other:?} for {cookie:#x}"),
        }
    }

    pub fn command(&mut self, command: u16, flags: u16, offset: u64, len: u32) -> u32 {
        let cookie = self.request(command, flags, offset, len);
        self.status(cookie)
    }

    pub fn write(&mut self, flags: u16, offset: u64, data: &[u8]) -> u32 {
        let cookie = self.request(1, flags, offset, data.len() as u32);
        self.send(data);
        self.status(cookie)
    }

    pub fn flush(&mut self) -> u32 {
        self.command(3, 0, 0, 0)
    }

    /// All chunks of one structured reply.
    pub fn chunks(&mut self, cookie: u64) -> Vec<Chunk> {
        let mut chunks = vec![];
        loop {
            match self.reply() {
                Reply::Chunk(c, done, chunk) if c == cookie => {
                    chunks.push(chunk);
                    if done {
                        return chunks;
                    }
                }
                other => panic!("{other:?} for {cookie:#x}"),
            }
        }
    }

    /// A read in whichever way was agreed: the bytes, or the error.
    pub fn read(&mut self, offset: u64, len: u32) -> Result<Vec<u8>, u32> {
        let cookie = self.request(0, 0, offset, len);
        if !self.structured {
            let error = self.status(cookie);
            return if error == 0 { Ok(self.bytes(len as usize)) } else { Err(error) };
        }
        let mut data = vec![0xee; len as usize];
        let mut covered = 0;
        for chunk in self.chunks(cookie) {
            match chunk {
                Chunk::Data(at, bytes) => {
                    let at = (at - offset) as usize;
                    data[at..at + bytes.len()].copy_from_slice(&bytes);
                    covered += bytes.len();
                }
                Chunk::Hole(at, len) => {
                    let at = (at - offset) as usize;
                    data[at..at + len as usize].fill(0);
                    covered += len as usize;
                }
                Chunk::None => {}
                Chunk::Error(error, _) | Chunk::ErrorAt(error, ..) => return Err(error),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(covered, len as usize);
        Ok(data)
    }
}

/// A request's 28 bytes.
pub fn encode(command: u16, flags: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut request = 0x25609513u32.to_be_bytes().to_vec();
    request.extend(flags.to_be_bytes());
    request.extend(command.to_be_bytes());
    request.extend(cookie.to_be_bytes());
    request.extend(offset.to_be_bytes());
    request.extend(len.to_be_bytes());
    request
}
