#!/bin/sh
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Makes a fresh Debian in a folder (nothing but sh and apt), puts a clone of this repository's last commit into it, calls
# ./run there with the arguments given, and takes all of it away again. Needs root and mmdebstrap. The settings of this
# machine for apt, pip, certificates and name service go into it, for they belong to machines, not to projects.
#
#   FRESH_ROOT   the folder (default: a new one under /var/tmp); with KEEP=yes it stays, and a second call works on top of it
#   FRESH_SUITE  the Debian release (default: bookworm)
set -eu

repository=$(cd "$(dirname "$0")/.." && pwd -P)
fresh=${FRESH_ROOT:-$(mktemp -d /var/tmp/fresh-machine.XXXXXX)}
suite=${FRESH_SUITE:-bookworm}
home=/root/clone

take_away() {
    # The folders of the kernel go first: what remains mounted must never be removed with the rest.
    findmnt --list --noheadings --output TARGET | grep "^$fresh/" | sort -r | while read -r mount_point; do
        umount "$mount_point" || umount --lazy "$mount_point"
    done
    if [ "${KEEP:-no}" = yes ]; then
        echo "fresh_machine: kept in $fresh"
    elif findmnt --list --noheadings --output TARGET | grep -q "^$fresh/"; then
        echo "fresh_machine: something is still mounted below $fresh, which therefore stays" >&2
    else
        rm -rf --one-file-system "$fresh"
    fi
}

copy_settings() {
    for setting in /etc/apt/sources.list /etc/apt/sources.list.d /etc/resolv.conf /etc/pip.conf \
        /etc/ssl/certs/ca-certificates.crt /usr/local/share/ca-certificates "$HOME/.config/pip" "$HOME/.pip"; do
        [ -e "$setting" ] || continue
        mkdir -p "$fresh${setting%/*}"
        cp -RL "$setting" "$fresh${setting%/*}/"
    done
}

[ "$(id -u)" -eq 0 ] || {
    echo "fresh_machine: making a root folder needs root" >&2
    exit 1
}
trap take_away EXIT
trap 'exit 130' INT TERM

if [ ! -e "$fresh/etc/debian_version" ]; then
    mmdebstrap --quiet --variant=minbase "$suite" "$fresh"
    # An administrator's image has no package lists either.
    rm -rf "$fresh"/var/lib/apt/lists/*
    copy_settings
fi
rm -rf "${fresh:?}$home/.git.new"
if [ -d "$fresh$home" ]; then
    git -C "$fresh$home" pull --quiet --ff-only "$repository" HEAD
else
    git clone --quiet "file://$repository" "$fresh$home"
fi
for kernel_folder in proc sys dev; do
    mount --rbind "/$kernel_folder" "$fresh/$kernel_folder"
    mount --make-rslave "$fresh/$kernel_folder"
done
mount -t tmpfs fresh-run "$fresh/run"

code=0
chroot "$fresh" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb "$home/run" "$@" </dev/null || code=$?
exit "$code"
