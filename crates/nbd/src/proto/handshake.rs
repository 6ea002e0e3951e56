// SPDX-License-Identifier: MIT OR Apache-2.0
//! Negotiation: the greeting, options, and what is answered to them.

use super::{
    HandshakeFlags, INIT_MAGIC, InfoCode, Malformed, OPTION_MAGIC, OPTION_REPLY_MAGIC, OptionCode, ReplyCode,
    TransmissionFlags, string,
};

/// What a server says first.
#[must_use]
pub fn greeting(flags: HandshakeFlags) -> [u8; 18] {
    let mut out = [0; 18];
    out[..8].copy_from_slice(&INIT_MAGIC.to_be_bytes());
    out[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
    out[16..].copy_from_slice(&flags.bits().to_be_bytes());
    out
}

/// The head of an option. `len` bytes of data follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// Which one.
    pub code: OptionCode,
    /// Bytes of data, as the client says.
    pub len: u32,
}

impl OptionHeader {
    /// Bytes that it takes.
    pub const SIZE: usize = 16;

    /// From the wire. Only the magic can be wrong.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Result<OptionHeader, Malformed> {
        let mut rest = Fields(bytes);
        let (magic, code, len) = (rest.u64()?, rest.u32()?, rest.u32()?);
        if magic != OPTION_MAGIC {
            return Err(Malformed::Magic { found: magic, accepted: OPTION_MAGIC });
        }
        Ok(OptionHeader { code: OptionCode(code), len })
    }

    /// To the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..8].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        out[8..12].copy_from_slice(&self.code.0.to_be_bytes());
        out[12..].copy_from_slice(&self.len.to_be_bytes());
        out
    }
}

/// The head of a reply to an option. `len` bytes of data follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionReply {
    /// The option that is answered.
    pub option: OptionCode,
    /// The answer.
    pub code: ReplyCode,
    /// Bytes of data.
    pub len: u32,
}

impl OptionReply {
    /// Bytes that it takes.
    pub const SIZE: usize = 20;

    /// From the wire. Only the magic can be wrong.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Result<OptionReply, Malformed> {
        let mut rest = Fields(bytes);
        let (magic, option, code, len) = (rest.u64()?, rest.u32()?, rest.u32()?, rest.u32()?);
        if magic != OPTION_REPLY_MAGIC {
            return Err(Malformed::Magic { found: magic, accepted: OPTION_REPLY_MAGIC });
        }
        Ok(OptionReply { option: OptionCode(option), code: ReplyCode(code), len })
    }

    /// To the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..8].copy_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
        out[8..12].copy_from_slice(&self.option.0.to_be_bytes());
        out[12..16].copy_from_slice(&self.code.0.to_be_bytes());
        out[16..].copy_from_slice(&self.len.to_be_bytes());
        out
    }
}

/// The data of INFO and GO: a name, and what the client would like to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportRequest<'a> {
    /// The export; empty for the default one.
    pub name: &'a str,
    wishes: &'a [u8],
}

impl<'a> ExportRequest<'a> {
    /// From an option's data.
    pub fn decode(data: &'a [u8]) -> Result<ExportRequest<'a>, Malformed> {
        let mut rest = Fields(data);
        let name = rest.string()?;
        let wishes = usize::from(rest.u16()?).saturating_mul(2);
        let wishes = rest.take(wishes)?;
        rest.end()?;
        Ok(ExportRequest { name, wishes })
    }

    /// Whether the client asked for this.
    #[must_use]
    pub fn wants(&self, info: InfoCode) -> bool {
        self.wishes.chunks_exact(2).any(|pair| pair == info.0.to_be_bytes())
    }
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT: a name, and queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaRequest<'a> {
    /// The export; empty for the default one.
    pub name: &'a str,
    /// How many queries there are.
    pub count: u32,
    queries: &'a [u8],
}

impl<'a> MetaRequest<'a> {
    /// From an option's data. Every query has been looked at when this returns.
    pub fn decode(data: &'a [u8]) -> Result<MetaRequest<'a>, Malformed> {
        let mut rest = Fields(data);
        let name = rest.string()?;
        let count = rest.u32()?;
        let queries = rest.0;
        // Each turn takes at least the four bytes of a length, so a lying count ends at the end of the data.
        for _ in 0..count {
            rest.string()?;
        }
        rest.end()?;
        Ok(MetaRequest { name, count, queries })
    }

    /// The queries, in the client's order.
    #[must_use]
    pub fn queries(&self) -> Queries<'a> {
        Queries(Fields(self.queries))
    }
}

/// The queries of a [`MetaRequest`].
#[derive(Clone, Debug)]
pub struct Queries<'a>(Fields<'a>);

impl<'a> Iterator for Queries<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.0.string().ok()
    }
}

/// What every client must know of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Bytes.
    pub size: u64,
    /// Abilities.
    pub flags: TransmissionFlags,
}

impl ExportInfo {
    /// The data of a `REP_INFO` that tells it.
    #[must_use]
    pub fn encode(&self) -> [u8; 12] {
        let mut out = [0; 12];
        out[..2].copy_from_slice(&InfoCode::EXPORT.0.to_be_bytes());
        out[2..10].copy_from_slice(&self.size.to_be_bytes());
        out[10..].copy_from_slice(&self.flags.bits().to_be_bytes());
        out
    }
}

/// What is sent for `EXPORT_NAME`, without the 124 zeros that may have to follow.
#[must_use]
pub fn export_name_reply(info: &ExportInfo) -> [u8; 10] {
    let mut out = [0; 10];
    out[..8].copy_from_slice(&info.size.to_be_bytes());
    out[8..].copy_from_slice(&info.flags.bits().to_be_bytes());
    out
}

/// The block sizes of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSize {
    /// Every offset and length is a multiple of this; a power of two.
    pub minimum: u32,
    /// Requests do best in multiples of this; a power of two.
    pub preferred: u32,
    /// No read or write is longer than this.
    pub maximum: u32,
}

impl BlockSize {
    /// The data of a `REP_INFO` that tells them.
    #[must_use]
    pub fn encode(&self) -> [u8; 14] {
        let mut out = [0; 14];
        out[..2].copy_from_slice(&InfoCode::BLOCK_SIZE.0.to_be_bytes());
        out[2..6].copy_from_slice(&self.minimum.to_be_bytes());
        out[6..10].copy_from_slice(&self.preferred.to_be_bytes());
        out[10..].copy_from_slice(&self.maximum.to_be_bytes());
        out
    }
}

/// The data of a `REP_SERVER`: one export of a list, with a text for people.
#[must_use]
pub fn server_entry(name: &str, description: &str) -> Vec<u8> {
    let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
    [&len.to_be_bytes(), name.as_bytes(), description.as_bytes()].concat()
}

/// The data of a `REP_META_CONTEXT`.
#[must_use]
pub fn meta_context(id: u32, name: &str) -> Vec<u8> {
    [&id.to_be_bytes(), name.as_bytes()].concat()
}

/// Fields off the front of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(Malformed::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.0.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// A 32-bit length and that many bytes of text.
    fn string(&mut self) -> Result<&'a str, Malformed> {
        let len = self.u32()?;
        string(self.take(crate::usize_of(len))?)
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed::Trailing) }
    }
}
