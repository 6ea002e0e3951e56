# SPDX-License-Identifier: MIT OR Apache-2.0
# Two sets over four DIMMs, with namespaces of every mode and a hole where one was.
labels 1.2
two=$(region 2) four=$(region 4)
space $two 1 32M sector -l 4096 -n journal
space $two 2 48M fsdax -M mem
space $four 3 64M raw -l 4096
space $four 4 64M sector -l 520
space $four 5 64M raw
space $four 6 128M fsdax -n data
space $four 7 128M devdax
ndctl destroy-namespace -f $(called $(uuid 5)) >/dev/null 2>&1
all .
try inject-error ndctl inject-error $(called $(uuid 3)) -B 0 -n 2
try inject-error-status ndctl inject-error $(called $(uuid 3)) -t
try start-scrub ndctl start-scrub
try wait-scrub ndctl wait-scrub
try clear-errors ndctl clear-errors $(called $(uuid 3))
try read-infoblock-active ndctl read-infoblock -j $(called $(uuid 3))
try disable-namespace ndctl disable-namespace $(called $(uuid 1))
try disable-region ndctl disable-region $four
state disabled
try enable-region ndctl enable-region $four
try enable-namespace ndctl enable-namespace $(called $(uuid 1))
glance enabled
try disable-dimm-active ndctl disable-dimm $(nmem 3)
try disable-region-two ndctl disable-region $two
try disable-region-four ndctl disable-region $four
try disable-dimm ndctl disable-dimm $(nmem 3)
state dimm-disabled
