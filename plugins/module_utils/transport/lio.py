# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Transport ``lio``: iSCSI by the kernel's own target, set up through its folders in configfs.

An initiator is let in by its name and the secret of the mirror set (CHAP in both directions), at the one portal of the
target, which is bound to the array's storage address. Discovery shows a target to the initiators on its list only. The
kernel shows secrets in configfs to nobody but root (iscsi_target_configfs.c).

The folders are those that Documentation/target in the kernel's source and targetcli make; nothing is saved, so after a
boot there is no export. The target is made first and removed last: it carries the session's name, and whatever belongs
to it is found by that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Sequence
from typing import Optional

from ..host.tools import ToolError, run_tool
from .base import Device, Exporter, FoundExport, Initiator, Lun
from .names import Portal, TransportError, is_taken, label_of, refuse_foreign_address, session_of
from .secret import Chap

CONFIGFS = "/sys/kernel/config"
_MODULES = ("target_core_mod", "target_core_iblock", "iscsi_target_mod")
#: How the kernel begins a WWN that it makes of a unit's serial number: NAA type 6, the company id, then the digits.
_WWN_PREFIX = "6001405"
_WWN_DIGITS = 32
_BACKSTORE_PREFIX = "splitmirror:"


class LioExporter(Exporter):
    """Targets of this kernel."""

    name = "lio"

    def __init__(self, configfs: str = CONFIGFS) -> None:
        self._configfs = configfs
        self._core = f"{configfs}/target/core"
        self._fabric = f"{configfs}/target/iscsi"

    def preflight(self, portal: Optional[Portal]) -> None:
        """See Exporter."""
        for module in _MODULES:
            if os.path.isdir(f"/sys/module/{module}"):
                continue
            try:
                run_tool("modprobe", "--dry-run", "--quiet", module)
            except ToolError as exc:
                raise TransportError(
                    f"transport: the array's kernel has no module {module}, which transport lio needs; install it, or "
                    "use transport tgt.",
                    option="transport",
                    code="host_unfit",
                ) from exc
        if portal is None:
            return
        # The kernel itself would listen at an address that this host does not have.
        refuse_foreign_address(portal)
        ours = {name for target in _names(self._fabric) for name in _names(f"{self._fabric}/{target}/tpgt_1/np")}
        if is_taken(portal) and not any(name.endswith(f":{portal.port}") for name in ours):
            raise TransportError(
                f"portal: another program listens at {portal}; choose another port.",
                option="portal",
                code="option_invalid",
            )

    def find_exports(self) -> list[FoundExport]:
        """See Exporter."""
        found = []
        for target in _names(self._fabric):
            session = session_of(target)
            if session is None:
                continue
            devices = tuple(_read(f"{store}/udev_path") for store in self._stores(target))
            acls = f"{self._fabric}/{target}/tpgt_1/acls"
            logged_in = [name for name in _names(acls) if not _read(f"{acls}/{name}/info").startswith("No active")]
            found.append(FoundExport(session, target, tuple(filter(None, devices)), tuple(logged_in)))
        return found

    def luns(self, devices: Sequence[Device]) -> dict[str, Lun]:
        """See Exporter."""
        return {
            device.name: Lun(number, device.serial, (_WWN_PREFIX + device.serial)[:_WWN_DIGITS])
            for number, device in enumerate(devices)
        }

    def matches(self, target: str, devices: Sequence[Device], initiator: Initiator, portal: Portal, chap: Chap) -> bool:
        """See Exporter."""
        group = f"{self._fabric}/{target}/tpgt_1"
        # It is enabled last of all.
        if _read(f"{group}/enable") != "1" or _names(f"{group}/acls") != [initiator.name]:
            return False
        if _read(f"{group}/attrib/authentication") != "1" or self._accounts(group, initiator) != (
            chap.user,
            chap.secret,
            chap.target_user,
            chap.target_secret,
        ):
            return False
        if _names(f"{group}/np") != [str(portal)] or len(_names(f"{group}/lun")) != len(devices):
            return False
        for number, device in enumerate(devices):
            store = next(iter(_links(f"{group}/lun/lun_{number}")), "")
            serial = _read(f"{store}/wwn/vpd_unit_serial").rpartition(": ")[2]
            same = _read(f"{store}/udev_path") == os.path.realpath(device.path) and serial == device.serial
            if not same or _read(f"{group}/acls/{initiator.name}/lun_{number}/write_protect") != "1":
                return False
        return True

    def make(self, target: str, devices: Sequence[Device], initiator: Initiator, portal: Portal, chap: Chap) -> None:
        """See Exporter."""
        self.preflight(portal)
        self._load()
        group = f"{self._fabric}/{target}/tpgt_1"
        _mkdir(f"{self._fabric}/{target}")
        _mkdir(group)
        for name, text in (
            ("attrib/authentication", "1"),
            ("attrib/generate_node_acls", "0"),
            ("attrib/demo_mode_write_protect", "1"),
            ("attrib/demo_mode_discovery", "0"),
            ("attrib/prod_mode_write_protect", "1"),
        ):
            _write(f"{group}/{name}", text)
        acl = f"{group}/acls/{initiator.name}"
        _mkdir(acl)
        _write(f"{acl}/auth/userid", chap.user)
        _write(f"{acl}/auth/password", chap.secret, secret=True)
        _write(f"{acl}/auth/userid_mutual", chap.target_user)
        _write(f"{acl}/auth/password_mutual", chap.target_secret, secret=True)
        adapter = self._new_adapter()
        for number, device in enumerate(devices):
            store = f"{adapter}/{_BACKSTORE_PREFIX}{label_of(target)}:{number}"
            _mkdir(store)
            path = os.path.realpath(device.path)
            _write(f"{store}/control", f"udev_path={path},readonly=1")
            _write(f"{store}/udev_path", path)
            _write(f"{store}/enable", "1")
            _write(f"{store}/wwn/vpd_unit_serial", device.serial)
            lun = f"{group}/lun/lun_{number}"
            _mkdir(lun)
            _link(store, f"{lun}/mirror")
            _mkdir(f"{acl}/lun_{number}")
            _link(lun, f"{acl}/lun_{number}/mirror")
            _write(f"{acl}/lun_{number}/write_protect", "1")
        _mkdir(f"{group}/np/{portal}")
        _write(f"{group}/enable", "1")

    def remove(self, export: FoundExport) -> None:
        """See Exporter. Disabling the group logs out all initiators, and keeps them out."""
        target = f"{self._fabric}/{export.target}"
        group = f"{target}/tpgt_1"
        if os.path.isdir(group):
            if _read(f"{group}/enable") == "1":
                _write(f"{group}/enable", "0")
            for portal in _names(f"{group}/np"):
                _rmdir(f"{group}/np/{portal}")
            for acl in _names(f"{group}/acls"):
                for lun in _names(f"{group}/acls/{acl}", "lun_"):
                    _unlink_all(f"{group}/acls/{acl}/{lun}")
                    _rmdir(f"{group}/acls/{acl}/{lun}")
                _rmdir(f"{group}/acls/{acl}")
            for lun in _names(f"{group}/lun"):
                _unlink_all(f"{group}/lun/{lun}")
                _rmdir(f"{group}/lun/{lun}")
        for store in self._stores(export.target):
            _rmdir(store)
            with contextlib.suppress(TransportError):  # other units of it still stand
                _rmdir(os.path.dirname(store))
        for folder in (group, target):
            if os.path.isdir(folder):
                _rmdir(folder)

    @staticmethod
    def _accounts(group: str, initiator: Initiator) -> tuple[str, ...]:
        auth = f"{group}/acls/{initiator.name}/auth"
        return tuple(_read(f"{auth}/{name}") for name in ("userid", "password", "userid_mutual", "password_mutual"))

    def _load(self) -> None:
        for module in _MODULES:
            _tool("modprobe", module)
        if not os.path.isdir(f"{self._configfs}/target"):
            _tool("mount", "-t", "configfs", "configfs", self._configfs)
        # The kernel makes what belongs to the fabric when its folder is made.
        _mkdir(self._fabric)

    def _stores(self, target: str) -> list[str]:
        """The folders of the target's devices."""
        wanted = re.compile(re.escape(f"{_BACKSTORE_PREFIX}{label_of(target)}:") + r"\d+")
        adapters = [f"{self._core}/{name}" for name in _names(self._core, "iblock_")]
        return [f"{adapter}/{name}" for adapter in adapters for name in _names(adapter) if wanted.fullmatch(name)]

    def _new_adapter(self) -> str:
        """A folder ``iblock_N`` of our own, so that a process that still removes an older one is not in the way."""
        number = 0
        while os.path.isdir(f"{self._core}/iblock_{number}"):
            number += 1
        _mkdir(f"{self._core}/iblock_{number}")
        return f"{self._core}/iblock_{number}"


