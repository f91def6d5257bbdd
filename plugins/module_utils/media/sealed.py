# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Parts that are encrypted: in software, where the tape file is an age file with the archive in it, or by the drive.

The last record or two of an age file on tape are shorter than the others, see crypt/sealing.py. What the drive encrypts
is the same as in the clear, when the drive has the key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Protocol

from ..archive.model import RecordSink
from ..catalog.records import Part
from ..crypt.age import (
    CHUNK_BYTES,
    NONCE_BYTES,
    AgeError,
    Header,
    Named,
    age_bytes,
    looks_like_age,
    make_file_key,
    make_header,
    make_nonce,
    parse_header,
    plain_room,
    read_header,
)
from ..crypt.keys import Identity, Recipient, parse_identities, read_identities
from ..crypt.opening import OpenedFile
from ..crypt.primitives import CryptError
from ..crypt.sealing import Sealer, SealingSink
from ..errors import SplitMirrorError
from ..tape.base import Position, TapeDrive, TapeError
from ..tape.drive_key import DriveKey, DriveKeyError, drive_keys_of
from .tape_file import TapeFile

# So much of a tape file shows whether it is an age file; a record is not shorter.
_LOOK_BYTES = 512
# Of a header: what names session and part, and what there is for each recipient with its fingerprint.
_HEAD_BYTES, _RECIPIENT_BYTES = 512, 160


class PartStream(Protocol):
    """The archive of a part, whether it is encrypted or not."""

    @property
    def records_read(self) -> int:
        """How many records were read from the tape."""

    def approach(self, offset_bytes: int) -> None:
        """Move to the record in which the reading of a byte begins, without reading it.

        :raises TapeError: the drive cannot get there.
        """

    def seek(self, offset_bytes: int) -> None:
        """Go to a byte of the archive. :raises TapeError: a record is bad."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; none at the end. :raises TapeError: a record is bad."""

    def skip_to_filemark(self) -> int:
        """Read what is left and return how many records the tape file has. :raises TapeError: a record is bad."""

    def archive_bytes(self) -> int:
        """How long the archive is, after skip_to_filemark."""


def sealed_bytes(archive_bytes: int, recipients: int) -> int:
    """At most so long becomes an archive on tape.

    :param recipients: how many there are; with none it is not encrypted.
    """
    return age_bytes(_HEAD_BYTES + recipients * _RECIPIENT_BYTES, archive_bytes) if recipients else archive_bytes


class Sealing:
    """How the parts of a session are encrypted.

    :param sealer: the process that does it.
    """

    def __init__(self, session: str, recipients: Sequence[Recipient], sealer: Sealer) -> None:
        self._session = session
        self._recipients = recipients
        self._sealer = sealer

    def part(self, number: int) -> PartSeal:
        """For one part, or one more attempt at it: a new key, for nothing may be encrypted twice by the same one."""
        key = make_file_key()
        keys = tuple(recipient.fingerprint for recipient in self._recipients)
        header = make_header(key, self._recipients, Named(self._session, number, keys))
        return PartSeal(self._sealer, key, header + make_nonce(), " ".join(keys))


@dataclass(frozen=True)
class PartSeal:
    """How one part is encrypted. :param head: header and nonce. :param keys: fingerprints, as in Part."""

    sealer: Sealer
    key: bytes
    head: bytes
    keys: str

    def room_bytes(self, tape_bytes: int) -> int:
        """How long an archive may be that has this room on tape; negative when none has."""
        return plain_room(len(self.head) - NONCE_BYTES, tape_bytes)

    def over(self, sink: RecordSink, record_bytes: int) -> SealingSink:
        """A sink that encrypts in front of the sink of the tape."""
        return SealingSink(self.sealer, sink, record_bytes, self.key, self.head)


