// SPDX-License-Identifier: MIT OR Apache-2.0
//! The NBD protocol as data.
//!
//! Everything that crosses the wire in fixed newstyle negotiation and in transmission, to and from byte slices, big
//! endian throughout. Nothing here does I/O, allocates by what a peer says, or can panic on what a peer sends. Source:
//! the protocol document of the NetworkBlockDevice project, `doc/proto.md`; names without their `NBD_` prefixes.

mod handshake;
mod transmission;

pub use handshake::{
    BlockSize, ExportInfo, ExportRequest, MetaRequest, OptionHeader, OptionReply, Queries, export_name_reply,
    greeting, meta_context, server_entry,
};
pub use transmission::{
    ChunkHeader, Request, SimpleReply, data_chunk, descriptor, error_chunk, hole_chunk, status_chunk,
};

use std::fmt;

/// First eight bytes of a server: "NBDMAGIC".
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Opens newstyle negotiation and each option: "IHAVEOPT".
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Opens each reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Opens each request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Opens a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Opens a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Longest string that the protocol allows: names, descriptions, messages, context queries.
pub const MAX_STRING: usize = 4096;

bitflags::bitflags! {
    /// What the server offers in its greeting.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct HandshakeFlags: u16 {
        /// Fixed newstyle negotiation.
        const FIXED_NEWSTYLE = 1;
        /// The 124 zeros after `EXPORT_NAME` may be left out.
        const NO_ZEROES = 2;
    }
}

bitflags::bitflags! {
    /// What the client answers to the greeting.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ClientFlags: u32 {
        /// Fixed newstyle negotiation.
        const FIXED_NEWSTYLE = 1;
        /// The 124 zeros after `EXPORT_NAME` are left out.
        const NO_ZEROES = 2;
    }
}

bitflags::bitflags! {
    /// What an export can do.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TransmissionFlags: u16 {
        /// Always set.
        const HAS_FLAGS = 1;
        /// Writes are refused.
        const READ_ONLY = 1 << 1;
        /// FLUSH is served.
        const SEND_FLUSH = 1 << 2;
        /// The FUA flag is served.
        const SEND_FUA = 1 << 3;
        /// TRIM is served.
        const SEND_TRIM = 1 << 5;
        /// WRITE_ZEROES and its NO_HOLE flag are served.
        const SEND_WRITE_ZEROES = 1 << 6;
        /// The DF flag of structured reads is served.
        const SEND_DF = 1 << 7;
        /// A flush on one connection covers the writes of all.
        const CAN_MULTI_CONN = 1 << 8;
        /// CACHE is served.
        const SEND_CACHE = 1 << 10;
        /// The FAST_ZERO flag of WRITE_ZEROES is served.
        const SEND_FAST_ZERO = 1 << 11;
    }
}

