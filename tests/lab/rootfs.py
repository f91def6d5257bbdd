# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The root file system that all hosts of the lab share: made from Debian packages, kept by the hash of its recipe."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence, Set
from functools import partial
from pathlib import Path

from ..support.blockdev import run
from .description import LabError

SUITE = "bookworm"
PACKAGES = (
    "acl,age,attr,drbd-utils,e2fsprogs,iproute2,kmod,lsscsi,lvm2,mdadm,mount,mt-st,mtx,multipath-tools,open-iscsi,"
    "openssh-server,postgresql,procps,python3,python3-cryptography,python3-psycopg2,sg3-utils,sudo,tgt,thin-provisioning-tools,tini,udev,xfsprogs"
)
#: What a client of Ceph needs, and the daemons of a whole cluster.
CEPH_PACKAGES = "ceph-common,ceph-mon,ceph-osd,fio,nbd-client,python3-rbd,rbd-nbd"
#: Runs on the building machine; $1 is the new root. Keys and clusters are made per lab, so none stays in the image.
CUSTOMIZE = """
set -eu
rm -f "$1"/etc/ssh/ssh_host_*
chroot "$1" useradd --create-home --shell /bin/bash --password '*' ops
printf 'ops ALL=(ALL:ALL) NOPASSWD: ALL\n' > "$1/etc/sudoers.d/ops"
# The user of the collection may become root by the one rule that the documentation asks for.
chroot "$1" useradd --create-home --shell /bin/sh --password '*' splitmirror
printf 'splitmirror ALL=(root) NOPASSWD: /bin/sh\n' > "$1/etc/sudoers.d/splitmirror"
chmod 0440 "$1"/etc/sudoers.d/*
cat > "$1/etc/ssh/sshd_config.d/lab.conf" <<'END'
PermitRootLogin no
PasswordAuthentication no
AuthorizedKeysFile /etc/ssh/authorized_keys
UseDNS no
MaxStartups 100
END
chroot "$1" pg_dropcluster 15 main
chroot "$1" pg_createcluster --start-conf=manual 15 main -- --encoding=UTF8 --locale=C.UTF-8 --data-checksums
mkdir -p "$1/lib/modules"
cp -a /usr/lib/uml/modules/. "$1/lib/modules/"
"""
#: Documentation has no readers in the lab.
PATH_EXCLUDE = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")


def cache_dir() -> Path:
    """Where images and running labs are kept."""
    return Path(os.environ.get("SPLITMIRROR_LAB_CACHE", "/var/cache/splitmirror-lab"))


def recipe_hash(packages: str = PACKAGES) -> str:
    """The name of the image: another recipe or another kernel makes another one."""
    kernel = run("dpkg-query", "--show", "--showformat", "${Version}", "user-mode-linux").stdout
    recipe = json.dumps([SUITE, packages, CUSTOMIZE, PATH_EXCLUDE, kernel])
    return hashlib.sha256(recipe.encode()).hexdigest()[:16]


def ensure(more_packages: str = "") -> Path:
    """Return the folder of the image, built now if it is not there.

    :param more_packages: separated by commas; the image with them is another one beside that of all labs.
    """
    packages = ",".join(filter(None, (PACKAGES, more_packages)))
    build = partial(bootstrap, suite=SUITE, packages=packages, customize=CUSTOMIZE)
    return made_once("images", recipe_hash(packages), build, {recipe_hash()})


def made_once(kind: str, name: str, build: Callable[[Path], None], kept: Set[str] = frozenset()) -> Path:
    """Return a folder of the cache, built now if it is not there. Others of its kind go away unless in use.

    :param build: makes the folder; what it has begun when it fails stays beside it, to be looked at.
    :param kept: names of others that stay.
    """
    folder = cache_dir() / kind / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Several labs may come up at once; the first of them builds.
    with open(cache_dir() / f".{kind}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _prune(folder.parent, {name, *kept})
            partial_folder = folder.with_suffix(".partial")
            build(partial_folder)
            partial_folder.rename(folder)
    return folder


def bootstrap(
    folder: Path, suite: str, packages: str, customize: str, options: Sequence[str] = ("--variant=important",)
) -> None:
    """Make a root file system of Debian packages.

    :param customize: a shell script that runs at the end, on this machine; ``$1`` is the new root.
    :raises LabError: it cannot be made.
    """
    log = folder.with_suffix(".log")
    command = ["mmdebstrap", *options, f"--include={packages}"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in PATH_EXCLUDE]
    command += [f"--aptopt={line}" for line in _apt_proxy()]
    # Some packages ask for the address of this machine's name while they are installed.
    command += ['--essential-hook=printf "127.0.0.1 localhost %s\\n" "$(hostname)" > "$1/etc/hosts"']
    command += ['--customize-hook=rm -f "$1/etc/hosts"']
    command += [f"--customize-hook={customize}", "--format=directory", suite, os.fspath(folder)]
    with open(log, "w") as output:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise LabError(f"mmdebstrap could not build the root file system:\n{log.read_text()[-3000:]}")


def _apt_proxy() -> list[str]:
    """The machine's own way to the packages: mmdebstrap does not read the settings of its apt."""
    lines = run("apt-config", "dump").stdout.splitlines()
    return [line for line in lines if "::Proxy" in line and line.startswith("Acquire::http")]


def _prune(images: Path, kept: set[str]) -> None:
    mounts = Path("/proc/self/mounts").read_text()
    for old in images.iterdir():
        if os.fspath(old) in mounts or old.name in kept:
            continue
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink()
