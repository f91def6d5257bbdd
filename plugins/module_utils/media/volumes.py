# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Decides whether a volume may be written, and where.

A tape is overwritten only if it is blank, or if its label is the one in the catalog and all its sessions have expired.
The last good session of a host is kept even then, unless ``allow_last`` is set.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional

from ..catalog.records import Volume
from ..catalog.store import Catalog
from ..tape.base import (
    EndOfData,
    Position,
    TapeDrive,
    TapeError,
)
from ..tape.label import (
    LABEL_RECORD_BYTES,
    Label,
    LabelReading,
    check_record_bytes,
    new_label,
    read_label,
    write_label,
)

APPEND = "append"
OVERWRITE = "overwrite"


@dataclass(frozen=True)
class WritePosition:
    """Where the next archive is written.

    :param label: the label of the volume in the drive.
    :param file_number: number of the tape file that the archive becomes.
    :param block: the block at which it begins, as the drive counts.
    :param remaining_bytes: the room from there on; None if the drive does not report it.
    :param anew: what is on the volume has expired, and it is to be labelled anew first (begin_anew).
    :param allow_last: even if the last good session of a host is on it.
    :param part_bytes: how long a part may become on the tape, whatever room there is; None for no limit.
    """

    label: Label
    file_number: int
    block: int
    remaining_bytes: Optional[int]
    anew: bool = False
    allow_last: bool = False
    part_bytes: Optional[int] = None

    def with_room(self, remaining_bytes: Optional[int], part_bytes: Optional[int]) -> WritePosition:
        """The same place with what a part may take of this room."""
        if part_bytes is not None:
            remaining_bytes = part_bytes if remaining_bytes is None else min(part_bytes, remaining_bytes)
        return replace(self, remaining_bytes=remaining_bytes, part_bytes=part_bytes)

    @property
    def is_limited(self) -> bool:
        """A part has as much room as it gets anywhere, and there is more on the volume, as far as anybody knows."""
        return self.part_bytes is not None and self.remaining_bytes == self.part_bytes

    @property
    def position(self) -> Position:
        """The position, as the drive takes it."""
        return Position(self.file_number, 0)


@dataclass(frozen=True)
class Labelling:
    """What labelling did, or would do. :param before: the label that was there; None if there was none."""

    changed: bool
    before: Optional[Label]
    after: Label
    in_catalog: bool


def load_labelled(drive: TapeDrive, volume: str) -> Label:
    """Load a volume and read its label.

    :raises TapeError: it is unlabelled, foreign, or not the one asked for.
    """
    drive.load(volume)
    return _checked(read_label(drive), volume)


def enter_label(catalog: Catalog, label: Label, *, allow_last: bool = False) -> None:
    """Enter a volume that has only its label. The catalog forgets what it had of a volume of this name.

    :raises CatalogError: a session on the volume that the catalog had is still needed.
    """
    volume = Volume(label.volume, label.uuid, label.pool, label.record_bytes, label.created, 1, 2)
    catalog.replace_volume(volume, allow_last=allow_last)


def load_known(drive: TapeDrive, catalog: Catalog, volume: str) -> Label:
    """Load a volume for reading, and prove by its label that it is the volume that the catalog has.

    :raises TapeError: it is another volume.
    """
    label = load_labelled(drive, volume)
    _known(catalog, label)
    return label


def place_for(drive: TapeDrive, catalog: Catalog, volume: str, mode: str, *, allow_last: bool = False) -> WritePosition:
    """Load a volume, prove that it may be written in this mode, and move the head there; nothing is written.

    :param mode: ``append`` after the sessions on it, or ``overwrite`` all of them, which must have expired.
    :param allow_last: overwrite even the last good session of a host.
    :raises SplitMirrorError: the volume must not be written.
    """
    label = load_known(drive, catalog, volume)
    known = _known(catalog, label)
    _refuse_out_of_use(known)
    check_record_bytes(drive, label.record_bytes)
    if drive.status().write_protected:
        raise TapeError(
            f"volume: {volume} is write-protected; remove the protection, or name another volume.",
            option="volume",
            code="volume_protected",
        )
    if mode == OVERWRITE:
        catalog.refuse_needed(volume, allow_last=allow_last)
        _refuse_worm(drive, volume)
    place = _known_end(drive, catalog, label, known)
    if mode == OVERWRITE:
        place = WritePosition(label, 1, 2, None, anew=True, allow_last=allow_last)
        _move_to(drive, place)
    return replace(place, remaining_bytes=drive.status().remaining_bytes)


