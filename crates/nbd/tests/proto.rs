// SPDX-License-Identifier: MIT OR Apache-2.0
//! The protocol as data: what is written is read back, and what a peer sends is never believed.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use nvstack_nbd::proto::*;
use proptest::prelude::*;

/// One message of each kind, byte by byte as the protocol document draws it.
#[test]
fn every_message_has_the_bytes_of_the_document() {
    assert_eq!(&greeting(HandshakeFlags::all()), b"NBDMAGICIHAVEOPT\x00\x03");
    let option = OptionHeader { code: OptionCode::GO, len: 0x0102_0304 };
    assert_eq!(&option.encode(), b"IHAVEOPT\x00\x00\x00\x07\x01\x02\x03\x04");
    let reply = OptionReply { option: OptionCode::LIST, code: ReplyCode::ERR_TOO_BIG, len: 5 };
    assert_eq!(
        &reply.encode(),
        b"\x00\x03\xe8\x89\x04\x55\x65\xa9\x00\x00\x00\x03\x80\x00\x00\x09\x00\x00\x00\x05"
    );
    let info = ExportInfo { size: 0x0102_0304_0506_0708, flags: TransmissionFlags::all() };
    assert_eq!(&info.encode(), b"\x00\x00\x01\x02\x03\x04\x05\x06\x07\x08\x0d\xef");
    assert_eq!(&export_name_reply(&info), b"\x01\x02\x03\x04\x05\x06\x07\x08\x0d\xef");
    let sizes = BlockSize { minimum: 512, preferred: 4096, maximum: 1 << 25 };
    assert_eq!(&sizes.encode(), b"\x00\x03\x00\x00\x02\x00\x00\x00\x10\x00\x02\x00\x00\x00");
    assert_eq!(server_entry("ab", "c"), b"\x00\x00\x00\x02abc");
    assert_eq!(meta_context(2, "x:y"), b"\x00\x00\x00\x02x:y");

    let request = Request {
        flags: CommandFlags::FAST_ZERO | CommandFlags::FUA,
        command: Command::WRITE_ZEROES,
        cookie: 0x1112_1314_1516_1718,
        offset: 0x2122_2324_2526_2728,
        len: 0x3132_3334,
    };
    assert_eq!(
        &request.encode(),
        b"\x25\x60\x95\x13\x00\x11\x00\x06\x11\x12\x13\x14\x15\x16\x17\x18\x21\x22\x23\x24\x25\x26\x27\x28\x31\x32\x33\x34"
    );
    let reply = SimpleReply { error: ErrorCode::ENOSPC, cookie: 1 };
    assert_eq!(&reply.encode(), b"\x67\x44\x66\x98\x00\x00\x00\x1c\x00\x00\x00\x00\x00\x00\x00\x01");
    let head = |done: u8, kind: &[u8], len: u8| {
        [b"\x66\x8e\x33\xef\x00", &[done][..], kind, &[0, 0, 0, 0, 0, 0, 0, 9], &[0, 0, 0, len]].concat()
    };
    let chunk = ChunkHeader { done: true, kind: ChunkType::NONE, cookie: 9, len: 0 };
    assert_eq!(chunk.encode().to_vec(), head(1, b"\0\0", 0));
    assert_eq!(
        data_chunk(9, false, 5, 16).to_vec(),
        [&head(0, b"\0\x01", 24)[..], b"\0\0\0\0\0\0\0\x05"].concat()
    );
    assert_eq!(
        hole_chunk(9, true, 5, 16).to_vec(),
        [&head(1, b"\0\x02", 12)[..], b"\0\0\0\0\0\0\0\x05\0\0\0\x10"].concat()
    );
    assert_eq!(status_chunk(9, true, 2, 3).to_vec(), [&head(1, b"\0\x05", 28)[..], b"\0\0\0\x02"].concat());
    assert_eq!(descriptor(512, 3), *b"\0\0\x02\0\0\0\0\x03");
    assert_eq!(
        error_chunk(9, ErrorCode::EIO, "no", None),
        [&head(1, b"\x80\x01", 8)[..], b"\0\0\0\x05\0\x02no"].concat()
    );
    assert_eq!(
        error_chunk(9, ErrorCode::EIO, "no", Some(7)),
        [&head(1, b"\x80\x02", 16)[..], b"\0\0\0\x05\0\x02no\0\0\0\0\0\0\0\x07"].concat()
    );
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let long = "\u{20ac}".repeat(3000);
    let chunk = error_chunk(0, ErrorCode::EIO, &long, None);
    let text = std::str::from_utf8(&chunk[26..]).unwrap();
    assert_eq!(text.len(), 4095);
    assert_eq!(u16::from_be_bytes([chunk[24], chunk[25]]), 4095);
}

