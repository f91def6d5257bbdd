#!/bin/sh
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The first process of a lab host. LAB_ADDRESS, LAB_STORAGE and HOSTNAME come from the kernel's command line.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -p /run/lock /run/sshd
install -d -o postgres -g postgres -m 2775 /run/postgresql
hostname "$LAB_HOSTNAME"
ip link set lo up
ip address add "$LAB_ADDRESS" dev vec0
ip link set vec0 up
ip address add "$LAB_STORAGE" dev vec1
ip link set vec1 up
# LVM and the names under /dev/disk need udev.
/lib/systemd/systemd-udevd --daemon
udevadm trigger --subsystem-match=block --subsystem-match=misc
udevadm settle
# Elsewhere systemd makes /dev/loop-control, which loads it when it is needed.
modprobe loop
# tini is the father of whatever loses its own, so that no dead process stays in the table.
unset LAB_ADDRESS LAB_STORAGE LAB_HOSTNAME
exec tini -- /usr/sbin/sshd -D -e
