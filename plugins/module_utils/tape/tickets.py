# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who uses which drive, and who is next: first come, first served.

Every process that needs a drive makes a ticket, a file ``<number>.json``, and holds a lock (flock) on it until it is
done. The kernel releases the lock of a dead process, so its ticket does not count any more, whatever its pid is used
for. All processes evaluate the tickets in the same way, so they agree whose turn it is without a server.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any, Callable, Optional, Union

from ..host.files import locked, open_lock, replace_file, try_lock
from ..host.strict_json import number, parse_own_json, read_json, whole
from ..session import LOADED, QUEUE_LOCK
from .base import TapeError

_LOOK_S = 0.25
#: The last second of the year 9999, which time.strftime can show.
_LAST_S = 253402300799


class DriveTimeout(TapeError):
    """No drive, or not the volume, became free in time."""

    code = "drive_busy"


@dataclass(frozen=True)
class Ticket:
    """What a process wants, or has.

    :param who: the task, in words.
    :param since_s: when the ticket was drawn, then when the drive was taken; seconds since 1970.
    :param volume: what it is going to load.
    :param devices: the drives that will do.
    :param avoids: those of them that were found in use by somebody without a ticket.
    :param device: the drive that it has; None while it waits.
    """

    who: str
    pid: int
    since_s: float
    volume: str
    devices: Sequence[str]
    avoids: Sequence[str] = ()
    device: Optional[str] = None

    @classmethod
    def of(cls, told: Any) -> Ticket:
        """From JSON. :raises ValueError, TypeError: it is not a ticket."""
        found = cls(**told)
        texts = [found.who, found.volume, *found.devices, *found.avoids, "" if found.device is None else found.device]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("not a ticket")
        return replace(found, pid=whole(found.pid), since_s=number(found.since_s, most=_LAST_S))

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.since_s))
        return f"{self.who} (process {self.pid}, since {since})"


def assign(tickets: Sequence[Ticket], loaded: Mapping[str, str]) -> list[Union[str, list[str]]]:
    """For each ticket, from old to new, the drive that it has or may take now, or the reasons why it must wait.

    A volume is used by one process at a time, and tasks that wait for the same volume get it in order. A drive that
    holds the volume already is taken before an empty one, and that before one that holds another volume.

    :param loaded: which volume is in which drive, as far as anybody knows.
    """
    drives = {ticket.device: ticket for ticket in tickets if ticket.device is not None}
    volumes = {ticket.volume: ticket for ticket in tickets if ticket.device is not None}
    result: list[Union[str, list[str]]] = []
    for ticket in tickets:
        if ticket.device is not None:
            result.append(ticket.device)
            continue
        if not ticket.volume:
            # It has not chosen a volume yet, and is asked again when it has.
            result.append(["it has not said which volume it wants"])
            continue
        user = volumes.setdefault(ticket.volume, ticket)
        if user is not ticket:
            result.append([f"volume {ticket.volume} is {'used' if user.device else 'waited for'} by {user}"])
            continue
        free = [device for device in ticket.devices if device not in drives and device not in ticket.avoids]
        if not free:
            result.append([_occupied(device, drives.get(device)) for device in ticket.devices])
            continue
        chosen = min(free, key=lambda device: (loaded.get(device) != ticket.volume, device in loaded))
        drives[chosen] = ticket
        result.append(chosen)
    return result


def _occupied(device: str, user: Optional[Ticket]) -> str:
    return f"drive {device} is used by {'a process outside the queue' if user is None else user}"


