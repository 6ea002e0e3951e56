// SPDX-License-Identifier: MIT OR Apache-2.0
//! Serves memory as a block device, until its standard input ends:
//!
//! ```sh
//! cargo run --release -p nvstack-nbd --example ram -- unix:/tmp/ram.sock 256
//! nbdinfo 'nbd+unix:///ram?socket=/tmp/ram.sock'
//! ```

use std::io::{IoSlice, IoSliceMut, Read};
use std::sync::{Arc, PoisonError, RwLock};

use nvstack_block::{
    BlockDevice, Error, Extent, ExtentFlags, Geometry, Kind, Lba, Result, WriteFlags, in_range, sectors_of,
};
use nvstack_nbd::{Exports, Limits, Listen, Server};

const SECTOR: u32 = 4096;

/// All that a block device has to be.
struct Ram {
    geometry: Geometry,
    bytes: RwLock<Vec<u8>>,
}

impl Ram {
    fn new(mebibytes: usize) -> Ram {
        let geometry = Geometry {
            sectors: (mebibytes << 8) as u64,
            sector_size: SECTOR,
            preferred: SECTOR,
            read_only: false,
            volatile_cache: false,
            atomic: true,
            discard: false,
        };
        Ram { geometry, bytes: RwLock::new(vec![0; mebibytes << 20]) }
    }

    /// Where a sector begins. For sectors that have been checked to be there.
    fn offset(at: Lba) -> usize {
        usize::try_from(at.0 * u64::from(SECTOR)).unwrap_or(usize::MAX)
    }
}

impl BlockDevice for Ram {
    fn name(&self) -> String {
        "ram".into()
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, at: Lba, into: &mut [IoSliceMut<'_>]) -> Result<()> {
        sectors_of(&self.geometry, "read", at, into.iter().map(|b| b.len()))?;
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        let mut from = &bytes[Ram::offset(at)..];
        for buffer in into {
            let (here, rest) = from.split_at(buffer.len());
            buffer.copy_from_slice(here);
            from = rest;
        }
        Ok(())
    }

    fn write(&self, at: Lba, from: &[IoSlice<'_>], _: WriteFlags) -> Result<()> {
        sectors_of(&self.geometry, "write", at, from.iter().map(|b| b.len()))?;
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        let mut to = &mut bytes[Ram::offset(at)..];
        for buffer in from {
            let (here, rest) = to.split_at_mut(buffer.len());
            here.copy_from_slice(buffer);
            to = rest;
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn write_zeroes(&self, at: Lba, sectors: u64, flags: WriteFlags) -> Result<()> {
        in_range(&self.geometry, "write zeroes", at, sectors)?;
        if flags.contains(WriteFlags::FAST) {
            return Err(Error::new(Kind::Unsupported, "write zeroes fast"));
        }
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        bytes[Ram::offset(at)..Ram::offset(at.plus(sectors))].fill(0);
        Ok(())
    }

    fn discard(&self, at: Lba, sectors: u64) -> Result<()> {
        in_range(&self.geometry, "discard", at, sectors)
    }

    fn extents(&self, at: Lba, sectors: u64, found: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        in_range(&self.geometry, "extents", at, sectors)?;
        found(Extent { sectors, flags: ExtentFlags::empty() });
        Ok(())
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let listen: Listen = arguments.next().unwrap_or("unix:ram.sock".into()).parse()?;
    let mebibytes = arguments.next().and_then(|size| size.parse().ok()).unwrap_or(64);

    let exports = Arc::new(Exports::new());
    exports.add("ram", "memory, gone when the server ends", Arc::new(Ram::new(mebibytes)))?;
    let server = Server::bind(&listen, exports, Limits::default())?;
    println!("{}", server.uri("ram"));

    let handle = server.handle();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        handle.shutdown();
    });
    server.run()
}
