// SPDX-License-Identifier: MIT OR Apache-2.0
//! nvstack itself inside the guest, for what the host's kernel may not have: an nbd driver, and DAX.

use std::path::Path;

use super::BOOT_LIMIT;
use super::initramfs::{libraries, merged};
use super::qemu::{Boot, Machine};
use crate::nbd::readme::guest_blocks;
use crate::report::{Context, Lane, Result, ensure};
use crate::verdict::note;

/// What the commands of the README for a kernel with `nbd` must have led to.
const NBD_DEVICE: &str = r"
same readme.nbd-client.size 'the kernel sees our sectors' \
    $(blockdev --getsize64 /dev/nbd0) $(sed 's/.*,.size.:\([0-9]*\).*/\1/' ready.json)
/usr/sbin/mkfs.ext4 -q /dev/nbd0 && mount -t ext4 /dev/nbd0 /mnt && cp /usr/bin/busybox /mnt && umount /mnt
/usr/sbin/e2fsck -fn /dev/nbd0 >/tmp/fsck 2>&1
same readme.nbd-client.ext4 'a file system on /dev/nbd0 is made, filled and sound' $? 0
/usr/sbin/nbd-client -d /dev/nbd0 >/dev/null 2>&1
kill %1
wait %1
same readme.nbd-client.end 'SIGTERM ends the server in order' $? 0
";

/// A file on a file system with DAX is persistent memory: MAP_SYNC is granted, and told.
const DAX: &str = r"
namespace=$(ndctl list -r $region -N | sed -n 's/.*dev.:.\(namespace[0-9.]*\).*/\1/p' | head -n 1)
ndctl create-namespace -f -e $namespace -m fsdax -M mem >/tmp/ndctl 2>&1
disk=$(sed -n 's/.*blockdev.:.\(pmem[0-9.]*\).*/\1/p' /tmp/ndctl)
/usr/sbin/mkfs.ext4 -q -b 4096 /dev/$disk && mount -t ext4 -o dax /dev/$disk /mnt
/usr/bin/nvstack serve /mnt/dax.img --create 64M --run true 2>/tmp/words
same dax.serve 'serve ends 0 on ext4 with DAX' $? 0
grep -q 'persistence cpu_cache' /tmp/words && ok dax.told 'MAP_SYNC is granted, and serve says so' \
    || fail dax.told $(cat /tmp/words /tmp/ndctl | tr '\n' ' ')
/usr/bin/nvstack serve /mnt/dax.img --run 'grep -A30 dax.img /proc/$PPID/smaps | grep -m1 VmFlags' >/tmp/flags 2>&1
grep -q ' sf' /tmp/flags && ok dax.flags 'the kernel marks the mapping as synchronous' \
    || fail dax.flags $(cat /tmp/flags)
umount /mnt
";

/// One boot with the binary in it.
pub(super) fn run(lane: &mut Lane, machine: &Machine, bin: &Path) -> Result<()> {
    let blocks = guest_blocks()?;
    ensure(!blocks.is_empty(), || "README.md shows no command for a kernel with nbd".to_owned())?;
    let mut boot = Boot::default();
    let binary = bin.join("nvstack");
    boot.program("usr/bin/nvstack", &std::fs::read(&binary).context(binary.display())?)?;
    for library in libraries(&binary)? {
        let inside = merged(&library);
        boot.program(inside.trim_start_matches('/'), &std::fs::read(&library).context(&library)?)?;
    }
    let folder = tempfile::tempdir_in(&machine.folder).context(machine.folder.display())?;
    let image = folder.path().join("dax");
    std::fs::File::create(&image).and_then(|f| f.set_len(256 << 20)).context(image.display())?;
    boot.dimm(1, &image, 0);

    boot.script("ifconfig lo up\ncd /tmp");
    for block in blocks {
        // busybox has an applet of that name, which is not what people have.
        boot.script(block.replace("nbd-client ", "/usr/sbin/nbd-client "));
    }
    boot.script(NBD_DEVICE);
    boot.script("dimm 1");
    boot.script(DAX);
    boot.script("true");
    let verdicts = boot.run(machine, "within", BOOT_LIMIT)?;
    let wanted = [
        "readme.nbd-client.size",
        "readme.nbd-client.ext4",
        "readme.nbd-client.end",
        "dax.serve",
        "dax.told",
        "dax.flags",
    ];
    note(lane, &verdicts, &wanted.map(str::to_owned));
    Ok(())
}
