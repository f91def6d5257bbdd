# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Provider ``external``: an array that has no code here; a program, commands or requests of the user do the work.

``primary`` and ``mirror`` are names on that array. This host keeps the records of sessions, and speaks to the array by
a link (external_link). What a session makes on the array carries its short id. ``undo`` takes that away whatever has
become of a split, so each failure ends with it, and so does each clean-up.
"""

from __future__ import annotations

import os
import re
import stat
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Iterator, Optional

from ..errors import SplitMirrorError
from ..host import blockdev
from ..host.daemon import DaemonRecord
from ..options import Spec, check_options
from ..session import StateDir, short_session
from .base import Capabilities, MirrorError, Pair, PairSplit, PreparedSplit, Presentation, Recovered
from .external_command import CommandLink
from .external_http import HttpLink
from .external_link import Answers, Job, Link, check_secrets, number, read_secrets, wrong_shape
from .external_program import ProgramLink
from .journal import SplitRecord
from .journaled import refuse_busy
from .snapshots import SnapshotProvider, SnapshotSplit, SnapshotView, refuse_lost, timed

KINDS: dict[str, type[Link]] = {kind.kind: kind for kind in (CommandLink, HttpLink, ProgramLink)}
_POLL_S = 0.5
_DEVICE_POLL_S = 0.1
#: How long a login is used for one step after the other; arrays end logins.
_KEPT_S = 30.0
_SHORT = re.compile("sm[a-z2-7]{16}")
#: How the media server can know a LUN, and what is checked besides.
_LUN_KEYS = ("serial", "wwn", "lun", "size_bytes")


class ExternalProvider(SnapshotProvider):
    """Mirrors that something of the user's makes, on any array."""

    name = "external"
    method = "external"
    argument_spec: ClassVar[Spec] = {
        "kind": {"type": "str", "choices": sorted(KINDS), "required": True},
        "atomic_set": {"type": "bool", "default": False},
        "timeout_s": {"type": "float", "default": 10.0},
        "ready_timeout_s": {"type": "float", "default": 60.0},
        "secrets_file": {"type": "path"},
        **{name: rules for kind in KINDS.values() for name, rules in kind.argument_spec.items()},
    }

    def __init__(self, pairs: Sequence[Pair], state_dir: StateDir, options: Optional[Mapping[str, Any]] = None) -> None:
        super().__init__(pairs, state_dir, options)
        for fault in _faults(self.options):
            raise MirrorError(f"provider_options: {fault}", option="provider_options", code="option_invalid")
        self._kind = KINDS[self.options["kind"]]
        self.capabilities = Capabilities(atomic_set=self.options["atomic_set"])
        self._kept = _Kept()
        # At the end of the module at the latest.
        weakref.finalize(self, self._kept.close)

    @classmethod
    def faults(cls, options: Mapping[str, Any]) -> list[str]:
        """See MirrorProvider."""
        try:
            checked = check_options("", "", cls.argument_spec, options)
        except SplitMirrorError:
            return []  # of which others tell
        return [f"provider_options: {fault}" for fault in _faults(checked)]

    def remarks(self) -> list[str]:
        """See MirrorProvider."""
        if len(self.pairs) == 1 or self.options["atomic_set"]:
            return []
        return [
            "provider_options: atomic_set is not set, so the array may split these pairs one after the other. The "
            "mirrors show one instant only because writes stand still, and they stand still until the last pair is "
            "split; set atomic_set: true if the array splits all of them at one instant."
        ]

    def unknown(self) -> Optional[str]:
        """See MirrorProvider."""
        if self._kind.does(self.options, "look"):
            return None
        return (
            f"the state of the array is unknown, because kind {self.options['kind']} is given no look; give it one, so "
            "that a mirror that is not in sync, is gone, or was left behind by another session is found."
        )

    # ---- what a snapshot provider implements ----

    def look_at(self, pairs: Sequence[Pair]) -> list[SnapshotView]:
        """See SnapshotProvider. Without ``look`` of the array it is only known what the records say."""
        answers: Answers = {}
        job = Job(None, tuple(pairs))
        if self._kind.does(self.options, "look"):
            with self._link(None, pairs) as link:
                job, answers = link.job, link.ask("look")
        return [self._view(job, pair, answers.get(pair.name, {})) for pair in pairs]

    def prepared(self, record: SplitRecord) -> PreparedSplit:
        """See SnapshotProvider."""
        try:
            link = self._open_link(record.session, record.pairs)
        except MirrorError:
            self._journal.remove(record.session)
            raise
        split = ExternalSplit(self, link, record)
        try:
            link.arm()
        except MirrorError:
            split.cancel()
            raise
        return split

    def delete(self, pair: Pair, session: str) -> None:
        """See SnapshotProvider."""
        with self._link(session, [pair]) as link:
            link.ask("undo")

    def show(self, pair: Pair) -> str:
        """See SnapshotProvider; all pairs are presented together."""
        raise NotImplementedError

    def hide(self, pair: Pair, device: str) -> None:
        """See SnapshotProvider; all pairs are withdrawn together."""
        raise NotImplementedError

    # ---- the seam ----

    def sync(self, wait: bool, timeout_s: float) -> float:
        """See MirrorProvider; for an array that reports how far its mirrors are in sync."""
        began_s = time.monotonic()
        while True:
            views = self.look_at(self.pairs)
            broken = next((view for view in views if view.broken), None)
            if broken is None:
                return time.monotonic() - began_s
            syncing = all(view.broken is None or view.sync_percent is not None for view in views)
            if not wait or not syncing or time.monotonic() - began_s > timeout_s:
                code = "not_in_sync" if syncing else MirrorError.code
                raise MirrorError(str(broken.broken), option="pairs", code=code)
            if self.status is not None:
                self.status.set(sum(100.0 if v.sync_percent is None else v.sync_percent for v in views) / len(views))
            time.sleep(_POLL_S)

    def present(self, session: str) -> Presentation:
        """See MirrorProvider."""
        record = self._settled_record(session)
        if not self._kind.does(self.options, "present"):
            raise MirrorError(
                f"provider_options: kind {self.options['kind']} is not told how to present a mirror; give it present, "
                "or let present.yml in a folder of splitmirror_array_tasks say where the mirror is.",
                option="provider_options",
                code="option_invalid",
            )
        refuse_lost(self.look_at(record.pairs))
        changed = not record.shown
        if not record.shown:
            # From here on it has to be withdrawn, also if this process dies.
            self._journal.write(replace(record, shown={}))
            with self._link(session, record.pairs) as link:
                answers = link.ask("present")
                shown = {pair.name: self._told(link, pair, answers.get(pair.name, {})) for pair in record.pairs}
            _refuse_shown_twice(shown)
            local = [(name, one) for name, one in shown.items() if "device" in one]
            for name, one in local:
                one["flagged"] = self._is_writable(f"present: pair {name}", one["device"], one.get("size_bytes"))
            record = replace(record, shown=shown)
            self._journal.write(record)
            # Only now, or a flag that nobody knows of would stay.
            for _name, one in local:
                if one["flagged"]:
                    blockdev.set_read_only(one["device"], True)
                blockdev.drop_cache(one["device"])
        told = record.shown or {}
        devices = {name: str(one["device"]) for name, one in told.items() if one.get("device")}
        luns = {name: {key: one[key] for key in _LUN_KEYS if key in one} for name, one in told.items()}
        return Presentation(
            devices, changed, {name: lun for name, lun in luns.items() if "serial" in lun or "wwn" in lun}
        )

    def withdraw(self, session: str) -> list[str]:
        """See SnapshotProvider; the mirror may be shown to another host alone."""
        record = self._own_record(session)
        read = self.look_at(record.pairs) if record is not None and record.shown else []
        withdrawn = super().withdraw(session)
        refuse_lost(read)
        return withdrawn

    def recover(self, dead: Sequence[str] = ()) -> list[Recovered]:
        """See MirrorProvider. A session that is named is undone also if its record is lost."""
        done = super().recover(dead)
        # Where a session holds the pairs, an undo that is one for the set could be that of its mirrors.
        free = all(self._journal.record_of(pair) is None for pair in self.pairs)
        for session in dead if free else ():
            if session not in {one.session for one in done}:
                self.undo(self._lost(session))
        return done

    # ---- shared with the split ----

    def undo(self, record: SplitRecord) -> None:
        """See SnapshotProvider."""
        with self._link(record.session, record.pairs) as link:
            if record.shown is not None and self._kind.does(self.options, "withdraw"):
                link.ask("withdraw")
            link.ask("undo")
        self._journal.remove(record.session)

    # ---- inside ----

    def _open_link(self, session: Optional[str], pairs: Sequence[Pair]) -> Link:
        """A link that is open, which may have worked before. :raises MirrorError: it cannot be opened."""
        secrets = check_secrets(self.secrets, "provider_secrets", "provider_secrets")
        if self.options["secrets_file"]:
            secrets = {**read_secrets(self.options["secrets_file"]), **secrets}
        job = Job(session, tuple(pairs), secrets)
        kept = self._kept.take()
        if kept is not None:
            kept.take_job(job)
            return kept
        link = self._kind(self.options, job)
        try:
            link.open()
        except MirrorError:
            link.close()
            raise
        self._kept.opened_s = time.monotonic()
        return link

    @contextmanager
    def _link(self, session: Optional[str], pairs: Sequence[Pair]) -> Iterator[Link]:
        link = self._open_link(session, pairs)
        done = False
        try:
            yield link
            done = True
        finally:
            if done and link.takes_jobs:
                self._kept.put(link)
            else:
                link.close()

    def _view(self, job: Job, pair: Pair, answer: Mapping[str, Any]) -> SnapshotView:
        """What an answer to look says. :raises MirrorError: it has another shape."""
        where = f"look: pair {pair.name}"
        size_bytes = number(job, where, "size_bytes", answer.get("size_bytes"))
        percent = number(job, where, "sync_percent", answer.get("sync_percent"))
        if percent is not None and percent > 100:
            raise wrong_shape(job, where, "a number from 0 to 100 in 'sync_percent'", answer)
        for key in ("problem", "mark"):
            if not isinstance(answer.get(key, ""), (str, type(None))):
                raise wrong_shape(job, where, f"a text or null in {key!r}", answer)
        broken = answer.get("problem") or None
        if broken:
            broken = f"pair {pair.name}: {job.quote(broken)}"
        elif percent is not None and percent < 100:
            broken = f"pair {pair.name}: its mirror {pair.mirror} is {percent:g} % in sync."
        record = self._journal.record_of(pair)
        shown = ((record.shown if record else None) or {}).get(pair.name, {}).get("device")
        lost = None
        if record is not None and record.result is not None and "mark" in answer and answer["mark"] != record.short:
            reported = job.quote(answer["mark"] or "nothing")
            lost = (
                f"pair {pair.name}: the array does not have the mirror of session {record.session} any more (it "
                f"reports {reported} in place of {record.short}); what was read of it is worthless."
            )
        return SnapshotView(
            lost=lost,
            size_bytes=None if size_bytes is None else int(size_bytes),
            broken=broken,
            mark=self._session_of(answer.get("mark")),
            devices=(shown,) if shown and os.path.exists(shown) else (),
            sync_percent=percent,
        )

    def _session_of(self, mark: Optional[str]) -> Optional[str]:
        """The session with this short id; the short id itself if nobody knows it; '' if it is not one of ours."""
        if mark is None:
            return None
        known = (*self.state_dir.mirror_sessions(), *self.state_dir.sessions())
        unknown = mark if _SHORT.fullmatch(mark) else ""
        return next((session for session in known if short_session(session) == mark), unknown)

    def _told(self, link: Link, pair: Pair, answer: Mapping[str, Any]) -> dict[str, Any]:
        """What an answer to present says. :raises MirrorError: it has another shape."""
        where = f"present: pair {pair.name}"
        found: dict[str, Any] = {}
        for key in ("device", "serial", "wwn"):
            if answer.get(key):
                if not isinstance(answer[key], str) or link.job.quote(answer[key]) != answer[key]:
                    raise wrong_shape(link.job, where, f"a text of one line in {key!r}", answer)
                found[key] = answer[key]
        for key in ("lun", "size_bytes"):
            value = number(link.job, where, key, answer.get(key))
            if value is not None:
                found[key] = int(value)
        if not set(found) & {"device", "serial", "wwn"}:
            raise wrong_shape(link.job, where, "'device', 'serial' or 'wwn'", answer)
        return found

    def _is_writable(self, where: str, device: str, size_bytes: Optional[int]) -> bool:
        """Return whether it is not read-only. :raises MirrorError: it is not there in time, or another device."""
        deadline = time.monotonic() + float(self.options["ready_timeout_s"])
        while not os.path.isabs(device) or not os.path.exists(device):
            if not os.path.isabs(device) or time.monotonic() > deadline:
                raise MirrorError(f"{where}: there is no device {device} on this host.", option="provider_options")
            time.sleep(_DEVICE_POLL_S)
        status = os.stat(device)
        if not stat.S_ISBLK(status.st_mode):
            raise MirrorError(f"{where}: {device} is not a block device.", option="provider_options")
        with open(device, "rb") as stream:
            found_bytes = stream.seek(0, os.SEEK_END)
        wrong = None
        if size_bytes is not None and found_bytes != size_bytes:
            wrong = f"has {found_bytes} bytes, and its mirror {size_bytes}"
        busy = blockdev.busy_users(device)
        if busy:
            # Made read-only, it would fail the writes of whoever has it.
            wrong = f"is in use by {'; '.join(busy)}, as no mirror is that has just been presented"
        if wrong:
            raise MirrorError(
                f"{where}: {device} {wrong}; it is another device.", option="provider_options", code="mirror_wrong"
            )
        return not blockdev.is_read_only(f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}")

    def _withdraw(self, pairs: Sequence[Pair]) -> list[str]:
        record = self._journal.record_of(pairs[0])
        shown = [(pair, device) for pair in pairs for device in self._devices(record, pair)]
        for pair, device in shown:
            refuse_busy(pair, [device])
            blockdev.drop_cache(device)
        if record is not None and record.shown is not None:
            for one in record.shown.values():
                # The next device of this number would inherit the flag.
                if one.get("flagged") and os.path.exists(one["device"]):
                    blockdev.set_read_only(one["device"], False)
            if self._kind.does(self.options, "withdraw"):
                with self._link(record.session, record.pairs) as link:
                    link.ask("withdraw")
            self._journal.write(replace(record, shown=None))
        return [device for _pair, device in shown]

    def _devices(self, record: Optional[SplitRecord], pair: Pair) -> list[str]:
        device = ((record.shown if record else None) or {}).get(pair.name, {}).get("device")
        return [device] if device and os.path.exists(device) else []

    def _leftovers(self) -> list[SplitRecord]:
        """See JournaledProvider; what has no record may be presented."""
        found = super()._leftovers()
        return [replace(one, shown={}) if one.process.pid == 0 else one for one in found]

    def _lost(self, session: str) -> SplitRecord:
        return SplitRecord(session, self.name, self.pairs, DaemonRecord(0, 0, ""), shown={})


