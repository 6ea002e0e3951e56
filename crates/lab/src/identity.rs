// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who a DIMM is.

use nvstack_format::SetMember;

/// What the NFIT (ACPI 6.2 section 5.2.25) tells of a DIMM, in the values that its little-endian fields have.
///
/// Linux shows most of them byte-swapped, since the JEDEC standard behind them writes them big-endian: vendor 0x8086 is
/// `0x8680` in `nfit/vendor`, serial 0x123456 is `0x56341200` in `nfit/serial`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// NFIT device handle.
    pub handle: u32,
    /// Number of the SMBIOS memory device.
    pub phys_id: u16,
    /// Serial number.
    pub serial: u32,
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Revision.
    pub revision: u16,
    /// Vendor of the controller.
    pub subsystem_vendor: u16,
    /// Device of the controller.
    pub subsystem_device: u16,
    /// Revision of the controller.
    pub subsystem_revision: u16,
    /// Where and when it was made, if its maker tells.
    pub manufacturing: Option<Manufacturing>,
    /// Region format interface code. Linux shows it as it is: 0x0301 in `nfit/format`.
    pub format: u16,
    /// Family of its commands (Linux `NVDIMM_FAMILY_*`).
    pub family: u32,
}

/// Where and when a DIMM was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manufacturing {
    /// Place, in the maker's code.
    pub location: u8,
    /// Week and year in BCD, by bytes; as a little-endian number.
    pub date: u16,
}

impl Identity {
    /// The DIMM that QEMU makes of its NVDIMM number `index`, from 0.
    #[must_use]
    pub const fn qemu(index: u32) -> Identity {
        let member = SetMember::qemu(index);
        Identity {
            handle: index.saturating_add(1),
            phys_id: 0,
            serial: member.serial,
            vendor: member.vendor,
            device: 1,
            revision: 1,
            subsystem_vendor: 0,
            subsystem_device: 0,
            subsystem_revision: 0,
            manufacturing: None,
            format: 0x0301,
            family: 0,
        }
    }

    /// What a set's cookie takes from it.
    #[must_use]
    pub fn set_member(&self, region_offset: u64) -> SetMember {
        let (date, location) = self.manufacturing.map_or((0, 0), |made| (made.date, made.location));
        SetMember { region_offset, serial: self.serial, vendor: self.vendor, date, location }
    }

    /// The unique identifier, as Linux shows it in `nfit/id`: `vvvv-ll-dddd-ssssssss`, or `vvvv-ssssssss` without place
    /// and date.
    #[must_use]
    pub fn id(&self) -> String {
        let (vendor, serial) = (self.vendor.swap_bytes(), self.serial.swap_bytes());
        match self.manufacturing {
            Some(Manufacturing { location, date }) => {
                format!("{vendor:04x}-{location:02x}-{:04x}-{serial:08x}", date.swap_bytes())
            }
            None => format!("{vendor:04x}-{serial:08x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of `fixtures/sysfs/sysfs-sector.txt`, which Linux showed of QEMU's first NVDIMM.
    #[test]
    fn the_default_is_qemus() {
        let text = include_str!("../../../fixtures/sysfs/sysfs-sector.txt");
        let shown = |name: &str, value: String| {
            let line = text.lines().find(|l| l.contains(&format!("/nmem0/nfit/{name}|"))).unwrap();
            assert!(line.ends_with(&format!("|{value}\\n")), "{line}: {value}");
        };
        let dimm = Identity::qemu(0);
        let swapped = |field: u16| format!("0x{:04x}", field.swap_bytes());
        shown("handle", format!("{:#x}", dimm.handle));
        shown("phys_id", format!("{:#x}", dimm.phys_id));
        shown("serial", format!("0x{:08x}", dimm.serial.swap_bytes()));
        shown("vendor", swapped(dimm.vendor));
        shown("device", swapped(dimm.device));
        shown("rev_id", swapped(dimm.revision));
        shown("subsystem_vendor", swapped(dimm.subsystem_vendor));
        shown("subsystem_device", swapped(dimm.subsystem_device));
        shown("subsystem_rev_id", swapped(dimm.subsystem_revision));
        shown("format", format!("0x{:04x}", dimm.format));
        shown("family", dimm.family.to_string());
        shown("id", dimm.id());
        let made = Identity { manufacturing: Some(Manufacturing { location: 1, date: 0x1820 }), ..dimm };
        assert_eq!(made.id(), "8680-01-2018-56341200");
    }
}
