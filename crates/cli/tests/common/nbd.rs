// SPDX-License-Identifier: MIT OR Apache-2.0
//! The least NBD client that can list, read, write and flush.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

pub(crate) struct Client(UnixStream);

impl Client {
    fn greet(socket: &Path) -> Client {
        let mut s = UnixStream::connect(socket).unwrap();
        let mut hello = [0; 18];
        s.read_exact(&mut hello).unwrap();
        assert_eq!(&hello[..16], b"NBDMAGICIHAVEOPT");
        s.write_all(&3u32.to_be_bytes()).unwrap(); // fixed newstyle, no zeroes
        Client(s)
    }

    fn option(&mut self, option: u32, data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap();
        self.0
            .write_all(&[b"IHAVEOPT", &option.to_be_bytes()[..], &len.to_be_bytes(), data].concat())
            .unwrap();
    }

    /// One reply to an option: its type and data.
    fn reply(&mut self) -> (u32, Vec<u8>) {
        let mut head = [0; 20];
        self.0.read_exact(&mut head).unwrap();
        let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        let mut data = vec![0; word(16) as usize];
        self.0.read_exact(&mut data).unwrap();
        (word(12), data)
    }

    /// The names of the exports.
    pub(crate) fn list(socket: &Path) -> Vec<String> {
        let mut c = Client::greet(socket);
        c.option(3, &[]);
        let mut names = Vec::new();
        loop {
            match c.reply() {
                (2, data) => {
                    let len = u32::from_be_bytes(data[..4].try_into().unwrap()) as usize;
                    names.push(String::from_utf8(data[4..4 + len].to_vec()).unwrap());
                }
                (1, _) => return names,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Opens an export, "" for the default one; gives its size as well.
    pub(crate) fn open(socket: &Path, export: &str) -> (Client, u64) {
        let mut c = Client::greet(socket);
        let len = u32::try_from(export.len()).unwrap().to_be_bytes();
        c.option(7, &[&len[..], export.as_bytes(), &[0, 0]].concat());
        let mut size = None;
        loop {
            match c.reply() {
                (3, data) if data[..2] == [0, 0] => {
                    size = Some(u64::from_be_bytes(data[2..10].try_into().unwrap()));
                }
                (3, _) => {}
                (1, _) => return (c, size.unwrap()),
                other => panic!("{other:?}"),
            }
        }
    }

    /// A request and its error number.
    fn request(&mut self, command: u16, at: u64, len: u32, data: &[u8]) -> u32 {
        self.try_request(command, at, len, data).unwrap()
    }

    /// A request and its error number, or how the connection ended.
    fn try_request(&mut self, command: u16, at: u64, len: u32, data: &[u8]) -> std::io::Result<u32> {
        let head = [
            &0x2560_9513u32.to_be_bytes()[..],
            &[0, 0],
            &command.to_be_bytes(),
            &[7; 8],
            &at.to_be_bytes(),
            &len.to_be_bytes(),
        ];
        self.0.write_all(&[&head.concat()[..], data].concat())?;
        let mut reply = [0; 16];
        self.0.read_exact(&mut reply)?;
        assert_eq!(reply[..4], 0x6744_6698u32.to_be_bytes());
        Ok(u32::from_be_bytes(reply[4..8].try_into().unwrap()))
    }

    pub(crate) fn read(&mut self, at: u64, len: usize) -> Result<Vec<u8>, u32> {
        let error = self.request(0, at, u32::try_from(len).unwrap(), &[]);
        let mut data = vec![0; len];
        if error != 0 {
            return Err(error);
        }
        self.0.read_exact(&mut data).unwrap();
        Ok(data)
    }

    pub(crate) fn write(&mut self, at: u64, data: &[u8]) -> Result<(), u32> {
        match self.request(1, at, u32::try_from(data.len()).unwrap(), data) {
            0 => Ok(()),
            e => Err(e),
        }
    }

    pub(crate) fn try_write(&mut self, at: u64, data: &[u8]) -> std::io::Result<u32> {
        self.try_request(1, at, u32::try_from(data.len()).unwrap(), data)
    }

    pub(crate) fn flush(&mut self) {
        assert_eq!(self.request(3, 0, 0, &[]), 0);
    }
}