#: Links of the process that forked this one. Python must not close them either: what a daemon opens gets their numbers.
_OF_OUR_PARENT: list[Link] = []


class _Kept:
    """A link that waits for the next step of the same process. :ivar opened_s: when it was opened, time.monotonic."""

    def __init__(self) -> None:
        self._link: Optional[Link] = None
        self._process = 0
        self.opened_s = 0.0

    def put(self, link: Link) -> None:
        """Keep a link that is open."""
        self._link, self._process = link, os.getpid()

    def take(self) -> Optional[Link]:
        """The link that was kept, if it can still be used."""
        if self._process != os.getpid() or time.monotonic() - self.opened_s > _KEPT_S:
            self.close()
        link, self._link = self._link, None
        return link

    def close(self) -> None:
        """Close what is kept, unless that is the business of the process that forked this one."""
        link, self._link = self._link, None
        if link is None:
            return
        if self._process == os.getpid():
            link.close()
        else:
            _OF_OUR_PARENT.append(link)


class ExternalSplit(SnapshotSplit):
    """The link is open; one message over it splits the set."""

    def __init__(self, provider: ExternalProvider, link: Link, record: SplitRecord) -> None:
        super().__init__(provider, provider.journal, record)
        self.method = link.kind
        self.stay_s = link.stay_s
        self._link = link

    def flush(self) -> None:
        """See PreparedSplit; also see that the array can still be asked."""
        self._link.stay()

    def take_all(self, pairs: Sequence[Pair]) -> list[PairSplit]:
        """See SnapshotSplit."""
        answers: dict[str, Any] = {}
        done = timed(pairs, lambda: answers.update(self._link.ask("split")))
        missing = [pair.name for pair in pairs if pair.name not in answers]
        if missing:
            some = ", ".join(pair.name for pair in pairs if pair.name in answers) or "nothing"
            raise MirrorError(f"split: the array has split only {some}, and not {', '.join(missing)}.")
        return done

    def settle(self) -> None:
        """See PreparedSplit."""
        super().settle()
        self._link.close()

    def cancel(self) -> None:
        """See PreparedSplit. A link that a failed split has broken is made anew."""
        try:
            self._link.ask("undo")
        except MirrorError:
            self._link.close()
            super().cancel()
        else:
            self._link.close()
            self._journal.remove(self._record.session)


