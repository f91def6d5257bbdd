# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""extras.tar: label files and logs, which belong to a session but are not on the mirror, as a pax archive."""

from __future__ import annotations

import grp
import io
import os
import pwd
import tarfile
import time
from typing import Sequence

from ..database.base import EndResult, LabelFile
from ..errors import SplitMirrorError
from ..host.files import replacing


class ExtrasError(SplitMirrorError):
    """Label files or logs that could not be kept."""

    code = "state_dir_unusable"


def write_extras(path: str, results: Sequence[EndResult]) -> int:
    """Write label files and log files of all databases; the names are absolute paths without the leading slash.

    :param path: of the archive; it appears whole or not at all, mode 0600.
    :returns: its size in bytes.
    :raises ExtrasError: a log file is gone, or the archive cannot be written.
    """
    try:
        with replacing(path) as stream:
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
                for result in results:
                    for label in result.label_files:
                        _add_label(archive, label)
                    for log in result.log_files:
                        _add_log(archive, log)
            size = stream.tell()
    except (OSError, tarfile.TarError) as exc:
        raise ExtrasError(f"{path}: the label files and logs could not be kept ({exc}).") from exc
    return size


def _add_label(archive: tarfile.TarFile, label: LabelFile) -> None:
    member = tarfile.TarInfo(label.path.lstrip("/"))
    member.size = len(label.content)
    member.mtime = int(time.time())
    member.mode, member.uid, member.gid = label.mode, label.uid, label.gid
    _name_owner(member)
    archive.addfile(member, io.BytesIO(label.content))


def _add_log(archive: tarfile.TarFile, path: str) -> None:
    with open(path, "rb") as stream:
        status = os.fstat(stream.fileno())
        member = tarfile.TarInfo(path.lstrip("/"))
        member.size = status.st_size
        member.mtime = int(status.st_mtime)
        member.mode, member.uid, member.gid = status.st_mode & 0o7777, status.st_uid, status.st_gid
        _name_owner(member)
        archive.addfile(member, stream)


def _name_owner(member: tarfile.TarInfo) -> None:
    try:
        member.uname = pwd.getpwuid(member.uid).pw_name
    except KeyError:
        member.uname = ""
    try:
        member.gname = grp.getgrgid(member.gid).gr_name
    except KeyError:
        member.gname = ""
