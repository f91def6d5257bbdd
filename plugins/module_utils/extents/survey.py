# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find the file systems a session needs and where they lie on its LUNs, or say why they cannot be mapped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Optional

from .fsinfo import FsInfo, read_fs_info
from .leaveout import LeftOut, Unreadable
from .maprows import FileSystem, MapError, shown
from .rules import Rule, ScopeTree
from .scope import Scope
from .stack import (
    SUPPORTED_TYPES,
    BlockStack,
    LunSpec,
    Mount,
    Segment,
    check_fs_type,
    mount_of,
    read_mounts,
    visible_mounts,
)


class SurveyedFs(NamedTuple):
    """One file system that holds something of the scopes."""

    mount: Mount
    info: FsInfo
    segments: list[Segment]


def survey(
    scopes: Iterable[Scope],
    luns: Sequence[LunSpec],
    stack: Optional[BlockStack] = None,
    mounts: Optional[Sequence[Mount]] = None,
    left_out: Optional[LeftOut] = None,
) -> list[SurveyedFs]:
    """The file systems below the scopes, nested ones included, in the order of their mount points.

    Nothing is changed; preflight calls it to refuse early.

    :param stack: made from ``luns`` when not given.
    :param mounts: the mounts of this host when not given.
    :param left_out: takes file systems below a scope that cannot be mapped.
    :raises MapError: for a path that does not exist, a file system or a layer that cannot be mapped, a path that
        lies on no declared LUN.
    """
    tree = ScopeTree(scopes)
    mounts = read_mounts() if mounts is None else mounts
    stack = BlockStack(luns) if stack is None else stack
    devices = {lun.name: lun.device for lun in luns}
    for rule in tree.rules.values():
        _check_root(rule)
    found = []
    for point, needed in sorted(needed_mounts(tree, mounts).items()):
        try:
            found.append(_examine(*needed, stack, devices))
        except MapError as exc:
            if left_out is None or needed.path != point:
                raise
            left_out.add(not_mappable(needed.mount, exc))
    # What lies in a file system that is left out is left out with it.
    return [fs for fs in found if left_out is None or not left_out.covers(fs.mount.mount_point)]


class Needed(NamedTuple):
    """A mount that holds something of a scope. ``path`` is the scope's root in it, or its mount point below one."""

    mount: Mount
    rule: Rule
    path: bytes


def needed_mounts(tree: ScopeTree, mounts: Sequence[Mount]) -> dict[bytes, Needed]:
    """The mounts that hold what belongs to the scopes, by mount point."""
    needed: dict[bytes, Needed] = {}
    for root, rule in tree.rules.items():
        mount = mount_of(os.fsdecode(root), mounts)
        needed.setdefault(mount.mount_point, Needed(mount, rule, root))
    for mount in visible_mounts(mounts):
        inside = tree.rule_of(mount.mount_point)
        if inside is not None and not inside.is_empty(mount.mount_point):
            needed[mount.mount_point] = Needed(mount, inside, mount.mount_point)
    return needed


def check_mounts(tree: ScopeTree, known: Iterable[FileSystem], left_out: LeftOut) -> None:
    """Prove that what is mounted below the scopes is what was mapped; to be called again when all is ready.

    :param known: the file systems of the map. :param left_out: takes what came and could never be mapped.
    :raises MapError: one came, went or is another one, so the map does not say what belongs to the backup.
    """
    mapped = {fs.mount_point: fs for fs in known}
    needed = needed_mounts(tree, read_mounts())
    for point, (mount, rule, _path) in sorted(needed.items()):
        fs = mapped.pop(point, None)
        if fs is not None and (fs.dev, fs.root) == (mount.dev, mount.root):
            continue
        if fs is None and mount.fs_type not in SUPPORTED_TYPES:
            try:
                check_fs_type(mount, f"{rule.label}: {shown(point)}")
            except MapError as exc:
                left_out.add(not_mappable(mount, exc))
                continue
        raise MapError(
            f"paths: {shown(point)} ({mount.fs_type}, {rule.label}) was mounted after the files were mapped, so what "
            "is in it is not in the backup; take it again while that stays mounted, or leave that out with exclude.",
            option="paths",
            code="map_outdated",
        )
    for point in mapped:
        raise MapError(
            f"paths: {shown(point)} is not mounted any more, though its files were mapped; mount it and take the "
            "backup again.",
            option="paths",
            code="map_outdated",
        )


def not_mappable(mount: Mount, exc: MapError) -> Unreadable:
    """The same error, as one of something that may be left out."""
    why = f"holds a file system ({mount.fs_type}) that cannot be mapped"
    return Unreadable(mount.mount_point, why, message=exc.message)


def _check_root(rule: Rule) -> None:
    root = os.fsdecode(rule.root)
    if not os.path.lexists(root):
        raise MapError(
            f"{rule.label}: {root} does not exist; name a folder or file that is there.",
            option="paths",
            code="option_invalid",
        )
    if os.path.realpath(root) != root:
        raise MapError(
            f"{rule.label}: {root} leads through a symbolic link, or is not a plain path; "
            f"name {os.path.realpath(root)}.",
            option="paths",
            code="option_invalid",
        )


def _examine(mount: Mount, rule: Rule, path: bytes, stack: BlockStack, devices: dict[str, str]) -> SurveyedFs:
    name = os.fsdecode(path)
    check_fs_type(mount, f"{rule.label}: {name}")
    if not os.path.isdir(mount.mount_point):
        raise MapError(
            f"{rule.label}: {name} is a file with a mount of its own, which cannot be mapped; leave it out.",
            "paths",
            code="file_unmappable",
        )
    try:
        segments = stack.resolve(mount.dev)
    except MapError as exc:
        raise MapError(
            f"pairs: {name} ({rule.label}): {exc.message[len('pairs: ') :]}", option="pairs", code="file_unmappable"
        ) from exc
    first = segments[0]
    # The superblock must be found where the translation says that the file system begins: this proves the offset.
    info = read_fs_info(devices[first.lun], first.lun_offset)
    if info is None or info.fs_type != mount.fs_type:
        raise MapError(
            f"pairs: {name} ({rule.label}): no {mount.fs_type} begins at {first.lun_offset} of {devices[first.lun]}; "
            f"the device of pair {first.lun} is not the one that is mounted.",
            option="pairs",
            code="option_invalid",
        )
    if info.refusal:
        raise MapError(
            f"{rule.label}: {name} lies on an {info.fs_type} that {info.refusal}, which cannot be mapped; move it to "
            "one without, or leave it out.",
            option="paths",
            code="file_unmappable",
        )
    return SurveyedFs(mount, info, segments)
