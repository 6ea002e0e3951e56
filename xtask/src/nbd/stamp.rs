// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sectors that betray a tear: each holds its address, a generation, and words that follow from both, to its last byte.

/// The generation of a sector that was never written.
pub(crate) const UNWRITTEN: u64 = 0;

/// The content of this sector at this generation. `size` is a multiple of 8.
pub(crate) fn stamp(lba: u64, generation: u64, size: usize) -> Vec<u8> {
    let mut sector = Vec::with_capacity(size);
    sector.extend(lba.to_le_bytes());
    sector.extend(generation.to_le_bytes());
    for n in 2..size as u64 / 8 {
        sector.extend(mix(lba ^ generation.rotate_left(32) ^ n.rotate_left(16)).to_le_bytes());
    }
    sector
}

/// The generation that a sector holds as a whole, or what is wrong with it.
pub(crate) fn read(lba: u64, sector: &[u8]) -> Result<u64, String> {
    let field = |at: usize| {
        let bytes = sector.get(at..at + 8).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        bytes.map_or(u64::MAX, u64::from_le_bytes)
    };
    let (found, generation) = (field(0), field(8));
    if sector.iter().all(|byte| *byte == 0) {
        return Ok(UNWRITTEN);
    }
    if found != lba {
        return Err(format!("LBA {lba} holds the sector of LBA {found}, generation {generation}"));
    }
    let whole = stamp(lba, generation, sector.len());
    match whole.iter().zip(sector).position(|(whole, found)| whole != found) {
        None => Ok(generation),
        Some(at) => Err(format!(
            "LBA {lba} is torn: generation {generation} up to byte {at}, something else from there"
        )),
    }
}

/// A good mixer of 64 bits (splitmix64's).
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_mixture_of_two_generations_is_torn() {
        for size in [512, 4096] {
            let (old, new) = (stamp(77, 5, size), stamp(77, 6, size));
            assert_eq!(read(77, &new), Ok(6));
            assert_eq!(read(77, &vec![0; size]), Ok(UNWRITTEN));
            for cut in (64..size).step_by(64) {
                let forwards = [&new[..cut], &old[cut..]].concat();
                let backwards = [&old[..cut], &new[cut..]].concat();
                assert!(read(77, &forwards).expect_err("torn").contains("is torn"));
                assert!(read(77, &backwards).is_err());
            }
            assert!(read(78, &new).expect_err("another's").contains("LBA 77"));
            let mut begun = vec![0; size];
            begun[size - 64..].copy_from_slice(&new[size - 64..]);
            assert!(read(77, &begun).is_err(), "the end alone");
        }
    }
}