#[test]
fn a_wrong_magic_is_named() {
    let error = Request::decode(&[0x11; 28]).unwrap_err();
    assert_eq!(error.to_string(), "magic 0x11111111, accepted 0x25609513");
    assert!(OptionHeader::decode(b"IHAVEOPS\0\0\0\x07\0\0\0\0").is_err());
    assert!(OptionReply::decode(&[0; 20]).is_err());
    assert!(SimpleReply::decode(&[0; 16]).is_err());
    assert!(ChunkHeader::decode(&[0; 20]).is_err());
}

fn export_data(name: &[u8], wishes: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name);
    data.extend((wishes.len() as u16).to_be_bytes());
    data.extend(wishes.iter().flat_map(|w| w.to_be_bytes()));
    data
}

fn meta_data(name: &str, queries: &[String]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend((queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend((query.len() as u32).to_be_bytes());
        data.extend(query.as_bytes());
    }
    data
}

proptest! {
    #[test]
    fn headers_come_back(code: u32, other: u32, len: u32, cookie: u64, offset: u64, flags: u16, command: u16, done: bool) {
        let option = OptionHeader { code: OptionCode(code), len };
        prop_assert_eq!(OptionHeader::decode(&option.encode()), Ok(option));
        let reply = OptionReply { option: OptionCode(code), code: ReplyCode(other), len };
        prop_assert_eq!(OptionReply::decode(&reply.encode()), Ok(reply));
        let flags = CommandFlags::from_bits_retain(flags);
        let request = Request { flags, command: Command(command), cookie, offset, len };
        prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
        let reply = SimpleReply { error: ErrorCode(code), cookie };
        prop_assert_eq!(SimpleReply::decode(&reply.encode()), Ok(reply));
        let chunk = ChunkHeader { done, kind: ChunkType(command), cookie, len };
        prop_assert_eq!(ChunkHeader::decode(&chunk.encode()), Ok(chunk));
    }

    #[test]
    fn option_data_comes_back(name in "[^\0]{0,60}", wishes in prop::collection::vec(0u16..6, 0..8),
                              queries in prop::collection::vec("[^\0]{0,20}", 0..8)) {
        let data = export_data(name.as_bytes(), &wishes);
        let request = ExportRequest::decode(&data).unwrap();
        prop_assert_eq!(request.name, &name);
        for info in 0..6 {
            prop_assert_eq!(request.wants(InfoCode(info)), wishes.contains(&info));
        }
        let data = meta_data(&name, &queries);
        let request = MetaRequest::decode(&data).unwrap();
        prop_assert_eq!(request.name, &name);
        prop_assert_eq!(request.count as usize, queries.len());
        prop_assert_eq!(request.queries().collect::<Vec<_>>(), queries);
    }

    /// Data that is cut short or goes on is refused, wherever the cut is.
    #[test]
    fn no_other_length_is_accepted(name in "[^\0]{0,20}", queries in prop::collection::vec("[^\0]{0,9}", 0..4), cut: prop::sample::Index) {
        let export = |data: &[u8]| ExportRequest::decode(data).is_ok();
        let data = export_data(name.as_bytes(), &[1, 2]);
        prop_assert!(export(&data) && !export(&data[..cut.index(data.len())]) && !export(&[&data[..], &[0]].concat()));
        let meta = |data: &[u8]| MetaRequest::decode(data).is_ok();
        let data = meta_data(&name, &queries);
        prop_assert!(meta(&data) && !meta(&data[..cut.index(data.len())]) && !meta(&[&data[..], &[0]].concat()));
    }

    #[test]
    fn any_bytes_are_survived(data in prop::collection::vec(any::<u8>(), 0..300), len in 0u32..40) {
        // A plausible length in front gets the rest past the first check.
        for data in [data.clone(), [&len.to_be_bytes()[..], &data].concat()] {
            if let Ok(request) = ExportRequest::decode(&data) {
                prop_assert!(request.name.len() <= data.len());
            }
            if let Ok(request) = MetaRequest::decode(&data) {
                prop_assert_eq!(request.queries().count(), request.count as usize);
            }
            if let Some(head) = data.first_chunk() {
                let _ = (Request::decode(head), string(&data));
            }
        }
    }
}
