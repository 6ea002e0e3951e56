// SPDX-License-Identifier: MIT OR Apache-2.0
//! Negotiation with one client, as far as the export and the ways in which it will be used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::buffer::{Inbox, Outbox};
use crate::exports::{Export, Exports};
use crate::proto::{
    ClientFlags, ExportRequest, HandshakeFlags, InfoCode, MetaRequest, OptionCode, OptionHeader, OptionReply,
    ReplyCode, export_name_reply, greeting, meta_context, server_entry, string,
};
use crate::status::Contexts;
use crate::stream::{End, Stream};

/// Most bytes of data that an option may bring.
const MAX_OPTION_DATA: u32 = 64 << 10;

/// Most options of one negotiation.
const MAX_OPTIONS: u32 = 4096;

/// What was agreed upon.
pub(crate) struct Agreed {
    pub(crate) export: Arc<Export>,
    pub(crate) structured: bool,
    pub(crate) contexts: Contexts,
}

/// What an option leads to.
enum Next {
    Option,
    Transmission(Agreed),
    Abort,
}

pub(crate) struct Handshake<'a> {
    pub(crate) stream: &'a Stream,
    pub(crate) inbox: &'a mut Inbox,
    pub(crate) outbox: &'a mut Outbox,
    pub(crate) exports: &'a Exports,
    pub(crate) stop: &'a AtomicBool,
    pub(crate) began: Instant,
    pub(crate) within: Duration,
    pub(crate) state: State,
}

/// What has been agreed so far.
#[derive(Default)]
pub(crate) struct State {
    no_zeroes: bool,
    structured: bool,
    /// The export that metadata contexts were chosen for, by its own name, and those contexts.
    contexts: Option<(String, Contexts)>,
}

