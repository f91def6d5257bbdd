# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Each file of the state folder, with each of its values replaced by odd ones: its reader takes it for none, or refuses
it in a sentence. Numbers that are not finite, negative or larger than 64 bits are never handed on.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.holder import window
from ansible_collections.splitmirror.backup.plugins.module_utils.host import daemon
from ansible_collections.splitmirror.backup.plugins.module_utils.host.daemon import DaemonRecord
from ansible_collections.splitmirror.backup.plugins.module_utils.host.files import try_lock
from ansible_collections.splitmirror.backup.plugins.module_utils.host.status import StatusWriter, read_status
from ansible_collections.splitmirror.backup.plugins.module_utils.lease import Leases, Owner
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import Pair, PairSplit, SplitResult
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.journal import Journal
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.medium import Medium
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.tickets import QueueTicket, Ticket

HUGE = 10**400
#: As they stand in the file: json.dumps has no words for some of them.
ODD = [
    "null", "true", "-1", "0", "1.5", "NaN", "Infinity", "-Infinity", "1e999", str(HUGE), str(-HUGE), str(1 << 63),
    '""', '"1"', '"\\u0000"', '"\\udcff"', "[]", "[[1]]", "{}", '{"x": 1}', "[" * 100_000,
]  # fmt: skip


class Reader(NamedTuple):
    """One kind of file.

    :param path: below the state folder. :param told: a good one. :param read: its reader.
    """

    path: str
    told: Any
    read: Callable[[StateDir], Any]


def lease_of(state: StateDir) -> Any:
    lease = Leases(state).find("db1")
    # It is shown in messages and in results.
    return lease and (str(lease), lease.lapsed, asdict(lease))


def medium_of(state: StateDir) -> Any:
    try:
        medium = Medium.read(os.path.dirname(state.catalog_file) + "/library/V1")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [(item.records(), item.size_bytes(), item.find(3)) for item in medium.files], asdict(medium)


def wait_for_it(state: StateDir) -> Any:
    """What a task reports that waits for the task of the file, which holds its lock."""
    handle = os.open(f"{state.drives_dir}/000000000001.json", os.O_RDONLY)
    try:
        assert try_lock(handle)
        with QueueTicket(state.drives_dir, "me", "V1", ["A"]) as ticket:
            ticket.wait(0, 0, lambda _reason: None)
            ticket.loaded()
    except SplitMirrorError as exc:
        return exc.message
    finally:
        os.close(handle)
    return None


def take_drive(state: StateDir) -> Any:
    with QueueTicket(state.drives_dir, "me", "V1", ["A"]) as ticket:
        ticket.wait(0, 0, lambda _reason: None)
        return ticket.device


OWNER = Owner("ctl", "root", "boot", "ns", 7, 8)
RESULT = SplitResult("s1", "image", "copy", (PairSplit("data", "/m", 1.0, 2.0, 3.0, 4.0),))
SPLIT = {
    "format_version": 1,
    "session": "s1",
    "provider": "image",
    "pairs": [asdict(Pair("data", "/p", "/m"))],
    "process": asdict(DaemonRecord(7, 8, "boot")),
    "result": RESULT.as_dict(),
}
VOLUME = {
    "format_version": 1,
    "capacity_bytes": 1 << 20,
    "early_warning_bytes": 1 << 10,
    "write_protected": False,
    "files": [{"records": [[512, 2], [10, 1]], "filemark": True}],
}
READERS = {
    "status": Reader(
        "sessions/s1/status.json",
        asdict(StatusWriter(None, "write", "bytes", 10).status()),
        lambda state: read_status(state.status_file("s1")),
    ),
    "daemon": Reader(
        "sessions/s1/holder.json",
        asdict(DaemonRecord(7, 8, "boot")),
        lambda state: daemon.read_record(state.session_dir("s1"), "holder"),
    ),
    "frozen": Reader("sessions/s1/frozen.json", ["/a"], lambda state: window.read_record(state.frozen_file("s1"))),
    "lease": Reader(
        "leases/db1.json", {"session": "s1", "host": "db1", "owner": asdict(OWNER), "since_s": 9.0}, lease_of
    ),
    "split": Reader("mirrors/s1.json", SPLIT, lambda state: Journal(state).read("s1")),
    "volume": Reader("library/V1/volume.json", VOLUME, medium_of),
    "ticket": Reader("drives/000000000001.json", asdict(Ticket("t", 7, 8.0, "V1", ["A"], [], "A")), wait_for_it),
    "loaded": Reader("drives/loaded.json", {"A": "V1"}, take_drive),
}


def damaged(told: Any) -> Iterator[str]:
    """JSON texts in which one value, or the whole, is odd."""
    mark = "@here@"
    for odd in ODD:
        yield odd
        for changed in with_mark(told, mark):
            yield json.dumps(changed).replace(f'"{mark}"', odd)


def with_mark(told: Any, mark: str) -> Iterator[Any]:
    items = told.items() if isinstance(told, dict) else enumerate(told) if isinstance(told, list) else ()
    for key, value in items:
        for inner in (mark, *with_mark(value, mark)):
            copy: Any = dict(told) if isinstance(told, dict) else list(told)
            copy[key] = inner
            yield copy


def numbers_of(found: Any) -> Iterator[float]:
    if hasattr(found, "__dataclass_fields__"):
        found = asdict(found)
    if isinstance(found, (int, float)):
        yield found
    elif isinstance(found, (dict, list, tuple)):
        for value in found.values() if isinstance(found, dict) else found:
            yield from numbers_of(value)


@pytest.mark.parametrize("kind", READERS)
def test_no_odd_value_is_handed_on(tmp_path: Path, kind: str) -> None:
    reader = READERS[kind]
    state = StateDir(str(tmp_path))
    path = tmp_path / reader.path
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(reader.told))
    good = reader.read(state)
    assert good
    for text in damaged(reader.told):
        path.write_text(text)
        try:
            found = reader.read(state)
        except SplitMirrorError:
            continue
        assert all(math.isfinite(value) and 0 <= value < 1 << 64 for value in numbers_of(found)), text


@pytest.mark.parametrize("kind", READERS)
def test_what_is_not_a_file_is_none_or_named_in_a_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / READERS[kind].path
    path.mkdir(parents=True)
    try:
        found = READERS[kind].read(StateDir(str(tmp_path)))
    except SplitMirrorError as exc:
        found = exc.message
        assert str(path) in found
    assert "[Errno" not in str(found)


def test_the_odd_values_are_seen() -> None:
    texts = list(damaged({"a": [1, {"b": 2}]}))
    assert len(set(texts)) == len(ODD) * 5
    assert '{"a": [1, {"b": NaN}]}' in texts