class Keyring:
    """The secret keys that a task was given.

    :param option: where they were given.
    :param drive_keys: for what a drive encrypted. :param drive_option: where they were given.
    """

    def __init__(
        self,
        identities: Sequence[Identity] = (),
        option: str = "identity_file",
        drive_keys: Sequence[DriveKey] = (),
        drive_option: str = "drive_key_file",
    ) -> None:
        self._identities = identities
        self._option = option
        self._drive_keys = drive_keys
        self._drive_option = drive_option

    @property
    def has_identities(self) -> bool:
        """There is a key for what was encrypted in software."""
        return bool(self._identities)

    @property
    def has_drive_keys(self) -> bool:
        """There is a key for what a drive encrypted."""
        return bool(self._drive_keys)

    def require(self, parts: Sequence[Part], session: str) -> None:
        """Prove that these parts can be read.

        :raises CryptError: a key is missing, or none opens one of them. :raises DriveKeyError: likewise.
        """
        self.require_drive_keys(parts, session)
        for part in parts:
            if part.age_head:
                self.key_of_part(part, f"session {session}")

    def require_drive_keys(self, parts: Sequence[Part], session: str) -> None:
        """As require, for what a drive encrypted; nothing of that can be read without a key."""
        for part in parts:
            if part.drive_key:
                self.drive_key(part.drive_key, f"session {session}")

    def drive_key_of_part(self, part: Part) -> Optional[DriveKey]:
        """The key with which the drive encrypted a part; None if it did not. :raises DriveKeyError: it is not here."""
        if not part.drive_key:
            return None
        return self.drive_key(part.drive_key, f"tape file {part.file_number} of volume {part.volume}")

    def drive_key(self, fingerprint: str, what: str) -> DriveKey:
        """A key by its fingerprint; if that is empty, the only key there is. :raises DriveKeyError: it is not here."""
        for key in self._drive_keys:
            if key.fingerprint == fingerprint or (not fingerprint and len(self._drive_keys) == 1):
                return key
        named = f"the key {fingerprint}" if fingerprint else "a key that is not known"
        if not self._drive_keys:
            raise DriveKeyError(
                f"drive_key_file: {what} was encrypted by the drive with {named}, and no key was given; give the file "
                "of that key on the media server, or the key itself as drive_key.",
                option="drive_key_file",
            )
        mine = ", ".join(key.fingerprint for key in self._drive_keys)
        raise DriveKeyError(
            f"{self._drive_option}: {what} was encrypted by the drive with {named}, and what was given is {mine}; give "
            f"{'that key' if fingerprint else 'one key alone, to try it'}.",
            option=self._drive_option,
        )

    def key_of_part(self, part: Part, what: str) -> bytes:
        """The key of an encrypted part that the catalog knows. :param what: it is. :raises CryptError: as key_of."""
        try:
            return self.key_of(parse_header(part.age_head[:-NONCE_BYTES]), what, part.age_keys)
        except AgeError as exc:
            raise CryptError(
                f"state_dir: the catalog is damaged ({exc} in the head of an encrypted part); move it away and rebuild "
                "it from the volumes with catalog_rebuild.",
                option="state_dir",
                code="catalog_unusable",
            ) from exc

    def key_of(self, header: Header, what: str, keys: str) -> bytes:
        """The key of an age file.

        :param what: it is. :param keys: fingerprints of those that open it, as far as they are known.
        :raises CryptError: a key is missing, or none opens it. :raises AgeError: the header was changed.
        """
        to = f"the key {keys}" if " " not in keys else f"the keys {', '.join(keys.split())}"
        to = to if keys else "a key that is not known"
        if not self._identities:
            raise CryptError(
                f"identity_file: {what} is encrypted to {to}, and no key was given; give the file of its secret key on "
                "the media server, or the key itself as identity.",
                option="identity_file",
            )
        key = header.file_key(self._identities)
        if key is None:
            mine = ", ".join(identity.recipient.fingerprint for identity in self._identities)
            raise CryptError(
                f"{self._option}: {what} is encrypted to {to}, and what was given is {mine}; give the secret key "
                "of one that it is encrypted to.",
                option=self._option,
            )
        return key


#: Of a task that was given none.
NO_KEYS = Keyring()


def keyring_of(params: Mapping[str, Any]) -> Keyring:
    """The keys in the options of a module (IDENTITY_SPEC, DRIVE_KEY_SPEC).

    :raises CryptError: they cannot be used. :raises DriveKeyError: likewise.
    """
    drive_keys, drive_option = drive_keys_of(params)
    path, text = params["identity_file"], params["identity"]
    if path and text:
        raise CryptError(
            "identity: identity_file is given as well; give one of them.", option="identity", code="option_invalid"
        )
    if path:
        return Keyring(read_identities(path), "identity_file", drive_keys, drive_option)
    return Keyring(parse_identities(text) if text else (), "identity", drive_keys, drive_option)


class NoKey(CryptError):
    """No key opens a part. :ivar part: with what its header, or the drive, says of its keys."""

    def __init__(self, error: SplitMirrorError, part: Part) -> None:
        super().__init__(error.message, error.option)
        self.part = part


