# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kind ``program`` of provider ``external``: a program of the user's stands ready, and answers lines.

It is started when the split is armed. Each line that it gets and each that it writes is one JSON object; the page of
provider external has the protocol.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Optional

from ..host.running import Running, Silent
from ..host.strict_json import parse_json
from ..options import Spec
from .base import MirrorError
from .external_link import Answers, Job, Link, answers_of, command_of, text_of, unknown_names, wrong_shape

PROTOCOL = 1
OPTIONAL = ("look", "present", "withdraw")
_STOP_S = 5.0
#: How often its standard error is read while it stands ready: a program that writes much would wait in the middle.
_READ_S = 5.0


class ProgramLink(Link):
    """A program that stands ready."""

    kind = "program"
    stay_s = _READ_S
    argument_spec: ClassVar[Spec] = {
        "program": {"type": "list", "elements": "str"},
        "program_answers": {"type": "list", "elements": "str"},
    }

    def __init__(self, options: Mapping[str, Any], job: Job) -> None:
        super().__init__(options, job)
        self._program: Optional[Running] = None

    @classmethod
    def faults(cls, options: Mapping[str, Any]) -> list[str]:
        """See Link."""
        if options["program"] is None:
            return ["program: kind program needs it."]
        return (
            command_of("program", options["program"])
            + unknown_names("program", options["program"], ())
            + [
                f"program_answers: {step!r} is not a line that may be left out; name some of {', '.join(OPTIONAL)}."
                for step in options["program_answers"] or ()
                if step not in OPTIONAL
            ]
        )

    @classmethod
    def does(cls, options: Mapping[str, Any], step: str) -> bool:
        """See Link."""
        return step not in OPTIONAL or step in (options["program_answers"] or ())

    @classmethod
    def splits_as_one(cls, options: Mapping[str, Any]) -> bool:
        """See Link; how the program does it is its own business."""
        return True

    def open(self) -> None:
        """See Link."""
        try:
            self._program = Running(self.options["program"], takes_lines=True)
        except OSError as exc:
            raise MirrorError(
                f"program: {self.options['program'][0]} cannot be started ({exc.strerror}).", option="provider_options"
            ) from exc
        pairs = [{"name": pair.name, "primary": pair.primary, "mirror": pair.mirror} for pair in self.job.pairs]
        hello = {"protocol": PROTOCOL, "session": self.job.session, "short": self.job.short, "pairs": pairs}
        said = self._say("ready line", {**hello, "secrets": dict(self.job.secrets)}, self.limit_s("open"))
        if said.get("ready") is not True:
            raise self._refused("ready line", "ready", said)

    def stay(self) -> None:
        """See Link."""
        if self._program is not None:
            self._refuse_unasked(self._program)  # first, for one that was killed for it is still to be told why
        if self._program is None or self._program.has_ended():
            raise self._failed("it has ended")

    def ask(self, step: str) -> Answers:
        """See Link."""
        said = self._say(step, {"op": step}, self.limit_s(step))
        if said.get("ok") is not True:
            raise self._refused(step, "ok", said)
        if step == "split":
            names = said.get("pairs")
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise wrong_shape(self.job, step, "a list 'pairs' of the names of all pairs that are split", said)
            return {name: {} for name in names}
        return answers_of(self.job, step, said, set_wise=True) if step in ("look", "present") else {}

    def close(self) -> None:
        """See Link."""
        program, self._program = self._program, None
        if program is not None:
            program.stop(b'{"op": "stop"}\n', _STOP_S)

    def _say(self, step: str, line: Mapping[str, Any], timeout_s: float) -> Mapping[str, Any]:
        """Send a line, and return the one that answers it. After an answer that is late nothing more is asked."""
        program = self._program
        if program is None:
            raise MirrorError(f"{step}: the program does not run any more.", option="provider_options")
        if "op" in line:
            self._refuse_unasked(program)
        try:
            text = program.ask(json.dumps(line).encode() + b"\n", timeout_s)
        except Silent as exc:
            # Whatever it has begun, it must not go on beside the clean-up.
            program.kill()
            raise self._failed(f"{step}: {str(exc) or f'it gave no answer in {timeout_s:g} s'}") from exc
        try:
            said = parse_json(text)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise wrong_shape(self.job, f"program: {step}", "one JSON object in a line", text.decode(errors="replace"))
        return said

    def _refuse_unasked(self, program: Running) -> None:
        """A line that answers nothing would be taken for the next answer. :raises MirrorError: there is one."""
        if not program.is_quiet():
            said = self.job.quote(bytes(program.said).decode(errors="replace"))
            program.kill()
            raise self._failed(
                f"it has written what nobody has asked for ({said}); write one line for each that it reads, and "
                "everything else to its standard error"
            )

    def _refused(self, step: str, key: str, said: Mapping[str, Any]) -> MirrorError:
        error = said.get("error")
        if said.get(key) is not False or not isinstance(error, str):
            return wrong_shape(self.job, f"program: {step}", f"{key!r}: true, or false and an 'error'", said)
        return MirrorError(f"{step}: the program refuses: {self.job.quote(error)}", option="provider_options")

    def _failed(self, what: str) -> MirrorError:
        """An error with the last words of the program."""
        words = self.job.quote(text_of(self._program.errors), end=True) if self._program is not None else ""
        return MirrorError(
            f"program: {self.options['program'][0]}: {what}{f' ({words})' if words else ''}.", option="provider_options"
        )