def _names(folder: str, prefix: str = "") -> list[str]:
    """The folders in a folder, by name; none when it is not there."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name.startswith(prefix))
    except OSError:
        return []


def _links(folder: str) -> list[str]:
    """Where the links in a folder lead to."""
    try:
        return [os.path.realpath(entry.path) for entry in os.scandir(folder) if entry.is_symlink()]
    except OSError:
        return []


def _read(path: str) -> str:
    """What an attribute says; nothing when it is not there."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""


def _write(path: str, text: str, secret: bool = False) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as exc:
        raise TransportError(
            f"{path}: the kernel refuses {'this value' if secret else repr(text)} there ({exc.strerror})."
        ) from exc


def _mkdir(path: str) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        pass
    except OSError as exc:
        raise TransportError(f"{path}: the kernel does not create it ({exc.strerror}).") from exc


def _rmdir(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError as exc:
        if exc.errno != errno.ENOENT:
            raise TransportError(f"{path}: the kernel does not remove it ({exc.strerror}).") from exc


def _link(source: str, path: str) -> None:
    try:
        os.symlink(source, path)
    except OSError as exc:
        raise TransportError(f"{path}: the kernel does not create it ({exc.strerror}).") from exc


def _unlink_all(folder: str) -> None:
    for entry in list(os.scandir(folder)):
        if entry.is_symlink():
            os.unlink(entry.path)


def _tool(*command: str) -> None:
    try:
        run_tool(*command)
    except ToolError as exc:
        raise TransportError(exc.message) from exc
