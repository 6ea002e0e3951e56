# SPDX-License-Identifier: MIT OR Apache-2.0
# What the scripts of a boot use. A case is one line on the console: "@CASE NAME ok|FAIL WORDS".

# busybox's shell prefers its own applets to what is in the path.
dd() { /usr/bin/dd "$@"; }
sha256sum() { /usr/bin/sha256sum "$@"; }
blockdev() { /usr/sbin/blockdev "$@"; }

ok() { echo "@CASE $1 ok $2"; }
fail() { echo "@CASE $1 FAIL $2"; }

# same NAME WORDS FOUND WANTED
same() {
    if [ "$3" = "$4" ]; then ok "$1" "$2"; else fail "$1" "$2: found '$3', wanted '$4'"; fi
}

# dimm N: finds the N-th nvdimm by its NFIT handle, whatever numbers this boot gave out. Sets nmem, region, namespace and
# block (the block device of whatever holds the namespace; empty if there is none).
dimm() {
    nmem= region= namespace= block=
    for d in /sys/bus/nd/devices/nmem*; do
        [ $(($(cat $d/nfit/handle))) -eq "$1" ] && nmem=${d##*/}
    done
    [ -n "$nmem" ] || return 1
    for r in /sys/bus/nd/devices/region*; do
        case "$(cat $r/mapping0)" in "$nmem",*) region=${r##*/} ;; esac
    done
    [ -n "$region" ] || return 1
    for n in /sys/bus/nd/devices/$region/namespace[0-9]*; do
        [ "$(cat $n/size)" != 0 ] && namespace=${n##*/}
    done
    device
}

# device: sets block again, after something was created or enabled.
device() {
    block=
    for b in /sys/bus/nd/devices/$region/btt[0-9]*/block/* \
        /sys/bus/nd/devices/$region/namespace[0-9]*/block/*; do
        [ -e "$b" ] && { block=${b##*/}; break; }
    done
    [ -n "$block" ]
}

# btt NAME N BYTES SECTOR: the N-th nvdimm has a btt block device of this size and data size.
btt() {
    if ! dimm "$2"; then
        fail "$1.bind" "nvdimm $2 has no block device (nmem '$nmem', region '$region', namespace '$namespace')"
        return 1
    fi
    case "$block" in
    pmem*s) ;;
    *) fail "$1.bind" "nvdimm $2 is /dev/$block, no btt device"; return 1 ;;
    esac
    found="$(blockdev --getsize64 /dev/$block) $(blockdev --getss /dev/$block)"
    same "$1.bind" "a btt device of $3 bytes in $4-byte sectors" "$found" "$3 $4"
}

# whole NAME WORDS SHA256: what the whole of the device holds.
whole() {
    found=$(dd if=/dev/$block bs=1M iflag=direct 2>/tmp/dd | sha256sum)
    same "$1" "$2" "${found%% *}" "$3"
}

# range NAME WORDS UNIT FIRST COUNT SHA256: what this part of the device holds.
range() {
    found=$(dd if=/dev/$block bs=$3 skip=$4 count=$5 iflag=direct 2>/tmp/dd | sha256sum)
    same "$1" "$2" "${found%% *}" "$6"
}

# check NAME sound|refused: ndctl's checker, which takes the namespace away from its driver and gives it back. It refuses
# every BTT whose blocks are longer than its sectors (520, 4104), also what ndctl and Linux made: then that very refusal has
# to come.
check() {
    ndctl check-namespace -f $namespace >/tmp/check 2>&1
    status=$?
    said=$(tr '\n' ';' </tmp/check)
    case "$status $2 $said" in
    0" sound "*"checked 1 namespace;") ok "$1" "ndctl: $said" ;;
    250" refused "*"Problem parsing arena[0] metadata;"*)
        ok "$1" "ndctl 76 refuses this sector size on any image, Linux's own too: 'Problem parsing arena[0] metadata'" ;;
    *) fail "$1" "status $status: $said" ;;
    esac
}

# bytes NAME WORDS OFFSET COUNT SHA256: what these bytes hold, read by requests of at most 16 KiB.
bytes() {
    found=$(dd if=/dev/$block bs=16384 skip=${3}B count=${4}B iflag=direct 2>/tmp/dd | sha256sum)
    same "$1" "$2" "${found%% *}" "$5"
}

# make NAME SECTOR [VERSION]: a namespace in sector mode over the whole region that dimm found, after a new label area.
make() {
    if [ -n "$3" ]; then
        ndctl disable-region $region >/tmp/make 2>&1
        ndctl init-labels -f -V $3 $nmem >>/tmp/make 2>&1
        ndctl enable-region $region >>/tmp/make 2>&1
        ndctl create-namespace -r $region -m sector -l $2 >>/tmp/make 2>&1
    else
        ndctl create-namespace -f -e $namespace -m sector -l $2 >/tmp/make 2>&1
    fi
    status=$?
    same "$1" "ndctl: $(tr -s '\n' ' ' </tmp/make)" $status 0
}

# put FILE UNIT FIRST: writes a file to the device past the page cache, in units of so many bytes, from this unit on (or from
# this byte on, with a B behind the number).
put() {
    dd if=$1 of=/dev/$block bs=$2 seek=$3 oflag=direct conv=notrunc 2>/tmp/dd || cat /tmp/dd >>/tmp/failed
}

# written NAME WORDS: whether every put since the last one went well.
written() {
    if [ -e /tmp/failed ]; then fail "$1" "$(tr '\n' ';' </tmp/failed)"; else ok "$1" "$2"; fi
    rm -f /tmp/failed
}

# mounted NAME WORDS N SUMS: the file system on the N-th nvdimm mounts, its files have these SHA-256, and it takes another.
mounted() {
    if ! dimm $3 || ! mount -t ext4 /dev/$block /mnt 2>/tmp/mount; then
        fail "$1" "/dev/$block: $(tr '\n' ';' </tmp/mount)"
        return
    fi
    if ! said=$(cd /mnt && sha256sum -c $4 2>&1 >/tmp/sums); then
        fail "$1" "$said $(grep -v ': OK' /tmp/sums | head -n 3 | tr '\n' ';')"
    elif ! echo "Linux was here" >/mnt/linux; then
        fail "$1" "takes no file"
    else
        ok "$1" "$2"
    fi
    umount /mnt
}

# filled NAME WORDS N: a new file system on the N-th nvdimm, filled with what /data/tree holds.
filled() {
    if dimm $3 && mkfs.ext4 -q -F /dev/$block >/tmp/mkfs 2>&1 && mount -t ext4 /dev/$block /mnt >>/tmp/mkfs 2>&1; then
        if cp -a /data/tree/. /mnt/ 2>>/tmp/mkfs; then ok "$1" "$2"; else fail "$1" "$(tr '\n' ';' </tmp/mkfs)"; fi
        umount /mnt
    else
        fail "$1" "/dev/$block: $(tr '\n' ';' </tmp/mkfs)"
    fi
}

# save FOLDER: sends a folder to the host, once a boot, by the second serial line.
save() {
    stty raw -echo </dev/ttyS1
    tar c -C "$1" . >/dev/ttyS1
}
