# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An emulated machine with Debian's OpenZFS, and the contract of provider zfs on a pool of it: ``./run lab zfs``.

ZFS needs a kernel of its own: user-mode Linux has no modules for it, and those of this machine are none of ours. The
modules are built once, natively, by DKMS; only what uses them runs in the emulation. The machine's root file system is
its initramfs, so it has one disk, the pool's, and leaves nothing. It has no network.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

from . import rootfs
from .description import LabError

COLLECTION = Path(__file__).resolve().parents[2]
SUITE = "trixie"
PACKAGES = ("kmod", "linux-image-cloud-amd64", "python3", "udev", "zfsutils-linux")
BUILD_PACKAGES = ("linux-headers-cloud-amd64", "zfs-dkms")
OPTIONS = ("--variant=minbase", "--components=main,contrib")
#: Runs on the building machine; $1 is the new root. DKMS has built the modules; what it needed for that goes away.
CUSTOMIZE = f"""
set -eu
export DEBIAN_FRONTEND=noninteractive
set -- "$1" "$(basename "$1"/lib/modules/*-cloud-amd64)"
mv "$1/lib/modules/$2/updates/dkms" "$1/splitmirror-modules"
chroot "$1" apt-mark auto '.*' >/dev/null
chroot "$1" apt-mark manual {" ".join(PACKAGES)}
chroot "$1" apt-get --yes --option APT::AutoRemove::RecommendsImportant=false \\
    --option APT::AutoRemove::SuggestsImportant=false purge --autoremove '^linux-headers-' zfs-dkms
mkdir -p "$1/lib/modules/$2/updates"
mv "$1/splitmirror-modules" "$1/lib/modules/$2/updates/zfs"
chroot "$1" depmod "$2"
"""
HERE = "opt/ansible_collections/splitmirror/backup"
MEMORY_MIB = 2048
POOL_MIB = 1024
LIMIT_S = 3600
#: The machine's first process. What the cases print goes to the second serial port, as does its last line.
INIT = f"""#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root PYTHONPATH=/opt
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
exec 3>/dev/ttyS1
(
    set -eux
    modprobe -a virtio_pci virtio_blk zfs
    /usr/lib/systemd/systemd-udevd --daemon
    udevadm trigger --action=add
    udevadm settle
    zpool create tank /dev/vda
    zfs version >&3
    exec timeout {LIMIT_S} python3 /{HERE}/on_zfs.py "$(cat /splitmirror-only)" >&3 2>&1
)
echo "ended with $?" >&3
echo o >/proc/sysrq-trigger
sleep 60
"""
#: Without the widest registers, which the emulation is slow with and ZFS tries when it starts.
QEMU = (
    f"qemu-system-x86_64 -machine q35 -accel tcg,thread=multi -cpu qemu64,+rdrand -smp 2 -m {MEMORY_MIB} -nodefaults "
    "-display none -no-reboot -kernel vmlinuz -initrd initrd -append"
).split()
KERNEL_WORDS = "console=ttyS0 quiet panic=-1 rdinit=/init"
DEVICES = ["-serial", "file:console", "-serial", "stdio", "-drive", "file=disk,format=raw,if=virtio,cache=unsafe"]


def run(only: str = "") -> bool:
    """Boot the machine, run the cases of on_zfs.py on it, print how each ended, and take it away; whether all passed.

    :param only: a part of the names of the cases to run.
    :raises LabError: the machine does not start, or does not end in time.
    """
    recipe = json.dumps([SUITE, PACKAGES, BUILD_PACKAGES, CUSTOMIZE, OPTIONS, rootfs.PATH_EXCLUDE])
    image = rootfs.made_once("zfs", hashlib.sha256(recipe.encode()).hexdigest()[:16], _build)
    with tempfile.TemporaryDirectory(dir=rootfs.cache_dir()) as scratch:
        folder = Path(scratch)
        (folder / "vmlinuz").symlink_to(image / "vmlinuz")
        with open(folder / "initrd", "wb") as initrd:
            initrd.write((image / "root.cpio").read_bytes())
            initrd.write(_archive(_tree(folder / "tree", only)))
        with open(folder / "disk", "wb") as disk:
            disk.truncate(POOL_MIB << 20)
        last = _boot(folder)
        if last not in ("ended with 0", "ended with 1"):
            console = folder / "console"
            said = console.read_text(errors="replace")[-3000:] if console.exists() else ""
            raise LabError(
                f"the machine with ZFS did not end by itself; its last line is {last!r}, its console:\n{said}"
            )
    return last == "ended with 0"


def _build(folder: Path) -> None:
    root = folder / "root"
    folder.mkdir()
    rootfs.bootstrap(root, SUITE, ",".join((*PACKAGES, *BUILD_PACKAGES)), CUSTOMIZE, OPTIONS)
    (kernel,) = root.glob("boot/vmlinuz-*")
    shutil.copy(kernel, folder / "vmlinuz")
    shutil.rmtree(root / "boot")
    (folder / "root.cpio").write_bytes(_archive(root))
    shutil.rmtree(root)


def _tree(folder: Path, only: str) -> Path:
    """What the machine has beside its packages."""
    here = folder / HERE
    for part in ("plugins/module_utils", "tests/seams"):
        shutil.copytree(COLLECTION / part, here / part)
    shutil.copy(COLLECTION / "tests/integration/lab/on_zfs.py", here / "on_zfs.py")
    (folder / "splitmirror-only").write_text(only)
    (folder / "init").write_text(INIT)
    (folder / "init").chmod(0o755)
    return folder


def _archive(folder: Path) -> bytes:
    """A folder in the format of an initramfs; several may follow each other in one file."""
    names = subprocess.run(["find", ".", "-print0"], cwd=folder, check=True, capture_output=True).stdout
    words = ["cpio", "--null", "--create", "--format=newc", "--owner=+0:+0", "--quiet"]
    return subprocess.run(words, cwd=folder, check=True, input=names, capture_output=True).stdout


def _boot(folder: Path) -> str:
    """Print what the machine prints, until it is off. Return its last line."""
    words = ["setpriv", "--pdeathsig", "KILL", *QEMU, KERNEL_WORDS, *DEVICES]
    last = ""
    with subprocess.Popen(words, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        limit = threading.Timer(LIMIT_S, process.kill)
        limit.start()
        try:
            for line in process.stdout:
                last = line.rstrip()
                print(last, flush=True)
        finally:
            limit.cancel()
            process.kill()
    return last
