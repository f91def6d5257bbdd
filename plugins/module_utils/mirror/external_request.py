# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Requests of kind ``http`` of provider ``external`` as users write them: data that is checked before anything is sent.

Values of an answer are named by JSON pointers (RFC 6901).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional
from urllib.parse import quote

from ..options import Spec, check_options
from .base import MirrorError
from .external_link import fill, names_in, unknown_names

HEADER, COOKIE = "header:", "cookie:"
_REQUEST: Spec = {
    "method": {"type": "str", "choices": ["DELETE", "GET", "PATCH", "POST", "PUT"], "default": "GET"},
    "path": {"type": "str"},
    "url": {"type": "str"},
    "headers": {"type": "dict", "default": {}},
    "body": {"type": "raw"},
    "status": {"type": "list", "elements": "int"},
    "absent": {"type": "list", "elements": "int", "default": [404]},
    "expect": {"type": "dict", "default": {}},
    "keep": {"type": "dict", "default": {}},
    "poll": {"type": "dict"},
    "for_each": {"type": "dict"},
}
_POLL: Spec = {
    "path": {"type": "str", "required": True},
    "pointer": {"type": "str", "required": True},
    "done": {"type": "list", "elements": "raw", "required": True},
    "failed": {"type": "list", "elements": "raw", "default": []},
    "interval_s": {"type": "float", "default": 0.1},
}
_FOR_EACH: Spec = {
    "path": {"type": "str", "required": True},
    "pointer": {"type": "str", "default": ""},
    "where": {"type": "dict", "default": {}},
    "keep": {"type": "dict", "default": {}},
}
_POINTER = re.compile(r"(/([^~/]|~[01])*)*")
_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")
#: What may stand in a request's first line; values of placeholders are encoded.
_PATH = re.compile('/[!-"$-~]*')
_HEADER_NAME = re.compile("[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile("[\t -~\xa0-\xff]*")


class NoSuchValue(Exception):
    """A JSON pointer leads nowhere."""


@dataclass(frozen=True)
class Poll:
    """How it is found out that a request is done. :param interval_s: between two requests, in seconds."""

    path: str
    pointer: str
    done: frozenset[str]
    failed: frozenset[str]
    interval_s: float


@dataclass(frozen=True)
class ForEach:
    """A list in the array's answer; the request is sent for each entry of it in which ``where`` holds."""

    path: str
    pointer: str
    where: Mapping[str, str]
    keep: Mapping[str, str]


@dataclass(frozen=True)
class Request:
    """One request. :param where: the option that has it. :param url: in place of the path below the array's address."""

    where: str
    method: str
    path: str
    url: Optional[str] = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    status: frozenset[int] = frozenset()
    absent: frozenset[int] = frozenset()
    expect: Mapping[str, frozenset[str]] = field(default_factory=dict)
    keep: Mapping[str, str] = field(default_factory=dict)
    poll: Optional[Poll] = None
    for_each: Optional[ForEach] = None

    @classmethod
    def parse(cls, where: str, given: Any) -> Request:
        """A request as the user has written it. :raises MirrorError: it cannot be one."""
        told = check_options(where, "a request", _REQUEST, given, MirrorError)
        if (told["path"] is None) == (told["url"] is None):
            raise _wrong(f"{where}: a request needs a path (or, in login and logout, a url in place of it).")
        poll, each = told["poll"], told["for_each"]
        if poll is not None:
            poll = check_options(f"{where}: poll", "poll", _POLL, poll, MirrorError)
            poll = Poll(
                _path(f"{where}: poll", poll["path"]),
                _pointer(f"{where}: poll", poll["pointer"]),
                frozenset(map(word_of, poll["done"])),
                frozenset(map(word_of, poll["failed"])),
                poll["interval_s"],
            )
        if each is not None:
            each = check_options(f"{where}: for_each", "for_each", _FOR_EACH, each, MirrorError)
            each = ForEach(
                _path(f"{where}: for_each", each["path"]),
                _pointer(f"{where}: for_each", each["pointer"]),
                {_pointer(f"{where}: for_each: where", key): word_of(value) for key, value in each["where"].items()},
                _sources(f"{where}: for_each: keep", each["keep"]),
            )
        if told["url"] is not None and not re.fullmatch('https?://[^/#][!-"$-~]*', told["url"]):
            raise _wrong(f"{where}: url must begin with https:// and a host, not {told['url']!r}.")
        return cls(
            where=where,
            method=told["method"],
            path="" if told["path"] is None else _path(where, told["path"]),
            url=told["url"],
            headers=checked_headers(f"{where}: headers", told["headers"]),
            body=told["body"],
            status=frozenset(told["status"] or ()),
            absent=frozenset(told["absent"]),
            expect={
                _pointer(f"{where}: expect", key): frozenset(
                    map(word_of, value if isinstance(value, list) else [value])
                )
                for key, value in told["expect"].items()
            },
            keep=_sources(f"{where}: keep", told["keep"]),
            poll=poll,
            for_each=each,
        )

    def names(self) -> set[str]:
        """The names of all placeholders in it."""
        texts: list[Any] = [self.path, self.url or "", self.headers, self.body]
        texts += [self.poll.path] if self.poll else []
        texts += [self.for_each.path, self.for_each.where] if self.for_each else []
        return names_in(texts)

    def faults(self, known: Iterable[str]) -> list[str]:
        """One sentence for each placeholder that does not exist. :param known: those that exist before it is sent."""
        known = set(known)
        faults = []
        if self.for_each:
            faults += unknown_names(f"{self.where}: for_each", [self.for_each.path, self.for_each.where], known)
            known |= set(self.for_each.keep)
        faults += unknown_names(f"{self.where}: path", [self.path, self.url or ""], known)
        faults += unknown_names(f"{self.where}: headers", self.headers, known, secrets=True)
        faults += unknown_names(f"{self.where}: body", self.body, known, secrets=True)
        if self.poll:
            faults += unknown_names(f"{self.where}: poll", self.poll.path, known | set(self.keep))
        return faults

    @property
    def kept(self) -> set[str]:
        """The names that exist after it."""
        return set(self.keep) | (set(self.for_each.keep) if self.for_each else set())


def parse_requests(where: str, given: Any) -> list[Request]:
    """A request or a list of them; none for None. :raises MirrorError: one cannot be a request."""
    if given is None:
        return []
    if not isinstance(given, list):
        return [Request.parse(where, given)]
    if not given:
        raise _wrong(f"{where}: the list has no request; leave the option out, or give one.")
    return [Request.parse(f"{where}: request {number}", one) for number, one in enumerate(given, 1)]


def checked_headers(where: str, given: Mapping[Any, Any]) -> dict[str, str]:
    """Headers as texts. :raises MirrorError: HTTP has no such name or value."""
    for name, value in given.items():
        if not _HEADER_NAME.fullmatch(str(name)):
            raise _wrong(f"{where}: {name!r} is not the name of a header; it has letters, digits and dashes.")
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise _wrong(
                f"{where}: {name} must be a text, not {word_of(value)}; put it in quotes if this word is meant."
            )
        if not is_header_value(str(value)):
            raise _wrong(f"{where}: {name} has a character that HTTP does not allow in a header, such as a line end.")
    return {str(name): str(value) for name, value in given.items()}


def is_header_value(value: str) -> bool:
    """Whether HTTP allows it as the value of a header."""
    return _HEADER_VALUE.fullmatch(value) is not None


def fill_path(path: str, values: Mapping[str, Any]) -> str:
    """A path with values that are percent-encoded, so that none of them can lead elsewhere."""
    return fill(path, {name: quote(str(value), safe="") for name, value in values.items()})


def fill_body(body: Any, values: Mapping[str, Any]) -> Any:
    """A body with values. A text that is one placeholder and nothing else gets the value in its own type."""
    if isinstance(body, str):
        alone = names_in(body)
        if len(alone) == 1 and body == f"{{{next(iter(alone))}}}":
            return values[next(iter(alone))]
        return fill(body, values)
    if isinstance(body, Mapping):
        return {name: fill_body(value, values) for name, value in body.items()}
    return [fill_body(one, values) for one in body] if isinstance(body, (list, tuple)) else body


def value_at(pointer: str, document: Any) -> Any:
    """The value to which a JSON pointer leads. :raises NoSuchValue: there is none."""
    for step in pointer.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict) and key in document:
            document = document[key]
        elif isinstance(document, list) and key.isdecimal() and int(key) < len(document):
            document = document[int(key)]
        else:
            raise NoSuchValue(pointer)
    return document