impl Handshake<'_> {
    /// Negotiates; `None` if the client gave up in an orderly way.
    pub(crate) fn run(mut self) -> Result<Option<Agreed>, End> {
        self.negotiate().inspect_err(|end| {
            // Where the next option begins is anybody's guess. What was answered before is still told.
            if matches!(end, End::Malformed) {
                let _ = self.outbox.send();
            }
        })
    }

    fn negotiate(&mut self) -> Result<Option<Agreed>, End> {
        self.outbox.put(&greeting(HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES))?;
        let flags = u32::from_be_bytes(*self.await_bytes::<4>()?);
        self.inbox.consume(4);
        // Flags that are not understood may change what the following bytes mean.
        let flags = ClientFlags::from_bits(flags).ok_or(End::Malformed)?;
        self.state.no_zeroes = flags.contains(ClientFlags::NO_ZEROES);
        for _ in 0..MAX_OPTIONS {
            let option = OptionHeader::decode(self.await_bytes()?)?;
            self.inbox.consume(OptionHeader::SIZE);
            match self.option(option)? {
                Next::Option => {}
                Next::Transmission(agreed) => {
                    self.outbox.send()?;
                    return Ok(Some(agreed));
                }
                Next::Abort => {
                    // Many clients do not wait for this reply.
                    let _ = self.outbox.send();
                    return Ok(None);
                }
            }
        }
        Err(End::Malformed)
    }

    fn option(&mut self, option: OptionHeader) -> Result<Next, End> {
        let code = option.code;
        if option.len > MAX_OPTION_DATA {
            if code == OptionCode::EXPORT_NAME {
                return Err(End::Malformed);
            }
            let text = format!("option data of {} bytes, accepted {MAX_OPTION_DATA}", option.len);
            self.reply(code, ReplyCode::ERR_TOO_BIG, text.as_bytes())?;
            self.skip(option.len)?;
            return Ok(Next::Option);
        }
        let len = crate::usize_of(option.len);
        let data = self.await_data(len)?.to_vec();
        self.inbox.consume(len);
        if self.stop.load(Ordering::Relaxed) && code != OptionCode::ABORT && code != OptionCode::EXPORT_NAME {
            self.reply(code, ReplyCode::ERR_SHUTDOWN, b"the server is shutting down")?;
            return Ok(Next::Option);
        }
        match code {
            OptionCode::EXPORT_NAME => {
                let export = self.exports.find(string(&data)?).ok_or(End::Malformed)?;
                self.outbox.put(&export_name_reply(&export.info(self.state.structured)))?;
                if !self.state.no_zeroes {
                    self.outbox.put(&[0; 124])?;
                }
                return Ok(Next::Transmission(self.agree(export)));
            }
            OptionCode::ABORT => {
                self.reply(code, ReplyCode::ACK, &[])?;
                return Ok(Next::Abort);
            }
            OptionCode::INFO | OptionCode::GO => return self.info(code, &data),
            OptionCode::LIST if data.is_empty() => {
                for export in self.exports.all() {
                    self.reply(code, ReplyCode::SERVER, &server_entry(&export.name, &export.description))?;
                }
                self.reply(code, ReplyCode::ACK, &[])?;
            }
            OptionCode::STRUCTURED_REPLY if data.is_empty() => {
                self.state.structured = true;
                self.reply(code, ReplyCode::ACK, &[])?;
            }
            OptionCode::LIST | OptionCode::STRUCTURED_REPLY => {
                self.reply(code, ReplyCode::ERR_INVALID, b"the option takes no data")?;
            }
            OptionCode::LIST_META_CONTEXT | OptionCode::SET_META_CONTEXT => self.meta(code, &data)?,
            OptionCode::STARTTLS => self.reply(code, ReplyCode::ERR_UNSUP, b"TLS is not offered")?,
            _ => {
                let text = format!("option {} is not offered", code.0);
                self.reply(code, ReplyCode::ERR_UNSUP, text.as_bytes())?;
            }
        }
        Ok(Next::Option)
    }

    /// INFO and GO.
    fn info(&mut self, code: OptionCode, data: &[u8]) -> Result<Next, End> {
        let request = match ExportRequest::decode(data) {
            Ok(request) => request,
            Err(why) => {
                self.reply(code, ReplyCode::ERR_INVALID, why.to_string().as_bytes())?;
                return Ok(Next::Option);
            }
        };
        let Some(export) = self.export(code, request.name)? else { return Ok(Next::Option) };
        self.reply(code, ReplyCode::INFO, &export.info(self.state.structured).encode())?;
        // Told to all, asked for or not: requests that are not whole sectors fail.
        self.reply(code, ReplyCode::INFO, &export.block_size().encode())?;
        for (info, text) in [(InfoCode::NAME, &export.name), (InfoCode::DESCRIPTION, &export.description)] {
            if request.wants(info) && !text.is_empty() {
                self.reply(code, ReplyCode::INFO, &[&info.0.to_be_bytes(), text.as_bytes()].concat())?;
            }
        }
        self.reply(code, ReplyCode::ACK, &[])?;
        Ok(if code == OptionCode::GO { Next::Transmission(self.agree(export)) } else { Next::Option })
    }

    /// LIST_META_CONTEXT and SET_META_CONTEXT.
    fn meta(&mut self, code: OptionCode, data: &[u8]) -> Result<(), End> {
        let set = code == OptionCode::SET_META_CONTEXT;
        if set {
            self.state.contexts = None;
        }
        if !self.state.structured {
            return self.reply(code, ReplyCode::ERR_INVALID, b"structured replies come first");
        }
        let request = match MetaRequest::decode(data) {
            Ok(request) => request,
            Err(why) => return self.reply(code, ReplyCode::ERR_INVALID, why.to_string().as_bytes()),
        };
        let Some(export) = self.export(code, request.name)? else { return Ok(()) };
        let mut found = Contexts::empty();
        if !set && request.count == 0 {
            found = Contexts::all();
        }
        for query in request.queries() {
            found |= if set { Contexts::named(query) } else { Contexts::matching(query) };
        }
        for context in found.iter() {
            // An id has a meaning only once the context is chosen.
            let id = if set { context.id() } else { 0 };
            self.reply(code, ReplyCode::META_CONTEXT, &meta_context(id, context.name()))?;
        }
        if set {
            self.state.contexts = Some((export.name.clone(), found));
        }
        self.reply(code, ReplyCode::ACK, &[])
    }

    /// The export of a name; if there is none, says so.
    fn export(&mut self, code: OptionCode, name: &str) -> Result<Option<Arc<Export>>, End> {
        let export = self.exports.find(name);
        if export.is_none() {
            let text = format!("there is no export {name:?}");
            self.reply(
                code,
                ReplyCode::ERR_UNKNOWN,
                text.get(..text.floor_char_boundary(1024)).unwrap_or_default().as_bytes(),
            )?;
        }
        Ok(export)
    }

    fn agree(&mut self, export: Arc<Export>) -> Agreed {
        let contexts = match self.state.contexts.take() {
            Some((name, contexts)) if name == export.name => contexts,
            _ => Contexts::empty(),
        };
        Agreed { export, structured: self.state.structured, contexts }
    }

    fn reply(&mut self, option: OptionCode, code: ReplyCode, data: &[u8]) -> Result<(), End> {
        let len = u32::try_from(data.len()).map_err(|_| End::Broken)?;
        self.outbox.put(&OptionReply { option, code, len }.encode())?;
        self.outbox.put(data)
    }

    /// Waits until `len` bytes are here, which is at most [`MAX_OPTION_DATA`] and a header.
    fn await_data(&mut self, len: usize) -> Result<&[u8], End> {
        while self.inbox.first(len).is_none() {
            self.outbox.send()?;
            let left = self.within.saturating_sub(self.began.elapsed());
            if left.is_zero() {
                return Err(End::Stalled);
            }
            self.stream.receive_within(left)?;
            self.inbox.receive(len)?;
        }
        self.inbox.first(len).ok_or(End::Closed)
    }

    fn await_bytes<const N: usize>(&mut self) -> Result<&[u8; N], End> {
        self.await_data(N)?.first_chunk().ok_or(End::Closed)
    }

    /// Drops data that nobody wants. The deadline bounds how long that may go on.
    fn skip(&mut self, len: u32) -> Result<(), End> {
        let mut left = crate::usize_of(len);
        while left > 0 {
            self.await_data(1)?;
            let here = self.inbox.bytes().len().min(left);
            self.inbox.consume(here);
            left = left.saturating_sub(here);
        }
        Ok(())
    }
}
