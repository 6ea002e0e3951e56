// SPDX-License-Identifier: MIT OR Apache-2.0
//! A two-way and a four-way set over four DIMMs, whose lines are in turn in our images.

use std::path::Path;

use super::target::Target;
use super::{Outcomes, Story};
use crate::guest::qemu::Machine;
use crate::guest::record::interleaved;
use crate::report::{Context, Result};

/// What we make: every mode, a hole, one that was made anew.
const MADE: [&str; 12] = [
    "create-namespace -r region0 -s 32M -m sector -l 4096 -n journal -u #1",
    "create-namespace -r region0 -s 48M -m fsdax -M mem -u #2",
    "create-namespace -r region1 -s 64M -m raw -l 4096 -u #3",
    "create-namespace -r region1 -s 64M -m sector -l 520 -u #4",
    "create-namespace -r region1 -s 64M -m raw -u #5",
    "create-namespace -r region1 -s 64M -m fsdax -n data -u #6",
    "create-namespace -r region1 -s 64M -m devdax -u #7",
    "create-namespace -r region1 -s 64M -m raw -u #8",
    "destroy-namespace -f @5",
    "create-namespace -r region1 -s 64M -m sector -l 512 -n anew -u #9",
    "create-namespace -f -e @8 -m fsdax -M dev -a 4K -n old -u #10",
    "destroy-namespace -f @9",
];

/// What Linux makes of it.
const THEIRS: &str = "
edit ndctl create-namespace -r $(region 4) -s 64M -m sector -l 512 -u #11 -n linux
edit ndctl create-namespace -r $(region 2) -s 32M -m raw -u #12
edit ndctl create-namespace -r $(region 4) -s 64M -m devdax -u #18
edit ndctl create-namespace -f -e @10 -m sector -l 4096 -u #13
edit ndctl destroy-namespace -f @4
edit rename @6 other
";

/// And how we go on.
const ON: [&str; 5] = [
    "destroy-namespace -f @11",
    "create-namespace -f -e @12 -m sector -l 512 -n short -u #14",
    "create-namespace -r region1 -s 128M -m fsdax -u #15",
    "create-namespace -f -e @6 -m devdax -u #16",
    "create-namespace -r region1 -m raw -u #17",
];

pub(super) fn run(machine: &Machine, bin: &Path, version: &str, folder: &Path) -> Outcomes {
    let mut outcomes = Vec::new();
    let name = format!("model.sets-{version}");
    if let Err(why) = tell(machine, bin, version, &name, folder, &mut outcomes) {
        outcomes.push((name, Err(why)));
    }
    outcomes
}

fn tell(
    machine: &Machine,
    bin: &Path,
    version: &str,
    name: &str,
    folder: &Path,
    outcomes: &mut Outcomes,
) -> Result<()> {
    let target = Target::blank(bin, folder, interleaved())?;
    target.verb(&format!("init-labels all -V {version}"))?;
    for line in MADE {
        target.verb(line).context(name)?;
    }
    let ours = ON.map(str::to_owned).into();
    Story { name, target, guest: THEIRS.to_owned(), ours }.tell(machine, outcomes)
}