def position_by_catalog(catalog: Catalog, volume: str, mode: str, *, allow_last: bool = False) -> WritePosition:
    """Where the next archive would be written, by the catalog alone, for a volume that is in no free drive.

    :raises SplitMirrorError: the catalog does not have the volume, or a session on it is needed.
    """
    known = catalog.volume(volume)
    if known is None:
        raise TapeError(
            f"volume: {volume} is not in the catalog; label it with tape_label, or enter it with catalog_rebuild.",
            option="volume",
            code="volume_wrong",
        )
    _refuse_out_of_use(known)
    label = Label(known.name, known.pool, known.record_bytes, known.uuid, known.created)
    if mode == OVERWRITE:
        catalog.refuse_needed(volume, allow_last=allow_last)
        return WritePosition(label, 1, 2, None, anew=True, allow_last=allow_last)
    return WritePosition(label, known.files, known.blocks, None)


def check_room(place: WritePosition, needed_bytes: int) -> None:
    """:raises TapeError: the volume is too small for so much."""
    if place.remaining_bytes is not None and needed_bytes > place.remaining_bytes:
        raise TapeError(
            f"volume: {place.label.volume} is too small: the session needs about {needed_bytes} bytes, and "
            f"{place.remaining_bytes} are left; name a volume with more room, or a pool (splitmirror_pool), over whose "
            "volumes the session goes on.",
            option="volume",
            code="volume_full",
        )


def begin_anew(drive: TapeDrive, catalog: Catalog, place: WritePosition) -> WritePosition:
    """Write a new label to an expired volume, which removes everything on it, and return the position after the label.

    :raises SplitMirrorError: a session on it is needed.
    """
    catalog.refuse_needed(place.label.volume, allow_last=place.allow_last)
    label = new_label(place.label.volume, place.label.pool, place.label.record_bytes)
    _write(drive, catalog, label, place.allow_last)
    return WritePosition(label, 1, 2, None).with_room(drive.status().remaining_bytes, place.part_bytes)


def note_capacity(drive: TapeDrive, catalog: Catalog, volume: str, used_bytes: int) -> None:
    """Enter how much goes on the volume in the drive, if the drive reports it.

    :param used_bytes: how much is on it; the head stands behind that.
    """
    status = drive.status()
    capacity = None if status.remaining_bytes is None else used_bytes + status.remaining_bytes
    if drive.makes_volumes and status.capacity_bytes is not None:
        # Its disk may have less room at this moment, which others take and give back.
        capacity = status.capacity_bytes
    if capacity is not None:
        catalog.set_capacity(volume, capacity)


def cut_back(drive: TapeDrive, place: WritePosition) -> None:
    """Make the volume end at a position again, after the writing there has failed.

    The filemark before the position is written once more. A tape ends after the last thing that was written.
    """
    _move_to(drive, place)
    drive.space_files(-1)
    block = drive.tell_block()
    if block is not None and block != place.block - 1:
        raise TapeError(
            f"drive: the drive reports block {block} instead of {place.block - 1}, so nothing was cut off "
            f"{place.label.volume}; enter the volume with catalog_rebuild.",
            option="drive",
        )
    drive.write_filemarks(1)


def label_volume(
    drive: TapeDrive,
    catalog: Catalog,
    volume: str,
    pool: str,
    record_bytes: int,
    *,
    allow_last: bool = False,
    dry_run: bool = False,
) -> Labelling:
    """Label the volume in the drive, unless it has the requested label already.

    :param allow_last: overwrite even the last good session of a host.
    :param dry_run: return what would be done, and write nothing.
    :raises SplitMirrorError: something on the volume must not be overwritten.
    """
    check_record_bytes(drive, record_bytes)
    reading = read_label(drive)
    asked = new_label(volume, pool, record_bytes)
    if reading.blank:
        catalog.refuse_needed(volume, allow_last=allow_last)
        if not dry_run:
            _write(drive, catalog, asked, allow_last)
        return Labelling(True, None, asked, True)
    label = _checked(reading, volume)
    known = catalog.volume(volume)
    same = known is not None and known.uuid == label.uuid
    if (label.pool, label.record_bytes) == (pool, record_bytes):
        if same or not _nothing_behind(drive):
            return Labelling(False, label, label, same)
        if not dry_run:
            enter_label(catalog, label, allow_last=allow_last)
        return Labelling(True, label, label, True)
    if known is None or not same:
        raise _unknown(label, known)
    catalog.refuse_needed(volume, allow_last=allow_last)
    _refuse_worm(drive, volume)
    _known_end(drive, catalog, label, known)
    if not dry_run:
        _write(drive, catalog, asked, allow_last)
    return Labelling(True, label, asked, True)


def _checked(reading: LabelReading, volume: str) -> Label:
    """The label of the requested volume. :raises TapeError: it is blank, foreign or another volume."""
    if reading.blank:
        raise TapeError(
            f"volume: {volume} is unlabelled; label it with tape_label first.", option="volume", code="volume_wrong"
        )
    if reading.label is None:
        raise TapeError(
            f"volume: {volume} is foreign: it begins with {reading.foreign}, and is never overwritten; name another "
            "volume, or erase this one with mt if nobody needs it.",
            option="volume",
            code="volume_wrong",
        )
    if reading.label.volume != volume:
        raise TapeError(
            f"volume: the drive holds {reading.label.volume}, not {volume}; insert {volume}, or name "
            f"{reading.label.volume}.",
            option="volume",
            code="volume_wrong",
        )
    return reading.label


