# SPDX-License-Identifier: MIT OR Apache-2.0
# What the recorder's scripts use, beside helpers.sh. All that is in /out at the end goes to the host.
mkdir -p /out/tries

# region WAYS: the region of this many DIMMs.
region() {
    for r in /sys/bus/nd/devices/region[0-9]*; do
        [ "$(cat $r/mappings)" = "$1" ] && echo ${r##*/}
    done
}

# nmem HANDLE
nmem() {
    for d in /sys/bus/nd/devices/nmem*; do
        [ $(($(cat $d/nfit/handle))) -eq "$1" ] && echo ${d##*/}
    done
}

# called UUID: the namespace whose label has this uuid.
called() {
    for n in /sys/bus/nd/devices/namespace*; do
        [ "$(cat $n/uuid 2>/dev/null)" = "$1" ] && echo ${n##*/}
    done
}

# called_like NAME: the namespace with this name.
called_like() {
    for n in /sys/bus/nd/devices/namespace*; do
        [ "$(cat $n/alt_name 2>/dev/null)" = "$1" ] && echo ${n##*/}
    done
}

# uuid N: uuids of the recorder's namespaces, so that the facts can be read.
uuid() { printf '%08x-0000-4000-8000-%012x' $((0x1ab0000 + $1)) $1; }

# labels VERSION: new label areas for all DIMMs.
labels() {
    ndctl disable-region all >/dev/null 2>&1
    ndctl init-labels -f -V $1 all >/dev/null 2>/tmp/labels || cat /tmp/labels
    ndctl enable-region all >/dev/null 2>/tmp/labels || cat /tmp/labels
}

# space REGION N SIZE MODE ARGS...: a namespace with the N-th uuid. Failing is fatal: the facts would be others.
space() {
    r=$1 n=$2 s=$3 m=$4
    shift 4
    ndctl create-namespace -r $r -u $(uuid $n) -s $s -m $m "$@" >/tmp/space 2>&1 || {
        echo "create-namespace $r $n $s $m: $(tr '\n' ' ' </tmp/space)"
        sleep 1
        poweroff -f
    }
}

# try NAME COMMAND...: runs it and keeps what it was, what it said and how it ended.
tries=0
try() {
    tries=$((tries + 1))
    dir=/out/tries/$(printf %03d $tries)-$1
    shift
    mkdir $dir
    printf '%s\n' "$@" >$dir/argv
    "$@" >$dir/stdout 2>$dir/stderr </dev/null
    echo $? >$dir/status
}

# lists FOLDER: what ndctl says about everything.
lists() {
    mkdir -p /out/$1
    for options in BDRNX BDRNXi "BDRNXvvv -u" R; do
        ndctl list -$options >"/out/$1/list-$(echo $options | tr -d ' ').json"
    done
    daxctl list -RD >/out/$1/daxctl-list-RD.json 2>/dev/null
}

# attempt NAME COMMAND...: the same, and takes away again what it created.
attempt() {
    try "$@"
    for n in /sys/bus/nd/devices/namespace*; do
        case "$(cat $n/size) $(cat $n/uuid)" in
        0\ * | *\ 01ab000*) ;;
        *) ndctl destroy-namespace -f ${n##*/} >/dev/null 2>&1 ;;
        esac
    done
}

# glance FOLDER: one list alone.
glance() {
    mkdir -p /out/$1
    ndctl list -BDRNXi >/out/$1/list-BDRNXi.json
}

# state FOLDER: that, and the whole tree.
state() {
    lists $1
    tree >/out/$1/sysfs.txt
}

# all FOLDER: that, and all labels.
all() {
    state $1
    read_labels $1
}

read_labels() {
    for d in /sys/bus/nd/devices/nmem*; do
        ndctl read-labels -j ${d##*/} >/out/$1/read-labels-$(($(cat $d/nfit/handle))).json 2>/dev/null
    done
}

# tree: "path|type|mode|content or target", newlines as \n, a failed read as <ERR:WHY>.
tree() {
    bus=$(readlink -f /sys/bus/nd/devices/ndbus0)
    find $bus /sys/bus/nd /sys/class/nd /sys/bus/dax/devices \
        -name power -prune -o -name trace -prune -o -name integrity -prune -o -name mq -prune -o \
        -name holders -prune -o -name slaves -prune -o -name module -prune -o -name firmware_node -prune -o \
        -path '*/block/*/stat' -prune -o -path '*/block/*/inflight' -prune -o \
        -path '*/block/*/queue/*' ! -name '*_block_size' ! -name hw_sector_size ! -name dax ! -name write_cache \
        ! -name rotational -prune -o -print >/tmp/paths
    sort /tmp/paths | while read -r path; do
        mode=$(stat -c %a "$path")
        if [ -L "$path" ]; then
            echo "$path|l|$mode|$(readlink "$path")"
        elif [ -d "$path" ]; then
            echo "$path|d|$mode|"
        elif cat "$path" >/tmp/content 2>/tmp/why; then
            echo "$path|f|$mode|$(sed ':a;N;$!ba;s/\n/\\n/g' /tmp/content | tr -d '\000')$(tail -c 1 /tmp/content | tr '\n' '@' | sed -n 's/^@$/\\n/p')"
        else
            echo "$path|f|$mode|<ERR:$(sed 's/.*: //' /tmp/why)>"
        fi
    done
}
