# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How provider ``external`` speaks to an array: the seam of its kinds, and the placeholders in what users write.

A link is opened, logged in and tried before the window, and kept open. Each step is one message over it.
"""

from __future__ import annotations

import json
import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Optional, Union
from urllib.parse import quote as percent_encoded

from ..host.strict_json import parse_json
from ..options import Spec, did_you_mean
from ..session import short_session
from .base import MirrorError, Pair

#: What may be asked of an array, in the order of a session.
STEPS = ("look", "split", "present", "withdraw", "undo")
SESSION_NAMES = frozenset(("session", "short"))
PAIR_NAMES = frozenset(("pair", "primary", "mirror"))
#: What an answer to these steps may say of a pair.
ANSWER_KEYS = {
    "look": frozenset(("mark", "problem", "size_bytes", "sync_percent")),
    "present": frozenset(("device", "lun", "serial", "size_bytes", "wwn")),
}
#: What stands before the name of a secret in a placeholder.
SECRET = "secret."  # noqa: S105
#: What may stand in a message at most, of what an array or a program has said.
_QUOTED = 300
#: A line of a secret of several lines, and a token, that is shorter may be any word.
_LEAST_HIDDEN = 6
#: The longest that anything waits. More does not fit into what the system calls take.
_MOST_S = 1e6

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.]*)\}")
_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")

#: What an array answers for each pair.
Answers = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Job:
    """For whom a link works.

    :param session: None outside a session, where only ``look`` is asked.
    """

    session: Optional[str]
    pairs: tuple[Pair, ...]
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    _hidden: set[str] = field(default_factory=set, repr=False, compare=False)

    def __post_init__(self) -> None:
        for secret in self.secrets.values():
            self.hide(secret)

    @property
    def short(self) -> Optional[str]:
        """The short id of the session."""
        return None if self.session is None else short_session(self.session)

    def values(self, pair: Optional[Pair] = None) -> dict[str, Any]:
        """The values of placeholders. :param pair: None for what is done once for the set."""
        of_session = {} if self.session is None else {"session": self.session, "short": self.short}
        of_pair = {} if pair is None else {"pair": pair.name, "primary": pair.primary, "mirror": pair.mirror}
        return {**of_session, **of_pair}

    def hide(self, secret: str) -> None:
        """Never quote this, nor what others may make of it: on one line, escaped, percent-encoded, a line of it."""
        lines = [line.strip() for line in secret.splitlines()]
        for text in (secret, secret.strip(), *(line for line in lines if len(line) >= _LEAST_HIDDEN)):
            forms = [text, repr(text)[1:-1], repr(text.encode(errors="replace"))[2:-1]]
            forms += [repr(text.encode("latin-1", "replace"))[2:-1], percent_encoded(text, safe="", errors="replace")]
            forms += [json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]]
            self._hidden.update(form for form in (*forms, *(" ".join(form.split()) for form in forms)) if form)

    def hide_token(self, token: object) -> None:
        """Never quote what a login has given, unless it is so short that it may be any word."""
        if len(str(token)) >= _LEAST_HIDDEN:
            self.hide(str(token))

    def hide_all_of(self, other: Job) -> None:
        """Never quote what the other does not quote."""
        self._hidden.update(other._hidden)

    def quote(self, said: object, *, end: bool = False) -> str:
        """What somebody has said, on one line, without the secrets, and not too long.

        :param end: keep its end if it is too long.
        """
        text = " ".join(str(said).split())
        for secret in sorted(self._hidden, key=len, reverse=True):
            text = text.replace(secret, "********")
        if len(text) <= _QUOTED:
            return text
        return f"…{text[-_QUOTED:]}" if end else f"{text[:_QUOTED]}…"


class Link(ABC):
    """One way to speak to an array.

    :param options: of the provider, checked against its argument spec.
    """

    #: The name in ``kind``.
    kind: ClassVar[str]
    #: The options that this kind has, and no other.
    argument_spec: ClassVar[Spec]
    #: How often ``stay`` wants to be called while the link waits, in seconds; None for never.
    stay_s: Optional[float] = None
    #: Whether a link that is open may go on to another job.
    takes_jobs: ClassVar[bool] = False

    def __init__(self, options: Mapping[str, Any], job: Job) -> None:
        self.options = options
        self.job = job

    @classmethod
    @abstractmethod
    def faults(cls, options: Mapping[str, Any]) -> list[str]:
        """What is wrong with the options, one sentence each that begins with the option."""

    @classmethod
    @abstractmethod
    def does(cls, options: Mapping[str, Any], step: str) -> bool:
        """Whether the array can be asked for this step."""

    @classmethod
    @abstractmethod
    def splits_as_one(cls, options: Mapping[str, Any]) -> bool:
        """Whether the split is one message for the whole set."""

    @abstractmethod
    def open(self) -> None:
        """Start, connect, log in. :raises MirrorError: it failed; close it."""

    def arm(self) -> None:  # noqa: B027 - optional
        """Do on the array what has to be done before a split. :raises MirrorError: it failed."""

    def stay(self) -> None:  # noqa: B027 - optional
        """Keep the link open, or open it again. :raises MirrorError: the array cannot be asked any more."""

    @abstractmethod
    def ask(self, step: str) -> Answers:
        """Take a step for all pairs of the job.

        :returns: an answer for each pair for which the step is done.
        :raises MirrorError: it failed, was refused, or was not answered in time.
        """

    def take_job(self, job: Job) -> None:
        """Work for another job from now on, with what has been opened for the last one."""
        job.hide_all_of(self.job)
        self.job = job

    @abstractmethod
    def close(self) -> None:
        """End it. Never fails."""

    def limit_s(self, step: str) -> float:
        """How long a step may take, in seconds."""
        return min(float(self.options["timeout_s" if step == "split" else "ready_timeout_s"]), _MOST_S)


# ---- placeholders ----


def names_in(value: Any) -> set[str]:
    """The names of all placeholders in a text, or in the texts of lists and dictionaries."""
    if isinstance(value, str):
        return set(_PLACEHOLDER.findall(value))
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return set()
    return {name for one in value for name in names_in(one)}


def fill(text: str, values: Mapping[str, Any]) -> str:
    """A text with values in place of placeholders."""
    return _PLACEHOLDER.sub(lambda found: str(values[found[1]]), text)


def unknown_names(where: str, value: Any, known: Iterable[str], *, secrets: bool = False) -> list[str]:
    """One sentence for each placeholder that does not exist.

    :param where: the option, for the message. :param secrets: whether secrets may be placed there.
    """
    known = set(known)
    faults = []
    for name in sorted(names_in(value) - known):
        if name.startswith(SECRET):
            if not secrets:
                faults.append(
                    f"{where}: {{{name}}} would show a secret to others here; see the page of provider external for "
                    "where secrets may stand."
                )
            continue
        there = ", ".join(f"{{{one}}}" for one in sorted(known))
        faults.append(
            f"{where}: there is no placeholder {{{name}}} here{did_you_mean(name, known)}; there are {there or 'none'}."
        )
    return faults


# ---- secrets ----


def check_secrets(given: Any, whose: str, option: str) -> dict[str, str]:
    """The secrets by name. :param whose: where they stand. :raises MirrorError: they have another shape."""
    if not isinstance(given, Mapping) or not all(
        isinstance(name, str) and _NAME.fullmatch(name) and isinstance(value, (str, int)) and "\0" not in str(value)
        for name, value in given.items()
    ):
        raise MirrorError(
            f"{whose}: secrets are names (letters, digits and underscores) and their values, which are texts.",
            option=option,
            code="option_invalid",
        )
    return {name: str(value) for name, value in given.items()}


def read_secrets(path: str) -> dict[str, str]:
    """Read a file of secrets. :raises MirrorError: others may read it, or it has another shape."""
    where = f"provider_options: secrets_file {path}"
    try:
        # Nobody may ever write into a FIFO.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as stream:
            status = os.fstat(fd)
            data = stream.read(1 << 20) if stat.S_ISREG(status.st_mode) else b""
    except OSError as exc:
        raise MirrorError(f"{where}: it cannot be read ({exc.strerror}).", option="provider_options") from exc
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid()):
        raise MirrorError(
            f"{where}: it must be a file that belongs to root or to the user who runs the modules, with mode 0600.",
            option="provider_options",
        )
    try:
        given = parse_json(data)
    except ValueError:
        given = None  # the parser's message would have a piece of the file
    return check_secrets(given, where, "provider_options")


# ---- answers ----


def answers_of(job: Job, step: str, said: Mapping[str, Any], *, set_wise: bool) -> Answers:
    """The answers by pair in what was said about a set, below ``pairs``.

    :param set_wise: each pair must have an answer.
    :raises MirrorError: they have another shape.
    """
    pairs = said.get("pairs")
    if not isinstance(pairs, Mapping) or not all(isinstance(one, Mapping) for one in pairs.values()):
        raise wrong_shape(job, step, "an object 'pairs' with an object for each pair", said)
    missing = [pair.name for pair in job.pairs if pair.name not in pairs]
    if set_wise and missing:
        raise wrong_shape(job, step, f"pair {missing[0]} in 'pairs'", said)
    for name, answer in pairs.items():
        check_answer(job, f"{step}: pair {name}", step, answer)
    return pairs


def unknown_keys(where: str, step: str, names: Iterable[str]) -> list[str]:
    """One sentence for each name that an answer to a step does not have: a misspelled one would not be missed."""
    known = ANSWER_KEYS[step]
    return [
        f"{where}: an answer to {step} has no {name!r}{did_you_mean(name, known)}; it has {', '.join(sorted(known))}."
        for name in sorted(set(names) - known)
    ]


def check_answer(job: Job, where: str, step: str, answer: Mapping[str, Any]) -> None:
    """:raises MirrorError: an answer to look or present has a key that is not documented."""
    for fault in unknown_keys(where, step, answer) if step in ANSWER_KEYS else ():
        raise MirrorError(job.quote(fault), option="provider_options")


def wrong_shape(job: Job, step: str, wanted: str, said: object) -> MirrorError:
    """An answer that has another shape than the one that is documented."""
    words = said if isinstance(said, str) else json.dumps(said)
    return MirrorError(
        f"{step}: the answer has to have {wanted}, and is: {job.quote(words)}", option="provider_options"
    )


def number(job: Job, step: str, name: str, value: Any) -> Optional[float]:
    """A number in an answer, None if there is none. :raises MirrorError: it is not a number of 0 or more."""
    if value is None:
        return None
    try:
        found = -1.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = -1.0
    if not 0 <= found < 1 << 63:
        raise wrong_shape(job, step, f"a number in {name!r}", value)
    return found


def command_of(where: str, value: Any) -> list[str]:
    """The faults of a command. :param where: its option."""
    if (
        not isinstance(value, Sequence)
        or isinstance(value, str)
        or not value
        or not all(isinstance(word, (str, int, float)) and "\0" not in str(word) for word in value)
    ):
        return [f"{where}: it must be a list of a program and its arguments, such as [snap, create, --name, x]."]
    return [
        f"{where}: {str(word).lower()} must be a text; put it in quotes if this word is meant (yes, no, on, off)."
        for word in value
        if isinstance(word, bool)
    ]


def text_of(said: Union[bytes, bytearray]) -> str:
    """What a program has written, as a text."""
    return bytes(said).decode(errors="replace").strip()
