# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Walk the scopes of a session in logical order: what belongs to them, and through which folder it is reached.

The same walk serves the live database host (where a file is reached by its own path) and the media server (where a
file system is reached through the folder on which the mirror is mounted).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Callable, NamedTuple, Optional

from ..host.beneath import open_beneath
from .leaveout import MOST_PATH_BYTES, LeftOut, Unreadable
from .maprows import FileSystem, MapError, shown
from .rules import Rule, ScopeTree

#: What open and stat say of a file that went away or became something else since its folder was read.
VANISHED = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE))
_RUN_NAMES = 512
_FOLDERS_AHEAD = 8
_OUR_OWN = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))
_MOST_NAME_BYTES = 255
OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NOATIME | os.O_CLOEXEC


class PlacedFs(NamedTuple):
    """A file system of the map and where it is reached.

    ``local`` is the folder that shows its ``mount_point``; ``local_dev`` the device number that stat reports there.
    ``inside`` is where that folder lies in the mounted file system, without slashes around it: nothing is reached over
    a symbolic link from there on, not even ``local``.
    """

    fs: FileSystem
    local: bytes
    local_dev: int
    inside: bytes = b""

    def local_path(self, path: bytes) -> bytes:
        """Where a path of the database host is reached."""
        below = path[len(self.fs.mount_point.rstrip(b"/")) :]
        return self.local.rstrip(b"/") + below or b"/"

    def open_folder(self, folder: bytes) -> int:
        """Open a folder that local_path told. :raises OSError: it is not there, or not without a symbolic link."""
        below = folder[len(self.local.rstrip(b"/")) :].strip(b"/")
        if not self.inside:
            return open_beneath(self.local, below, OPEN_FOLDER)
        top = self.local[: -len(self.inside)]
        return open_beneath(top, self.inside + b"/" + below if below else self.inside, OPEN_FOLDER)


class FileSystems:
    """All file systems of the map by mount point."""

    def __init__(self, placed: Iterable[PlacedFs]) -> None:
        self.by_mount_point = {place.fs.mount_point: place for place in placed}
        self.by_id = {place.fs.id: place for place in self.by_mount_point.values()}

    @classmethod
    def live(cls, filesystems: Iterable[FileSystem]) -> FileSystems:
        """The file systems where they are mounted on the database host itself."""
        return cls(PlacedFs(fs, fs.mount_point, fs.dev) for fs in filesystems)

    def of(self, path: bytes) -> PlacedFs:
        """The file system that holds a path. :raises MapError: when none of the map does."""
        folder = path
        while folder not in self.by_mount_point:
            if folder in (b"/", b""):
                raise MapError(
                    f"map: {shown(path)} is not in a file system of the map; map again.", code="map_outdated"
                )
            folder = os.path.dirname(folder)
        return self.by_mount_point[folder]


class Run(NamedTuple):
    """Neighbours in one folder, in logical order.

    The path of each is ``prefix`` + name; it is reached by its name in the folder ``local``, or is that folder itself
    when the name is empty. ``kinds`` names those that are not regular files: d, or o for others. ``inodes`` has the
    numbers of inodes as the folder lists them, of these names and others; a name may be missing.
    """

    fs: int
    prefix: bytes
    local: bytes
    names: list[bytes]
    kinds: dict[bytes, str]
    inodes: dict[bytes, int]


class _Frame:
    """A folder whose content is being walked."""

    def __init__(self, path: bytes, place: PlacedFs, rule: Optional[Rule], tree: ScopeTree) -> None:
        if len(path) > MOST_PATH_BYTES - _MOST_NAME_BYTES:
            raise Unreadable(path, f"lies too deep: it and what is in it have paths of over {len(path)} bytes")
        self.prefix = path.rstrip(b"/") + b"/"
        self.place = place
        self.rule = rule  # None in a folder that is only on the way
        self.local = place.local_path(path)
        self.next = 0
        self.inodes, self.kinds = scan(path, place, self.local)
        found = list(self.inodes)
        left_out = tree.left_out_names(path)
        if left_out:
            found = [name for name in found if name not in left_out]
        self.way = tree.on_the_way(path)
        if rule is None:
            found = [name for name in found if name in self.way]
        elif rule.has_excludes:
            found = [name for name in found if name in self.way or not rule.excludes(self.prefix + name, name)]
        found.sort()
        self.names = found
        # Nothing but regular files that all belong to the scope.
        self.is_plain = not self.kinds and not self.way and rule is not None
        # Inodes of the folders that come next, and how many of these were passed on for reading ahead.
        self.folders = [self.inodes[name] for name in found if self.kinds.get(name) == "d"]
        self.told = self.entered = 0

    def ahead(self) -> list[int]:
        """Inodes of folders that will be entered soon and were not passed on yet; to be called when one is entered."""
        self.entered += 1
        begin, self.told = self.told, max(self.told, self.entered + _FOLDERS_AHEAD)
        return self.folders[begin : self.told]


#: Takes the number of a file system and inodes of folders in it that will be entered soon.
Expect = Callable[[int, Sequence[int]], None]


def walk(
    tree: ScopeTree,
    places: FileSystems,
    first: Optional[Iterable[bytes]] = None,
    expect: Optional[Expect] = None,
    left_out: Optional[LeftOut] = None,
) -> Iterator[Run]:
    """All that belongs to the scopes, in logical order; what vanishes meanwhile is passed over.

    :param first: walk only these paths and what is below them (they must belong to a scope).
    :param expect: is told of folders before they are read.
    :param left_out: takes what cannot be read, made for the same tree.
    :raises Unreadable: when a folder cannot be read and is not left out.
    """
    for top in tree.tops if first is None else first:
        rule = tree.rule_of(top)
        place = places.of(top)
        yield single(top, place)
        yield from _below(top, place, rule, _Setting(tree, places, expect, left_out))


