# SPDX-License-Identifier: MIT OR Apache-2.0
# A DIMM without a label area: raw as it comes, then with a BTT.
all .
r=$(region 1)
ns=${r#region}
ns=namespace$ns.0
try create-with-size ndctl create-namespace -r $r -m raw -s 64M
try create-without-force ndctl create-namespace -e $ns -m sector
try init-labels ndctl init-labels -f $(nmem 1)
try create-sector ndctl create-namespace -f -e $ns -m sector -l 512
state sector
