# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lab as an Ansible inventory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .description import STORAGE_NETWORK, Host, Lab

GROUPS = {
    "array": "splitmirror_arrays",
    "database": "splitmirror_database_hosts",
    "media": "splitmirror_media_servers",
}


def ssh_options(key: Path, known_hosts: Path) -> list[str]:
    """How to reach a host of the lab: with its own key, and with host keys that are known beforehand."""
    options = {
        "UserKnownHostsFile": known_hosts,
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "ConnectTimeout": "10",
        "LogLevel": "ERROR",
    }
    return ["-F", "/dev/null", "-i", str(key)] + [f"-o{name}={value}" for name, value in options.items()]


def inventory(lab: Lab, key: Path, known_hosts: Path) -> dict[str, Any]:
    """The inventory. As JSON it is a file for Ansible's yaml plugin; its addresses exist in the namespace only."""
    variables = {
        "ansible_user": "ops",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_pipelining": True,
        "ansible_ssh_private_key_file": str(key),
        "ansible_ssh_common_args": " ".join(ssh_options(key, known_hosts)),
        "splitmirror_storage_network": str(STORAGE_NETWORK),
    }
    children = {
        group: {"hosts": {host.name: _host_variables(lab, host) for host in lab.with_role(role)}}
        for role, group in GROUPS.items()
    }
    return {"all": {"vars": variables, "children": children}}


def _host_variables(lab: Lab, host: Host) -> dict[str, Any]:
    variables: dict[str, Any] = {
        "ansible_host": host.address,
        "lab_storage_address": host.storage_address,
        "lab_initiator": host.initiator,
    }
    if host.role == "database":
        array = lab.host(host.settings["array"])
        variables["splitmirror_array"] = array.name
        variables["splitmirror_provider"] = array.settings["mirror"]
        variables["splitmirror_pairs"] = [_pair(lun, array.settings["mirror"]) for lun in host.settings["luns"]]
        variables["lab_mount_points"] = [lun["mount_point"] for lun in host.settings["luns"]]
    if host.role == "media":
        drives, volumes = host.settings["drives"], host.settings["volumes"]
        variables["lab_drives"] = [f"/dev/tape/by-id/scsi-DRIVE{number:03}-nst" for number in range(1, drives + 1)]
        variables["lab_changer"] = "/dev/tape/by-id/scsi-LIBRARY001"
        variables["lab_barcodes"] = [f"LAB{number:03}" for number in range(1, volumes + 1)]
    return variables


def _pair(lun: dict[str, Any], mirror: str) -> dict[str, str]:
    name = lun["name"]
    primary, leg = {
        "lvm": (f"san/{name}", f"san/{name}_rimage_1"),
        "md": (f"/dev/md/{name}", f"/dev/san/{name}_leg1"),
    }[mirror]
    device = f"/dev/disk/by-id/wwn-0x6000000000000000{lun['identifier']}"
    return {"name": name, "device": device, "serial": name, "primary": primary, "mirror": leg}
