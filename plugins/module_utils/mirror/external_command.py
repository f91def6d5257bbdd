# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kind ``command`` of provider ``external``: each step is a command, for the whole set or for each pair.

Commands for several pairs of one split run at once, so that nobody waits longer than for the slowest. No step waits for
the end of output: a program may leave another one in the background that holds it (``ssh -f``).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Optional

from ..host.running import Running, Silent
from ..host.strict_json import parse_json
from ..options import Spec
from .base import MirrorError, Pair
from .external_link import (
    ANSWER_KEYS,
    PAIR_NAMES,
    SESSION_NAMES,
    STEPS,
    Answers,
    Job,
    Link,
    answers_of,
    check_answer,
    command_of,
    fill,
    names_in,
    text_of,
    unknown_names,
    wrong_shape,
)

#: Steps in which the commands of all pairs run at once.
_AT_ONCE = ("look", "split")


class CommandLink(Link):
    """Commands without a shell."""

    kind = "command"
    argument_spec: ClassVar[Spec] = {name: {"type": "raw"} for name in ("arm", *STEPS)}

    @classmethod
    def faults(cls, options: Mapping[str, Any]) -> list[str]:
        """See Link."""
        faults = [f"{step}: kind command needs it." for step in ("split", "undo") if options[step] is None]
        for step in ("arm", *STEPS):
            if options[step] is not None:
                known = PAIR_NAMES | (SESSION_NAMES if step != "look" else set())
                faults += command_of(step, options[step]) or unknown_names(step, options[step], known)
        return faults

    @classmethod
    def does(cls, options: Mapping[str, Any], step: str) -> bool:
        """See Link."""
        return options[step] is not None

    @classmethod
    def splits_as_one(cls, options: Mapping[str, Any]) -> bool:
        """See Link."""
        return not PAIR_NAMES & names_in(options["split"])

    def open(self) -> None:
        """See Link; each command opens what it needs."""

    def arm(self) -> None:
        """See Link."""
        if self.options["arm"] is not None:
            self.ask("arm")

    def ask(self, step: str) -> Answers:
        """See Link."""
        deadline = time.monotonic() + self.limit_s(step)
        words = [str(word) for word in self.options[step]]
        if not PAIR_NAMES & names_in(words):
            with _Run(self.job, step, words, None) as run:
                said = run.result(deadline)
            if step in ANSWER_KEYS:
                return answers_of(self.job, step, said, set_wise=True)
            return {pair.name: {} for pair in self.job.pairs}
        answers = {}
        failures = []
        with contextlib.ExitStack() as stack:
            waiting = list(self.job.pairs)
            while waiting:
                # Where all have been started, all are waited for, so that none still splits while they are undone.
                several = waiting if step in _AT_ONCE else waiting[:1]
                waiting = waiting[len(several) :]
                for run in [stack.enter_context(_Run(self.job, step, words, pair)) for pair in several]:
                    try:
                        answers[run.name] = run.result(deadline)
                        check_answer(self.job, f"{step}: pair {run.name}", step, answers[run.name])
                    except MirrorError as exc:
                        failures.append(exc)
        if failures:
            raise failures[0]
        return answers

    def close(self) -> None:
        """See Link; nothing is open."""


class _Run:
    """One command that runs. It is killed with all that it has started, unless it ends in time."""

    def __init__(self, job: Job, step: str, words: Sequence[str], pair: Optional[Pair]) -> None:
        self.name = pair.name if pair else ""
        self._job = job
        self._step = step
        self._where = f"{step}: {words[0]}" + (f", pair {self.name}" if pair else "")
        command = [fill(word, job.values(pair)) for word in words]
        try:
            self._program = Running(command, environment=job.secrets)
        except OSError as exc:
            raise MirrorError(
                f"{self._where}: it cannot be started ({exc.strerror}).", option="provider_options"
            ) from exc

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_dummy: object) -> None:
        self._program.close()

    def result(self, deadline: float) -> Mapping[str, Any]:
        """Wait for its end; return what it has answered, for a step that has an answer. :raises MirrorError: failed."""
        program = self._program
        try:
            status = program.result(deadline)
        except Silent as exc:
            program.kill()
            raise MirrorError(
                f"{self._where}: {str(exc) or 'it did not end in time'}.", option="provider_options"
            ) from exc
        if status:
            program.kill()  # what it has left in the background must not go on beside the clean-up
            words = self._job.quote(text_of(program.errors) or text_of(program.said), end=True)
            raise MirrorError(
                f"{self._where}: it failed with exit status {status}{f': {words}' if words else '.'}",
                option="provider_options",
            )
        if self._step not in ANSWER_KEYS:
            return {}
        text = text_of(program.said)
        try:
            said = parse_json(text.encode())
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise wrong_shape(self._job, self._where, "one JSON object", text)
        return said
