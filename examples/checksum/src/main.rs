// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shows the driver at work: a machine in memory, a device made as ndctl makes one, and a byte that changes behind its back.
#![forbid(unsafe_code)]

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use nvstack_block::{Lba, WriteFlags};
use nvstack_example_checksum::{Checksum, layout::Layout};
use nvstack_media::{Anon, Media, Result};
use nvstack_stack::provider::ImageProvider;
use nvstack_stack::{OpenOptions, Stack};

const SIZE: u64 = 64 << 20;

fn main() -> Result<()> {
    let stack = Stack::new();
    // All that the machine needs to know of it.
    stack.register_driver(Arc::new(Checksum));
    let memory: Arc<dyn Media> = Arc::new(Anon::new(SIZE)?);
    stack.register(ImageProvider::new(memory, Some(0))?.bus());
    stack.settle();
    let tree = stack.tree();

    // Without labels the region is one namespace, which came up raw. The seed takes it.
    tree.write("bus/nd/drivers/nd_pmem/unbind", "namespace0.0")?;
    let seed = tree.read("region0/crc_seed")?.trim_end().to_owned();
    for (attribute, text) in [
        ("uuid", "0d9f5fd6-4a3e-4ac7-8bb1-2e0a51a2a1ec"),
        ("block_size", "4096"),
        ("namespace", "namespace0.0"),
    ] {
        tree.write(&format!("{seed}/{attribute}"), text)?;
        println!("{seed}/{attribute} = {text}");
    }
    tree.write("bus/nd/drivers/nd_crc/bind", &seed)?;
    println!(
        "{seed} has {} bytes; the next seed is {}",
        line(&tree.read(&format!("{seed}/size"))?),
        line(&tree.read("region0/crc_seed")?)
    );

    let options = OpenOptions::default();
    let disk = stack.open("pmem0c", &options)?;
    disk.write(Lba(7), &[IoSlice::new(&[0x5a; 4096])], WriteFlags::FUA)?;
    drop(disk);

    // One bit, behind its back: through the raw namespace.
    tree.write("bus/nd/drivers/nd_crc/unbind", &seed)?;
    tree.write(&format!("{seed}/namespace"), "")?;
    tree.write("namespace0.0/force_raw", "1")?;
    tree.write("bus/nd/drivers/nd_pmem/bind", "namespace0.0")?;
    let place = Layout::compute(SIZE, 4096).map_or(0, |layout| layout.block(7).0);
    let raw = stack.open("pmem0", &options)?;
    let mut sector = [0; 512];
    raw.read(Lba(place / 512), &mut [IoSliceMut::new(&mut sector)])?;
    if let Some(byte) = sector.last_mut() {
        *byte ^= 1;
    }
    raw.write(Lba(place / 512), &[IoSlice::new(&sector)], WriteFlags::FUA)?;
    drop(raw);
    tree.write("bus/nd/drivers/nd_pmem/unbind", "namespace0.0")?;
    tree.write("namespace0.0/force_raw", "0")?;
    println!("one bit of block 7 changed on the medium");

    // Who binds the namespace now finds what is on it, and the driver of that takes it.
    if let Err(told) = tree.write("bus/nd/drivers/nd_pmem/bind", "namespace0.0") {
        println!("{told}");
    }
    let holder = line(&tree.read("namespace0.0/holder")?).to_owned();
    let disk = stack.open("pmem0c", &options)?;
    let mut block = vec![0; 4096];
    disk.read(Lba(6), &mut [IoSliceMut::new(&mut block)])?;
    match disk.read(Lba(7), &mut [IoSliceMut::new(&mut block)]) {
        Err(refused) => println!("refused: {refused}"),
        Ok(()) => println!("the bit was not noticed: the driver is broken"),
    }
    println!("{holder}/errors = {}", line(&tree.read(&format!("{holder}/errors"))?));
    Ok(())
}

fn line(text: &str) -> &str {
    text.trim_end()
}
