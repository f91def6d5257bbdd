# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kind ``http`` of provider ``external``: each step is a request, or several, over one connection that stays open.

The connection is opened, and its user logged in, when the split is armed. A status of 202 says that the array has taken
the request, never that it is done.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import re
import select
import socket
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from http.cookies import CookieError, SimpleCookie
from typing import Any, ClassVar, Optional, Union, cast
from urllib.parse import SplitResult as Url
from urllib.parse import urlsplit

from ..errors import SplitMirrorError
from ..host.strict_json import parse_json
from ..options import Spec
from .base import MirrorError, Pair
from .external_link import (
    ANSWER_KEYS,
    PAIR_NAMES,
    SECRET,
    SESSION_NAMES,
    STEPS,
    Answers,
    Job,
    Link,
    fill,
    names_in,
    unknown_keys,
    unknown_names,
    wrong_shape,
)
from .external_request import (
    COOKIE,
    HEADER,
    NoSuchValue,
    Poll,
    Request,
    checked_headers,
    fill_body,
    fill_path,
    is_header_value,
    parse_requests,
    value_at,
    word_of,
)

_ANSWER_BYTES = 16 << 20
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_KEEP_ALIVE_S = 30.0
_REQUESTS = ("login", "logout", "arm", *STEPS)
#: Steps for which nothing to be done is no failure.
_CLEANING = ("withdraw", "undo")
#: What a request says of itself when it was sent: status, headers, and the answer as it was read from JSON.
_Said = tuple[int, http.client.HTTPMessage, Any]


