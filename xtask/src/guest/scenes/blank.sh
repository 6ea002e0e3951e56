# SPDX-License-Identifier: MIT OR Apache-2.0
# A DIMM whose label area is all zeros.
all .
try check-labels ndctl check-labels $(nmem 1)
try read-labels ndctl read-labels -j $(nmem 1)
try create ndctl create-namespace -r $(region 1) -m raw -s 64M