class QueueTicket:
    """A process's place in the queue; use it as a context manager.

    :param folder: of the queue, the same for all; it must exist.
    """

    def __init__(self, folder: str, who: str, volume: str, devices: Sequence[str]) -> None:
        self._folder = folder
        self._ticket = Ticket(who, os.getpid(), time.time(), volume, tuple(devices))
        self._handle = -1
        self._path = ""

    def __enter__(self) -> QueueTicket:
        with self._alone():
            number = max((int(name[:-5]) for name in self._names()), default=0) + 1
            self._path = os.path.join(self._folder, f"{number:012d}.json")
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try_lock(self._handle)  # no other process looks meanwhile
            self._write()
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        with self._alone():
            os.unlink(self._path)
            os.close(self._handle)

    def wait(self, timeout_s: float, limit_s: float, tell: Callable[[Optional[str]], None]) -> None:
        """Wait for a drive and take it.

        :param timeout_s: the option, for the message.
        :param limit_s: until when, by the monotonic clock.
        :param tell: gets the reason for waiting when that changes, and None when it is over.
        :raises DriveTimeout: there was none until then.
        """
        told: Optional[str] = None
        while True:
            found = self._try()
            if isinstance(found, str):
                if told is not None:
                    tell(None)
                return
            reason = ", ".join(found)
            if time.monotonic() >= limit_s:
                raise DriveTimeout(
                    f"drive_timeout_s: nothing became free in {timeout_s:g} s ({reason}); wait longer, or give more "
                    "drives or another volume.",
                    option="drive_timeout_s",
                )
            if reason != told:
                told = reason
                tell(reason)
            time.sleep(_LOOK_S)

    @property
    def volume(self) -> str:
        """What the process wants to load, or has loaded."""
        return self._ticket.volume

    @property
    def device(self) -> str:
        """The drive that was taken; empty if none was."""
        return self._ticket.device or ""

    def want(self, volume: str) -> None:
        """Give the drive and the volume back, and ask for another volume; the place in the queue is kept."""
        with self._alone():
            self._ticket = replace(self._ticket, volume=volume, device=None, avoids=(), since_s=time.time())
            self._write()

    def want_free(self, volumes: Sequence[str]) -> str:
        """As want, for the first of several volumes that no other process has or waits for; the first if all are taken.

        Two processes that want the same volumes at the same time get different ones.

        :returns: the volume.
        """
        with self._alone():
            taken = {ticket.volume for path, ticket in self._living() if path != self._path}
            volume = next((volume for volume in volumes if volume not in taken), volumes[0])
            self._ticket = replace(self._ticket, volume=volume, device=None, avoids=(), since_s=time.time())
            self._write()
        return volume

    def claim(self, volume: str) -> bool:
        """As want, unless another process has the volume or waits for it; whether it is claimed."""
        with self._alone():
            if any(ticket.volume == volume for path, ticket in self._living() if path != self._path):
                return False
            self._ticket = replace(self._ticket, volume=volume, device=None, avoids=(), since_s=time.time())
            self._write()
        return True

    def avoid(self) -> None:
        """Give the drive back, which somebody without a ticket uses, and look for another one first."""
        with self._alone():
            avoids = (*self._ticket.avoids, self.device)
            if set(avoids) >= set(self._ticket.devices):
                avoids = ()
            self._ticket = replace(self._ticket, device=None, avoids=avoids)
            self._write()

    def change(self, device: str) -> bool:
        """Have another drive instead of the one that was taken, if it is free."""
        with self._alone():
            if any(ticket.device == device for _path, ticket in self._living()):
                return False
            self._ticket = replace(self._ticket, device=device)
            self._write()
            return True

    def loaded(self) -> None:
        """Tell that the volume is in the drive, where it stays."""
        with self._alone():
            known = {device: volume for device, volume in self._loaded().items() if volume != self._ticket.volume}
            known[self.device] = self._ticket.volume
            replace_file(os.path.join(self._folder, LOADED), json.dumps(known), alone=True)

    # -- inside --------------------------------------------------------------------------------------------------

    def _try(self) -> Union[str, list[str]]:
        with self._alone():
            living = self._living()
            mine = next(number for number, (path, _ticket) in enumerate(living) if path == self._path)
            found = assign([ticket for _path, ticket in living], self._loaded())[mine]
            if isinstance(found, str):
                self._ticket = replace(self._ticket, device=found, since_s=time.time())
                self._write()
            return found

    def _living(self) -> list[tuple[str, Ticket]]:
        """Tickets of living processes from old to new; those of dead ones are thrown away."""
        found: list[tuple[str, Ticket]] = []
        for name in self._names():
            path = os.path.join(self._folder, name)
            if path == self._path:
                found.append((path, self._ticket))
                continue
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                stream = os.fdopen(handle, "rb")
            except OSError as exc:
                os.close(handle)
                raise TapeError(f"drive: {path} is not a ticket ({exc.strerror}); remove it.", option="drive") from exc
            with stream:
                if try_lock(handle):
                    os.unlink(path)
                else:
                    try:
                        found.append((path, Ticket.of(parse_own_json(stream.read()))))
                    except (ValueError, TypeError) as exc:
                        raise TapeError(
                            f"drive: the ticket {path} of a running task cannot be read; wait until that task has "
                            "ended.",
                            option="drive",
                            code="drive_busy",
                        ) from exc
        return found

    def _names(self) -> list[str]:
        return sorted(name for name in os.listdir(self._folder) if name[:-5].isdigit())

    def _loaded(self) -> dict[str, str]:
        try:
            loaded = read_json(os.path.join(self._folder, LOADED))
            return {str(device): str(volume) for device, volume in loaded.items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def _write(self) -> None:
        data = json.dumps(asdict(self._ticket)).encode()
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, data, 0)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else looks at the queue or changes it; that never takes long."""
        with locked(open_lock(os.path.join(self._folder, QUEUE_LOCK))):
            yield
