# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Transport ``masked``: the array itself shows each mirror to this host, as a LUN that is new in every session.

What the LUN is (serial number or WWN, number, size) is told when it has been presented. This host keeps it in the
folder of the session, so that a later run finds what a dead one has left, and removes its paths before the array takes
the LUN away: a path without a LUN keeps its name and its identity, and the next LUN of that number would stand behind
both.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from ..host.blockdev import plain_identifier
from ..host.files import replace_file
from ..session import StateDir, is_of_host
from .attach import StaticAttacher, flush_multipath, let_go_of_luns, paths_among
from .base import Attached, Wanted
from .disks import SYSFS, Disk, all_disks, read_disk
from .keep_away import let_in
from .names import TransportError

_RECORD = "luns.json"
#: What may be said of a LUN, and of which type it is.
_KEYS = {"serial": str, "wwn": str, "lun": int, "size_bytes": int}


class MaskedAttacher(StaticAttacher):
    """LUNs of one session. It needs session and LUNs to attach, session or host to detach."""

    hint = "look whether the array has mapped it to this host, and what it calls it (lsblk -o NAME,SERIAL,WWN)"

    def preflight(self) -> str:
        """See Attacher; which LUNs there will be is not known before they are split."""
        return ""

    def wanted(self) -> list[Wanted]:
        """See Attacher."""
        return wanted_from_identities(self._options.needed("luns", self._options.luns), self._options.pairs)

    def attach(self, wanted: Sequence[Wanted]) -> Attached:
        """See Attacher."""
        session = str(self._options.needed("session", self._options.session))
        state = StateDir(self._options.state_dir)
        state.make_session_dir(session)
        # Before they are looked for, so that whatever appears is let go of.
        path = state.session_file(session, _RECORD)
        # The LUNs of a session may lie on several arrays.
        others = [one for one in (_read(path) if os.path.exists(path) else []) if one not in wanted]
        known = {one.name: {"serial": one.serial, "wwn": one.wwn} for one in [*others, *wanted]}
        replace_file(path, json.dumps(known), durable=True)
        disks = all_disks()
        was_there = all(paths_among(one, disks) for one in wanted)
        attached = super().attach(wanted)
        luns: Mapping[str, Any] = self._options.luns or {}
        for one in wanted:
            number = luns[one.name].get("lun")
            for disk in paths_among(one, all_disks()):
                found = lun_of(disk)
                if number is not None and found is not None and int(number) != found:
                    raise TransportError(
                        f"luns: pair {one.name}: {disk.name} has serial {disk.serial}, and is LUN {found} instead of "
                        f"{number}; the array must not show the mirror twice.",
                        option="luns",
                        code="mirror_wrong",
                    )
        return Attached(attached.devices, attached.changed or not was_there)

    def detach(self, *, dry_run: bool = False) -> list[str]:
        """See Attacher; the names are those of the LUNs."""
        state = StateDir(self._options.state_dir)
        of_host, of_session = self._options.host, self._options.session
        named = []
        for session in state.sessions():
            path = state.session_file(session, _RECORD)
            if (is_of_host(session, of_host) if of_host else session == of_session) and os.path.exists(path):
                wanted = _read(path)
                let_go_of_luns(wanted, change=not dry_run)
                named += [one.serial for one in wanted]
                if not dry_run:
                    _remove_paths(wanted)
                    let_in(one.serial for one in wanted)
                    os.unlink(path)
        return named


def wanted_from_identities(
    luns: Mapping[str, Any], pairs: Optional[Sequence[Mapping[str, Any]]] = None
) -> list[Wanted]:
    """What to look for, by what the array has said.

    :param luns: for each pair serial or wwn, and perhaps lun and size_bytes. :param pairs: the mirror set.
    :raises TransportError: a pair has none, or that of another pair or of a primary, or a value has a wrong type.
    """
    names = set(luns) if pairs is None else {pair["name"] for pair in pairs}
    if set(luns) != names:
        raise _refused(
            f"luns: the array presents {', '.join(map(str, luns)) or 'nothing'}, and the pairs are "
            f"{', '.join(sorted(names))}; present these."
        )
    wanted: list[Wanted] = []
    for name, lun in luns.items():
        if not isinstance(lun, Mapping) or not all(_is(kind, lun.get(key)) for key, kind in _KEYS.items()):
            raise _refused(
                f"luns: pair {name}: give serial or wwn (texts), and if they are known lun and size_bytes (numbers)."
            )
        serial = str(lun.get("serial") or lun.get("wwn") or "")
        if not plain_identifier(serial):
            raise _refused(f"luns: pair {name} has neither serial nor wwn, by which transport masked finds its LUN.")
        wwn, size_bytes = str(lun.get("wwn") or ""), lun.get("size_bytes")
        one = Wanted(name, serial, 0, wwn, None if size_bytes is None else int(size_bytes))
        for other in wanted:
            if {plain_identifier(one.serial), plain_identifier(one.wwn)} & (
                {plain_identifier(other.serial), plain_identifier(other.wwn)} - {""}
            ):
                raise _refused(f"luns: pairs {other.name} and {name} have the same LUN {serial}.")
        wanted.append(one)
    for pair in pairs or ():
        of_primary = plain_identifier(pair.get("serial") or "")
        if of_primary and any(of_primary in map(plain_identifier, (one.serial, one.wwn)) for one in wanted):
            raise TransportError(
                f"luns: {pair['serial']} is the primary of pair {pair['name']}, and not a mirror; a mirror has a "
                "serial number of its own.",
                option="luns",
                code="mirror_wrong",
            )
    return wanted


def lun_of(disk: Disk, sysfs: str = SYSFS) -> Optional[int]:
    """The number of a SCSI disk's LUN on this path; None for any other disk."""
    address = os.path.basename(os.path.realpath(f"{sysfs}/class/block/{disk.name}/device"))
    parts = address.split(":")
    return int(parts[3]) if len(parts) == 4 and all(part.isdecimal() for part in parts) else None


def _remove_paths(wanted: Sequence[Wanted]) -> None:
    """Let the kernel forget the disks of these LUNs, which are not in use. NVMe's go away with their namespace."""
    for disk in [disk for one in wanted for disk in paths_among(one, all_disks())]:
        found = read_disk(disk.name)
        if found is not None and found.multipath:
            flush_multipath(found)
        with contextlib.suppress(OSError), open(f"{SYSFS}/class/block/{disk.name}/device/delete", "w") as stream:
            stream.write("1")


def _read(path: str) -> list[Wanted]:
    """The LUNs in a record. :raises TransportError: it is not one."""
    try:
        with open(path, encoding="utf-8") as stream:
            return [Wanted(name, lun["serial"], 0, lun["wwn"]) for name, lun in json.load(stream).items()]
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise TransportError(
            f"{path}: this is not a record of attached LUNs; look that nothing reads a mirror here, then remove it."
        ) from exc


def _is(kind: type, value: Any) -> bool:
    if kind is int:
        return value is None or (str(value).isdecimal() and len(str(value)) < 20)
    return value is None or isinstance(value, kind)


def _refused(sentence: str) -> TransportError:
    return TransportError(sentence, option="luns", code="option_invalid")