bitflags::bitflags! {
    /// How a command is to be done.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CommandFlags: u16 {
        /// Durable before the reply.
        const FUA = 1;
        /// WRITE_ZEROES: keep the space.
        const NO_HOLE = 1 << 1;
        /// READ: one content chunk.
        const DF = 1 << 2;
        /// BLOCK_STATUS: one extent.
        const REQ_ONE = 1 << 3;
        /// WRITE_ZEROES: only if faster than a write.
        const FAST_ZERO = 1 << 4;
    }
}

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident($raw:ty) { $($(#[$what:meta])* $code:ident = $value:expr;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name(pub $raw);
        impl $name {
            $($(#[$what])* pub const $code: $name = $name($value);)*
        }
    };
}

codes! {
    /// What a client asks for in negotiation. Any number may come; these have a meaning here.
    OptionCode(u32) {
        /// Choose an export and begin transmission; there is no reply for an error.
        EXPORT_NAME = 1;
        /// Give up.
        ABORT = 2;
        /// Name the exports.
        LIST = 3;
        /// Encrypt.
        STARTTLS = 5;
        /// Describe an export.
        INFO = 6;
        /// Choose an export and begin transmission.
        GO = 7;
        /// Use structured replies.
        STRUCTURED_REPLY = 8;
        /// Name the metadata contexts of an export.
        LIST_META_CONTEXT = 9;
        /// Choose metadata contexts of an export.
        SET_META_CONTEXT = 10;
    }
}

codes! {
    /// What a server answers to an option.
    ReplyCode(u32) {
        /// Done.
        ACK = 1;
        /// One export.
        SERVER = 2;
        /// One thing about an export.
        INFO = 3;
        /// One metadata context.
        META_CONTEXT = 4;
        /// Not known here.
        ERR_UNSUP = 0x8000_0001;
        /// Not allowed here.
        ERR_POLICY = 0x8000_0002;
        /// Makes no sense.
        ERR_INVALID = 0x8000_0003;
        /// There is no such export.
        ERR_UNKNOWN = 0x8000_0006;
        /// The server is going away.
        ERR_SHUTDOWN = 0x8000_0007;
        /// More data than is read.
        ERR_TOO_BIG = 0x8000_0009;
    }
}

codes! {
    /// A thing that INFO and GO can tell.
    InfoCode(u16) {
        /// Size and transmission flags.
        EXPORT = 0;
        /// The name that LIST gives it.
        NAME = 1;
        /// A text for people.
        DESCRIPTION = 2;
        /// Minimum, preferred and maximum block size.
        BLOCK_SIZE = 3;
    }
}

codes! {
    /// What a request wants.
    Command(u16) {
        /// Bytes of the export.
        READ = 0;
        /// Bytes to the export; they follow the request.
        WRITE = 1;
        /// An orderly end; there is no reply.
        DISC = 2;
        /// Make completed writes durable.
        FLUSH = 3;
        /// Contents are of no more use.
        TRIM = 4;
        /// Contents will be read soon.
        CACHE = 5;
        /// Make a range read as zeros.
        WRITE_ZEROES = 6;
        /// Tell what is known of a range.
        BLOCK_STATUS = 7;
    }
}

codes! {
    /// What a chunk of a structured reply carries.
    ChunkType(u16) {
        /// Nothing more.
        NONE = 0;
        /// Bytes.
        OFFSET_DATA = 1;
        /// A run of zeros.
        OFFSET_HOLE = 2;
        /// Extents of one metadata context.
        BLOCK_STATUS = 5;
        /// The request failed.
        ERROR = 0x8001;
        /// The request failed at an offset.
        ERROR_OFFSET = 0x8002;
    }
}

codes! {
    /// The error numbers that the protocol knows.
    ErrorCode(u32) {
        /// Operation not permitted.
        EPERM = 1;
        /// Input/output error.
        EIO = 5;
        /// Invalid argument.
        EINVAL = 22;
        /// No space left.
        ENOSPC = 28;
        /// Not supported: WRITE_ZEROES with FAST_ZERO only.
        ENOTSUP = 95;
        /// The server, or the export, goes away.
        ESHUTDOWN = 108;
    }
}

/// Bytes that do not hold what they should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A message does not begin with its magic number.
    Magic {
        /// What it begins with.
        found: u64,
        /// What it should begin with.
        accepted: u64,
    },
    /// A length inside the data points past its end, or the data ends early.
    Truncated,
    /// Data goes on after its last field.
    Trailing,
    /// A string that is no UTF-8, holds a NUL, or is longer than [`MAX_STRING`].
    BadString,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Magic { found, accepted } => write!(f, "magic {found:#x}, accepted {accepted:#x}"),
            Malformed::Truncated => f.write_str("a length points past the end of the option's data"),
            Malformed::Trailing => f.write_str("the option's data goes on after its last field"),
            Malformed::BadString => {
                write!(f, "a string is not UTF-8 without NUL of at most {MAX_STRING} bytes")
            }
        }
    }
}

impl std::error::Error for Malformed {}

/// A string of the protocol.
pub fn string(bytes: &[u8]) -> Result<&str, Malformed> {
    match std::str::from_utf8(bytes) {
        Ok(s) if s.len() <= MAX_STRING && !bytes.contains(&0) => Ok(s),
        _ => Err(Malformed::BadString),
    }
}
