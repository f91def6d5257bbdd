# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A Cinder on a Ceph of one node, and the split of the recipe cinder on it: ``./run lab cinder``.

All of it runs on this machine, in an overlay of an image of its own and in namespaces of its own, where nobody else
listens. There is no Keystone: the login of the recipe is left out, and a header says who asks. The driver is RBD,
because LVM would need the device mapper of this machine.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

from . import ceph, rootfs
from .description import LabError

COLLECTION = Path(__file__).resolve().parents[2]
PACKAGES = (
    "ceph-common,ceph-mon,ceph-osd,cinder-api,cinder-scheduler,cinder-volume,python3-jinja2,python3-rbd,python3-yaml,"
    "rabbitmq-server"
)
LIMIT_S = 1800
HERE = "/opt/ansible_collections/splitmirror/backup"
CONF = """[DEFAULT]
auth_strategy = noauth
transport_url = rabbit://guest:guest@127.0.0.1:5672/
enabled_backends = ceph
osapi_volume_listen = 127.0.0.1
osapi_volume_workers = 1
state_path = /var/lib/cinder
[database]
connection = sqlite:////var/lib/cinder/cinder.sqlite
[oslo_concurrency]
lock_path = /var/lib/cinder/lock
[ceph]
volume_backend_name = ceph
volume_driver = cinder.volume.drivers.rbd.RBDDriver
rbd_pool = volumes
rbd_user = admin
rbd_ceph_conf = /etc/ceph/ceph.conf
"""
#: Outside of the new root: its mounts and its network, which nobody else sees.
ENTER = """
ip link set lo up
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" splitmirror-cinder "$2/root"
mount --rbind /dev "$2/root/dev"
mount -t proc proc "$2/root/proc"
mount -t tmpfs tmpfs "$2/root/run"
shift
folder=$1
shift
exec chroot "$folder/root" /bin/sh -eu /start-cinder "$@"
"""
#: Inside of it, after Ceph has been started.
START = f"""
ceph osd pool create volumes 8 8
rbd pool init volumes
hostname splitmirror-cinder
echo '127.0.0.1 localhost splitmirror-cinder' > /etc/hosts
export HOME=/root RABBITMQ_NODENAME=rabbit@localhost
install -d -o rabbitmq -g rabbitmq /run/rabbitmq /var/lib/rabbitmq /var/log/rabbitmq
rabbitmq-server -detached
mkdir -p /var/lib/cinder/lock
cinder-manage db sync
rabbitmqctl await_startup --timeout 120
for service in scheduler volume; do
    cinder-$service --config-file /etc/cinder/cinder.conf > /var/log/cinder-$service 2>&1 &
done
cinder-api --config-file /etc/cinder/cinder.conf > /var/log/cinder-api 2>&1 &
exec >&3 2>&1
PYTHONPATH=/opt timeout {LIMIT_S} python3 {HERE}/on_cinder.py "$@"
"""


def of_loopback(text: str) -> str:
    """The settings of the Ceph that has a client elsewhere, for one that has not."""
    return text.replace(ceph.MONITOR, "127.0.0.1")


def run(only: str = "") -> bool:
    """Bring everything up, run the cases of on_cinder.py there, and take everything away; whether all passed.

    :param only: a part of the names of the cases to run.
    :raises LabError: Ceph or Cinder does not start.
    """
    image = rootfs.ensure(PACKAGES)
    with tempfile.TemporaryDirectory(dir=rootfs.cache_dir()) as scratch:
        folder = Path(scratch)
        upper = folder / "upper"
        for part in ("upper/etc/ceph", "upper/etc/cinder", "work", "root"):
            (folder / part).mkdir(parents=True)
        (upper / "etc/ceph/ceph.conf").write_text(of_loopback(ceph.CONF.format(fsid=uuid.uuid4())))
        (upper / "etc/cinder/cinder.conf").write_text(CONF)
        (upper / "start-cinder").write_text(of_loopback(ceph.START.partition("echo ready")[0]) + START)
        target = upper / HERE.lstrip("/")
        for part in ("plugins/module_utils", "tests/seams", "roles/mirrored_backup/templates"):
            shutil.copytree(COLLECTION / part, target / part)
        shutil.copy(COLLECTION / "tests/integration/lab/on_cinder.py", target / "on_cinder.py")
        words = ["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", "sh", "-euc", ENTER, "sh"]
        done = subprocess.run([*words, str(image), str(folder), only], stdin=subprocess.DEVNULL, check=False)
        if done.returncode not in (0, 1):
            log = upper / "var/log/start-ceph"
            raise LabError(f"Cinder does not start:\n{log.read_text()[-3000:] if log.exists() else ''}")
        return done.returncode == 0
