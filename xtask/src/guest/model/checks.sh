# SPDX-License-Identifier: MIT OR Apache-2.0
# What a boot of the model's judge uses, beside helpers.sh and record.sh.

# checks NAME BTTS: ndctl finds all label areas sound, and this many BTTs.
checks() {
    good=0 bad=
    for d in /sys/bus/nd/devices/nmem*; do
        [ "$(cat $d/available_slots 2>/dev/null)" ] || continue
        said=$(ndctl check-labels ${d##*/} 2>&1) && good=$((good + 1)) || bad="$bad ${d##*/}: $said"
    done
    if [ $good -gt 0 ] && [ -z "$bad" ]; then
        ok $1.check-labels "ndctl verifies $good label areas"
    else
        fail $1.check-labels "$good are sound, not so:$bad"
    fi
    good=0 bad=
    for b in /sys/bus/nd/devices/btt*; do
        namespace=$(cat $b/namespace)
        [ "$namespace" ] || continue
        size=$(sed 's/.*\[\(.*\)\].*/\1/' $b/sector_size)
        [ $((size % 64)) -eq 0 ] && says=sound || says=refused
        said=$(check one $says)
        case "$said" in
        *" ok "*) good=$((good + 1)) ;;
        *) bad="$bad $size: $said" ;;
        esac
    done
    if [ $good -eq $2 ] && [ -z "$bad" ]; then
        ok $1.check-namespace "ndctl says of $good BTTs what it says of Linux's own"
    else
        fail $1.check-namespace "$good of $2 are sound, not so:$bad"
    fi
    cat /sys/bus/nd/devices/ndbus*/wait_probe >/dev/null
}

# mark NAME: writes to every disk.
mark() {
    n=0 bad=
    for b in /sys/bus/nd/devices/region*/*/block/pmem*; do
        if dd if=/data/mark of=/dev/${b##*/} bs=4096 seek=77 oflag=direct conv=notrunc 2>/tmp/dd; then
            n=$((n + 1))
        else
            bad="$bad ${b##*/}: $(tail -n 1 /tmp/dd)"
        fi
    done
    if [ -z "$bad" ]; then ok $1.marked "Linux writes to $n disks"; else fail $1.marked "$bad"; fi
}

# edit WHAT COMMAND...: it must go well.
edits=0 unedited=
edit() {
    edits=$((edits + 1))
    "$@" >/tmp/edit 2>&1 || unedited="$unedited $*: $(tr '\n' ' ' </tmp/edit);"
}

# edited NAME
edited() {
    if [ -z "$unedited" ]; then ok $1.edited "ndctl: $edits commands"; else fail $1.edited "$unedited"; fi
}

# rename NAMESPACE NAME
rename() {
    ndctl disable-namespace $1 && echo -n $2 >/sys/bus/nd/devices/$1/alt_name && ndctl enable-namespace $1
}
