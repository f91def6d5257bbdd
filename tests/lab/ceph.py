# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A Ceph of one monitor and one OSD, and a host of the lab that maps its images: ``./run lab ceph``.

The daemons run on this machine in an overlay of the lab's image, in namespaces of their own and in the network of the
lab. They end when the process that started them does. The host is a user-mode kernel with krbd.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from . import rootfs
from .description import STORAGE_NETWORK, Host, Lab, LabError
from .lifecycle import RunningLab

COLLECTION = Path(__file__).resolve().parents[2]
CLIENT = "ceph1"
MONITOR = str(STORAGE_NETWORK[1])
CASE_LIMIT_S = 900
SCRIPT = "/opt/ansible_collections/splitmirror/backup/on_ceph.py"
CONF = f"""[global]
fsid = {{fsid}}
mon host = {MONITOR}:6789
mon initial members = a
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd crush chooseleaf type = 0
ms bind ipv6 = false
osd memory target = 939524096
bluestore block size = 6442450944
bluestore block create = true
"""
#: Outside of the new root: its mounts, which nobody else sees.
ENTER = """
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" splitmirror-ceph "$2/root"
mount --rbind /dev "$2/root/dev"
mount -t proc proc "$2/root/proc"
exec chroot "$2/root" /bin/sh -eu /start-ceph
"""
#: Inside of it. The last line ends with the process that started it all.
START = f"""
exec 3>&1 >/var/log/start-ceph 2>&1
set -x
admin=/etc/ceph/ceph.client.admin.keyring
fsid=$(sed -n 's/^fsid = //p' /etc/ceph/ceph.conf)
ceph-authtool --create-keyring /mon.keyring --gen-key -n mon. --cap mon 'allow *'
ceph-authtool --create-keyring $admin --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *'
ceph-authtool /mon.keyring --import-keyring $admin
monmaptool --create --add a {MONITOR}:6789 --fsid "$fsid" --clobber /monmap
mkdir -p /var/lib/ceph/mon/ceph-a /var/lib/ceph/osd/ceph-0 /run/ceph
ceph-mon --mkfs -i a --monmap /monmap --keyring /mon.keyring
ceph-mon -i a
osd=$(cat /proc/sys/kernel/random/uuid)
ceph osd new "$osd"
ceph auth get-or-create osd.0 mon 'allow profile osd' osd 'allow *' -o /var/lib/ceph/osd/ceph-0/keyring
ceph-osd -i 0 --mkfs --osd-uuid "$osd"
ceph-osd -i 0
ceph osd pool create rbd 8 8
rbd pool init rbd
echo ready >&3
exec 3>&-
read -r _line || true
"""


@contextlib.contextmanager
def up(name: str = "ceph") -> Iterator[RunningLab]:
    """Bring up Ceph and its client, and take both away at the end. :raises LabError: one does not come up."""
    running = RunningLab(name)
    running.up(Lab(name, (Host(CLIENT, "client", 50, 1024),)), packages=rootfs.CEPH_PACKAGES)
    try:
        with _daemons(running):
            settings = running.folder / "ceph/upper/etc/ceph"
            client = running.machine(running.lab().host(CLIENT)).root
            shutil.copytree(settings, client / "etc/ceph", dirs_exist_ok=True)
            yield running
    finally:
        running.down()


@contextlib.contextmanager
def _daemons(running: RunningLab) -> Iterator[None]:
    folder = running.folder / "ceph"
    for part in ("upper/etc/ceph", "work", "root"):
        (folder / part).mkdir(parents=True)
    (folder / "upper/etc/ceph/ceph.conf").write_text(CONF.format(fsid=uuid.uuid4()))
    (folder / "upper/start-ceph").write_text(START)
    words = [*running.inside(), "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", ENTER, "sh"]
    words += [str(rootfs.ensure(rootfs.CEPH_PACKAGES)), str(folder)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            log = folder / "upper/var/log/start-ceph"
            raise LabError(f"Ceph does not start:\n{log.read_text()[-3000:] if log.exists() else ''}")
        yield
    finally:
        process.communicate()


def run_contract(running: RunningLab, only: str = "") -> bool:
    """Run the cases of on_ceph.py on the client, and print how each ended; whether all passed.

    :param only: a part of the names of the cases to run; or ``figures``, which times the split.
    """
    target = running.machine(running.lab().host(CLIENT)).root / "opt/ansible_collections/splitmirror/backup"
    for part in ("plugins/module_utils", "tests/seams"):
        shutil.copytree(COLLECTION / part, target / part, dirs_exist_ok=True)
    shutil.copy(COLLECTION / "tests/integration/lab/on_ceph.py", target / "on_ceph.py")
    whole = True
    cases = [case for case in json.loads(_on_client(running, "--list").stdout) if only in case]
    for case in [only] if only == "figures" else cases:
        began = time.monotonic()
        done = _on_client(running, case)
        whole = whole and done.returncode == 0
        said = done.stdout.strip() if done.returncode == 0 else f"FAILED\n{done.stdout}{done.stderr}"
        print(f"{time.monotonic() - began:6.1f} s  {case}: {said}", flush=True)
    return whole


def _on_client(running: RunningLab, word: str) -> subprocess.CompletedProcess[str]:
    command = f"cd / && PYTHONPATH=/opt timeout {CASE_LIMIT_S} python3 {SCRIPT} {word}"
    return running.ssh(CLIENT, f"sudo sh -c {shlex.quote(command)}")