def _refuse_shown_twice(shown: Mapping[str, Mapping[str, Any]]) -> None:
    """:raises MirrorError: two pairs are shown as one LUN, so that one of them would be read as the other."""
    seen: dict[str, str] = {}
    for name, one in shown.items():
        for key in ("device", "serial", "wwn"):
            if key in one:
                what = os.path.realpath(one[key]) if key == "device" else one[key]
                if seen.setdefault(what, name) != name:
                    raise MirrorError(
                        f"present: pairs {seen[what]} and {name} are both shown as {one[key]}; each needs a LUN of its "
                        "own.",
                        option="provider_options",
                        code="mirror_wrong",
                    )


def _faults(options: Mapping[str, Any]) -> list[str]:
    """What is wrong with options that are of the right types, one sentence each."""
    kind = KINDS[options["kind"]]
    others = {name: other for other in KINDS.values() for name in other.argument_spec}
    faults = [
        f"{name}: it is an option of kind {other.kind}, not of kind {kind.kind}; leave it out."
        for name, other in others.items()
        if name not in kind.argument_spec and options[name] != other.argument_spec[name].get("default")
    ]
    faults += kind.faults(options)
    if not faults and options["atomic_set"] and not kind.splits_as_one(options):
        faults.append(
            "split: it is done once for each pair, because it names {pair}, {primary} or {mirror}, so the "
            "array cannot split the set at one instant as atomic_set: true says; split a group of the array, or leave "
            "atomic_set out."
        )
    return faults
