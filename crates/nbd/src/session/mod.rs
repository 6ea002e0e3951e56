// SPDX-License-Identifier: MIT OR Apache-2.0
//! Transmission with one client: requests in the order in which they come, replies in the same order.

mod read;

use std::borrow::Cow;
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nvstack_block::{ExtentFlags, Lba, WriteFlags};
use nvstack_media::{Error, Kind};

use crate::buffer::{Inbox, Outbox};
use crate::exports::Export;
use crate::handshake::Agreed;
use crate::proto::{
    Command, CommandFlags, ErrorCode, Request, SimpleReply, TransmissionFlags, descriptor, error_chunk,
    status_chunk,
};
use crate::status::{Contexts, Run, runs};
use crate::stream::End;
use crate::{MAX_REQUEST, PIECE, usize_of};

/// Most extents that one reply tells of one context.
const MAX_EXTENTS: usize = 4096;

/// Longest text of an error that goes to a client.
const MAX_MESSAGE: usize = 1024;

/// Why a request is answered with an error.
struct Refusal {
    code: ErrorCode,
    message: Cow<'static, str>,
}

impl Refusal {
    fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { code, message: message.into() }
    }

    /// A device's error. `ENOTSUP` is for fast zeroing alone, so elsewhere it turns into `EINVAL`.
    fn device(error: &Error, command: &Request) -> Refusal {
        let fast =
            command.command == Command::WRITE_ZEROES && command.flags.contains(CommandFlags::FAST_ZERO);
        let code = match error.kind() {
            Kind::Unsupported if !fast => ErrorCode::EINVAL,
            kind => ErrorCode(kind.nbd()),
        };
        Refusal::new(code, error.to_string())
    }
}

/// Whether the connection goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Request,
    End,
}

