# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Let the links of a restored data directory lead to the restored files, and never to the original.

In a restored copy an absolute link still leads to the original server, which may be alive.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Optional

from ..errors import SplitMirrorError
from ..extents.scope import holds

#: As many links as Linux follows in one path (path_resolution(7)).
_MOST_LINKS = 40


class RelocationError(SplitMirrorError):
    """A restored data directory that cannot be made safe to start."""

    code = "restored_data_unusable"


@dataclass(frozen=True)
class Move:
    """One link or line that leads elsewhere now. All three are paths; ``where`` is the link, or the map's line."""

    where: str
    before: str
    after: str


def refuse_outside(target: str, path: str) -> None:
    """:raises RelocationError: a path does not lie in the folder that was restored to, or leads out of it."""
    found = os.path.realpath(path)
    if not holds(os.path.realpath(target), found):
        raise RelocationError(
            f"target: {found} does not lie in {target}; name the folder that was restored to.", option="target"
        )


def relocate_links(target: str, data_directory: str, may_be_empty: Collection[str], dry_run: bool) -> list[Move]:
    """Point every link of one restored data directory, and of what it leads to, to its place below ``target``.

    A link is followed as the original host followed it, with ``target`` as its root folder.

    :param target: the folder of the restore, which holds data_directory.
    :param may_be_empty: names of links in the data directory that become an empty folder when what they lead to was
        not restored.
    :param dry_run: only return what would move.
    :returns: what was moved; empty when all was in place already.
    :raises RelocationError: a link leads to a place that was not restored, there is a device among the files, or
        data_directory does not lie in the target.
    """
    refuse_outside(target, data_directory)
    root = os.path.realpath(target)
    data_directory = os.path.realpath(data_directory)
    moves: list[Move] = []
    folders = [data_directory]
    looked_at = 0
    seen: set[str] = set()
    while looked_at < len(folders):
        links = _links(folders[looked_at])
        looked_at += 1
        for link in links:
            if link in seen:
                continue
            seen.add(link)
            before = os.readlink(link)
            try:
                place = place_of(root, link)
            except RelocationError:
                if os.path.dirname(link) != data_directory or os.path.basename(link) not in may_be_empty:
                    raise
                moves.append(Move(link, before, link))
                if not dry_run:
                    _make_empty(link)
                continue
            if os.path.isdir(place) and not any(holds(known, place) for known in folders):
                folders.append(place)
            if os.path.realpath(link) != place:
                moves.append(Move(link, before, place))
                if not dry_run:
                    _replace_link(link, place)
    return moves


def _links(folder: str) -> Iterator[str]:
    """Yield the paths of all links below a folder, in order; links are not followed.

    :raises RelocationError: there is a device, which leads out of the target as a link would.
    """
    for path, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(folders + files):
            found = os.path.join(path, name)
            try:
                mode = os.lstat(found).st_mode
            except FileNotFoundError:
                continue
            if stat.S_ISLNK(mode):
                yield found
            elif stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
                raise RelocationError(
                    f"target: {found} is a device, which does not belong in a data directory; remove it.",
                    option="target",
                )


def place_of(root: str, where: str, text: Optional[str] = None) -> str:
    """Where a link leads when ``root`` is taken for the root folder of all links.

    :param where: a link, or the file that holds ``text``. :param text: the path to follow; by default the link itself.
    :returns: a path without links in it, of a folder or a regular file below ``root``.
    :raises RelocationError: there is none.
    """
    words = (os.readlink(where) if text is None else text).split("/")
    at = _start(root, words, os.path.dirname(where))
    followed = 0
    while words:
        word = words.pop(0)
        if word in ("", "."):
            continue
        if word == "..":
            at = os.path.dirname(at) if at != root else root
            continue
        at = os.path.join(at, word)
        if os.path.islink(at):
            followed += 1
            if followed > _MOST_LINKS:
                break
            words = os.readlink(at).split("/") + words
            at = _start(root, words, os.path.dirname(at))
    if words or not (os.path.isdir(at) or os.path.isfile(at)):
        raise RelocationError(
            f"target: {where} leads to {os.readlink(where) if text is None else text}, which is not among the restored "
            "files; restore what it leads to with it.",
            option="target",
        )
    return at


def _start(root: str, words: list[str], folder: str) -> str:
    """Where the walk along a link begins; of an absolute link that was moved already, ``words`` lose the root."""
    if words[0] != "":
        return folder
    parts = root.split("/") if root != "/" else [""]
    if words[: len(parts)] == parts:
        del words[: len(parts)]
    return root


def _replace_link(link: str, after: str) -> None:
    fresh = link + ".new"
    os.symlink(after, fresh)
    os.replace(fresh, link)


def _make_empty(link: str) -> None:
    owner = os.stat(os.path.dirname(link))
    os.unlink(link)
    os.mkdir(link, 0o700)
    os.chown(link, owner.st_uid, owner.st_gid)


def replace_keeping_owner(path: str, content: bytes) -> None:
    """Replace the content of a file whole; owner and mode stay."""
    known = os.stat(path)
    fd, fresh = tempfile.mkstemp(dir=os.path.dirname(path))
    with open(fd, "wb") as file:
        file.write(content)
        os.fchown(fd, known.st_uid, known.st_gid)
        os.fchmod(fd, known.st_mode & 0o7777)
    os.replace(fresh, path)
