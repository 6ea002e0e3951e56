#!/usr/bin/busybox sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# The guest's first process: mounts, modules, the script of this boot, power off.
export PATH=/usr/sbin:/usr/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
dmesg -n 1
for module in $(cat /modules); do
    insmod "$module" || echo "@CASE insmod FAIL $module"
done
# Reading this blocks until all DIMMs, regions and namespaces are probed.
cat /sys/bus/nd/devices/ndbus*/wait_probe >/tmp/settled
echo
echo "@READY $(uname -r)"
sh /script.sh 2>&1
echo "@DONE $?"
poweroff -f
