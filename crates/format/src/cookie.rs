// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interleave-set cookies: sums over the DIMMs of a set, stored in every label, so that labels are not believed after
//! DIMMs were swapped.

use alloc::vec::Vec;
use core::mem::size_of;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::fletcher64;

/// A DIMM's part in a set, in the values of the NFIT (ACPI "NVDIMM Region Mapping" and "Control Region").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetMember {
    /// Region offset, bytes.
    pub region_offset: u64,
    /// Serial number: its four bytes as a little-endian number.
    pub serial: u32,
    /// Vendor identifier.
    pub vendor: u16,
    /// Manufacturing date.
    pub date: u16,
    /// Manufacturing location.
    pub location: u8,
}

impl SetMember {
    /// The DIMM that QEMU makes of its NVDIMM number `index`, from 0, each one a set of its own.
    #[must_use]
    pub const fn qemu(index: u32) -> SetMember {
        SetMember {
            region_offset: 0,
            serial: 0x0012_3456_u32.wrapping_add(index),
            vendor: 0x8086,
            date: 0,
            location: 0,
        }
    }
}

/// The sums that labels of a set may carry. 0 is no valid cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookies {
    /// For areas of version 1.1.
    pub v1_1: u64,
    /// For areas of version 1.2.
    pub v1_2: u64,
    /// Also accepted, from before Linux sorted the DIMMs by number: sorted by the bytes of the little-endian offset.
    pub alternative: u64,
}

#[derive(IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Record1 {
    region_offset: U64,
    serial: U32,
    reserved: U32,
}

#[derive(IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Record2 {
    region_offset: U64,
    serial: U32,
    vendor: U16,
    date: U16,
    location: u8,
    reserved: [u8; 31],
}

const _: () = assert!(size_of::<Record1>() == 16 && size_of::<Record2>() == 48);

/// The cookies of a set of DIMMs, given in any order.
#[must_use]
pub fn cookies(members: &[SetMember]) -> Cookies {
    let mut sorted = members.to_vec();
    sorted.sort_by_key(|m| m.region_offset);
    let record1 = |m: &SetMember| Record1 {
        region_offset: m.region_offset.into(),
        serial: m.serial.into(),
        reserved: U32::ZERO,
    };
    let v1_1: Vec<Record1> = sorted.iter().map(record1).collect();
    let v1_2: Vec<Record2> = sorted
        .iter()
        .map(|m| Record2 {
            region_offset: m.region_offset.into(),
            serial: m.serial.into(),
            vendor: m.vendor.into(),
            date: m.date.into(),
            location: m.location,
            reserved: [0; 31],
        })
        .collect();
    sorted.sort_by_key(|m| m.region_offset.to_le_bytes());
    let alternative: Vec<Record1> = sorted.iter().map(record1).collect();
    Cookies {
        v1_1: fletcher64(v1_1.as_bytes()),
        v1_2: fletcher64(v1_2.as_bytes()),
        alternative: fletcher64(alternative.as_bytes()),
    }
}
