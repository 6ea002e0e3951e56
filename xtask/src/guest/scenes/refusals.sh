# SPDX-License-Identifier: MIT OR Apache-2.0
# What ndctl refuses, and some of what it does not. Each case leaves what the next one needs.
labels 1.2
two=$(region 2) four=$(region 4)
space $two 1 32M sector
space $two 2 32M raw
space $four 3 64M fsdax
btt=$(called $(uuid 1)) raw=$(called $(uuid 2)) pfn=$(called $(uuid 3))
lists .
read_labels .
create="ndctl create-namespace"

attempt bad-sector-size $create -r $four -m sector -s 64M -l 513
attempt bad-sector-size-1024 $create -r $four -m sector -s 64M -l 1024
attempt bad-sector-size-raw $create -r $four -m raw -s 64M -l 520
attempt bad-sector-size-text $create -r $four -m sector -s 64M -l some
attempt misaligned-by-one $create -r $four -m raw -s 67108865
attempt misaligned-page $create -r $four -m raw -s 65540K
attempt misaligned-ways $create -r $four -m raw -s 80M
attempt misaligned-sector $create -r $two -m sector -s 20M
attempt no-space $create -r $two -m raw -s 1G
attempt no-space-by-alignment $create -r $two -m raw -s 96M
attempt no-space-anywhere $create -m raw -s 64G
attempt duplicate-uuid $create -r $two -m raw -s 32M -u $(uuid 3)
attempt duplicate-uuid-same-region $create -r $two -m raw -s 32M -u $(uuid 1)
attempt zero-size $create -r $two -m raw -s 0
attempt too-small-sector $create -r $two -m sector -s 8M
attempt too-small-fsdax $create -r $two -m fsdax -s 1M
attempt small-raw $create -r $two -m raw -s 1M
attempt bad-align $create -r $two -m fsdax -s 32M -a 3M
attempt bad-align-text $create -r $two -m fsdax -s 32M -a much
attempt big-align $create -r $two -m fsdax -s 32M -a 1G
attempt align-in-sector-mode $create -r $two -m sector -s 32M -a 2M
attempt align-in-raw-mode $create -r $two -m raw -s 32M -a 2M
attempt map-in-raw-mode $create -r $two -m raw -s 32M -M mem
attempt bad-map $create -r $two -m fsdax -s 32M -M disk
attempt sector-size-in-fsdax-mode $create -r $two -m fsdax -s 32M -l 520
attempt sector-size-in-devdax-mode $create -r $two -m devdax -s 32M -l 4096
attempt bad-mode $create -r $two -m fast -s 32M
attempt bad-type $create -r $two -t disk -s 32M
attempt blk-type $create -r $two -t blk -s 32M
attempt bad-uuid $create -r $two -m raw -s 32M -u 12345
attempt bad-size $create -r $two -m raw -s lots
attempt bad-region $create -r region99 -m raw -s 32M
attempt bad-bus $create -b ndbus9 -m raw -s 32M
attempt bad-option $create --fast
try name-63 $create -r $four -m raw -s 64M -n 123456789012345678901234567890123456789012345678901234567890123 -u $(uuid 63)
try name-63-list ndctl list -u -n $(called $(uuid 63))
try name-63-destroy ndctl destroy-namespace -f $(called $(uuid 63))
attempt name-64 $create -r $four -m raw -s 64M -n 1234567890123456789012345678901234567890123456789012345678901234

try reconfigure-active $create -e $btt -m fsdax
try reconfigure-size $create -f -e $raw -m raw -s 1G
try reconfigure-unknown $create -f -e namespace9.9 -m raw
try destroy-active ndctl destroy-namespace $btt
try destroy-unknown ndctl destroy-namespace namespace9.9
try destroy-nothing-named ndctl destroy-namespace
try enable-unknown ndctl enable-namespace namespace9.9
try enable-enabled ndctl enable-namespace $raw
try disable-unknown ndctl disable-namespace namespace9.9
try disable-enabled ndctl disable-namespace $raw
try disable-disabled ndctl disable-namespace $raw
try reconfigure-disabled $create -e $raw -m sector -l 4096
try list-reconfigured ndctl list -v -n $raw
try reconfigure-to-raw ndctl create-namespace -f -e $raw -m raw -u $(uuid 2)
try destroy-active-raw ndctl destroy-namespace $raw
try check-active ndctl check-namespace $btt
try check-force ndctl check-namespace -f $btt
try check-fsdax ndctl check-namespace -f $pfn
try check-unknown ndctl check-namespace namespace9.9
try rewrite-log-without-repair ndctl check-namespace -f -L $btt
try list-unknown-namespace ndctl list -n namespace9.9
try list-unknown-region ndctl list -r region99
try list-bad-mode ndctl list -m fast
try list-bad-option ndctl list --fast
try unknown-command ndctl fly
try version ndctl --version
try enable-region-unknown ndctl enable-region region99
try enable-region-enabled ndctl enable-region $four
try disable-region-unknown ndctl disable-region region99
try disable-dimm-unknown ndctl disable-dimm nmem99

try check-labels ndctl check-labels all
try check-labels-unknown ndctl check-labels nmem99
try zero-labels-active ndctl zero-labels $(nmem 1)
try init-labels-active ndctl init-labels -f $(nmem 1)
try init-labels-active-unforced ndctl init-labels $(nmem 1)
try read-labels-unknown ndctl read-labels nmem99
ndctl read-labels $(nmem 1) -o /tmp/saved 2>/dev/null
try write-labels-active ndctl write-labels $(nmem 1) -i /tmp/saved
echo 1 >/sys/bus/nd/devices/$four/read_only
try create-in-read-only-region $create -r $four -m raw -s 64M
glance read-only
echo 0 >/sys/bus/nd/devices/$four/read_only
try disable-region ndctl disable-region $two
try create-in-disabled-region $create -r $two -m raw -s 32M
try create-in-disabled-region-default $create -r $two
try disable-region-disabled ndctl disable-region $two
try zero-labels-while-the-other-region-is-active ndctl zero-labels $(nmem 1)
try disable-region-four ndctl disable-region $four
try init-labels-unforced ndctl init-labels $(nmem 1)
try init-labels-bad-version ndctl init-labels -f -V 3.0 $(nmem 1)
try init-labels ndctl init-labels -f -V 1.2 $(nmem 1)
try init-labels-again ndctl init-labels -f -V 1.2 $(nmem 1)
try enable-regions-missing-label ndctl enable-region all
state missing-label
try disable-region-again ndctl disable-region all
try write-labels ndctl write-labels $(nmem 1) -i /tmp/saved
try enable-regions ndctl enable-region all
glance restored
try disable-region-for-zero ndctl disable-region all
try zero-labels ndctl zero-labels $(nmem 4)
try check-labels-zeroed ndctl check-labels $(nmem 4)
try read-labels-zeroed ndctl read-labels -j $(nmem 4)
try zero-labels-again ndctl zero-labels $(nmem 4)
try enable-regions-zeroed ndctl enable-region all
glance one-zeroed
