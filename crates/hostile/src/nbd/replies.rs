// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a server's answers are answers: both sides of a conversation, walked through by the text of the protocol.

/// Bytes from the front, big-endian.
struct Side<'a> {
    whole: &'a [u8],
    at: usize,
}

impl<'a> Side<'a> {
    fn left(&self) -> usize {
        self.whole.len() - self.at
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.whole.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(taken)
    }

    fn number(&mut self, len: usize) -> Option<u64> {
        Some(self.take(len)?.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }

    /// A number that must be there.
    fn must(&mut self, len: usize, what: &str) -> u64 {
        let at = self.at;
        self.number(len).unwrap_or_else(|| panic!("the server's answer ends in a {what}, at byte {at}"))
    }
}

/// Options that end in ACK or an error after any number of informations.
const ACK: u64 = 1;
const ERROR: u64 = 1 << 31;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;

/// Walks through `said` by a client and `heard` from the server, whose export has `size` bytes. Panics at what is no answer, at an answer
/// to nothing, and at a request that was understood and not answered.
pub(super) fn check(said: &[u8], heard: &[u8], size: u64) {
    let (mut said, mut heard) = (Side { whole: said, at: 0 }, Side { whole: heard, at: 0 });
    assert_eq!(heard.take(8), Some(&b"NBDMAGIC"[..]));
    assert_eq!(heard.take(8), Some(&b"IHAVEOPT"[..]));
    heard.must(2, "greeting");
    let structured = handshake(&mut said, &mut heard, size);
    if let Some(structured) = structured {
        transmission(&mut said, &mut heard, size, structured);
    }
    assert_eq!(heard.left(), 0, "an answer to nothing, at byte {}", heard.at);
}

/// Until transmission: whether replies are structured then. None if there is none.
fn handshake(said: &mut Side<'_>, heard: &mut Side<'_>, size: u64) -> Option<bool> {
    let flags = said.number(4)?;
    if flags & !3 != 0 {
        return None;
    }
    let mut structured = false;
    for _ in 0..4096 {
        if said.take(8)? != b"IHAVEOPT" {
            return None;
        }
        let (option, len) = (said.number(4)?, said.number(4)?);
        let too_long = len > 64 << 10;
        if !too_long && (said.left() as u64) < len {
            return None;
        }
        if option == 1 {
            let name = said.take(len as usize)?;
            if name != b"ram" && !name.is_empty() {
                return None;
            }
            assert_eq!(heard.must(8, "size"), size);
            heard.must(2, "flags");
            if flags & 2 == 0 {
                assert_eq!(heard.take(124), Some(&[0; 124][..]));
            }
            return Some(structured);
        }
        loop {
            // Only an orderly end may go without an answer that is read.
            if option == 2 && heard.left() == 0 {
                return None;
            }
            assert_eq!(heard.must(8, "option reply"), OPTION_REPLY, "at byte {}", heard.at);
            assert_eq!(heard.must(4, "option reply"), option);
            let kind = heard.must(4, "option reply");
            let told = heard.must(4, "option reply") as usize;
            assert!(told <= 4096, "an answer of {told} bytes to an option");
            assert!(heard.take(told).is_some(), "an option reply is cut");
            if kind & ERROR != 0 {
                break;
            }
            if kind == ACK {
                match option {
                    2 => return None,
                    7 => {
                        said.take(len as usize)?;
                        return Some(structured);
                    }
                    8 => structured = true,
                    _ => {}
                }
                break;
            }
        }
        said.take(len as usize)?;
    }
    None
}

fn transmission(said: &mut Side<'_>, heard: &mut Side<'_>, size: u64, structured: bool) {
    loop {
        let start = said.at;
        let header = (|| {
            Some([
                said.number(4)?,
                said.number(2)?,
                said.number(2)?,
                said.number(8)?,
                said.number(8)?,
                said.number(4)?,
            ])
        })();
        let Some([magic, _, command, cookie, offset, len]) = header else { return };
        if magic != 0x2560_9513 || command == 2 {
            return;
        }
        if command == 1 && said.take(len as usize).is_none() {
            // Not all of it came; nothing is owed.
            said.at = said.whole.len();
            return;
        }
        let within = offset.checked_add(len).is_some_and(|end| end <= size);
        let words = format!("the request at byte {start}");
        let reply = heard.must(4, &words);
        if structured && (command == 0 || command == 7 || reply == 0x668e_33ef) {
            assert_eq!(reply, 0x668e_33ef, "{words}");
            chunks(heard, cookie, (command, offset, len), within, &words);
            continue;
        }
        assert_eq!(reply, 0x6744_6698, "{words}");
        let error = heard.must(4, &words);
        assert_eq!(heard.must(8, &words), cookie, "{words}");
        assert!(error != 0 || within || command == 3, "{words} is outside and succeeds");
        assert!(error != 0 || matches!(command, 0 | 1 | 3..=7), "{words} is not known and succeeds");
        if command == 0 && error == 0 {
            assert!(heard.take(len as usize).is_some(), "data of {words} are cut");
        }
    }
}

fn chunks(
    heard: &mut Side<'_>,
    cookie: u64,
    (command, offset, len): (u64, u64, u64),
    within: bool,
    words: &str,
) {
    let (mut told, mut failed) = (0, false);
    let mut first = true;
    loop {
        if !first {
            assert_eq!(heard.must(4, words), 0x668e_33ef, "{words}");
        }
        first = false;
        let (flags, kind) = (heard.must(2, words), heard.must(2, words));
        assert_eq!(heard.must(8, words), cookie, "{words}");
        let size = heard.must(4, words);
        let body = heard.take(size as usize).unwrap_or_else(|| panic!("a chunk of {words} is cut"));
        let mut body = Side { whole: body, at: 0 };
        match kind {
            0 => assert!(size == 0 && flags & 1 == 1, "{words}"),
            1 | 2 => {
                let at = body.must(8, words);
                let count = if kind == 1 { body.left() as u64 } else { body.must(4, words) };
                assert!(command == 0 && at >= offset && at + count <= offset + len && count > 0, "{words}");
                told += count;
            }
            5 => {
                body.must(4, words);
                assert!(command == 7 && body.left() > 0 && body.left().is_multiple_of(8), "{words}");
                let mut covered = 0;
                while body.left() > 0 {
                    covered += body.must(4, words);
                    body.must(4, words);
                }
                assert!(covered > 0 && covered <= len.max(1), "extents of {covered} bytes for {words}");
            }
            kind if kind & 0x8000 != 0 => {
                assert_ne!(body.must(4, words), 0);
                let text = body.must(2, words) as usize;
                assert!(body.take(text).is_some_and(|text| std::str::from_utf8(text).is_ok()), "{words}");
                failed = true;
            }
            other => panic!("a chunk of kind {other} for {words}"),
        }
        if flags & 1 == 1 {
            break;
        }
    }
    assert!(failed || within || command == 3, "{words} is outside and succeeds");
    if command == 0 && !failed {
        assert_eq!(told, len, "{words}");
    }
}
