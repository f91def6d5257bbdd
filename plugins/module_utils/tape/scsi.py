# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SCSI commands sent by hand (SG_IO): which drive stands in which element of a library, and what medium is in a drive.

Facts are from scsi/sg.h; from SPC-4: sense data; from SMC-3: READ ELEMENT STATUS with DVCID, and its data transfer
element descriptors; and from SSC-3: the Medium Configuration mode page.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from typing import Optional

_SG_IO = 0x2285
_TO_DEVICE = -2
_FROM_DEVICE = -3
_TIMEOUT_MS = 120_000
_ELEMENT_DRIVES = 4
_ANSWER_BYTES = 0xFFFF
_MEDIUM_CONFIGURATION = 0x1D
#: Vendor and product of drives that report any medium as WORM: the virtual tape of tgt.
_SAY_WORM = frozenset({("IET", "VIRTUAL-TAPE")})
_FIXED_SENSE = (0x70, 0x71)
_DESCRIPTOR_SENSE = (0x72, 0x73)
_T10_IDENTIFIER = 1
_T10_VENDOR_AND_PRODUCT_BYTES = 24


class _SgHeader(ctypes.Structure):
    """struct sg_io_hdr."""

    _fields_ = (
        ("interface_id", ctypes.c_int),
        ("dxfer_direction", ctypes.c_int),
        ("cmd_len", ctypes.c_ubyte),
        ("mx_sb_len", ctypes.c_ubyte),
        ("iovec_count", ctypes.c_ushort),
        ("dxfer_len", ctypes.c_uint),
        ("dxferp", ctypes.c_void_p),
        ("cmdp", ctypes.c_void_p),
        ("sbp", ctypes.c_void_p),
        ("timeout", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("pack_id", ctypes.c_int),
        ("usr_ptr", ctypes.c_void_p),
        ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte),
        ("msg_status", ctypes.c_ubyte),
        ("sb_len_wr", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort),
        ("driver_status", ctypes.c_ushort),
        ("resid", ctypes.c_int),
        ("duration", ctypes.c_uint),
        ("info", ctypes.c_uint),
    )


class CommandRefused(OSError):
    """A device refused a command.

    :ivar sense: sense key, additional sense code and its qualifier (SPC-4); None when it sent none.
    """

    def __init__(self, status: int, sense: Optional[tuple[int, int, int]]) -> None:
        said = "" if sense is None else " and sense {:02x}/{:02x}/{:02x}".format(*sense)
        super().__init__(f"the command was refused with status {status}{said}")
        self.sense = sense


def read_command(device: str, command: bytes, answer_bytes: int) -> bytes:
    """Open a device and send a command that only reads.

    :param answer_bytes: how long the answer may be.
    :raises OSError: the device cannot be opened, or refused the command.
    """
    handle = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return send_command(handle, command, answer_bytes)
    finally:
        os.close(handle)


def send_command(handle: int, command: bytes, answer_bytes: int) -> bytes:
    """Send a command that only reads to an open device; needs CAP_SYS_RAWIO on a tape drive.

    :param answer_bytes: how long the answer may be.
    :raises OSError: the device refused the command (CommandRefused), or cannot be reached.
    """
    answer = ctypes.create_string_buffer(answer_bytes)
    left = _send(handle, command, answer, _FROM_DEVICE)
    return answer.raw[: answer_bytes - max(left, 0)]


def send_data(handle: int, command: bytes, data: bytes) -> None:
    """Send a command with data to an open device, as send_command does. The copy of the data is wiped.

    :raises OSError: as send_command.
    """
    sent = ctypes.create_string_buffer(data, len(data))
    try:
        _send(handle, command, sent, _TO_DEVICE)
    finally:
        ctypes.memset(sent, 0, len(sent))


def _send(handle: int, command: bytes, data: ctypes.Array[ctypes.c_char], direction: int) -> int:
    """Send a command, and return how many bytes of the data were not transferred."""
    sense = ctypes.create_string_buffer(64)
    cdb = ctypes.create_string_buffer(command, len(command))
    header = _SgHeader(
        interface_id=ord("S"),
        dxfer_direction=direction,
        cmd_len=len(command),
        mx_sb_len=len(sense),
        dxfer_len=len(data),
        dxferp=ctypes.addressof(data),
        cmdp=ctypes.addressof(cdb),
        sbp=ctypes.addressof(sense),
        timeout=_TIMEOUT_MS,
    )
    fcntl.ioctl(handle, _SG_IO, header)
    if header.status or header.host_status or header.driver_status & 0x0F:
        raise CommandRefused(header.status, parse_sense(sense.raw[: header.sb_len_wr]))
    return int(header.resid)


