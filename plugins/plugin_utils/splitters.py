# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What splits the mirrors inside the window: a small protocol, and the list of the kinds that implement it.

Today there is one kind: the splitter process that ``mirror_split`` with ``state: armed`` starts on the array. A window
has one splitter for each mirror set of the database host.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from ansible_collections.splitmirror.backup.plugins.module_utils.options import Spec, check_options, union_of
from ansible_collections.splitmirror.backup.plugins.module_utils.session import DEFAULT_STATE_DIR

from .channel import Channel
from .errors import ActionError
from .line_peer import Json, LinePeer, checked_result


class Splitter(ABC):
    """The side of the window that splits the mirror. The window calls, in this order::

        stand_by                    before the freeze
        take_turn, until granted    before the freeze
        split                       frozen: everything waits for this; perhaps in a thread of its own
        close                       in every case

    :ivar host: where it splits.
    :ivar title: what tells it from the other splitters of the window, for messages and evidence: its host, and more
        if the host has several.
    :ivar order: its place among all splitters of all windows. Windows take their turns in this order, so that no two
        wait for each other.
    """

    #: The name in ``kind``, and in the list below.
    kind: ClassVar[str]
    #: The options of one entry of ``splitters`` beside ``kind``.
    argument_spec: ClassVar[Spec]
    host: str
    title: str
    order: tuple[str, ...]

    @classmethod
    @abstractmethod
    def make(cls, options: Mapping[str, Any], session: str, open_channel: Callable[[str], Channel]) -> Splitter:
        """Make it. No request is sent to the other host yet.

        :param options: checked against argument_spec.
        :param open_channel: opens a channel to an inventory host.
        :raises AnsibleError: the host is not in the inventory.
        """

    @abstractmethod
    def preflight(self) -> None:
        """For check mode: try the connection that a split would use, and close it. Changes nothing.

        :raises AnsibleError: the connection cannot be used.
        """

    @abstractmethod
    def stand_by(self) -> None:
        """Connect to the array, and do everything that makes the split short. Called while nobody waits.

        :raises AnsibleError: it is not ready to split.
        """

    @abstractmethod
    def take_turn(self, hold_s: float) -> bool:
        """Take the turn on an array that splits one mirror set after the other; return whether it is ours now.

        Does not wait. The turn ends with the split, or by itself.

        :param hold_s: how long the turn may last, in seconds.
        """

    @abstractmethod
    def split(self, timeout_s: float) -> Json:
        """Split all pairs, or none.

        :param timeout_s: how long to wait for the answer.
        :returns: the result of mirror_split; ``split_s`` is how long the array took, in seconds.
        :raises AnsibleError: it failed, or it is unknown whether the pairs are split.
        """

    @abstractmethod
    def close(self) -> None:
        """End what runs for the window, and close the connection to the array."""


class ArmedSplitter(Splitter):
    """The splitter process on the array, or on any other inventory host that controls the array.

    :param peer: the process.
    :param state_dir: the state folder of its host.
    """

    kind = "armed"
    argument_spec: ClassVar[Spec] = {
        "host": {"type": "str", "required": True},
        "state_dir": {"type": "path", "default": DEFAULT_STATE_DIR},
    }

    def __init__(self, peer: LinePeer, state_dir: str = DEFAULT_STATE_DIR) -> None:
        self.host = self.title = peer.channel.host
        self.order = (self.host, state_dir)
        self._peer = peer

    @classmethod
    def make(cls, options: Mapping[str, Any], session: str, open_channel: Callable[[str], Channel]) -> Splitter:
        """See Splitter."""
        state_dir = options["state_dir"]
        return cls(LinePeer(open_channel(options["host"]), state_dir, session, "splitter"), state_dir)

    def preflight(self) -> None:
        """See Splitter; commands have to run as root."""
        self._peer.channel.must_be_root()

    def stand_by(self) -> None:
        """See Splitter."""
        self._peer.stand_by()
        self._peer.call("ping")

    def take_turn(self, hold_s: float) -> bool:
        """See Splitter."""
        return self._peer.call("turn", hold_s=hold_s)["result"].get("granted") is True

    def split(self, timeout_s: float) -> Json:
        """See Splitter."""
        return checked_result(self._peer, self._peer.call("split", timeout_s), split_s=float)

    def close(self) -> None:
        """See Splitter."""
        self._peer.close()
        self._peer.channel.close()


SPLITTERS: dict[str, type[Splitter]] = {ArmedSplitter.kind: ArmedSplitter}

#: The option ``splitters`` of backup_window.
SPLITTERS_SPEC: dict[str, Any] = {
    "type": "list",
    "elements": "dict",
    "required": True,
    "options": {
        "kind": {"type": "str", "choices": sorted(SPLITTERS), "required": True},
        **union_of({kind: splitter.argument_spec for kind, splitter in SPLITTERS.items()}),
    },
}


def make_splitters(
    entries: Sequence[Mapping[str, Any]], session: str, open_channel: Callable[[str], Channel]
) -> list[Splitter]:
    """Make the splitters of a session, in the order in which they take their turns.

    :param entries: the option ``splitters``.
    :param open_channel: opens a channel to an inventory host.
    :raises ActionError: there is no entry, or two are the same.
    :raises SplitMirrorError: the options of an entry are not those of its kind.
    """
    if not entries:
        raise ActionError(
            "splitters: there is no entry; give one for each mirror set of the database host.",
            "splitters",
            code="option_invalid",
        )
    chosen: list[tuple[type[Splitter], dict[str, Any]]] = []
    for entry in entries:
        given = dict(entry)
        kind = given.pop("kind")
        one = SPLITTERS[kind], check_options("splitters", f"kind {kind}", SPLITTERS[kind].argument_spec, given)
        if one in chosen:
            raise ActionError(
                f"splitters: entry {len(chosen) + 1} is the same as entry {chosen.index(one) + 1}; give each mirror "
                "set of the host a state folder of its own on its array.",
                "splitters",
                code="option_invalid",
            )
        chosen.append(one)
    splitters = sorted((kind.make(options, session, open_channel) for kind, options in chosen), key=lambda it: it.order)
    hosts = [splitter.host for splitter in splitters]
    for splitter in splitters:
        if hosts.count(splitter.host) > 1:
            splitter.title = f"{splitter.host} ({', '.join(splitter.order[1:])})"
    return splitters
