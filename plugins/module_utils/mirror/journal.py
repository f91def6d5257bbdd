# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The records of the array's split mirrors: a small file for each session, in ``mirrors/`` of the state folder.

A record is durably written before the session changes anything on the array, and removed after everything is undone. A
record whose process is dead therefore means that something may be left, and says where to look.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Optional

from ..host.daemon import DaemonRecord, is_alive
from ..host.files import locked, open_lock, partials, remove_partials, replace_file, sync_folder
from ..host.strict_json import read_json, text
from ..session import StateDir, short_session
from .base import MirrorError, Pair, SplitResult

FORMAT_VERSION = 1


@dataclass(frozen=True)
class SplitRecord:
    """One session's hold on a mirror set.

    :param process: the process that prepared the split. While it lives and ``result`` is None, the set is armed.
    :param result: the split, once it is durable.
    :param shown: where the array itself shows the mirrors, by name of the pair; empty while that is not known, None if
        it does not show them. Other providers find their own devices.
    """

    session: str
    provider: str
    pairs: tuple[Pair, ...]
    process: DaemonRecord
    result: Optional[SplitResult] = None
    shown: Optional[Mapping[str, Mapping[str, Any]]] = None

    @property
    def phase(self) -> str:
        """``armed``, ``split`` or ``broken``, see base.PHASES."""
        if self.result is not None:
            return "split"
        return "armed" if is_alive(self.process) else "broken"

    @property
    def short(self) -> str:
        """The session's mark on arrays that allow few characters in a name."""
        return short_session(self.session)

    def touches(self, pair: Pair) -> bool:
        """Whether this record holds the pair's primary or mirror, even if the pair has another name."""
        return any(pair.primary == own.primary or pair.mirror == own.mirror for own in self.pairs)


def _pair(told: Mapping[str, Any]) -> Pair:
    """A pair, from JSON. :raises ValueError, TypeError: it is something else."""
    pair = Pair(**told)
    for name in (pair.name, pair.primary, pair.mirror):
        text(name)
    if not isinstance(pair.options, Mapping):
        raise ValueError("its options are not a dictionary")
    return pair


class Journal:
    """The records of one array. :param state_dir: its state folder."""

    def __init__(self, state_dir: StateDir) -> None:
        self._state_dir = state_dir
        self._folder = state_dir.mirrors_dir

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other sessions from claiming a mirror between our check and our claim."""
        self._state_dir.make_private_dir(self._folder)
        with locked(open_lock(self._state_dir.mirrors_lock)):
            yield

    def write(self, record: SplitRecord) -> None:
        """Write the record in one step. After the return, it survives a power cut."""
        self._state_dir.make_private_dir(self._folder)
        data = {
            "format_version": FORMAT_VERSION,
            "session": record.session,
            "short": record.short,
            "provider": record.provider,
            "pairs": [asdict(pair) for pair in record.pairs],
            "process": asdict(record.process),
            "result": record.result.as_dict() if record.result else None,
            "shown": record.shown,
        }
        replace_file(self.path(record.session), json.dumps(data, indent=1), durable=True)

    def read(self, session: str) -> Optional[SplitRecord]:
        """The record of a session, or None.

        :raises MirrorError: the file is not a valid record.
        """
        path = self.path(session)
        try:
            data = read_json(path)
            if data["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format version {data['format_version']}")
            if data["session"] != session:
                raise ValueError("it is of another session")
            return SplitRecord(
                session=session,
                provider=text(data["provider"]),
                pairs=tuple(_pair(pair) for pair in data["pairs"]),
                process=DaemonRecord.from_dict(data["process"]),
                result=SplitResult.from_dict(data["result"]) if data["result"] else None,
                shown=data.get("shown"),
            )
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise MirrorError(
                f"{path}: the record of a split mirror cannot be read ({exc.strerror}); see what is in its place, and "
                "move it away if it is not a record."
            ) from exc
        except (ValueError, KeyError, TypeError) as exc:
            raise MirrorError(
                f"{path}: this is not a valid record of a split mirror ({exc}); find out what it belongs to, then "
                "remove it."
            ) from exc

    def remove(self, session: str) -> None:
        """Remove the record of a session; the last step of its clean-up."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(session))
            sync_folder(self._folder)
        with contextlib.suppress(FileNotFoundError):
            remove_partials(self.path(session))

    def remove_unfinished(self) -> None:
        """Remove half-written first records of dead processes, which had changed nothing yet.

        A process writes the first record of its session with the journal locked, so no living one is writing it now.
        """
        with self.locked():
            for part, record in partials(self._folder):
                if record.endswith(".json") and not os.path.exists(record):
                    os.unlink(part)

    def all(self) -> list[SplitRecord]:
        """The records of all sessions, by name."""
        found = [self.read(session) for session in self._state_dir.mirror_sessions()]
        return [record for record in found if record is not None]

    def record_of(self, pair: Pair) -> Optional[SplitRecord]:
        """The record that holds this pair's primary or mirror, or None."""
        return next((record for record in self.all() if record.touches(pair)), None)

    def path(self, session: str) -> str:
        """The file of a session's record."""
        return self._state_dir.mirror_file(session)
