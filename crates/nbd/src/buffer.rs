// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two buffers of a connection.

use std::sync::Arc;

use crate::PIECE;
use crate::stream::{End, Stream};

/// Room for a whole piece and the headers before it.
const CAPACITY: usize = PIECE + 4096;

/// Left-overs up to this size are moved to the front before more is received; longer ones only when they must be.
const CHEAP_MOVE: usize = 8 << 10;

/// What has been received and not yet used.
pub(crate) struct Inbox {
    stream: Arc<Stream>,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// How much more may be received, once the connection is to end.
    left: Option<usize>,
}

impl Inbox {
    pub(crate) fn new(stream: Arc<Stream>) -> Inbox {
        Inbox { stream, buffer: vec![0; CAPACITY].into_boxed_slice(), start: 0, end: 0, left: None }
    }

    /// All of it.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// The first `len` bytes, if they are here.
    #[inline]
    pub(crate) fn first(&self, len: usize) -> Option<&[u8]> {
        self.bytes().get(..len)
    }

    /// Drops the first `len` bytes.
    #[inline]
    pub(crate) fn consume(&mut self, len: usize) {
        self.start = self.start.saturating_add(len).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// From here on only what the system has received already is still taken.
    pub(crate) fn last_call(&mut self) {
        if self.left.is_none() {
            self.left = Some(self.stream.waiting());
        }
    }

    /// Receives once, making room so that `need` bytes from the first one on can be held in the end.
    pub(crate) fn receive(&mut self, need: usize) -> Result<(), End> {
        let used = self.bytes().len();
        let crowded = self.start.saturating_add(need) > CAPACITY;
        if self.start > 0 && (used <= CHEAP_MOVE || crowded) {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, used);
        }
        let most = self.left.unwrap_or(usize::MAX).min(CAPACITY.saturating_sub(self.end));
        if most == 0 {
            return Err(End::Closed);
        }
        let room = self.buffer.get_mut(self.end..self.end.saturating_add(most)).unwrap_or_default();
        let got = self.stream.receive(room)?;
        self.end = self.end.saturating_add(got);
        self.left = self.left.map(|left| left.saturating_sub(got));
        Ok(())
    }
}

/// Replies that have not been sent yet.
pub(crate) struct Outbox {
    stream: Arc<Stream>,
    buffer: Box<[u8]>,
    len: usize,
}

impl Outbox {
    pub(crate) fn new(stream: Arc<Stream>) -> Outbox {
        Outbox { stream, buffer: vec![0; CAPACITY].into_boxed_slice(), len: 0 }
    }

    /// Makes room for `len` bytes, at most a piece and its headers, and gives it. What is written there becomes part
    /// of the replies with [`Outbox::commit`] only.
    #[inline]
    pub(crate) fn room(&mut self, len: usize) -> Result<&mut [u8], End> {
        if len > CAPACITY.saturating_sub(self.len) {
            self.send()?;
        }
        self.buffer.get_mut(self.len..self.len.saturating_add(len)).ok_or(End::Broken)
    }

    /// Takes the first `len` bytes of the room into the replies.
    #[inline]
    pub(crate) fn commit(&mut self, len: usize) {
        self.len = self.len.saturating_add(len).min(CAPACITY);
    }

    /// Adds bytes, however many.
    #[inline]
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<(), End> {
        for part in bytes.chunks(CAPACITY) {
            self.room(part.len())?.copy_from_slice(part);
            self.commit(part.len());
        }
        Ok(())
    }

    /// Sends what there is.
    #[inline]
    pub(crate) fn send(&mut self) -> Result<(), End> {
        let replies = self.buffer.get(..self.len).unwrap_or_default();
        self.len = 0;
        self.stream.send(replies)
    }
}
