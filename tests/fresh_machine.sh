#!/bin/sh
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Makes a fresh Debian in a folder (nothing but sh and apt), puts a clone of this repository's last commit into it, calls
# ./run there with the arguments given ("--" between several calls), and takes all of it away again:
#
#   tests/fresh_machine.sh test
#   tests/fresh_machine.sh demo -- demo -- demo clean
#
# Needs root and mmdebstrap. Mounts and processes live in namespaces of their own, so none of them stays, and a second call
# finds the machine as after a power cut. This machine's settings of apt, pip, certificates and name service go into the
# folder, for they belong to machines, not to projects.
#
#   FRESH_ROOT   the folder; it is kept, and the next call works on top of it (default: a new one, removed at the end)
#   FRESH_SUITE  the Debian release (default: bookworm)
set -eu

repository=$(cd "$(dirname "$0")/.." && pwd -P)
clone=/root/clone
suite=${FRESH_SUITE:-bookworm}

copy_settings() {
    for setting in /etc/apt/sources.list /etc/apt/sources.list.d /etc/resolv.conf /etc/pip.conf \
        /etc/ssl/certs/ca-certificates.crt /usr/local/share/ca-certificates "$HOME/.config/pip" "$HOME/.pip"; do
        [ -e "$setting" ] || continue
        mkdir -p "$fresh${setting%/*}"
        cp -RL "$setting" "$fresh${setting%/*}/"
    done
    # The same mirrors, for the release that was asked for.
    here=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    find "$fresh/etc/apt" \( -name '*.list' -o -name '*.sources' \) -exec sed -i "s/$here/$suite/g" {} +
}

# What runs as the first process of the new namespaces; its end is the end of everything below it.
inside() {
    fresh=$1
    shift
    mount --bind "$fresh" "$fresh" # a machine's root is a mount point
    mount -t proc fresh-proc "$fresh/proc"
    mount --rbind /sys "$fresh/sys"
    mount --rbind /dev "$fresh/dev"
    mount -t tmpfs fresh-run "$fresh/run"
    code=0
    while [ $# -gt 0 ] && [ $code -eq 0 ]; do
        call=
        while [ $# -gt 0 ] && [ "$1" != -- ]; do
            call="$call $1"
            shift
        done
        [ $# -eq 0 ] || shift
        echo "fresh_machine: ./run$call"
        # shellcheck disable=SC2086  # a list of words
        chroot "$fresh" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb "$clone/run" $call </dev/null || code=$?
    done
    for device in $(losetup --list --noheadings --raw --output NAME,BACK-FILE | grep " $fresh/" | cut -d ' ' -f 1); do
        echo "fresh_machine: $device was left attached; it goes with the last that uses it"
        losetup --detach "$device" 2>/dev/null || : # or it went with the one before it
    done
    exit $code
}

if [ "${1:-}" = --inside ]; then
    shift
    inside "$@"
fi

[ "$(id -u)" -eq 0 ] || {
    echo "fresh_machine: making a root folder needs root" >&2
    exit 1
}
fresh=${FRESH_ROOT:-}
if [ -z "$fresh" ]; then
    fresh=$(mktemp -d /var/tmp/fresh-machine.XXXXXX)
    trap 'rm -rf --one-file-system "$fresh"' EXIT
    trap 'exit 130' INT TERM
fi
if [ ! -e "$fresh/etc/debian_version" ]; then
    mmdebstrap --quiet --variant=minbase "$suite" "$fresh"
    rm -rf "$fresh"/var/lib/apt/lists/* "$fresh/etc/apt/sources.list"
    copy_settings
fi
if [ -d "$fresh$clone" ]; then
    git -C "$fresh$clone" pull --quiet --ff-only "file://$repository" HEAD
else
    git clone --quiet "file://$repository" "$fresh$clone"
fi
unshare --mount --pid --fork --kill-child "$0" --inside "$fresh" "$@"
