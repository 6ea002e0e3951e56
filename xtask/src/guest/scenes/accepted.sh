# SPDX-License-Identifier: MIT OR Apache-2.0
# What commands say when they do what they are asked to.
labels 1.2
two=$(region 2) four=$(region 4)
create="ndctl create-namespace"
attempt default $create
attempt default-of-a-region $create -r $two
attempt default-sector $create -r $two -m sector
attempt default-devdax $create -r $two -m devdax
attempt default-raw $create -r $two -m raw
attempt fsdax-4k $create -r $two -m fsdax -s 32M -a 4K
attempt fsdax-map-mem $create -r $two -m fsdax -s 32M -M mem
attempt devdax-4k $create -r $two -m devdax -s 32M -a 4K
attempt devdax-map-mem $create -r $two -m devdax -s 32M -M mem
attempt sector-512 $create -r $two -m sector -s 32M -l 512
attempt sector-4104 $create -r $two -m sector -s 32M -l 4104
attempt old-mode-safe $create -r $two -m safe -s 32M
attempt old-mode-memory $create -r $two -m memory -s 32M
attempt old-mode-dax $create -r $two -m dax -s 32M
attempt size-in-hexadecimal $create -r $two -m raw -s 0x2000000
attempt name-with-spaces $create -r $two -m raw -s 32M -n "my own name"
attempt name-empty $create -r $two -m raw -s 32M -n ""
attempt no-autorecover $create -r $two -m sector -s 32M -R
attempt continue $create -c -m raw -s 64M

space $two 1 32M sector
space $two 2 32M raw
space $four 3 64M fsdax -n kept
btt=$(called $(uuid 1)) raw=$(called $(uuid 2)) pfn=$(called $(uuid 3))
try list-namespaces ndctl list
try list-human ndctl list -u
try list-idle ndctl list -Ni
try list-of-region ndctl list -N -r $two
try list-of-mode ndctl list -N -m sector
try list-of-dimm ndctl list -D -d $(nmem 1)
try list-regions-dimms ndctl list -RD
try list-verbose ndctl list -Nv -r $four
try list-dimms-human ndctl list -Du
try list-buses ndctl list -B
try list-capabilities ndctl list -RC
try reconfigure-keeps-name $create -f -e $pfn -m devdax
try reconfigure-back $create -f -e $(called_like kept) -m sector -l 512 -u $(uuid 4)
try disable-before-destroy ndctl disable-namespace $btt
try destroy-disabled-unforced ndctl destroy-namespace $btt
try disable-all ndctl disable-namespace all
try enable-all ndctl enable-namespace all
try disable-all-regions ndctl disable-region all
try enable-namespace-in-disabled-region ndctl enable-namespace $raw
try enable-all-regions ndctl enable-region all
try destroy-all-unforced ndctl destroy-namespace all
try destroy-all ndctl destroy-namespace -f all
try destroy-all-again ndctl destroy-namespace -f all
glance empty
