# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Open what somebody else named, below one folder only: over no symbolic link and out of the folder by no way.

By openat2(2), which the kernel has since 5.6; where it lacks it, or a path is longer than the kernel takes at once,
component by component.
"""

from __future__ import annotations

import ctypes
import errno
import os

#: The number is the same on all architectures but Alpha (include/uapi/asm-generic/unistd.h).
_SYS_OPENAT2 = 437
#: include/uapi/linux/openat2.h
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x02, 0x04, 0x08
#: A kernel without openat2, a filter of system calls that does not know it, a path that is too long for one call.
_STEP_BY_STEP = frozenset((errno.ENOSYS, errno.EPERM, errno.ENAMETOOLONG, errno.EAGAIN))


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


_libc = ctypes.CDLL(None, use_errno=True)


def is_plain(path: bytes) -> bool:
    """Whether a path is absolute and every component of it is a name: none is empty, ``.`` or ``..``."""
    if not path.startswith(b"/") or b"\0" in path:
        return False
    return path == b"/" or not {b"", b".", b".."}.intersection(path[1:].split(b"/"))


def open_beneath(folder: bytes, path: bytes, flags: int) -> int:
    """Open a path below a folder and return the descriptor.

    :param folder: it is trusted, and may itself be reached over links.
    :param path: relative to the folder; empty for the folder itself.
    :param flags: as for os.open; nothing is created.
    :raises OSError: it cannot be opened; ELOOP or ENOTDIR when a symbolic link is in it, EXDEV when it leads out of the
        folder.
    """
    if path and not is_plain(b"/" + path):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    top = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            return by_openat2(top, path or b".", flags)
        except OSError as exc:
            if exc.errno not in _STEP_BY_STEP:
                raise
        return step_by_step(top, path or b".", flags)
    finally:
        os.close(top)


def by_openat2(top: int, path: bytes, flags: int) -> int:
    """One call. :raises OSError: see open_beneath; ENOSYS where the kernel lacks openat2."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)
    while True:
        fd = int(_libc.syscall(_SYS_OPENAT2, top, path, ctypes.byref(how), ctypes.sizeof(how)))
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code), path)


def step_by_step(top: int, path: bytes, flags: int) -> int:
    """The same for plain paths by one call a component. :raises OSError: see open_beneath."""
    *folders, name = path.split(b"/")
    here = os.dup(top)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = inner
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
    finally:
        os.close(here)
