// SPDX-License-Identifier: MIT OR Apache-2.0
//! READ: from the device into the send buffer, in the forms that the client understands.

use std::io::IoSliceMut;

use nvstack_block::{BlockDevice, ExtentFlags, Lba};
use nvstack_media::Error;

use super::{Refusal, Session};
use crate::proto::{
    ChunkHeader, ChunkType, CommandFlags, ErrorCode, Request, SimpleReply, data_chunk, hole_chunk,
};
use crate::status::runs;
use crate::stream::End;
use crate::{PIECE, usize_of};

/// Shorter reads are not worth a look at the extents.
const LOOK_FOR_HOLES: u32 = 64 << 10;

/// Most runs of data and holes that are looked at in one go.
const MAX_RUNS: usize = 256;

/// Bytes before the data of a structured read.
const DATA_HEAD: usize = 28;

/// What is left of a read, in bytes of the export.
#[derive(Clone, Copy)]
struct Span {
    offset: u64,
    len: usize,
}

impl Span {
    /// The first `len` bytes of it, and the rest.
    fn split(self, len: usize) -> (Span, Span) {
        let len = self.len.min(len);
        let next = self.offset.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        (Span { len, ..self }, Span { offset: next, len: self.len.saturating_sub(len) })
    }
}

impl Session<'_> {
    pub(super) fn read(&mut self, request: &Request, at: Lba) -> Result<(), End> {
        let span = Span { offset: request.offset, len: usize_of(request.len) };
        if !self.structured {
            return self.read_simple(request, at, span);
        }
        if span.len == 0 {
            return self.finish(request);
        }
        if request.flags.contains(CommandFlags::DF) {
            return if span.len <= PIECE {
                self.read_data(request, span, true).map(|_| ())
            } else {
                self.read_unfragmented(request, span)
            };
        }
        if request.len < LOOK_FOR_HOLES {
            return self.read_data(request, span, true).map(|_| ());
        }
        self.read_around_holes(request, span)
    }

    /// A header and all bytes. Up to a piece, an error is an error reply. Beyond that the header has to leave before the
    /// last bytes are read, so ranges that are known to be bad are refused before, and an error that shows up later can
    /// only end the connection.
    fn read_simple(&mut self, request: &Request, at: Lba, span: Span) -> Result<(), End> {
        const HEAD: usize = SimpleReply::SIZE;
        let good = SimpleReply { error: ErrorCode(0), cookie: request.cookie }.encode();
        let device = &*self.export.device;
        if span.len <= PIECE {
            let len = HEAD.saturating_add(span.len);
            let room = self.outbox.room(len)?;
            let (head, data) = room.split_at_mut_checked(HEAD).ok_or(End::Broken)?;
            if let Err(error) = device.read(at, &mut [IoSliceMut::new(data)]) {
                return self.refuse(request, &Refusal::device(&error, request), None);
            }
            head.copy_from_slice(&good);
            self.outbox.commit(len);
            return Ok(());
        }
        let bad = |state: ExtentFlags| u32::from(state.contains(ExtentFlags::BAD));
        let known = runs(device, at, self.lba(request.len.into()).0, MAX_RUNS, &mut self.runs, bad);
        if known.is_ok() && self.runs.iter().any(|run| run.status != 0) {
            return self.refuse(request, &Refusal::new(ErrorCode::EIO, "bad blocks in the range"), None);
        }
        self.outbox.put(&good)?;
        self.stream(span, |_| Err(End::Broken))
    }

    /// Bytes without a header of their own, piece by piece. `fail` is told of the first error, and says whether zeros
    /// stand in for what cannot be read from there on.
    fn stream(
        &mut self,
        mut left: Span,
        mut fail: impl FnMut((u64, Error)) -> Result<(), End>,
    ) -> Result<(), End> {
        let mut failed = false;
        while left.len > 0 {
            let (piece, rest) = left.split(PIECE);
            let at = self.lba(piece.offset);
            let sector = usize_of(self.sector);
            let room = self.outbox.room(piece.len)?;
            let good = if failed {
                0
            } else {
                match read_good(&*self.export.device, at, room, sector) {
                    (good, None) => good,
                    (good, Some(error)) => {
                        failed = true;
                        fail((piece.split(good).1.offset, error))?;
                        good
                    }
                }
            };
            room.get_mut(good..).unwrap_or_default().fill(0);
            self.outbox.commit(piece.len);
            left = rest;
        }
        Ok(())
    }

    /// One content chunk that is longer than a piece: it is completed with zeros after an error, which then follows.
    fn read_unfragmented(&mut self, request: &Request, span: Span) -> Result<(), End> {
        self.outbox.put(&data_chunk(request.cookie, false, span.offset, request.len))?;
        let mut failure = None;
        self.stream(span, |what| {
            failure = Some(what);
            Ok(())
        })?;
        match failure {
            None => self.finish(request),
            Some((offset, error)) => self.refuse(request, &Refusal::device(&error, request), Some(offset)),
        }
    }

    /// Data chunks of at most a piece each. After an error the chunk ends before the first sector that cannot be read, an
    /// error chunk names that one, and the reply is over: false.
    fn read_data(&mut self, request: &Request, mut left: Span, last: bool) -> Result<bool, End> {
        while left.len > 0 {
            let (piece, rest) = left.split(PIECE);
            let at = self.lba(piece.offset);
            let sector = usize_of(self.sector);
            let room = self.outbox.room(DATA_HEAD.saturating_add(piece.len))?;
            let (head, data) = room.split_at_mut_checked(DATA_HEAD).ok_or(End::Broken)?;
            let (good, failure) = read_good(&*self.export.device, at, data, sector);
            let done = last && rest.len == 0 && failure.is_none();
            if good > 0 {
                let len = u32::try_from(good).map_err(|_| End::Broken)?;
                head.copy_from_slice(&data_chunk(request.cookie, done, piece.offset, len));
                self.outbox.commit(DATA_HEAD.saturating_add(good));
            }
            if let Some(error) = failure {
                let offset = piece.split(good).1.offset;
                self.refuse(request, &Refusal::device(&error, request), Some(offset))?;
                return Ok(false);
            }
            left = rest;
        }
        Ok(true)
    }

    /// Hole chunks for what the device says is zero, data chunks for the rest.
    fn read_around_holes(&mut self, request: &Request, mut left: Span) -> Result<(), End> {
        // Taken out for the while, so that the outbox can be written to as they are gone through.
        let mut found = std::mem::take(&mut self.runs);
        let zero = |state: ExtentFlags| u32::from(state.contains(ExtentFlags::ZERO));
        let mut go_on = true;
        while go_on && left.len > 0 {
            let (at, sectors) = (self.lba(left.offset), self.sectors(left.len));
            if runs(&*self.export.device, at, sectors, MAX_RUNS, &mut found, zero).is_err() {
                // Whether the bytes can be read is for the read to find out.
                self.read_data(request, left, true)?;
                break;
            }
            for run in &found {
                let len = run.sectors.saturating_mul(self.sector.into());
                let (part, rest) = left.split(usize::try_from(len).unwrap_or(usize::MAX));
                let last = rest.len == 0;
                if run.status == 0 {
                    go_on = self.read_data(request, part, last)?;
                } else {
                    let len = u32::try_from(part.len).map_err(|_| End::Broken)?;
                    self.outbox.put(&hole_chunk(request.cookie, last, part.offset, len))?;
                }
                left = rest;
                if !go_on || last {
                    break;
                }
            }
        }
        self.runs = found;
        Ok(())
    }

    /// The end of a structured reply whose last chunk did not say so.
    fn finish(&mut self, request: &Request) -> Result<(), End> {
        let end = ChunkHeader { done: true, kind: ChunkType::NONE, cookie: request.cookie, len: 0 };
        self.outbox.put(&end.encode())
    }
}

/// Reads as far as it goes: how many bytes are good, and what stopped it. A device tells only that a request failed, so
/// after an error it is asked again, sector by sector.
fn read_good(device: &dyn BlockDevice, at: Lba, data: &mut [u8], sector: usize) -> (usize, Option<Error>) {
    let len = data.len();
    let Err(error) = device.read(at, &mut [IoSliceMut::new(data)]) else { return (len, None) };
    if len <= sector {
        return (0, Some(error));
    }
    let mut good = 0usize;
    for (i, one) in data.chunks_mut(sector).enumerate() {
        let at = at.plus(u64::try_from(i).unwrap_or(u64::MAX));
        if let Err(error) = device.read(at, &mut [IoSliceMut::new(one)]) {
            return (good, Some(error));
        }
        good = good.saturating_add(one.len());
    }
    (good, None)
}