def single(path: bytes, place: PlacedFs) -> Run:
    """A run of one path alone, whatever it is."""
    if path == place.fs.mount_point:
        return Run(place.fs.id, path, place.local, [b""], {b"": "o"}, {})
    folder, name = os.path.split(path)
    return Run(place.fs.id, folder.rstrip(b"/") + b"/", place.local_path(folder), [name], {name: "o"}, {})


class _Setting(NamedTuple):
    """What stays the same during a walk."""

    tree: ScopeTree
    places: FileSystems
    expect: Optional[Expect]
    left_out: Optional[LeftOut]

    def enter(self, path: bytes, place: PlacedFs, rule: Optional[Rule]) -> Optional[_Frame]:
        """A folder to walk; None when it is left out."""
        try:
            return _Frame(path, place, rule, self.tree)
        except Unreadable as exc:
            if self.left_out is None:
                raise
            self.left_out.add(exc)
            return None


def _below(top: bytes, place: PlacedFs, rule: Optional[Rule], setting: _Setting) -> Iterator[Run]:
    tree, places, expect, _left_out = setting
    if rule is not None and rule.is_empty(top):
        rule = None
        if not tree.on_the_way(top):
            return
    outermost = setting.enter(top, place, rule)
    stack = [] if outermost is None else [outermost]
    while stack:
        frame = stack[-1]
        names: list[bytes] = []
        kinds: dict[bytes, str] = {}
        inner: Optional[_Frame] = None
        mount_point: Optional[tuple[bytes, PlacedFs]] = None
        if frame.is_plain:
            names = frame.names[frame.next : frame.next + _RUN_NAMES]
            frame.next += len(names)
        while frame.next < len(frame.names) and len(names) < _RUN_NAMES and inner is None:
            name = frame.names[frame.next]
            frame.next += 1
            kind = frame.kinds.get(name)
            if kind is None and frame.rule is not None and name not in frame.way:
                names.append(name)
                continue
            path = frame.prefix + name
            child_rule = tree.rules.get(path)
            if child_rule is None and frame.rule is not None and not frame.rule.excludes(path, name):
                child_rule = frame.rule
            mounted = places.by_mount_point.get(path)
            if child_rule is not None:
                if mounted is not None:
                    mount_point = (path, mounted)
                else:
                    names.append(name)
                    if kind is not None:
                        kinds[name] = kind
            if kind == "d":
                if expect is not None:
                    expect(frame.place.fs.id, frame.ahead())
                if child_rule is not None and child_rule.is_empty(path):
                    child_rule = None
                if child_rule is not None or tree.on_the_way(path):
                    inner = setting.enter(path, mounted or frame.place, child_rule)
                    if inner is None:
                        # It goes with what is in it.
                        mount_point = None
                        if names and names[-1] == name:
                            names.pop()
                        continue
            if mount_point is not None:
                break
        if names:
            yield Run(frame.place.fs.id, frame.prefix, frame.local, names, kinds, frame.inodes)
        if mount_point is not None:
            yield single(*mount_point)
        if inner is not None:
            stack.append(inner)
        elif frame.next >= len(frame.names):
            stack.pop()


def scan(path: bytes, place: PlacedFs, local: bytes) -> tuple[dict[bytes, int], dict[bytes, str]]:
    """Names in a folder with their inode numbers, and which of them are not regular files; nothing when it vanished.

    :param path: of the database host. :param local: where it is reached in its place.
    :raises Unreadable: when it cannot be read.
    """
    names: dict[bytes, int] = {}
    kinds: dict[bytes, str] = {}
    try:
        fd = enter_folder(path, place, local)
    except FileNotFoundError:
        return names, kinds
    try:
        # Through /proc: names come as bytes, and a folder that is swapped for a link is not followed.
        with os.scandir(b"/proc/self/fd/%d" % fd) as entries:
            for entry in entries:
                names[entry.name] = entry.inode()
                if not entry.is_file(follow_symlinks=False):
                    kinds[entry.name] = "d" if entry.is_dir(follow_symlinks=False) else "o"
    except OSError as exc:
        if exc.errno not in VANISHED:
            raise unreadable(path, exc) from exc
    finally:
        os.close(fd)
    return names, kinds


def enter_folder(path: bytes, place: PlacedFs, local: bytes) -> int:
    """Open a folder, see scan; the caller closes it.

    :raises FileNotFoundError: it vanished or became something else. :raises Unreadable: it cannot be opened.
    """
    try:
        fd = place.open_folder(local)
    except OSError as exc:
        if exc.errno in VANISHED:
            raise FileNotFoundError(exc.errno, exc.strerror) from exc
        raise unreadable(path, exc) from exc
    if os.fstat(fd).st_dev != place.local_dev:
        os.close(fd)
        raise elsewhere(path)
    return fd


def unreadable(path: bytes, exc: OSError) -> MapError:
    """The error for something that is there and cannot be looked at; Unreadable unless the fault is not its own."""
    if exc.errno in _OUR_OWN:
        return MapError(
            f"map: {shown(path)} cannot be examined ({exc.strerror}); this host has too little memory or too few file "
            "descriptors."
        )
    advice = "look at its file system"
    if exc.errno in (errno.EACCES, errno.EPERM):
        advice = "root (become) is needed, and no FUSE mount that keeps even root out"
    return Unreadable(path, f"cannot be mapped ({exc.strerror})", advice)


def elsewhere(path: bytes) -> Unreadable:
    """The error for what lies in another file system than the folder that holds it."""
    return Unreadable(path, "lies in another file system than the folder that holds it")
