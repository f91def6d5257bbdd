# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Archives written from a device, restored by the tars that people have, and compared with a read-only mount."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import (
    ArchiveResult,
    MemberRecord,
    Owners,
    WriterOptions,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.writer import write_archive
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapper import map_scopes
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.stack import LunSpec

from .blockdev import run

TARS: dict[str, Sequence[str]] = {
    "tar": ("tar", "--acls", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf"),
    "bsdtar": ("bsdtar", "--numeric-owner", "-xpf"),
}


class FileSink:
    """Writes records into a plain file, and checks that each has the size it should have."""

    def __init__(self, path: Path, record_bytes: int) -> None:
        self._stream = open(path, "wb")  # noqa: SIM115
        self._record_bytes = record_bytes

    def write_record(self, record: memoryview, /) -> None:
        assert len(record) == self._record_bytes
        self._stream.write(record)

    def close(self) -> None:
        self._stream.close()


class Written(NamedTuple):
    result: ArchiveResult
    members: list[MemberRecord]


def map_folder(root: Path, device: str, path: Path) -> None:
    """Map a folder that lies on one device."""
    with MapFile.create(str(path), "s1", "host") as made:
        map_scopes(made, [Scope(str(root))], [LunSpec("lun", device)])


def write_from(map_path: Path, device: str, path: Path, options: WriterOptions, **more: Any) -> Written:
    """Write the archive of a map from one device into a file."""
    members: list[MemberRecord] = []
    with (
        MapFile.open(str(map_path), "s1", read_only=True) as made,
        contextlib.closing(FileSink(path, options.record_bytes)) as sink,
    ):
        owners = Owners(made.users(), made.groups())
        meta = {"session": "s1", "host": "host"}
        result = write_archive(
            made.entries(), {1: device}, sink, options, member=members.append, owners=owners, index_meta=meta, **more
        )
    return Written(result, members)


def restore(tar: str, archive: Path, folder: Path) -> str:
    """Extract an archive with one of TARS into a new folder, and return what it said."""
    folder.mkdir()
    return run(*TARS[tar], archive, cwd=folder, env={**os.environ, "LC_ALL": "C.UTF-8"}).stderr


def walk(root: Path) -> Iterator[bytes]:
    """All paths under a folder, itself included, as bytes relative to it."""
    base = os.fsencode(root)
    yield b"."
    for folder, folders, files in os.walk(base):
        for name in folders + files:
            yield os.path.relpath(os.path.join(folder, name), base)


def tree(root: Path, leave_out: Callable[[bytes], bool] = lambda name: False) -> dict[bytes, tuple[Any, ...]]:
    """Everything a tar has to bring back: names, attributes, extended attributes, contents, hard links."""
    found: dict[bytes, tuple[Any, ...]] = {}
    first: dict[tuple[int, int], bytes] = {}
    base = os.fsencode(root)
    for name in sorted(walk(root)):
        if leave_out(name):
            continue
        path = os.path.join(base, name)
        status = os.lstat(path)
        if stat.S_ISSOCK(status.st_mode):
            continue
        content: Any = None
        size = 0
        if stat.S_ISREG(status.st_mode):
            size = status.st_size
            with open(path, "rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        xattrs = {
            key: os.getxattr(path, key, follow_symlinks=False)
            for key in os.listxattr(path, follow_symlinks=False)
            if not key.startswith("trusted.SGI_ACL_")  # how XFS keeps the ACL that is listed by its own name too
        }
        link = first.setdefault((status.st_dev, status.st_ino), name)
        found[name] = (
            oct(status.st_mode),
            status.st_uid,
            status.st_gid,
            size,
            status.st_mtime_ns,
            status.st_rdev,
            content,
            xattrs,
            None if stat.S_ISDIR(status.st_mode) else link,
        )
    return found


def allocated(root: Path) -> dict[bytes, int]:
    """Bytes that each regular file takes on disk."""
    base = os.fsencode(root)
    sizes = {}
    for name in walk(root):
        status = os.lstat(os.path.join(base, name))
        if stat.S_ISREG(status.st_mode):
            sizes[name] = status.st_blocks * 512
    return sizes
