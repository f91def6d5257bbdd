# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs on a lab host as root, after each boot: makes it what its role says. A second run changes nothing.

What the host is comes from /etc/splitmirror-lab.json (``Host.settings`` of the lab's description, and the role).
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

VG = "san"
LIBRARY = "/srv/library"
PG_CLUSTER = ("15", "main")


def run(*command: str) -> str:
    """Run a command to its end and return what it printed; a failure ends the set-up with its words."""
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def succeeds(*command: str) -> bool:
    """Whether a command ends with 0."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def wait_for(what: str, found: Callable[[], Any], limit_s: float = 20) -> Any:
    """Ask until there is an answer, and return it."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        answer = found()
        if answer:
            return answer
        time.sleep(0.05)
    sys.exit(f"{what}: still missing after {limit_s} s")


# ---- iSCSI -----------------------------------------------------------------------------------------------------------


def target_admin(operation: str, mode: str, *words: str) -> str:
    """One order to tgt's daemon."""
    return run("tgtadm", "--lld", "iscsi", "--op", operation, "--mode", mode, *words)


def start_target_daemon() -> bool:
    """Start tgtd; False when it runs already (then it has its targets)."""
    if succeeds("tgtadm", "--op", "show", "--mode", "target"):
        return False
    run("tgtd")
    wait_for("tgtd", lambda: succeeds("tgtadm", "--op", "show", "--mode", "target"))
    return True


def new_target(tid: int, name: str) -> None:
    """Make a target that takes writes in large pieces; tgt's own 8 KiB keep a slow kernel busy."""
    target_admin("new", "target", f"--tid={tid}", f"--targetname={name}")
    for parameter in ("MaxRecvDataSegmentLength", "FirstBurstLength"):
        target_admin("update", "target", f"--tid={tid}", f"--name={parameter}", "--value=262144")


def name_logical_unit(where: tuple[str, str], serial: str, identifier: str) -> None:
    """Give it its serial number, and an identifier: tgt makes the WWN from its hexadecimal digits."""
    target_admin("update", "logicalunit", *where, f"--params=scsi_sn={serial},scsi_id={identifier}")


def disk_with_serial(serial: str) -> str:
    """The SCSI disk (``/dev/sdX``) of that unit serial number, or an empty text."""
    for page in glob.glob("/sys/block/sd*/device/vpd_pg80"):
        with open(page, "rb") as file:
            if file.read()[4:].strip(b" \0") == serial.encode():
                return "/dev/" + page.split("/")[3]
    return ""


def log_in(portal: str, target: str) -> None:
    """Log in to an iSCSI target, if that is not done."""
    if not succeeds("pgrep", "-x", "iscsid"):
        run("iscsid")
    if succeeds("iscsiadm", "-m", "session") and target in run("iscsiadm", "-m", "session"):
        return
    run("iscsiadm", "-m", "discovery", "-t", "sendtargets", "-p", portal)
    # A dead array must not hold a test for iSCSI's two minutes.
    run(*f"iscsiadm -m node -T {target} -p {portal} -o update -n node.session.timeo.replacement_timeout -v 15".split())
    run("iscsiadm", "-m", "node", "-T", target, "-p", portal, "--login")


# ---- array -----------------------------------------------------------------------------------------------------------


def make_lvm_lun(lun: dict[str, Any]) -> str:
    """A raid1 logical volume, one leg on each disk. ``--nosync``: both disks are new and all zeros, so equal."""
    if not succeeds("lvs", f"{VG}/{lun['name']}"):
        size = f"{lun['size_mib']}m"
        run(
            "lvcreate",
            "--yes",
            "--type=raid1",
            "--mirrors=1",
            "--nosync",
            f"--size={size}",
            f"--name={lun['name']}",
            VG,
        )
    return f"/dev/{VG}/{lun['name']}"


def make_md_lun(lun: dict[str, Any]) -> str:
    """An md raid1 with a write-intent bitmap over one linear volume on each disk."""
    device = f"/dev/md/{lun['name']}"
    legs = []
    for number, disk in enumerate(("/dev/ubda", "/dev/ubdb")):
        leg = f"{lun['name']}_leg{number}"
        if not succeeds("lvs", f"{VG}/{leg}"):
            run("lvcreate", "--yes", f"--size={lun['size_mib'] + 8}m", f"--name={leg}", VG, disk)
        legs.append(f"/dev/{VG}/{leg}")
    if os.path.exists(device):
        return device
    if succeeds("mdadm", "--examine", legs[0]):
        run("mdadm", "--assemble", device, *legs)
    else:
        options = ("--run", "--level=1", "--raid-devices=2", "--metadata=1.2", "--assume-clean")
        size = f"--size={lun['size_mib']}M"
        # The smaller the chunk, the closer a resync comes to what has changed.
        bitmap = ("--bitmap=internal", "--bitmap-chunk=1M")
        run("mdadm", "--create", device, f"--name={lun['name']}", "--homehost=any", *options, *bitmap, size, *legs)
    return device


def set_up_array(settings: dict[str, Any]) -> None:
    """Mirrored LUNs, each seen by its database host alone."""
    if not succeeds("vgs", VG):
        run("pvcreate", "/dev/ubda", "/dev/ubdb")
        run("vgcreate", VG, "/dev/ubda", "/dev/ubdb")
    run("vgchange", "--activate", "y", VG)
    make = {"lvm": make_lvm_lun, "md": make_md_lun}[settings["mirror"]]
    devices = {lun["name"]: make(lun) for export in settings["exports"] for lun in export["luns"]}
    # On a busy machine udevd has been seen to close the connection instead of answering.
    wait_for("udev", lambda: succeeds("udevadm", "settle"))
    if not start_target_daemon():
        return
    for tid, export in enumerate(settings["exports"], start=1):
        new_target(tid, export["target"])
        for number, lun in enumerate(export["luns"], start=1):
            where = (f"--tid={tid}", f"--lun={number}")
            # No cache of its own between the database host and the mirror.
            options = ("--bstype=rdwr", "--bsoflags=direct", f"--backing-store={devices[lun['name']]}")
            target_admin("new", "logicalunit", *where, *options)
            name_logical_unit(where, lun["name"], lun["identifier"])
        target_admin("bind", "target", f"--tid={tid}", f"--initiator-name={export['initiator']}")


# ---- database host ---------------------------------------------------------------------------------------------------


def mount_disk(device: str, mount_point: str, file_system: str) -> None:
    """Make the file system if the disk is empty, and mount it."""
    if os.path.ismount(mount_point):
        return
    if not succeeds("blkid", "-p", device):
        run(f"mkfs.{file_system}", "-q", device)
    os.makedirs(mount_point, exist_ok=True)
    run("mount", device, mount_point)


def start_postgresql(data_mount: str, log_mount: str) -> None:
    """Move the image's cluster to the LUNs at the first boot, and start it."""
    version, name = PG_CLUSTER
    data, log = f"{data_mount}/postgresql", f"{log_mount}/pg_wal"
    if not os.path.exists(data):
        # A second sooner than shutil.copytree, which has more to ask of each file.
        run("cp", "-r", f"/var/lib/postgresql/{version}/{name}", data + ".new")
        if log_mount != data_mount:
            shutil.move(f"{data}.new/pg_wal", log)
            os.symlink(log, f"{data}.new/pg_wal")
        for path in (data + ".new", log):
            if os.path.exists(path):
                run("chown", "-R", "postgres:postgres", path)
        os.chmod(data + ".new", 0o700)
        with open(f"/etc/postgresql/{version}/{name}/conf.d/lab.conf", "w") as file:
            file.write(f"data_directory = '{data}'\nshared_buffers = 32MB\nmax_wal_size = 128MB\nmin_wal_size = 32MB\n")
        os.rename(data + ".new", data)
    # What pg_ctlcluster would do, three seconds sooner.
    pg_ctl = ("runuser", "-u", "postgres", "--", f"/usr/lib/postgresql/{version}/bin/pg_ctl", f"--pgdata={data}")
    if not succeeds(*pg_ctl, "status"):
        options = f"--options=-c config_file=/etc/postgresql/{version}/{name}/postgresql.conf"
        log_file = f"--log=/var/log/postgresql/postgresql-{version}-{name}.log"
        run(*pg_ctl, "start", "--wait", "--silent", options, log_file)


def set_up_database(settings: dict[str, Any]) -> None:
    """The LUNs of the array, with file systems, and PostgreSQL on them."""
    log_in(settings["portal"], settings["target"])
    luns = settings["luns"]
    wait_for("LUNs", lambda: all(disk_with_serial(lun["name"]) for lun in luns))
    for limit in glob.glob("/sys/class/scsi_disk/*/max_write_same_blocks"):
        # tgt would do WRITE SAME one block at a time: six seconds in mkfs.xfs.
        with open(limit, "w") as file:
            file.write("0")
    for lun in luns:
        mount_disk(disk_with_serial(lun["name"]), lun["mount_point"], lun["file_system"])
    if luns:
        start_postgresql(luns[0]["mount_point"], luns[-1]["mount_point"])


# ---- media server ----------------------------------------------------------------------------------------------------


def set_up_media(settings: dict[str, Any]) -> None:
    """A disk to work on, and a tape library that the host reaches through its own iSCSI."""
    mount_disk("/dev/ubda", "/srv/scratch", "xfs")
    target, drives = settings["target"], settings["drives"]
    barcodes = [f"LAB{number:03}" for number in range(1, settings["volumes"] + 1)]
    os.makedirs(LIBRARY, exist_ok=True)
    for barcode in barcodes:
        if not os.path.exists(f"{LIBRARY}/{barcode}"):
            image = ("--type=data", f"--barcode={barcode}", f"--size={settings['volume_mib']}")
            run("tgtimg", "--op=new", "--device-type=tape", *image, f"--file={LIBRARY}/{barcode}")
    if start_target_daemon():
        make_virtual_folder(target, drives, settings["slots"], barcodes)
        target_admin("bind", "target", "--tid=1", f"--initiator-name={settings['initiator']}")
    for name in ("st", "ch", "sg"):
        run("modprobe", name)
    log_in(settings["portal"], target)
    wait_for("tape drives", lambda: len(glob.glob("/dev/nst?")) == drives and glob.glob("/dev/sch0"))


def make_virtual_folder(target: str, drives: int, slots: int, barcodes: list[str]) -> None:
    """Target 1 of tgt: the drives as LUN 1 and up, the changer behind them. Element addresses are tgt's habit."""
    new_target(1, target)
    for lun in range(1, drives + 1):
        where = ("--tid=1", f"--lun={lun}")
        blank = f"{LIBRARY}/.drive{lun}"
        if not os.path.exists(blank):
            run("tgtimg", "--op=new", "--device-type=tape", "--type=clean", "--barcode=", "--size=1", f"--file={blank}")
        target_admin("new", "logicalunit", *where, "--device-type=tape", "--bstype=ssc", f"--backing-store={blank}")
        name_logical_unit(where, f"DRIVE{lun:03}", f"DRIVE{lun:03}")
        target_admin("update", "logicalunit", *where, "--params=removable=1")
    where = ("--tid=1", f"--lun={drives + 1}")
    with open(f"{LIBRARY}/.changer", "wb") as file:
        file.truncate(1024)
    params = [f"media_home={LIBRARY}", "element_type=1,start_address=16,quantity=1"]
    params += [f"element_type=4,start_address=1,quantity={drives}"]
    params += [f"element_type=4,address={n},tid=1,lun={n}" for n in range(1, drives + 1)]
    params += ["element_type=3,start_address=900,quantity=1", f"element_type=2,start_address=1024,quantity={slots}"]
    params += [f"element_type=2,address={1024 + n},barcode={code},sides=1" for n, code in enumerate(barcodes)]
    target_admin("new", "logicalunit", *where, "--device-type=changer", f"--backing-store={LIBRARY}/.changer")
    name_logical_unit(where, "LIBRARY001", "LIBRARY001")
    for param in params:
        target_admin("update", "logicalunit", *where, f"--params={param}")


def set_up_client(_settings: dict[str, Any]) -> None:
    """Nothing but the drivers for images of Ceph and for NBD."""
    for name in ("rbd", "nbd"):
        run("modprobe", name)


def main() -> None:
    """Set up this host."""
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    with open("/etc/splitmirror-lab.json") as file:
        settings = json.load(file)
    roles = {"array": set_up_array, "database": set_up_database, "media": set_up_media, "client": set_up_client}
    roles[settings["role"]](settings)


if __name__ == "__main__":
    main()
