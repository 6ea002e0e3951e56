# SPDX-License-Identifier: MIT OR Apache-2.0
# The sets with labels 1.1, which have cookies of their own.
labels 1.1
two=$(region 2) four=$(region 4)
space $two 1 32M sector -l 512
space $four 2 64M fsdax
space $four 3 64M raw
all .
