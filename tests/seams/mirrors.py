# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every mirror provider has to do. The test of a provider is a class that derives from MirrorContract.

It needs neither pytest nor anything else that a host of the lab does not have: on_array.py runs it on the lab's array.
"""

from __future__ import annotations

import itertools
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.host import blockdev
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import MirrorProvider
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.registry import make_provider

MIB = 1 << 20
Made = TypeVar("Made", bound="MirrorContract")
SESSION, OTHER = "s1", "s2"
#: Audit events (sys.addaudithook) of what changes something outside the process, beside ``open``, ioctls and commands.
CHANGES = {"os.link", "os.remove", "os.rename", "os.setxattr"}
#: Words of commands that only look, and the ioctl that does (FS_IOC_FIEMAP).
LOOKS = {"--list", "lvs", "--examine", "--detail", 0xC020660B}


def write(path: str, byte: int, offset_bytes: int = 0) -> None:
    """Fill one MiB of a device or file, past all caches."""
    with mmap.mmap(-1, MIB) as buffer:
        buffer[:] = bytes([byte]) * MIB
        fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
        try:
            assert os.pwrite(fd, buffer, offset_bytes) == MIB
        finally:
            os.close(fd)


def read_mib(path: str) -> bytes:
    """The first MiB of a device or file, past all caches."""
    with mmap.mmap(-1, MIB) as buffer:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            assert os.preadv(fd, [buffer], 0) == MIB
        finally:
            os.close(fd)
        return buffer[:]


def read(path: str) -> int:
    """The byte that fills the first MiB of a device or file."""
    data = read_mib(path)
    assert data == data[:1] * MIB
    return data[0]


@contextmanager
def written_all_the_time(path: str) -> Iterator[Callable[[int], None]]:
    """Another process fills the first MiB over and over, each time with another byte.

    Yields what waits until it has done that a number of times more.
    """
    progress, done = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os.nice(19)  # where there is one processor only, the provider needs it, too
            for number in itertools.count():
                write(path, number % 256)
                os.write(done, b".")
        os._exit(1)
    os.close(done)

    def wait(times: int) -> None:
        os.set_blocking(progress, False)
        with suppress(BlockingIOError):
            while os.read(progress, 4096):
                pass
        os.set_blocking(progress, True)
        for _dummy in range(times + 1):  # the first may have begun before
            assert os.read(progress, 1) == b".", "the process that writes has failed"

    try:
        wait(0)
        yield wait
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(progress)


def printed_by(*command: str) -> str:
    """Run a command to its end and return what it printed; its words are the failure."""
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout.strip()


def refused(action: Callable[[], object], words: str) -> None:
    """The action fails with an error that says ``words``."""
    said = "nothing"
    try:
        action()
    except SplitMirrorError as exc:
        said = exc.message
    assert words in said, said


def killed_at(number: int, is_step: Callable[[str, tuple[Any, ...]], bool], action: Callable[[], object]) -> bool:
    """Run the action in a process that is killed just before its step ``number``; False if it has no such step."""
    child = os.fork()
    if child == 0:
        steps = itertools.count()

        def hook(event: str, args: tuple[Any, ...]) -> None:
            if is_step(event, args) and next(steps) == number:
                os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            sys.addaudithook(hook)
            action()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), f"the process that was to be killed at step {number} failed by itself"
    return status != 0


@contextmanager
def read_by_another(device: str) -> Iterator[None]:
    """Another process has the device open; a provider leaves itself out when it asks who uses a mirror."""
    settle_s, blockdev.SETTLE_S = blockdev.SETTLE_S, 0.2
    with open(device, "rb") as stream:
        process = subprocess.Popen(["sleep", "60"], stdin=stream)
    try:
        yield
    finally:
        blockdev.SETTLE_S = settle_s
        process.kill()
        process.wait()


class MirrorContract(ABC):
    """The contract of a MirrorProvider, tried on an array with the pairs ``t0`` and ``t1``, each of 16 MiB or more.

    They are in sync and free when a test begins. Each test runs in a ``with`` statement of its own.

    :ivar state_dir: the state folder, made on entry and removed on exit.
    """

    #: The name of the provider, and the options that it gets.
    kind: str
    options: Mapping[str, Any] = MappingProxyType({})
    #: Whether the array itself keeps the session's mark, so that a split is known again when our records are lost.
    keeps_marks = True
    #: Between which bounds lies what a resync copies (bytes) after 2 MiB of the primary have changed.
    resynced_bytes = (0, 0)

    state_dir: str

    @abstractmethod
    def make(self) -> None:
        """Make the array."""

    def remove(self, failed: bool) -> None:  # noqa: B027 - a folder of pytest goes away by itself
        """Take everything away that make and the test have left. :param failed: the test may have left anything."""

    @abstractmethod
    def pairs(self) -> Sequence[Mapping[str, Any]]:
        """The pairs as the modules get them."""

    @abstractmethod
    def primary(self, name: str) -> str:
        """The device, or the file, through which the primary of a pair is written."""

    @abstractmethod
    def not_in_sync(self) -> AbstractContextManager[object]:
        """Keep t0 out of sync, or without a primary, for as long as the context lasts."""

    @abstractmethod
    def not_splittable(self) -> AbstractContextManager[object]:
        """Make the split of t1 fail for somebody who is prepared already, for as long as the context lasts."""

    @abstractmethod
    def foreign(self) -> AbstractContextManager[object]:
        """Split t0 as an administrator would, or put a file of his in the mirror's place; at the end undo that."""

    def is_step(self, event: str, args: tuple[Any, ...]) -> bool:
        """Whether a process that splits is to be killed just before this audit event."""
        if event == "open":
            return isinstance(args[0], str) and bool(args[2] & os.O_CREAT)
        if event in ("fcntl.ioctl", "subprocess.Popen"):
            return not LOOKS.intersection(args[1] if event == "subprocess.Popen" else [args[1]])
        return event in CHANGES

    def __enter__(self: Made) -> Made:
        self.state_dir = tempfile.mkdtemp(dir="/var/tmp", prefix="splitmirror-")
        self.make()
        return self

    def __exit__(self, failure: object, *_dummy: object) -> None:
        self.remove(failed=failure is not None)
        shutil.rmtree(self.state_dir)

    def provider(self, **changed: Any) -> MirrorProvider:
        """A new provider, as each module makes one. :param changed: arguments of make_provider."""
        arguments = {"name": self.kind, "pairs": self.pairs(), "state_dir": self.state_dir, "options": self.options}
        return make_provider(**{**arguments, **changed})

    def phases(self) -> list[str]:
        """The phase of each pair."""
        return [state.phase for state in self.provider().state()]

    def records(self) -> list[str]:
        """The files that sessions have left in the state folder."""
        folder = f"{self.state_dir}/mirrors"
        return [name for name in os.listdir(folder) if not name.startswith(".")] if os.path.isdir(folder) else []

    def mark_of(self, session: str) -> str:
        """By what a session is known that is found by its mark alone."""
        return session

    def check_whole(self) -> None:
        """All is as it was at first: in sync, free, without records."""
        provider = self.provider()
        provider.sync(wait=True, timeout_s=30)
        provider.check_splittable("s9")
        assert self.records() == []

    # ---- the contract ----

    def test_a_fresh_set_is_in_sync_and_free(self) -> None:
        provider = self.provider()
        for state, pair in zip(provider.state(), self.pairs()):
            assert (state.name, state.primary, state.mirror) == (pair["name"], pair["primary"], pair["mirror"])
            assert (state.phase, state.session, state.in_sync, state.problem) == ("none", None, True, None)
            assert (state.devices, state.users) == ((), ())
            assert state.size_bytes is not None
            assert state.size_bytes >= 16 * MIB
        assert provider.sync(wait=True, timeout_s=30) < 30
        provider.check_splittable(SESSION)
        assert provider.split_result(SESSION) is None
        assert provider.withdraw(SESSION) == []
        assert provider.resync(SESSION, wait=True, timeout_s=30) == 0
        assert provider.recover() == []
        refused(lambda: provider.present(SESSION), SESSION)
        self.check_whole()

    def test_the_mirror_is_the_split_only_readable_and_stays_while_in_use(self) -> None:
        write(self.primary("t0"), 0xA1)
        result = self.provider().split(SESSION)
        assert [pair.name for pair in result.pairs] == ["t0", "t1"]
        for before, after in zip(result.pairs, result.pairs[1:]):
            assert before.before_mono_s <= before.after_mono_s <= after.after_mono_s
            # One after the other, or at once.
            times = (before.before_mono_s, before.after_mono_s)
            assert before.after_mono_s <= after.before_mono_s or times == (after.before_mono_s, after.after_mono_s)
        assert self.provider().split_result(SESSION) == result
        write(self.primary("t0"), 0xA2)
        write(self.primary("t0"), 0xA3, 4 * MIB)
        presented = self.provider().present(SESSION)
        assert presented.changed
        assert sorted(presented.devices) == ["t0", "t1"]
        assert read(presented.devices["t0"]) == 0xA1
        again = self.provider().present(SESSION)
        assert (again.devices, again.changed) == (presented.devices, False)
        try:
            write(presented.devices["t0"], 0xEE)
        except OSError:
            pass
        else:
            raise AssertionError("the mirror took a write")
        refused(lambda: self.provider().resync(SESSION, wait=True, timeout_s=60), "still presented")
        with read_by_another(presented.devices["t1"]):
            for action in (lambda: self.provider().withdraw(SESSION), self.provider().recover):
                refused(action, "pair t1: its mirror")
            assert self.provider().state()[1].users != ()
            # All or none: the other device is still there, too.
            assert self.provider().present(SESSION).changed is False
        assert len(self.provider().withdraw(SESSION)) == 2
        assert self.provider().withdraw(SESSION) == []
        copied = self.provider().resync(SESSION, wait=True, timeout_s=60)
        assert self.resynced_bytes[0] <= copied <= self.resynced_bytes[1], copied
        assert self.provider().resync(SESSION, wait=True, timeout_s=60) == 0
        self.check_whole()
        # What the mirror shows the next time is not what somebody's cache remembers, nor what is written meanwhile.
        with written_all_the_time(self.primary("t1")) as wait_for_writes:
            self.provider().split(OTHER)
            devices = self.provider().present(OTHER).devices
            assert read(devices["t0"]) == 0xA2
            at_first = read_mib(devices["t1"])
            wait_for_writes(3)
            assert read_mib(devices["t1"]) == at_first
        self.provider().withdraw(OTHER)
        self.provider().resync(OTHER, wait=True, timeout_s=60)
        self.check_whole()

    def test_a_set_belongs_to_one_session_until_it_is_resynced_or_recovered(self) -> None:
        prepared = self.provider().prepare(SESSION)
        assert self.phases() == ["armed", "armed"]
        refused(self.provider().recover, "ready to split")
        refused(lambda: self.provider().resync(SESSION, wait=True, timeout_s=60), "ready to split")
        refused(lambda: self.provider().prepare(OTHER), SESSION)
        prepared.cancel()
        self.check_whole()
        self.provider().split(SESSION)
        assert self.phases() == ["split", "split"]
        assert [state.session for state in self.provider().state()] == [SESSION, SESSION]
        for session in (SESSION, OTHER):
            refused(partial(self.provider().split, session), f"already split by session {SESSION}")
        refused(lambda: self.provider().present(OTHER), SESSION)
        refused(lambda: self.provider().withdraw(OTHER), SESSION)
        refused(lambda: self.provider().split_result(OTHER), SESSION)
        refused(lambda: self.provider().resync(OTHER, wait=True, timeout_s=60), SESSION)
        devices = self.provider().present(SESSION).devices
        (recovered,) = self.provider().recover()
        assert (recovered.session, recovered.phase, recovered.pairs) == (SESSION, "split", ("t0", "t1"))
        assert sorted(recovered.withdrawn) == sorted(devices.values())
        self.check_whole()

    def test_all_pairs_are_split_or_none(self) -> None:
        prepared = self.provider().prepare(SESSION)
        with self.not_splittable():
            refused(prepared.split, "t1")
        prepared.cancel()
        self.check_whole()

    def test_what_is_not_in_sync_is_not_split(self) -> None:
        with self.not_in_sync():
            assert [state.in_sync for state in self.provider().state()] == [False, True]
            refused(lambda: self.provider().check_splittable(SESSION), "pair t0")
            refused(lambda: self.provider().sync(wait=False, timeout_s=30), "pair t0")
            refused(lambda: self.provider().split(SESSION), "pair t0")
            assert self.phases() == ["none", "none"]
        self.check_whole()

    def test_what_is_not_ours_is_left_alone(self) -> None:
        with self.foreign():
            before = [(state.phase, state.session, state.in_sync) for state in self.provider().state()]
            refused(lambda: self.provider().check_splittable(SESSION), "pair t0")
            refused(lambda: self.provider().split(SESSION), "pair t0")
            assert self.provider().recover() == []
            assert [(state.phase, state.session, state.in_sync) for state in self.provider().state()] == before
        self.check_whole()

    def test_a_split_without_its_record_is_known_by_its_mark(self) -> None:
        if not self.keeps_marks:
            return
        self.provider().split(SESSION)
        os.unlink(f"{self.state_dir}/mirrors/{SESSION}.json")
        known_as = self.mark_of(SESSION)
        assert [state.session for state in self.provider().state()] == [known_as, known_as]
        assert self.phases() == ["broken", "broken"]
        assert {one.session for one in self.provider().recover()} == {known_as}
        self.check_whole()

    def test_a_kill_at_any_step_is_found_and_finished(self) -> None:
        write(self.primary("t0"), 0xA1)

        def whole_life() -> None:
            self.provider().split(SESSION)
            self.provider().present(SESSION)
            self.provider().withdraw(SESSION)
            self.provider().resync(SESSION, wait=True, timeout_s=60)

        number = 0
        while killed_at(number, self.is_step, whole_life):
            phases = set(self.phases())
            assert len(phases) == 1, f"step {number}: {phases}"
            if phases != {"none"}:
                assert phases <= {"broken", "split"}, f"step {number}: {phases}"
                refused(lambda: self.provider().check_splittable(OTHER), "mirror_sync with state")
            # A split that did not finish is never taken for one.
            assert (self.provider().split_result(SESSION) is not None) == (phases == {"split"})
            if number % 2:
                # Its own clean-up finishes it as well as that of the next session.
                self.provider().withdraw(SESSION)
                self.provider().resync(SESSION, wait=True, timeout_s=60)
            for recovered in self.provider().recover():
                assert (recovered.session, {recovered.phase}) == (SESSION, phases)
            self.check_whole()
            assert read(self.primary("t0")) == 0xA1
            number += 1
        assert number > 2, "the split has fewer steps than it can have"
        self.check_whole()

    def test_an_option_that_the_provider_does_not_have_is_refused(self) -> None:
        options = {**self.provider().options, "no_such_option": 1}
        refused(
            lambda: self.provider(options=options), "provider_options: 'no_such_option' is not an option of provider"
        )
        pairs = [{**pair, "options": {"no_such_option": 1}} for pair in self.pairs()]
        refused(lambda: self.provider(pairs=pairs), "pairs: t0: options: 'no_such_option' is not an option of provider")


#: The tests of the contract, by name, for those who run them without pytest.
TESTS = tuple(name for name in vars(MirrorContract) if name.startswith("test_"))