def parse_sense(sense: bytes) -> Optional[tuple[int, int, int]]:
    """Sense key, additional sense code and its qualifier in sense data of either format; None if it has none."""
    kind = sense[0] & 0x7F if sense else 0
    if kind in _FIXED_SENSE and len(sense) > 2:
        code, qualifier = sense[12:14] if len(sense) > 13 else b"\0\0"
        return sense[2] & 0x0F, code, qualifier
    if kind in _DESCRIPTOR_SENSE and len(sense) > 3:
        return sense[1] & 0x0F, sense[2], sense[3]
    return None


def drive_serials(changer: str) -> list[Optional[str]]:
    """Serial numbers of the drives of a library, in the order of its elements; None where it does not report one.

    :raises OSError: the library refuses to tell.
    """
    command = bytes((0xB8, _ELEMENT_DRIVES, 0, 0, 0xFF, 0xFF, 1)) + _ANSWER_BYTES.to_bytes(3, "big") + bytes(2)
    return parse_drive_serials(read_command(changer, command, _ANSWER_BYTES))


def parse_drive_serials(answer: bytes) -> list[Optional[str]]:
    """Serial numbers in the element status data of READ ELEMENT STATUS; None for a descriptor that is cut short."""
    found: list[Optional[str]] = []
    page = 8
    while page + 8 <= len(answer):
        kind, tags = answer[page], answer[page + 1]
        length = int.from_bytes(answer[page + 2 : page + 4], "big")
        page_end = page + 8 + int.from_bytes(answer[page + 5 : page + 8], "big")
        # 12 bytes, a volume tag of 36 where there is one, and another for the other side
        begin = 12 + 36 * bool(tags & 0x80) + 36 * bool(tags & 0x40)
        for place in range(page + 8, page_end, max(length, 1)):
            if kind == _ELEMENT_DRIVES:
                found.append(_serial(answer[place + begin : place + length]))
        page = page_end
    return found


def _serial(descriptor: bytes) -> Optional[str]:
    """The serial number in an identification descriptor (SPC)."""
    if len(descriptor) < 4 or len(descriptor) < 4 + descriptor[3]:
        return None
    identifier = descriptor[4 : 4 + descriptor[3]]
    if descriptor[1] & 0x0F == _T10_IDENTIFIER and len(identifier) > _T10_VENDOR_AND_PRODUCT_BYTES:
        identifier = identifier[_T10_VENDOR_AND_PRODUCT_BYTES:]
    elif descriptor[1] & 0x0F:
        return None
    return identifier.decode("ascii", "replace").strip(" \0") or None


def medium_is_worm(handle: int, device: str) -> Optional[bool]:
    """Whether the medium in an open tape drive can be written once only; None when the drive does not report it.

    :param device: path of the drive.
    """
    if _product(device) in _SAY_WORM:
        return None
    try:
        # MODE SENSE(6) without block descriptors
        return parse_worm(send_command(handle, bytes((0x1A, 0x08, _MEDIUM_CONFIGURATION, 0, 0xFF, 0)), 0xFF))
    except OSError:
        return None


def parse_worm(answer: bytes) -> Optional[bool]:
    """The bit WORMM of the Medium Configuration mode page (SSC-3) in an answer to MODE SENSE(6); None without it."""
    page = 4 + answer[3] if len(answer) > 3 else 0
    if not page or len(answer) < page + 3 or answer[page] & 0x3F != _MEDIUM_CONFIGURATION:
        return None
    return bool(answer[page + 2] & 0x01)


def _folder_of(device: str) -> str:
    """Where the kernel shows what it has read from a tape drive."""
    return f"/sys/class/scsi_tape/{os.path.basename(os.path.realpath(device))}/device"


def _product(device: str) -> Optional[tuple[str, str]]:
    """Vendor and product of a tape drive as the kernel read them (INQUIRY); None when it has not."""
    folder = _folder_of(device)
    try:
        with open(f"{folder}/vendor", encoding="ascii") as vendor, open(f"{folder}/model", encoding="ascii") as model:
            return vendor.read().strip(), model.read().strip()
    except (OSError, ValueError):
        return None


def tape_serial(device: str) -> Optional[str]:
    """The unit serial number of a tape drive as the kernel read it; None when it has none."""
    try:
        with open(f"{_folder_of(device)}/vpd_pg80", "rb") as stream:
            return stream.read()[4:].decode("ascii", "replace").strip(" \0") or None
    except OSError:
        return None