class OpenedStream:
    """The archive in an encrypted part. A place in it costs the chunk that it is in.

    :param tape: the tape file.
    :param head: header and nonce of the age file. :param key: of the file.
    """

    def __init__(self, tape: TapeFile, head: bytes, key: bytes) -> None:
        self._tape = tape
        self._file = OpenedFile(tape, len(head) - NONCE_BYTES, key, head[-NONCE_BYTES:])
        self._head = head
        self._looked = False
        self._offset = 0
        #: The header on the tape is not the one that was used, so that another program cannot read the part.
        self.head_differs = False

    @property
    def records_read(self) -> int:
        """See PartStream."""
        return self._tape.records_read

    def approach(self, offset_bytes: int) -> None:
        """See PartStream."""
        if not self._file.has(offset_bytes):
            self._tape.approach(self._file.place_of(offset_bytes))

    def seek(self, offset_bytes: int) -> None:
        """See PartStream."""
        self._offset = offset_bytes
        self._file.seek(offset_bytes)

    def read(self, size: int, /) -> bytes:
        """See PartStream."""
        if not self._looked and self._offset < CHUNK_BYTES:
            self._looked = True
            self._tape.seek(0)
            self.head_differs = read_exactly(self._tape, len(self._head)) != self._head
        try:
            data = self._file.read(size)
        except AgeError as exc:
            raise changed(self._tape, exc) from exc
        self._offset += len(data)
        return data

    def skip_to_filemark(self) -> int:
        """See PartStream. Proves as well that the age file ends there."""
        while self.read(CHUNK_BYTES):
            pass
        try:
            self._file.prove_end()
        except AgeError as exc:
            raise changed(self._tape, exc) from exc
        return self._tape.skip_to_filemark()

    def archive_bytes(self) -> int:
        """See PartStream."""
        return self._offset


def open_sealed(tape: TapeFile, part: Part, keyring: Keyring) -> OpenedStream:
    """The archive in an encrypted part that the catalog knows.

    :raises CryptError: no key opens it.
    """
    what = f"tape file {part.file_number} of volume {part.volume}"
    return OpenedStream(tape, part.age_head, keyring.key_of_part(part, what))


def open_found(tape: TapeFile, part: Part, keyring: Keyring) -> tuple[PartStream, Part]:
    """The archive in a tape file of which it is not known whether it is encrypted, and the part as it turns out to be.

    :raises NoKey: it is encrypted, and no key opens it. :raises TapeError: a record is bad.
    """
    if not looks_like_age(tape.read(_LOOK_BYTES)):
        tape.seek(0)
        return tape, part
    what = f"tape file {part.file_number} of volume {part.volume}"
    tape.short_end = True
    tape.seek(0)
    try:
        header, nonce, _rest = read_header(tape)
        named = header.named
        if named is not None:
            what += f", part {named.part + 1} of session {named.session},"
        part = part._replace(age_head=header.text + nonce, age_keys="" if named is None else " ".join(named.keys))
        key = keyring.key_of(header, what, part.age_keys)
    except AgeError as exc:
        raise changed(tape, exc) from exc
    except CryptError as exc:
        raise NoKey(exc, part) from exc
    return OpenedStream(tape, part.age_head, key), part


def unlock(drive: TapeDrive, part: Part, keyring: Keyring) -> Part:
    """Give the drive the key of a tape file of which it is not known whether a drive encrypted it.

    :returns: the part, with the key as it turns out. :raises NoKey: it is encrypted, and the key is not there.
    """
    drive.set_key(None)
    drive.locate(Position(part.file_number, 0), part.block)
    told = drive.next_key()
    if told is None:
        return part
    try:
        key = keyring.drive_key(told, f"tape file {part.file_number} of volume {part.volume}")
    except DriveKeyError as exc:
        raise NoKey(exc, part._replace(drive_key=told)) from exc
    drive.set_key(key)
    return part._replace(drive_key=key.fingerprint)


def prove_records(tape: TapeFile, part: Part) -> Optional[str]:
    """Read an encrypted part without a key, and return what is wrong with it; None if nothing can be seen.

    :raises TapeError: a record cannot be read, or the data end without a filemark.
    """
    head = read_exactly(tape, len(part.age_head))
    records = tape.skip_to_filemark()
    if head != part.age_head:
        return "its header is not the one in the catalog"
    expected = age_bytes(len(part.age_head) - NONCE_BYTES, part.archive_bytes)
    if (records, tape.archive_bytes()) != (part.records, expected):
        return (
            f"{records} records with {tape.archive_bytes()} bytes were read, and the catalog has {part.records} with "
            f"{expected}"
        )
    return None


def read_exactly(tape: TapeFile, size: int) -> bytes:
    """So many bytes; fewer at the end of the tape file."""
    data = tape.read(size)
    while len(data) < size:
        more = tape.read(size - len(data))
        if not more:
            break
        data += more
    return data


def changed(tape: TapeFile, error: AgeError) -> TapeError:
    """The error for an age file that is not what was written."""
    return TapeError(
        f"volume: tape file {tape.file_number} is damaged or was changed ({error}); try another drive or another "
        "session.",
        option="volume",
        code="tape_damaged",
    )