pub(crate) struct Session<'a> {
    inbox: Inbox,
    outbox: Outbox,
    stop: &'a AtomicBool,
    export: Arc<Export>,
    flags: TransmissionFlags,
    structured: bool,
    contexts: Contexts,
    /// Bytes of the export.
    size: u64,
    /// Bytes of a sector, a power of two; and its logarithm.
    sector: u32,
    shift: u32,
    runs: Vec<Run>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(inbox: Inbox, outbox: Outbox, stop: &'a AtomicBool, agreed: Agreed) -> Session<'a> {
        let Agreed { export, structured, contexts } = agreed;
        let geometry = export.device.geometry();
        let info = export.info(structured);
        Session {
            inbox,
            outbox,
            stop,
            export,
            flags: info.flags,
            structured,
            contexts,
            size: info.size,
            sector: geometry.sector_size,
            shift: geometry.sector_size.trailing_zeros(),
            runs: Vec::new(),
        }
    }

    /// Serves until the client or the server ends it.
    pub(crate) fn run(mut self) -> Result<(), End> {
        loop {
            let Some(header) = self.inbox.bytes().first_chunk() else {
                self.receive(Request::SIZE, false)?;
                continue;
            };
            let request = match Request::decode(header) {
                Ok(request) => request,
                Err(why) => {
                    // Where the next request begins is anybody's guess. What was served is still told.
                    self.outbox.send()?;
                    return Err(why.into());
                }
            };
            self.inbox.consume(Request::SIZE);
            if self.serve(&request)? == Next::End {
                return self.outbox.send();
            }
        }
    }

    /// Sends all replies, then waits for more bytes; for a client that is idle between two requests as long as it likes.
    fn receive(&mut self, need: usize, within_request: bool) -> Result<(), End> {
        self.outbox.send()?;
        loop {
            if self.stop.load(Ordering::Relaxed) || self.export.is_gone() {
                self.inbox.last_call();
            }
            match self.inbox.receive(need) {
                Err(End::Stalled) if !within_request && self.inbox.bytes().is_empty() => {}
                outcome => return outcome,
            }
        }
    }

    fn serve(&mut self, request: &Request) -> Result<Next, End> {
        let outcome = match self.check(request) {
            Ok(at) => match request.command {
                Command::READ => {
                    self.read(request, at)?;
                    return Ok(Next::Request);
                }
                Command::WRITE => self.write(request, at)?,
                Command::BLOCK_STATUS => match self.block_status(request, at)? {
                    Ok(()) => return Ok(Next::Request),
                    refused => refused,
                },
                Command::CACHE => self.cache(request, at)?,
                Command::DISC => return Ok(Next::End),
                _ => self.without_payload(request, at),
            },
            Err(refusal) => {
                if request.command == Command::WRITE {
                    self.drain(usize_of(request.len))?;
                }
                Err(refusal)
            }
        };
        match outcome {
            Ok(()) => {
                self.outbox.put(&SimpleReply { error: ErrorCode(0), cookie: request.cookie }.encode())?;
            }
            Err(refusal) => self.refuse(request, &refusal, None)?,
        }
        Ok(Next::Request)
    }

    /// Whether the request may be done at all, and the sector where it begins.
    fn check(&self, request: &Request) -> Result<Lba, Refusal> {
        use CommandFlags as F;
        let known = match request.command {
            Command::READ if self.structured => F::FUA | F::DF,
            Command::READ | Command::WRITE | Command::FLUSH | Command::TRIM | Command::CACHE => F::FUA,
            Command::WRITE_ZEROES => F::FUA | F::NO_HOLE | F::FAST_ZERO,
            Command::BLOCK_STATUS => F::FUA | F::REQ_ONE,
            Command::DISC => return Ok(Lba(0)),
            Command(other) => {
                return Err(Refusal::new(ErrorCode::EINVAL, format!("command {other} is not known")));
            }
        };
        if self.export.is_gone() {
            return Err(Refusal::new(ErrorCode::ESHUTDOWN, "the export has been removed"));
        }
        if !known.contains(request.flags) {
            let message = format!(
                "command {} has no flags {:#x}",
                request.command.0,
                request.flags.difference(known).bits()
            );
            return Err(Refusal::new(ErrorCode::EINVAL, message));
        }
        let (offset, len) = (request.offset, u64::from(request.len));
        let write = matches!(request.command, Command::WRITE | Command::WRITE_ZEROES);
        if (write || request.command == Command::TRIM) && self.flags.contains(TransmissionFlags::READ_ONLY) {
            return Err(Refusal::new(ErrorCode::EPERM, "the export is read-only"));
        }
        if request.command == Command::TRIM && !self.flags.contains(TransmissionFlags::SEND_TRIM) {
            return Err(Refusal::new(ErrorCode::EINVAL, "trim is not offered"));
        }
        if request.command == Command::FLUSH && (offset != 0 || len != 0) {
            return Err(Refusal::new(ErrorCode::EINVAL, "flush takes no range"));
        }
        let mask = u64::from(self.sector).saturating_sub(1);
        if (offset | len) & mask != 0 {
            let message = format!("{len} bytes at {offset} are not whole sectors of {} bytes", self.sector);
            return Err(Refusal::new(ErrorCode::EINVAL, message));
        }
        if offset.checked_add(len).is_none_or(|end| end > self.size) {
            let code = if write { ErrorCode::ENOSPC } else { ErrorCode::EINVAL };
            let message =
                format!("{len} bytes at {offset} do not lie within the export's {} bytes", self.size);
            return Err(Refusal::new(code, message));
        }
        let bounded = matches!(request.command, Command::READ | Command::WRITE | Command::CACHE);
        if bounded && request.len > MAX_REQUEST {
            let message = format!("{len} bytes in one request, accepted {MAX_REQUEST}");
            return Err(Refusal::new(ErrorCode::EINVAL, message));
        }
        Ok(self.lba(offset))
    }

    /// The sector of an offset.
    #[inline]
    fn lba(&self, offset: u64) -> Lba {
        Lba(offset.checked_shr(self.shift).unwrap_or(0))
    }

    /// FLUSH, TRIM and WRITE_ZEROES.
    fn without_payload(&mut self, request: &Request, at: Lba) -> Result<(), Refusal> {
        let device = &*self.export.device;
        let sectors = self.lba(request.len.into()).0;
        let fua = request.flags.contains(CommandFlags::FUA);
        let outcome = match request.command {
            Command::FLUSH => device.flush(),
            Command::TRIM => {
                device.discard(at, sectors).and_then(|()| if fua { device.flush() } else { Ok(()) })
            }
            _ => {
                let mut flags = WriteFlags::empty();
                flags.set(WriteFlags::FUA, fua);
                flags.set(WriteFlags::NO_HOLE, request.flags.contains(CommandFlags::NO_HOLE));
                flags.set(WriteFlags::FAST, request.flags.contains(CommandFlags::FAST_ZERO));
                device.write_zeroes(at, sectors, flags)
            }
        };
        outcome.map_err(|error| Refusal::device(&error, request))
    }

    /// WRITE: from the receive buffer to the device. A payload that fits there goes in one call; a longer one goes piece
    /// by piece as it arrives, and after an error its rest is dropped.
    fn write(&mut self, request: &Request, mut at: Lba) -> Result<Result<(), Refusal>, End> {
        let fua = request.flags.contains(CommandFlags::FUA);
        let whole = usize_of(request.len);
        let mut left = whole;
        while left > 0 {
            let len = left.min(PIECE);
            while self.inbox.first(len).is_none() {
                self.receive(len, true)?;
            }
            let payload = self.inbox.first(len).unwrap_or_default();
            // Durability for a write in pieces comes from one flush at the end.
            let flags = if fua && whole == len { WriteFlags::FUA } else { WriteFlags::empty() };
            let outcome = self.export.device.write(at, &[IoSlice::new(payload)], flags);
            self.inbox.consume(len);
            left = left.saturating_sub(len);
            if let Err(error) = outcome {
                self.drain(left)?;
                return Ok(Err(Refusal::device(&error, request)));
            }
            at = at.plus(self.sectors(len));
        }
        if fua && whole > PIECE {
            return Ok(self.export.device.flush().map_err(|error| Refusal::device(&error, request)));
        }
        Ok(Ok(()))
    }

    /// Sectors in a buffer of so many bytes.
    #[inline]
    fn sectors(&self, bytes: usize) -> u64 {
        self.lba(u64::try_from(bytes).unwrap_or(u64::MAX)).0
    }

    /// Drops a payload that nobody wants.
    fn drain(&mut self, mut left: usize) -> Result<(), End> {
        while left > 0 {
            if self.inbox.bytes().is_empty() {
                self.receive(1, true)?;
            }
            let here = self.inbox.bytes().len().min(left);
            self.inbox.consume(here);
            left = left.saturating_sub(here);
        }
        Ok(())
    }

    /// CACHE: reads the range and forgets it, which brings the pages of a mapped file into memory.
    fn cache(&mut self, request: &Request, mut at: Lba) -> Result<Result<(), Refusal>, End> {
        let mut left = usize_of(request.len);
        while left > 0 {
            let len = left.min(PIECE);
            let scratch = self.outbox.room(len)?;
            if let Err(error) = self.export.device.read(at, &mut [IoSliceMut::new(scratch)]) {
                return Ok(Err(Refusal::device(&error, request)));
            }
            at = at.plus(self.sectors(len));
            left = left.saturating_sub(len);
        }
        Ok(Ok(()))
    }

    /// BLOCK_STATUS: one chunk for each context, in the order of their ids.
    fn block_status(&mut self, request: &Request, at: Lba) -> Result<Result<(), Refusal>, End> {
        if self.contexts.is_empty() {
            return Ok(Err(Refusal::new(ErrorCode::EINVAL, "no metadata context was chosen")));
        }
        if request.len == 0 {
            return Ok(Err(Refusal::new(ErrorCode::EINVAL, "block status of no bytes")));
        }
        let one = request.flags.contains(CommandFlags::REQ_ONE);
        let most = if one { 1 } else { MAX_EXTENTS };
        let sectors = self.lba(request.len.into()).0;
        let mut rest = self.contexts;
        for context in self.contexts.iter() {
            rest.remove(context);
            let status = |state: ExtentFlags| context.status(state);
            if let Err(error) = runs(&*self.export.device, at, sectors, most, &mut self.runs, status) {
                return Ok(Err(Refusal::device(&error, request)));
            }
            let count = u32::try_from(self.runs.len()).unwrap_or(0);
            self.outbox.put(&status_chunk(request.cookie, rest.is_empty(), context.id(), count))?;
            for run in &self.runs {
                let len = run.sectors.saturating_mul(self.sector.into());
                // The runs together are no longer than the request.
                let len = u32::try_from(len).unwrap_or(request.len);
                self.outbox.put(&descriptor(len, run.status))?;
            }
        }
        Ok(Ok(()))
    }

    /// Answers with an error, which ends the reply.
    fn refuse(&mut self, request: &Request, refusal: &Refusal, offset: Option<u64>) -> Result<(), End> {
        if !self.structured {
            return self.outbox.put(&SimpleReply { error: refusal.code, cookie: request.cookie }.encode());
        }
        let message =
            refusal.message.get(..refusal.message.floor_char_boundary(MAX_MESSAGE)).unwrap_or_default();
        self.outbox.put(&error_chunk(request.cookie, refusal.code, message, offset))
    }
}
