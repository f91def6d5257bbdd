# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What stands in the lab: read from one small TOML file, turned into hosts with names, addresses and disks."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomllib

DEFAULT_FILE = Path(__file__).with_name("lab.toml")
#: Private to the lab's network namespace: the second is the storage network, as a SAN of its own would be.
MANAGEMENT_NETWORK = ipaddress.ip_network("10.213.0.0/24")
STORAGE_NETWORK = ipaddress.ip_network("10.213.1.0/24")
IQN = "iqn.2026-01.test.splitmirror"
#: What LVM and md keep for themselves on each leg (metadata, bitmap, rounding), per LUN.
_LEG_OVERHEAD_MIB = 24
#: Room on each disk of an array beside its LUNs, for those of tests.
_SPARE_MIB = 256


class LabError(Exception):
    """The lab cannot do what was asked; the text says what would be right."""


@dataclass(frozen=True)
class Host:
    """One kernel of the lab. :param number: its place in both networks (the last byte of its addresses).

    :param settings: what the host is told of its role (``guest/setup.py`` reads it).
    """

    name: str
    role: str
    number: int
    memory_mib: int
    disks_mib: tuple[int, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Address for ssh."""
        return str(MANAGEMENT_NETWORK[self.number])

    @property
    def storage_address(self) -> str:
        """Address for iSCSI."""
        return str(STORAGE_NETWORK[self.number])

    @property
    def initiator(self) -> str:
        """The name by which the host logs in to iSCSI targets."""
        return f"{IQN}:{self.name}"


@dataclass(frozen=True)
class Lab:
    """A whole lab."""

    name: str
    hosts: tuple[Host, ...]

    def host(self, name: str) -> Host:
        """The host of that name. :raises LabError: when there is none."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise LabError(f"the lab has no host {name!r}; it has {', '.join(h.name for h in self.hosts)}")

    def with_role(self, role: str) -> list[Host]:
        """The hosts of a role: ``array``, ``database`` or ``media``."""
        return [host for host in self.hosts if host.role == role]


def load(path: Path = DEFAULT_FILE, changes: tuple[str, ...] = ()) -> Lab:
    """Read a description.

    :param changes: settings that replace those of the file, as ``database_hosts.count=4``.
    :raises LabError: when the file or a change cannot be understood.
    """
    try:
        text = tomllib.loads(path.read_text())
        for change in changes:
            _apply(text, change)
        return build(text)
    except (OSError, tomllib.TOMLDecodeError) as exc:
        raise LabError(f"{path}: {exc}") from exc
    except KeyError as exc:
        raise LabError(f"{path}: the setting {exc} is missing; see {DEFAULT_FILE}") from exc


def _apply(text: dict[str, Any], change: str) -> None:
    key, separator, value = change.partition("=")
    *tables, last = key.split(".")
    table = text
    for name in tables:
        table = table.get(name, {})
    if not separator or not isinstance(table, dict) or last not in table:
        raise LabError(f"{change!r} changes nothing that the lab knows; write it as database_hosts.count=4")
    table[last] = int(value) if isinstance(table[last], int) else value


def build(text: dict[str, Any]) -> Lab:
    """Turn a parsed description into hosts."""
    name, memory_mib = text["name"], text["memory_mib"]
    arrays, databases, media = text["arrays"], text["database_hosts"], text["media_servers"]
    if arrays["mirror"] not in ("lvm", "md"):
        raise LabError(f"arrays.mirror: {arrays['mirror']!r} is neither lvm nor md")
    if databases["count"] and not arrays["count"]:
        raise LabError("arrays.count: database hosts need at least one array")
    exports: dict[str, list[dict[str, Any]]] = {f"array{n + 1}": [] for n in range(arrays["count"])}
    database_hosts = []
    for number in range(databases["count"]):
        host_name, array = f"db{number + 1}", f"array{number % arrays['count'] + 1}"
        luns = [
            {
                "name": f"{host_name}_{lun['name']}",
                "identifier": hashlib.sha256(f"{host_name}_{lun['name']}".encode()).hexdigest()[:16],
                "size_mib": lun["size_mib"],
                "mount_point": lun["mount_point"],
                "file_system": lun["file_system"],
            }
            for lun in databases["luns"]
        ]
        target = f"{IQN}:{array}.{host_name}"
        portal = str(STORAGE_NETWORK[10 + int(array[5:])])
        exports[array].append({"target": target, "initiator": f"{IQN}:{host_name}", "luns": luns})
        settings = {"array": array, "portal": portal, "target": target, "luns": luns}
        database_hosts.append(Host(host_name, "database", 100 + number, memory_mib, settings=settings))
    array_hosts = [
        Host(
            array,
            "array",
            10 + int(array[5:]),
            memory_mib,
            disks_mib=(sum(lun["size_mib"] + _LEG_OVERHEAD_MIB for e in export for lun in e["luns"]) + _SPARE_MIB,) * 2,
            settings={"mirror": arrays["mirror"], "exports": export},
        )
        for array, export in exports.items()
    ]
    media_hosts = [
        Host(
            f"media{number + 1}",
            "media",
            50 + number,
            memory_mib,
            disks_mib=(media["scratch_mib"],),
            settings={
                "portal": str(STORAGE_NETWORK[50 + number]),
                "target": f"{IQN}:media{number + 1}.library",
                **{key: media[key] for key in ("drives", "slots", "volumes", "volume_mib")},
            },
        )
        for number in range(media["count"])
    ]
    return Lab(name, tuple(array_hosts + media_hosts + database_hosts))
