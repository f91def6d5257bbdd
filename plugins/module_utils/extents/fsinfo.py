# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read the superblock of an XFS or ext4 file system straight from a device, past every cache."""

from __future__ import annotations

import mmap
import os
import struct
import uuid
from typing import NamedTuple, Optional

from .maprows import MapError

SUPERBLOCK_BYTES = 4096
_XFS_MAGIC = b"XFSB"
_EXT4_START = 1024
_EXT4_MAGIC = 0xEF53
_EXT4_64BIT = 0x80
#: Blocks of 64 KiB (EXT4_MAX_BLOCK_SIZE in fs/ext4/ext4.h); a larger number is damage, or meant to fill our memory.
_EXT4_MOST_LOG_BLOCK = 6


class FsInfo(NamedTuple):
    """A file system as its superblock describes it; ``refusal`` says why it cannot be mapped, None when it can."""

    fs_type: str
    fs_uuid: str
    block_bytes: int
    size_bytes: int
    refusal: Optional[str] = None


def read_fs_info(device: str, offset_bytes: int = 0) -> Optional[FsInfo]:
    """The file system that begins at an offset of a device; None when it is neither XFS nor ext4.

    :raises MapError: when the device cannot be read there.
    """
    return parse_superblock(read_superblock(device, offset_bytes))


def read_superblock(device: str, offset_bytes: int = 0) -> bytes:
    """The first 4096 bytes of a file system, read with O_DIRECT.

    :raises MapError: when the device cannot be read there.
    """
    buffer = mmap.mmap(-1, SUPERBLOCK_BYTES)
    try:
        fd = os.open(device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            # A buffered read could show what the device held before it was last synchronized.
            os.preadv(fd, [buffer], offset_bytes)
        finally:
            os.close(fd)
        return bytes(buffer)
    except OSError as exc:
        raise MapError(
            f"pairs: {device} cannot be read at {offset_bytes} ({exc.strerror}).", option="pairs", code="device_failed"
        ) from exc
    finally:
        buffer.close()


def parse_superblock(block: bytes) -> Optional[FsInfo]:
    """The same from the first 4096 bytes of a file system (fs/xfs/libxfs/xfs_format.h, fs/ext4/ext4.h)."""
    if block[:4] == _XFS_MAGIC:
        block_bytes, blocks, realtime_blocks = struct.unpack_from(">IQQ", block, 4)
        (log_start,) = struct.unpack_from(">Q", block, 48)
        refusal = None
        if realtime_blocks:
            refusal = "has a realtime section on another device"
        elif not log_start:
            refusal = "has its log on another device"
        return FsInfo("xfs", str(uuid.UUID(bytes=block[32:48])), block_bytes, block_bytes * blocks, refusal)
    head = block[_EXT4_START:]
    if len(head) >= 1024 and struct.unpack_from("<H", head, 56)[0] == _EXT4_MAGIC:
        (blocks,) = struct.unpack_from("<I", head, 4)
        (log_block,) = struct.unpack_from("<I", head, 24)
        (incompatible,) = struct.unpack_from("<I", head, 96)
        if log_block > _EXT4_MOST_LOG_BLOCK:
            return None
        if incompatible & _EXT4_64BIT:
            blocks += struct.unpack_from("<I", head, 0x150)[0] << 32
        block_bytes = 1024 << log_block
        return FsInfo("ext4", str(uuid.UUID(bytes=head[104:120])), block_bytes, block_bytes * blocks)
    return None