def _refuse_worm(drive: TapeDrive, volume: str) -> None:
    """:raises TapeError: what is on the volume in the drive cannot be written over, as the drive reports."""
    if drive.status().worm:
        raise TapeError(
            f"volume: {volume} can be written once only (WORM), so it cannot be used again; append to it, or name "
            "another volume.",
            option="volume",
            code="volume_protected",
        )


def _known(catalog: Catalog, label: Label) -> Volume:
    known = catalog.volume(label.volume)
    if known is None or known.uuid != label.uuid:
        raise _unknown(label, known)
    return known


def _refuse_out_of_use(known: Volume) -> None:
    """:raises TapeError: nothing is written to the volume any more."""
    if known.out_of_use:
        raise TapeError(
            f"volume: {known.name} is out of use ({known.out_of_use.rstrip('.')}); name another volume. If the volume "
            "was not at fault, take it into use again with catalog_volume.",
            option="volume",
            code="volume_wrong",
        )


def _unknown(label: Label, known: Optional[Volume]) -> TapeError:
    what = "is not in the catalog" if known is None else "has another label than the one in the catalog"
    return TapeError(
        f"volume: {label.volume} {what}, so it is not known which of its sessions are still needed; "
        "enter it with catalog_rebuild, or name another volume.",
        option="volume",
        code="volume_not_as_cataloged",
    )


def _move_to(drive: TapeDrive, place: WritePosition) -> None:
    volume = place.label.volume
    try:
        drive.locate(place.position, place.block)
    except EndOfData as exc:
        raise TapeError(
            f"volume: {volume} ends before tape file {place.file_number}, where its end is in the catalog; enter it "
            "again with catalog_rebuild, or name another volume.",
            option="volume",
            code="volume_not_as_cataloged",
        ) from exc
    block = drive.tell_block()
    if block is not None and block != place.block:
        raise TapeError(
            f"volume: the drive stands at block {block} of {volume} and the catalog expects {place.block}; enter it "
            "again with catalog_rebuild, or name another volume.",
            option="volume",
            code="volume_not_as_cataloged",
        )


def _known_end(drive: TapeDrive, catalog: Catalog, label: Label, known: Volume) -> WritePosition:
    """Move to the end of a volume as the catalog has it, and prove that the volume ends there.

    A session that the catalog does not have cannot have expired, so it must not be overwritten. There may be such
    sessions after an older copy of the catalog was put back, or after a rebuild that was interrupted.

    :raises TapeError: the volume ends elsewhere.
    """
    place = WritePosition(label, known.files, known.blocks, None)
    _move_to(drive, place)
    if catalog.unfinished(known.name, known.files):
        _prove_last(drive, place)
    else:
        _prove_end(drive, place)
    return place


def _prove_end(drive: TapeDrive, place: WritePosition) -> None:
    """Prove that a filemark is right before the position, and nothing after it; the head returns to the position."""
    drive.space_files(-1)
    volume = place.label.volume
    before_mark = False
    try:
        before_mark = not drive.pass_record()
        drive.pass_record()
    except EndOfData:
        if before_mark:
            _move_to(drive, place)
            return
    except TapeError:
        # There is a record, even if it cannot be read.
        pass
    raise TapeError(
        f"volume: {volume} does not end after tape file {place.file_number - 1}, where its end is in the "
        "catalog; enter it again with catalog_rebuild, or name another volume.",
        option="volume",
        code="volume_not_as_cataloged",
    )


def _prove_last(drive: TapeDrive, place: WritePosition) -> None:
    """Prove that no tape file follows the unfinished one at the position; the head returns to the position."""
    try:
        # The driver may have written a filemark when the writer died.
        drive.space_files(1)
        drive.pass_record()
    except EndOfData:
        _move_to(drive, place)
        return
    except TapeError:
        # There is a record, even if it cannot be read.
        pass
    raise TapeError(
        f"volume: {place.label.volume} goes on after tape file {place.file_number}, where its end is in the catalog; "
        "enter it again with catalog_rebuild, or name another volume.",
        option="volume",
        code="volume_not_as_cataloged",
    )


def _nothing_behind(drive: TapeDrive) -> bool:
    """Whether the volume has nothing but its label."""
    drive.rewind()
    drive.space_files(1)
    try:
        drive.pass_record()
    except EndOfData:
        return True
    return False


def _write(drive: TapeDrive, catalog: Catalog, label: Label, allow_last: bool) -> None:
    catalog.forget_all_on(label.volume, allow_last=allow_last)
    write_label(drive, label)
    enter_label(catalog, label, allow_last=allow_last)
    note_capacity(drive, catalog, label.volume, LABEL_RECORD_BYTES)
