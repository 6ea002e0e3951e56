# SPDX-License-Identifier: MIT OR Apache-2.0
# One DIMM with labels 1.1.
labels 1.1
r=$(region 1)
space $r 1 32M raw
space $r 2 32M sector -l 512
space $r 3 64M fsdax -M mem -a 4096
all .
