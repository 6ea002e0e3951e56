# SPDX-License-Identifier: MIT OR Apache-2.0
# One DIMM with labels 1.2 and every mode.
labels 1.2
r=$(region 1)
space $r 1 32M raw -n first
space $r 2 32M sector -l 4096
space $r 3 64M fsdax
space $r 4 64M devdax
space $r 5 32M sector -l 520
all .
try disable-devdax ndctl disable-namespace $(called $(uuid 4))
try disable-fsdax ndctl disable-namespace $(called $(uuid 3))
try disable-raw ndctl disable-namespace $(called $(uuid 1))
state disabled
try disable-sector ndctl disable-namespace $(called $(uuid 2))
try disable-sector-520 ndctl disable-namespace $(called $(uuid 5))
for n in 1 2 3 4 5; do
    try read-infoblock-$n ndctl read-infoblock -j $(called $(uuid $n))
done
