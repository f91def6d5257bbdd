# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find the file systems a session needs and where they lie on its LUNs, or say why they cannot be mapped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Optional

from .fsinfo import FsInfo, read_fs_info
from .maprows import MapError
from .scope import Scope
from .stack import BlockStack, LunSpec, Mount, Segment, check_fs_type, mount_of, read_mounts
from .walk import Rule, ScopeTree


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
) -> list[SurveyedFs]:
    """The file systems below the scopes, nested ones included, in the order of their mount points.

    Nothing is changed; preflight calls it to refuse early.

    :param stack: made from ``luns`` when not given.
    :param mounts: the mounts of this host when not given.
    :raises MapError: for a path that does not exist, a file system or a layer that cannot be mapped, a path that
        lies on no declared LUN.
    """
    scopes = list(scopes)
    tree = ScopeTree(scopes)
    mounts = read_mounts() if mounts is None else mounts
    stack = BlockStack(luns) if stack is None else stack
    devices = {lun.name: lun.device for lun in luns}
    needed: dict[bytes, tuple[Mount, Rule, bytes]] = {}
    for root, rule in tree.rules.items():
        _check_root(rule)
        mount = mount_of(os.fsdecode(root), mounts)
        needed.setdefault(mount.mount_point, (mount, rule, root))
    for mount in mounts:
        inside = tree.rule_of(mount.mount_point)
        if inside is None or inside.is_empty(mount.mount_point) or not _is_visible(mount):
            continue
        needed[mount.mount_point] = (mount, inside, mount.mount_point)
    return [_examine(*needed[point], stack, devices) for point in sorted(needed)]


def _check_root(rule: Rule) -> None:
    root = os.fsdecode(rule.root)
    if not os.path.lexists(root):
        raise MapError(f"{rule.label}: {root} does not exist; name a folder or file that is there.", option="paths")
    if os.path.realpath(root) != root:
        raise MapError(
            f"{rule.label}: {root} leads through a symbolic link or is not written plainly; "
            f"name {os.path.realpath(root)}.",
            option="paths",
        )


def _is_visible(mount: Mount) -> bool:
    """Whether a mount is what is seen at its folder, not hidden by a later one."""
    try:
        return os.lstat(mount.mount_point).st_dev == mount.dev
    except OSError:
        return False


def _examine(mount: Mount, rule: Rule, path: bytes, stack: BlockStack, devices: dict[str, str]) -> SurveyedFs:
    name = os.fsdecode(path)
    check_fs_type(mount, f"{rule.label}: {name}")
    if not os.path.isdir(mount.mount_point):
        raise MapError(
            f"{rule.label}: {name} is a file with a mount of its own, which cannot be mapped; leave it out.", "paths"
        )
    try:
        segments = stack.resolve(mount.dev)
    except MapError as exc:
        raise MapError(f"pairs: {name} ({rule.label}): {exc.message[len('pairs: ') :]}", option="pairs") from exc
    first = segments[0]
    # The superblock must be found where the translation says that the file system begins: this proves the offset.
    info = read_fs_info(devices[first.lun], first.lun_offset)
    if info is None or info.fs_type != mount.fs_type:
        raise MapError(
            f"pairs: {name} ({rule.label}): no {mount.fs_type} begins at {first.lun_offset} of {devices[first.lun]}; "
            f"the device of pair {first.lun} is not the one that is mounted.",
            option="pairs",
        )
    if info.refusal:
        raise MapError(
            f"{rule.label}: {name} lies on an {info.fs_type} that {info.refusal}, which cannot be mapped; move it to "
            "one without, or leave it out.",
            option="paths",
        )
    return SurveyedFs(mount, info, segments)
