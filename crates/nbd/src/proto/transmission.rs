// SPDX-License-Identifier: MIT OR Apache-2.0
//! Transmission: requests, simple replies, and the chunks of structured replies.

use super::{
    ChunkType, Command, CommandFlags, ErrorCode, MAX_STRING, Malformed, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
};

/// A request. A WRITE is followed by `len` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// How; bits without a meaning are kept.
    pub flags: CommandFlags,
    /// What.
    pub command: Command,
    /// The client's own mark, which the reply repeats.
    pub cookie: u64,
    /// Where, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub len: u32,
}

impl Request {
    /// Bytes that it takes.
    pub const SIZE: usize = 28;

    /// From the wire. Only the magic can be wrong.
    #[inline]
    pub fn decode(b: &[u8; Self::SIZE]) -> Result<Request, Malformed> {
        let magic = u32::from_be_bytes([b[0], b[1], b[2], b[3]]);
        if magic != REQUEST_MAGIC {
            return Err(Malformed::Magic { found: magic.into(), accepted: REQUEST_MAGIC.into() });
        }
        Ok(Request {
            flags: CommandFlags::from_bits_retain(u16::from_be_bytes([b[4], b[5]])),
            command: Command(u16::from_be_bytes([b[6], b[7]])),
            cookie: u64::from_be_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
            offset: u64::from_be_bytes([b[16], b[17], b[18], b[19], b[20], b[21], b[22], b[23]]),
            len: u32::from_be_bytes([b[24], b[25], b[26], b[27]]),
        })
    }

    /// To the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.bits().to_be_bytes());
        out[6..8].copy_from_slice(&self.command.0.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..24].copy_from_slice(&self.offset.to_be_bytes());
        out[24..].copy_from_slice(&self.len.to_be_bytes());
        out
    }
}

/// A simple reply. One to a READ without an error is followed by the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimpleReply {
    /// 0, or what went wrong.
    pub error: ErrorCode,
    /// The request's mark.
    pub cookie: u64,
}

impl SimpleReply {
    /// Bytes that it takes.
    pub const SIZE: usize = 16;

    /// From the wire. Only the magic can be wrong.
    pub fn decode(b: &[u8; Self::SIZE]) -> Result<SimpleReply, Malformed> {
        let magic = u32::from_be_bytes([b[0], b[1], b[2], b[3]]);
        if magic != SIMPLE_REPLY_MAGIC {
            return Err(Malformed::Magic { found: magic.into(), accepted: SIMPLE_REPLY_MAGIC.into() });
        }
        Ok(SimpleReply {
            error: ErrorCode(u32::from_be_bytes([b[4], b[5], b[6], b[7]])),
            cookie: u64::from_be_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
        })
    }

    /// To the wire.
    #[inline]
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        out[4..8].copy_from_slice(&self.error.0.to_be_bytes());
        out[8..].copy_from_slice(&self.cookie.to_be_bytes());
        out
    }
}

/// The head of a chunk. `len` bytes of payload follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// The last chunk of its reply.
    pub done: bool,
    /// What the payload is.
    pub kind: ChunkType,
    /// The request's mark.
    pub cookie: u64,
    /// Bytes of payload.
    pub len: u32,
}

impl ChunkHeader {
    /// Bytes that it takes.
    pub const SIZE: usize = 20;

    /// From the wire. Only the magic can be wrong.
    pub fn decode(b: &[u8; Self::SIZE]) -> Result<ChunkHeader, Malformed> {
        let magic = u32::from_be_bytes([b[0], b[1], b[2], b[3]]);
        if magic != STRUCTURED_REPLY_MAGIC {
            return Err(Malformed::Magic { found: magic.into(), accepted: STRUCTURED_REPLY_MAGIC.into() });
        }
        Ok(ChunkHeader {
            done: b[5] & 1 != 0,
            kind: ChunkType(u16::from_be_bytes([b[6], b[7]])),
            cookie: u64::from_be_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
            len: u32::from_be_bytes([b[16], b[17], b[18], b[19]]),
        })
    }

    /// To the wire.
    #[inline]
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..4].copy_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
        out[4..6].copy_from_slice(&u16::from(self.done).to_be_bytes());
        out[6..8].copy_from_slice(&self.kind.0.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..].copy_from_slice(&self.len.to_be_bytes());
        out
    }
}

/// The head of a data chunk: `len` bytes of the export from `offset` on follow it.
#[inline]
#[must_use]
pub fn data_chunk(cookie: u64, done: bool, offset: u64, len: u32) -> [u8; 28] {
    let mut out = [0; 28];
    let head = ChunkHeader { done, kind: ChunkType::OFFSET_DATA, cookie, len: len.saturating_add(8) };
    out[..20].copy_from_slice(&head.encode());
    out[20..].copy_from_slice(&offset.to_be_bytes());
    out
}

/// A whole hole chunk: `len` bytes of the export from `offset` on are zeros.
#[must_use]
pub fn hole_chunk(cookie: u64, done: bool, offset: u64, len: u32) -> [u8; 32] {
    let mut out = [0; 32];
    let head = ChunkHeader { done, kind: ChunkType::OFFSET_HOLE, cookie, len: 12 };
    out[..20].copy_from_slice(&head.encode());
    out[20..28].copy_from_slice(&offset.to_be_bytes());
    out[28..].copy_from_slice(&len.to_be_bytes());
    out
}

/// The head of a block status chunk of one metadata context: `extents` descriptors follow it.
#[must_use]
pub fn status_chunk(cookie: u64, done: bool, context: u32, extents: u32) -> [u8; 24] {
    let mut out = [0; 24];
    let len = extents.saturating_mul(8).saturating_add(4);
    let head = ChunkHeader { done, kind: ChunkType::BLOCK_STATUS, cookie, len };
    out[..20].copy_from_slice(&head.encode());
    out[20..].copy_from_slice(&context.to_be_bytes());
    out
}

/// One extent of a block status chunk.
#[must_use]
pub fn descriptor(len: u32, flags: u32) -> [u8; 8] {
    let mut out = [0; 8];
    out[..4].copy_from_slice(&len.to_be_bytes());
    out[4..].copy_from_slice(&flags.to_be_bytes());
    out
}

/// A whole error chunk, the last of its reply, at an offset of the export if there is one. A message that is longer than
/// the protocol allows is cut.
#[must_use]
pub fn error_chunk(cookie: u64, error: ErrorCode, message: &str, offset: Option<u64>) -> Vec<u8> {
    let message = message.get(..message.floor_char_boundary(MAX_STRING)).unwrap_or_default().as_bytes();
    let kind = if offset.is_some() { ChunkType::ERROR_OFFSET } else { ChunkType::ERROR };
    let text = u16::try_from(message.len()).unwrap_or(0);
    let len = u32::from(text).saturating_add(if offset.is_some() { 14 } else { 6 });
    let mut out = ChunkHeader { done: true, kind, cookie, len }.encode().to_vec();
    out.extend_from_slice(&error.0.to_be_bytes());
    out.extend_from_slice(&text.to_be_bytes());
    out.extend_from_slice(message);
    if let Some(offset) = offset {
        out.extend_from_slice(&offset.to_be_bytes());
    }
    out
}
