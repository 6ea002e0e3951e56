// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers: 4 KiB random requests over a unix socket, beside nbdkit and qemu-nbd. Theirs are plain memory; ours keeps
//! its sectors from tearing.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::client::Client;
use super::filled_file;
use super::stats::Spread;
use crate::report::{Context, Result};

const SIZE: u64 = 256 << 20;
const TIME: Duration = Duration::from_millis(700);

/// A running server; it ends with this.
struct Peer {
    child: Child,
    client: Client,
}

impl Peer {
    fn start(mut command: Command, socket: &Path) -> Result<Peer> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context(name)?;
        let client = Client::connect(socket)?;
        Ok(Peer { child, client })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the rounds and gives the table.
pub(crate) fn run(folder: &Path, rounds: usize) -> Result<String> {
    let bin = crate::server::build()?;
    let socket = |name: &str| folder.join(name).with_extension("sock");
    let unix = |path: &PathBuf| format!("unix:{}", path.display());

    let (ours, nbdkit, qemu) = (socket("nvstack"), socket("nbdkit"), socket("qemu"));
    let mut command = Command::new(bin.join("nvstack"));
    command.arg("serve").arg(folder.join("serve.img")).args(["--create", "256M", "--nbd", &unix(&ours)]);
    let ours = Peer::start(command, &ours)?;
    let mut command = Command::new("nbdkit");
    command.args(["-f", "-U"]).arg(&nbdkit).args(["memory", &SIZE.to_string()]);
    let nbdkit = Peer::start(command, &nbdkit)?;
    let raw = folder.join("qemu.raw");
    filled_file(&raw, SIZE)?;
    let mut command = Command::new("qemu-nbd");
    command.args(["-t", "-f", "raw", "-k"]).arg(&qemu).arg(&raw);
    let qemu = Peer::start(command, &qemu)?;

    let mut peers = [ours, nbdkit, qemu];
    // Every block once, so that no round meets memory that is not there yet.
    for peer in &mut peers {
        peer.client.rate(true, 64, TIME * 3)?;
    }
    let mut table = String::from(
        "## NBD servers\n\nThousands of 4 KiB random requests per second over a unix socket, one connection, by a client \
         that only counts. nvstack serves a BTT (each completed write is in memory whole: `/dev/shm`), nbdkit its memory \
         plugin, qemu-nbd a raw file in `/dev/shm`.\n\n\
         | request | in flight | nvstack | nbdkit memory | qemu-nbd | nvstack / nbdkit | nvstack / qemu-nbd |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for write in [false, true] {
        for depth in [1, 16, 64] {
            let mut figures = [Vec::new(), Vec::new(), Vec::new()];
            for _ in 0..rounds {
                for (peer, list) in peers.iter_mut().zip(&mut figures) {
                    list.push(peer.client.rate(write, depth, TIME)? / 1000.0);
                }
            }
            let [ours, nbdkit, qemu] = &figures;
            let _ = writeln!(
                table,
                "| {} | {depth} | {} | {} | {} | {} | {} |",
                if write { "write" } else { "read" },
                Spread::of(ours.iter().copied()).show(0),
                Spread::of(nbdkit.iter().copied()).show(0),
                Spread::of(qemu.iter().copied()).show(0),
                Spread::ratio(ours, nbdkit).show(2),
                Spread::ratio(ours, qemu).show(2),
            );
        }
    }
    Ok(table)
}