def word_of(value: Any) -> str:
    """A value as it is compared: texts as they are, all else as JSON writes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _path(where: str, path: str) -> str:
    if not path.startswith("/"):
        raise _wrong(f"{where}: the path {path!r} must begin with a slash; it is below the address of the array.")
    if not _PATH.fullmatch(path):
        raise _wrong(
            f"{where}: the path {path!r} has a blank, a '#' or a character that is not ASCII; write it "
            "percent-encoded, such as %20."
        )
    return path


def _pointer(where: str, pointer: Any) -> str:
    if not isinstance(pointer, str) or not _POINTER.fullmatch(pointer):
        raise _wrong(f"{where}: {pointer!r} is not a JSON pointer; write it as /name/0/other.")
    return pointer


def _sources(where: str, given: Mapping[Any, Any]) -> dict[str, str]:
    """What to keep of an answer, by name."""
    found: dict[str, str] = {}
    for name, source in given.items():
        if not _NAME.fullmatch(str(name)):
            raise _wrong(f"{where}: {name!r} cannot be a placeholder; use letters, digits and underscores.")
        named = isinstance(source, str) and source.startswith((HEADER, COOKIE)) and not source.endswith(":")
        found[str(name)] = source if named else _pointer(where, source)
    return found


def _wrong(sentence: str) -> MirrorError:
    return MirrorError(sentence, option="provider_options", code="option_invalid")