class HttpLink(Link):
    """One connection to the REST API of an array."""

    kind = "http"
    takes_jobs = True
    argument_spec: ClassVar[Spec] = {
        "address": {"type": "str"},
        "ca_file": {"type": "path"},
        "client_cert": {"type": "path"},
        "client_key": {"type": "path"},
        "allow_plain": {"type": "bool", "default": False},
        "headers": {"type": "dict", "default": {}},
        "basic_auth": {"type": "str"},
        "keep_alive": {"type": "dict"},
        **{name: {"type": "raw"} for name in _REQUESTS},
    }

    def __init__(self, options: Mapping[str, Any], job: Job) -> None:
        super().__init__(options, job)
        self._requests = {step: parse_requests(step, options[step]) for step in _REQUESTS}
        self._base = _address("address", options["address"], allow_plain=options["allow_plain"])
        self._connection: Optional[http.client.HTTPConnection] = None
        # What login has kept, and the secrets.
        self._values: dict[str, Any] = {}
        self._is_logged_in = False
        self._login_may_have_ended = False
        # What a login has kept that was made in the middle of a step.
        self._renewed: Mapping[str, Any] = {}
        if options["keep_alive"]:
            self.stay_s = float(options["keep_alive"].get("interval_s", _KEEP_ALIVE_S))

    # ---- options ----

    @classmethod
    def faults(cls, options: Mapping[str, Any]) -> list[str]:
        """See Link."""
        faults = [f"{name}: kind http needs it." for name in ("address", "split", "undo") if options[name] is None]
        requests: dict[str, list[Request]] = {}
        for step in _REQUESTS:
            try:
                requests[step] = parse_requests(step, options[step])
            except SplitMirrorError as exc:
                faults.append(exc.message)
        if options["address"] is not None:
            try:
                _address("address", options["address"], allow_plain=options["allow_plain"])
            except SplitMirrorError as exc:
                faults.append(exc.message)
        try:
            checked_headers("headers", options["headers"])
        except SplitMirrorError as exc:
            faults.append(exc.message)
        if options["client_key"] and not options["client_cert"]:
            faults.append("client_cert: it is needed with client_key.")
        faults += _keep_alive_faults(options["keep_alive"])
        user, colon, password = (options["basic_auth"] or "").partition(":")
        if options["basic_auth"] is not None and not (user and colon and names_in(password)):
            faults.append("basic_auth: write it as 'user:{secret.NAME}', with the password among the secrets.")
        return faults + cls._name_faults(options, requests)

    @classmethod
    def _name_faults(cls, options: Mapping[str, Any], requests: Mapping[str, Sequence[Request]]) -> list[str]:
        faults = []
        of_login = {name for request in requests.get("login", ()) for name in request.kept}
        for step, several in requests.items():
            known = set() if step in ("login", "logout", "look") else set(SESSION_NAMES)
            known |= set() if step in ("login", "logout") else PAIR_NAMES
            known |= set() if step == "login" else of_login
            for request in several:
                faults += request.faults(known)
                known |= request.kept
                if request.url is not None and step not in ("login", "logout"):
                    faults.append(f"{request.where}: only login and logout may have a url; give a path below address.")
                elif request.url is not None and not names_in(request.url):
                    try:
                        _address(request.where, request.url, allow_plain=options["allow_plain"], of_request=True)
                    except SplitMirrorError as exc:
                        faults.append(exc.message)
            if step in ANSWER_KEYS and several:
                last = several[-1]  # what it keeps is the answer
                of_poll = names_in(last.poll.path) if last.poll else set()
                faults += unknown_keys(f"{last.where}: keep", step, set(last.keep) - of_poll)
            if step == "present" and several and not PAIR_NAMES & {name for one in several for name in one.names()}:
                faults.append("present: it has to name {pair}, {primary} or {mirror}, because each has its own answer.")
        faults += unknown_names("headers", options["headers"], of_login, secrets=True)
        faults += unknown_names("keep_alive", options["keep_alive"] or {}, of_login)
        return faults + unknown_names("basic_auth", options["basic_auth"], (), secrets=True)

    @classmethod
    def does(cls, options: Mapping[str, Any], step: str) -> bool:
        """See Link."""
        return options[step] is not None

    @classmethod
    def splits_as_one(cls, options: Mapping[str, Any]) -> bool:
        """See Link."""
        return not any(PAIR_NAMES & request.names() for request in parse_requests("split", options["split"]))

    # ---- the link ----

    def open(self) -> None:
        """See Link."""
        self._values = {f"{SECRET}{name}": value for name, value in self.job.secrets.items()}
        for name in sorted(names_in([self.options["headers"], self.options["basic_auth"] or "", self._bodies()])):
            if name.startswith(SECRET) and name not in self._values:
                raise MirrorError(
                    f"provider_secrets: there is no secret {name[len(SECRET) :]!r}, which the options of kind http "
                    "name; give it there or in secrets_file.",
                    option="provider_secrets",
                    code="option_invalid",
                )
        self._connection = self._connect(self._base, self.limit_s("open"))
        try:
            self._log("login")
            self._is_logged_in = True
            if self.options["keep_alive"]:
                self._stay_once()
        except MirrorError:
            self.close()
            raise

    def take_job(self, job: Job) -> None:
        """See Link."""
        super().take_job(job)
        self._renewed = {}
        self._login_may_have_ended = True
        connection = self._connection
        # A server may have closed what nobody used. The next request connects again.
        if connection is not None and connection.sock is not None and select.select([connection.sock], [], [], 0)[0]:
            connection.close()

    def arm(self) -> None:
        """See Link."""
        if self._requests["arm"]:
            self.ask("arm")

    def stay(self) -> None:
        """See Link."""
        if not self.options["keep_alive"]:
            return
        try:
            self._stay_once()
        except MirrorError:
            # The connection was lost, or the login has expired.
            self.close()
            self.open()

    def ask(self, step: str) -> Answers:
        """See Link."""
        deadline = time.monotonic() + self.limit_s(step)
        requests = self._requests[step]
        each = bool(PAIR_NAMES & {name for request in requests for name in request.names()})
        answers: dict[str, Mapping[str, Any]] = {}
        said: Mapping[str, Any] = {}
        for pair in self.job.pairs:
            if each or not answers:
                said = self._send_all(step, requests, pair if each else None, deadline)
            answers[pair.name] = said
        return answers

    def close(self) -> None:
        """See Link."""
        self._login_may_have_ended = False  # nobody logs in to log out
        if self._connection is not None:
            # Where the connection was lost, the array ends the login by itself.
            if self._connection.sock is not None and self._is_logged_in:
                with contextlib.suppress(MirrorError):
                    self._log("logout")
            self._connection.close()
            self._connection = None
        self._is_logged_in = False

    # ---- inside ----

    def _bodies(self) -> list[Any]:
        return [text for several in self._requests.values() for one in several for text in (one.headers, one.body)]

    def _connect(self, url: Url, timeout_s: float) -> http.client.HTTPConnection:
        """:raises MirrorError: the array does not answer, or its certificate is not trusted."""
        host, where = str(url.hostname), f"{url.hostname}:{url.port or (443 if url.scheme == 'https' else 80)}"
        try:
            if url.scheme == "http":
                connection = http.client.HTTPConnection(host, url.port, timeout=timeout_s)
            else:
                context = ssl.create_default_context(cafile=self.options["ca_file"])
                if self.options["client_cert"]:
                    # Without a password OpenSSL would ask for that of an encrypted key at the terminal.
                    context.load_cert_chain(self.options["client_cert"], self.options["client_key"], "")
                connection = http.client.HTTPSConnection(host, url.port, timeout=timeout_s, context=context)
            connection.connect()
        except ssl.SSLCertVerificationError as exc:
            raise MirrorError(
                f"address: the certificate of {where} is not trusted ({exc.verify_message}); give the CA that has "
                "signed it in ca_file, and the name that is in it in address.",
                option="provider_options",
            ) from exc
        except (OSError, UnicodeError) as exc:  # a name that DNS cannot have
            files = [self.options[name] for name in ("ca_file", "client_cert", "client_key") if self.options[name]]
            of_files = f" with {', '.join(files)}" if files else ""
            raise MirrorError(
                f"address: there is no connection to {where}{of_files} ({getattr(exc, 'strerror', None) or exc}).",
                option="provider_options",
            ) from exc
        return connection

    def _log(self, which: str) -> None:
        """Log in or out. :raises MirrorError: the array refuses."""
        deadline = time.monotonic() + self.limit_s(which)
        for request in self._requests[which]:
            own = None
            if request.url is not None:
                url = _address(request.where, request.url, allow_plain=self.options["allow_plain"], of_request=True)
                own = self._connect(url, self.limit_s(which))
            try:
                kept = self._send(request, self._values, deadline, connection=own, of_login=which == "login")
                self._values.update(kept)
            finally:
                if own is not None:
                    own.close()

    def _stay_once(self) -> None:
        request = Request("keep_alive", "GET", self.options["keep_alive"]["path"])
        self._send(request, self._values, time.monotonic() + self.limit_s("stay"))

    def _send_all(
        self, step: str, requests: Iterable[Request], pair: Optional[Pair], deadline: float
    ) -> Mapping[str, Any]:
        """Send the requests of a step one after the other; return what the last one has kept."""
        values = {**self._values, **self.job.values(pair)}
        kept: Mapping[str, Any] = {}
        for request in requests:
            own = set(request.keep) | (set(request.for_each.keep) if request.for_each else set())
            if step in _CLEANING and request.names() - own - set(values):
                continue  # an earlier request has found that there is nothing
            for entry in self._entries(step, request, values, deadline):
                kept = self._send(request, {**values, **entry}, deadline, cleaning=step in _CLEANING)
                values.update({**entry, **kept})
        return kept

    def _entries(
        self, step: str, request: Request, values: Mapping[str, Any], deadline: float
    ) -> list[Mapping[str, Any]]:
        """What a request is sent for: once, or for each entry of a list."""
        each = request.for_each
        if each is None:
            return [{}]
        where = f"{request.where}: for_each"
        look = Request(where, "GET", each.path, absent=request.absent)
        status, _headers, said = self._exchange(look, values, deadline)
        if status in request.absent and step in _CLEANING:
            return []
        self._check_status(look, values, status, said)
        found = self._value(where, each.pointer, said)
        if not isinstance(found, list):
            raise wrong_shape(self.job, where, f"a list at {each.pointer!r}", said)
        entries: list[Mapping[str, Any]] = []
        comparable = False
        for entry in found:
            with contextlib.suppress(NoSuchValue):
                is_meant = [word_of(value_at(at, entry)) == fill(value, values) for at, value in each.where.items()]
                comparable = True
                if all(is_meant):
                    entries.append({name: self._value(where, at, entry) for name, at in each.keep.items()})
        if found and not comparable:
            # Taken for "there is nothing", it would leave on the array what is there.
            raise wrong_shape(self.job, where, f"values at {', '.join(each.where)} in its list", found[0])
        if not entries and step not in _CLEANING:
            raise MirrorError(
                f"{where}: the array's list has no entry for this set; look whether the names are right.",
                option="provider_options",
            )
        return entries

    def _send(
        self,
        request: Request,
        values: Mapping[str, Any],
        deadline: float,
        *,
        connection: Optional[http.client.HTTPConnection] = None,
        cleaning: bool = False,
        of_login: bool = False,
    ) -> Mapping[str, Any]:
        """Send a request, wait until it is done, and return what is to be kept of the answer.

        :raises MirrorError: it failed, was refused, or is not done in time.
        """
        status, headers, said = self._exchange(request, values, deadline, connection, of_login=of_login)
        if cleaning and status in request.absent:
            return {}
        self._check_status(request, values, status, said)
        for pointer, allowed in request.expect.items():
            found = word_of(self._value(request.where, pointer, said, of_login=of_login))
            if found not in allowed:
                raise MirrorError(
                    f"{request.where}: the array's answer has {self.job.quote(found)!r} at {pointer}, and not "
                    f"{' or '.join(sorted(allowed))}: {self._text(_outline(said) if of_login else said)}",
                    option="provider_options",
                )
        kept = {
            name: self._kept(request.where, source, headers, said, of_login=of_login)
            for name, source in request.keep.items()
        }
        if of_login:
            for value in kept.values():
                self.job.hide_token(value)
        if request.poll is not None:
            self._await(request.where, request.poll, {**values, **kept}, deadline)
        return kept

    def _await(self, where: str, poll: Poll, values: Mapping[str, Any], deadline: float) -> None:
        """Wait until the array says that a request is done. :raises MirrorError: it failed, or takes too long."""
        look = Request(f"{where}: poll", "GET", poll.path)
        while True:
            status, _headers, said = self._exchange(look, values, deadline)
            state = "202 (accepted)"  # which says nothing but that it is not done
            if status != http.client.ACCEPTED:
                self._check_status(look, values, status, said)
                state = word_of(self._value(look.where, poll.pointer, said))
                if state in poll.done:
                    return
                if state in poll.failed:
                    raise MirrorError(
                        f"{look.where}: the array reports {self.job.quote(state)!r}: {self._text(said)}",
                        option="provider_options",
                    )
            if time.monotonic() + poll.interval_s > deadline:
                raise MirrorError(
                    f"{look.where}: it was not done in time; the array last reported {self.job.quote(state)!r}.",
                    option="provider_options",
                )
            time.sleep(poll.interval_s)

    def _exchange(
        self,
        request: Request,
        values: Mapping[str, Any],
        deadline: float,
        connection: Optional[http.client.HTTPConnection] = None,
        *,
        of_login: bool = False,
    ) -> _Said:
        """Send one request and read its answer, whatever its status.

        :raises MirrorError: there is none in time, or it is not JSON.
        """
        connection = connection or self._connection
        values = {**values, **self._renewed}
        where = _where(request, values)
        if connection is None:
            raise MirrorError(f"{where}: the connection is closed.", option="provider_options")
        headers, body = self._headers_and_body(request, values, of_login=of_login)
        if request.url is None:
            path = self._base.path.rstrip("/") + fill_path(request.path, values)
        else:
            url = urlsplit(request.url)
            path = fill_path((url.path or "/") + (f"?{url.query}" if url.query else ""), values)
        try:
            if connection.sock is None:
                connection.timeout = _left_s(deadline)
                connection.connect()
            connection.sock.settimeout(_left_s(deadline))
            connection.response_class = cast("type[http.client.HTTPResponse]", partial(_Response, deadline=deadline))
            connection.request(request.method, path, body=body, headers=headers)
            with connection.getresponse() as response:
                data = response.whole() if isinstance(response, _Response) else b""
        except (OSError, http.client.HTTPException, ValueError) as exc:
            connection.close()
            # Of Python 3.9 a timeout of a socket is an OSError with this text.
            late = isinstance(exc, TimeoutError) or "timed out" in str(exc)
            words = "it did not answer in time" if late else f"{type(exc).__name__}: {self.job.quote(exc)}"
            raise MirrorError(f"{where}: the array failed to answer ({words}).", option="provider_options") from exc
        if response.status == http.client.UNAUTHORIZED and self._login_may_have_ended and not of_login:
            # It has done nothing, so it may be asked again.
            self.close()
            self.open()
            self._renewed = self._values
            return self._exchange(request, values, deadline)
        said: Any = None
        if data.strip():
            try:
                said = parse_json(data)
            except ValueError:
                said = data.decode(errors="replace")
        return response.status, response.msg, said

    def _headers_and_body(
        self, request: Request, values: Mapping[str, Any], *, of_login: bool
    ) -> tuple[dict[str, str], Union[bytes, None]]:
        headers = {"Accept": "application/json", "User-Agent": "splitmirror.backup"}
        if self.options["basic_auth"] is not None:
            word = base64.b64encode(fill(self.options["basic_auth"], values).encode()).decode()
            headers["Authorization"] = f"Basic {word}"
            self.job.hide(word)
        common = {} if of_login else self.options["headers"]
        headers.update({name: fill(str(value), values) for name, value in {**common, **request.headers}.items()})
        for name, value in headers.items():
            if not is_header_value(value):
                raise MirrorError(
                    f"{request.where}: headers: the value of {name} has a character that HTTP does not allow in a "
                    "header, such as a line end; look at the secret in it.",
                    option="provider_options",
                    code="option_invalid",
                )
        if request.body is None:
            return headers, None
        headers.setdefault("Content-Type", "application/json")
        body = fill_body(request.body, values)
        return headers, (body if isinstance(request.body, str) and isinstance(body, str) else json.dumps(body)).encode()

    def _check_status(self, request: Request, values: Mapping[str, Any], status: int, said: Any) -> None:
        """:raises MirrorError: the array has refused, or has only accepted the request."""
        where = _where(request, values)
        reason = http.client.responses.get(status, "")
        if status == http.client.ACCEPTED and request.poll is None:
            raise MirrorError(
                f"{where}: the array answers 202 (accepted), which does not say that it is done; give the request a "
                "poll.",
                option="provider_options",
            )
        if status not in request.status if request.status else not 200 <= status < 300:
            refused = request.where.startswith("login") or status == http.client.UNAUTHORIZED
            words = "the array refuses the login" if refused else "the array answers"
            raise MirrorError(f"{where}: {words} ({status} {reason}): {self._text(said)}", option="provider_options")

    def _kept(
        self, where: str, source: str, headers: http.client.HTTPMessage, said: Any, *, of_login: bool = False
    ) -> Any:
        """A value to be kept. :raises MirrorError: the answer does not have it."""
        found: Optional[str] = None
        if source.startswith(HEADER):
            found = headers.get(source[len(HEADER) :])
        elif source.startswith(COOKIE):
            for text in headers.get_all("Set-Cookie", []):
                with contextlib.suppress(CookieError):
                    cookie = SimpleCookie(text).get(source[len(COOKIE) :])
                    found = found if cookie is None else cookie.value
        else:
            return self._value(where, source, said, of_login=of_login)
        if found is None:
            raise MirrorError(f"{where}: the array's answer has no {source.replace(':', ' ')}.", "provider_options")
        return found

    def _value(self, where: str, pointer: str, said: Any, *, of_login: bool = False) -> Any:
        """:raises MirrorError: the pointer leads nowhere."""
        try:
            return value_at(pointer, said)
        except NoSuchValue as exc:
            said = _outline(said) if of_login else said
            raise wrong_shape(self.job, where, f"a value at {pointer!r}", said) from exc

    def _text(self, said: Any) -> str:
        """What the array has said, for a message."""
        return self.job.quote(said if isinstance(said, str) else json.dumps(said)) if said is not None else "nothing."


class _Response(http.client.HTTPResponse):
    """An answer of which each byte has to come before an instant of time.monotonic."""

    def __init__(self, sock: socket.socket, *args: Any, deadline: float, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_InTime(self.fp.detach(), sock, deadline))

    def whole(self) -> bytes:
        """The body. :raises HTTPException: it is too long, or ends before its end."""
        data = bytearray()
        while part := self.read(1 << 16):
            data += part
            if len(data) > _ANSWER_BYTES:
                raise http.client.HTTPException(f"the answer is longer than {_ANSWER_BYTES} bytes")
        if self.length:
            raise http.client.IncompleteRead(b"", self.length)
        return bytes(data)


class _InTime(io.RawIOBase):
    """What can be read from a socket until an instant. The timeout of a socket begins anew with each byte."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: float) -> None:
        self._raw = raw
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        """It can."""
        return True

    def readinto(self, buffer: Any) -> Optional[int]:
        """See RawIOBase. :raises TimeoutError: the instant has passed."""
        if time.monotonic() > self._deadline:
            raise TimeoutError
        self._sock.settimeout(_left_s(self._deadline))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        """See RawIOBase."""
        self._raw.close()
        super().close()


def _left_s(deadline: float) -> float:
    """A timeout for a socket, for which 0 means something else."""
    return max(0.001, deadline - time.monotonic())


def _outline(said: Any) -> Any:
    """An answer without its values, for one that may have a token of the login in it."""
    if isinstance(said, Mapping):
        return {name: _outline(value) for name, value in said.items()}
    return [_outline(one) for one in said[:1]] if isinstance(said, list) else "…"


def _where(request: Request, values: Mapping[str, Any]) -> str:
    """A request in a message. Its path keeps its placeholders, because one may stand for a token."""
    of_pair = f", pair {values['pair']}" if "pair" in values else ""
    return f"{request.where}: {request.method} {request.url or request.path}{of_pair}"


def _address(where: str, address: str, *, allow_plain: bool, of_request: bool = False) -> Url:
    """:raises MirrorError: it is not an address, or secrets would cross a network in plain text."""
    try:
        url = urlsplit(address)
        is_right = url.port is None or url.port > 0
    except ValueError:
        url, is_right = urlsplit(""), False
    is_right = is_right and re.fullmatch("[!-~]+", address) is not None
    is_right = is_right and not url.fragment and (of_request or not url.query)
    if url.scheme not in ("http", "https") or not url.hostname or not is_right or url.username is not None:
        raise MirrorError(
            f"{where}: {address!r} is not the address of an array; write it as https://host:port/path, without a "
            "user, a query or blanks.",
            option="provider_options",
            code="option_invalid",
        )
    if url.scheme == "http" and url.hostname not in _LOOPBACK and not allow_plain:
        raise MirrorError(
            f"{where}: {address!r} is not encrypted, and the login would cross the network in plain text; use https, "
            "or set allow_plain: true.",
            option="provider_options",
            code="option_invalid",
        )
    return url


def _keep_alive_faults(given: Optional[Mapping[str, Any]]) -> list[str]:
    if given is None:
        return []
    unknown = sorted(set(given) - {"path", "interval_s"})
    if unknown or not re.fullmatch('/[!-"$-~]*', str(given.get("path", ""))):
        return ["keep_alive: it has a path that begins with a slash, and perhaps interval_s; nothing else."]
    try:
        right = 0 < float(given.get("interval_s", _KEEP_ALIVE_S)) < 1e6
    except (TypeError, ValueError):
        right = False
    return [] if right else ["keep_alive: interval_s must be a number of seconds above 0."]
