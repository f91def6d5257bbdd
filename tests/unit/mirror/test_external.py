# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Provider external: what users may write wrong, and what an array may answer wrong; each gets one clear sentence."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import MirrorError, MirrorProvider
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.external import ExternalProvider
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.external_link import Job, read_secrets
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.external_request import (
    NoSuchValue,
    fill_body,
    fill_path,
    value_at,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.preflight import ask_array
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.registry import make_provider, provider_faults
from ansible_collections.splitmirror.backup.plugins.module_utils.preflight import Preflight
from ansible_collections.splitmirror.backup.plugins.module_utils.session import short_session
from ansible_collections.splitmirror.backup.tests.support import toyoptions, toyrest
from ansible_collections.splitmirror.backup.tests.support.toyarray import PASSWORD, ToyArray
from ansible_collections.splitmirror.backup.tests.support.toyrest import RestApi

DOCS = Path(__file__).resolve().parents[3] / "docs"
EXAMPLE = DOCS / "examples/array_program.py"
SESSION = "20260131T020000Z-db1-9f3c"
PROGRAM = {"kind": "program", "program": ["/bin/true"]}
COMMANDS = {"kind": "command", "split": ["snap", "{short}"], "undo": ["unsnap", "{short}"]}
REQUEST = {"path": "/x/{short}"}
HTTP = {"kind": "http", "address": "https://array.example.org/api", "split": REQUEST, "undo": REQUEST}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toyrest.make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def array(tmp_path: Path) -> ToyArray:
    array = ToyArray(tmp_path / "array")
    array.make(["t0.img", "t1.img"], 1 << 20)
    return array


@pytest.fixture
def api(array: ToyArray, certificate: Path) -> Iterator[RestApi]:
    with toyrest.rest_api(array, certificate) as server:
        yield server


def provider_of(tmp_path: Path, options: Mapping[str, Any], **changed: Any) -> MirrorProvider:
    arguments = {"state_dir": str(tmp_path / "state"), "secrets": toyoptions.SECRETS, **changed}
    return make_provider("external", toyoptions.PAIRS, options=options, **arguments)


def test_right_options_are_taken() -> None:
    for options in (PROGRAM, COMMANDS, HTTP):
        assert ExternalProvider.faults(options) == []
        assert provider_faults("external", options, toyoptions.PAIRS, {"name": {}, "primary": {}, "mirror": {}}) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "telnet"}, "option 'kind' must be one of command, http, program, not 'telnet'"),
        ({}, "provider external needs the option 'kind'"),
        ({"kind": "program"}, "program: kind program needs it"),
        ({"kind": "command", "split": ["x"]}, "undo: kind command needs it"),
        ({"kind": "http", "split": REQUEST, "undo": REQUEST}, "address: kind http needs it"),
        ({**PROGRAM, "address": "https://a"}, "address: it is an option of kind http, not of kind program"),
        ({**PROGRAM, "split": ["x"]}, "split: it is an option of kind"),
        ({**PROGRAM, "program": ["x", "{short}"]}, "program: there is no placeholder {short} here; there are none"),
        ({**PROGRAM, "program_answers": ["split"]}, "program_answers: 'split' is not a line that may be left out"),
        ({**COMMANDS, "split": "snap {short}"}, "split: it must be a list of a program and its arguments"),
        ({**COMMANDS, "split": []}, "split: it must be a list of a program and its arguments"),
        (
            {**COMMANDS, "split": ["snap", "{shrot}"]},
            "no placeholder {shrot} here (did you mean 'short'?); there are {",
        ),
        ({**COMMANDS, "look": ["x", "{session}"]}, "look: there is no placeholder {session} here"),
        # The login may be one for a look.
        ({**HTTP, "logout": {"path": "/{session}"}}, "logout: path: there is no placeholder {session} here"),
        ({**COMMANDS, "split": ["x", "{secret.password}"]}, "split: {secret.password} would show a secret to others"),
        ({**COMMANDS, "atomic_set": True, "split": ["x", "{mirror}"]}, "split: it is done once for each pair"),
        ({**HTTP, "address": "array"}, "address: 'array' is not the address of an array"),
        ({**HTTP, "address": "https://me:secret@array"}, "without a user"),
        ({**HTTP, "address": "http://array/api"}, "would cross the network in plain text"),
        ({**HTTP, "split": {"path": "x"}}, "split: the path 'x' must begin with a slash"),
        ({**HTTP, "split": {"paht": "/x"}}, "split: 'paht' is not an option of a request (did you mean 'path'?)"),
        ({**HTTP, "split": "/x"}, "split: the options of a request must be a dictionary"),
        ({**HTTP, "split": []}, "split: the list has no request"),
        ({**HTTP, "split": [REQUEST, {"path": "/{id}"}]}, "split: request 2: path: there is no placeholder {id} here"),
        ({**HTTP, "split": {"path": "/{secret.x}"}}, "split: path: {secret.x} would show a secret to others"),
        ({**HTTP, "split": {"path": "/x", "keep": {"id": "id"}}}, "'id' is not a JSON pointer"),
        ({**HTTP, "split": {"path": "/x", "poll": {"path": "/y"}}}, "split: poll: poll needs the option 'pointer'"),
        ({**HTTP, "split": {"path": "/x", "method": "SPLIT"}}, "option 'method' must be one of DELETE, GET"),
        ({**HTTP, "split": {"url": "https://a/x"}}, "split: only login and logout may have a url"),
        ({**HTTP, "present": {"path": "/x"}}, "present: it has to name {pair}, {primary} or {mirror}"),
        (
            {**HTTP, "look": {"path": "/{pair}", "keep": {"problm": "/state"}}},
            "look: keep: an answer to look has no 'problm' (did you mean 'problem'?)",
        ),
        ({**HTTP, "headers": {"X": "{token}"}}, "headers: there is no placeholder {token} here"),
        ({**HTTP, "basic_auth": "me:secret"}, "basic_auth: write it as 'user:{secret.NAME}'"),
        ({**HTTP, "keep_alive": {"pfad": "/x"}}, "keep_alive: it has a path"),
        ({**HTTP, "client_key": "/k"}, "client_cert: it is needed with client_key"),
        ({**COMMANDS, "undo": ["x", True]}, "undo: true must be a text; put it in quotes"),
        ({**HTTP, "address": "https://[::1"}, "is not the address of an array"),
        ({**HTTP, "address": "https://array/api?x=1"}, "without a user, a query or blanks"),
        ({**HTTP, "address": "https://my array/"}, "without a user, a query or blanks"),
        ({**HTTP, "split": {"path": "/a b"}}, "split: the path '/a b' has a blank"),
        ({**HTTP, "split": {"path": "/größe"}}, "a character that is not ASCII; write it percent-encoded"),
        ({**HTTP, "undo": {"path": "/x", "for_each": {"path": "/a#b", "pointer": ""}}}, "undo: for_each: the path"),
        ({**HTTP, "headers": {"X A": "1"}}, "headers: 'X A' is not the name of a header"),
        ({**HTTP, "headers": {"X": True}}, "headers: X must be a text, not true"),
        ({**HTTP, "split": {"path": "/x", "headers": {"X": "a\nb"}}}, "split: headers: X has a character that HTTP"),
        ({**HTTP, "keep_alive": {"path": "/{token}"}}, "keep_alive: there is no placeholder {token} here"),
        ({**HTTP, "keep_alive": {"path": "/{secret.x}"}}, "keep_alive: {secret.x} would show a secret to others"),
        ({**HTTP, "keep_alive": {"path": "/x", "interval_s": float("inf")}}, "keep_alive: interval_s must be a number"),
        ({**HTTP, "login": {"url": "http://array/login"}}, "login: 'http://array/login' is not encrypted"),
        ({**HTTP, "ca_file": "ca.pem"}, "option 'ca_file' must be an absolute path"),
    ],
)
def test_a_wrong_option_is_refused_on_the_controller_and_on_the_host(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    faults = provider_faults("external", options, toyoptions.PAIRS, {"name": {}, "primary": {}, "mirror": {}})
    assert [fault for fault in faults if words in fault], faults
    assert all(fault.startswith("provider_options: ") for fault in faults)
    with pytest.raises(SplitMirrorError) as refused:
        provider_of(tmp_path, options)
    assert words in refused.value.message or len(faults) > 1
    assert refused.value.option == "provider_options"


def test_a_set_that_the_array_cannot_split_as_one_is_told_what_that_means(tmp_path: Path) -> None:
    (remark,) = provider_of(tmp_path, COMMANDS).remarks()
    assert "show one instant only because writes stand still" in remark
    assert provider_of(tmp_path, {**COMMANDS, "atomic_set": True}).remarks() == []


# ---- what the pages show ----


def test_the_example_of_a_program_splits_and_undoes(tmp_path: Path) -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < 60
    pairs = [
        {"name": name, "primary": str(tmp_path / name), "mirror": str(tmp_path / f"{name}.snap")} for name in ("a", "b")
    ]
    for pair in pairs:
        Path(pair["primary"]).write_text(pair["name"], encoding="ascii")
    options = {"kind": "program", "program": [sys.executable, str(EXAMPLE)], "program_answers": ["look"]}
    provider = make_provider("external", pairs, str(tmp_path / "state"), options)
    assert [state.problem for state in provider.state()] == [None, None]
    provider.split(SESSION)
    copies = [Path(f"{pair['mirror']}.{short_session(SESSION)}") for pair in pairs]
    assert [copy.read_text(encoding="ascii") for copy in copies] == ["a", "b"]
    provider.resync(SESSION, wait=True, timeout_s=10)
    assert not any(copy.exists() for copy in copies)
    Path(pairs[1]["primary"]).unlink()
    with pytest.raises(MirrorError, match="pair b: the LUN is gone"):
        provider.prepare(SESSION)


@pytest.mark.parametrize("page", ["providers/external.md", "bring_your_own_array.md"])
def test_the_options_on_a_page_are_right(page: str) -> None:
    found = []
    for text in re.findall(r"^```yaml\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        shown = yaml.safe_load(text)
        if isinstance(shown, dict) and "splitmirror_database_hosts" not in shown:
            options = shown.get("splitmirror_provider_options") or shown["my_array"]["provider_options"]
            found.append(options["kind"])
            assert ExternalProvider.faults(options) == []
    assert len(found) == (3 if page.startswith("providers") else 1)


# ---- secrets ----


def test_a_file_of_secrets_is_read_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    path.write_text(json.dumps({"password": "p", "pin": 1}), encoding="utf-8")
    path.chmod(0o600)
    assert read_secrets(str(path)) == {"password": "p", "pin": "1"}
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(MirrorError, match="mode 0600"):
            read_secrets(str(path))
    path.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(MirrorError, match="cannot be read"):
        read_secrets(str(link))
    for text in ('{"password": hunter2}', '["hunter2"]', '{"password": {"hunter2": 1}}', '{"a b": "hunter2"}'):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(MirrorError) as refused:
            read_secrets(str(path))
        assert "hunter2" not in refused.value.message


def test_a_secret_is_taken_out_of_what_is_quoted() -> None:
    job = Job(SESSION, (), {"a": "hunter2", "b": "hunter22", "c": ""})
    assert job.quote("it is\nhunter22, hunter2") == "it is ********, ********"
    assert "hunter2" not in job.quote("x" * 297 + "hunter2")
    assert "hunter2" not in repr(job)


# ---- texts of users ----


def test_a_value_in_a_path_leads_nowhere_else() -> None:
    values = {"primary": "../a b?c=1&d/%41", "id": 7}
    assert fill_path("/luns/{primary}/{id}", values) == "/luns/..%2Fa%20b%3Fc%3D1%26d%2F%2541/7"


def test_a_body_keeps_types_and_braces() -> None:
    values = {"id": 7, "short": "smx", "list": [1]}
    body = {"id": "{id}", "name": "{short}-{id}", "all": ["{list}", True, None, 1.5], "raw": '{"a": {}}'}
    assert fill_body(body, values) == {"id": 7, "name": "smx-7", "all": [[1], True, None, 1.5], "raw": '{"a": {}}'}


def test_a_pointer_is_one_of_rfc_6901() -> None:
    document = {"a/b": [{"c~d": 1}], "": 2, "n": None}
    assert [value_at(at, document) for at in ("/a~1b/0/c~0d", "/", "/n", "")] == [1, 2, None, document]
    for pointer in ("/x", "/a~1b/1", "/a~1b/-1", "/a~1b/x", "/n/x", "/a~1b/0/c~0d/x"):
        with pytest.raises(NoSuchValue):
            value_at(pointer, document)


# ---- programs ----


def script(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "program"
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o700)
    return [str(path)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("read hello; sleep 60", "ready line: it gave no answer in 1 s"),
        ("read hello; echo no licence >&2; exit 3", "ready line: it has ended without an answer (no licence)"),
        ("read hello; echo Welcome", "ready line: the answer has to have one JSON object in a line, and is: Welcome"),
        ("read hello; echo '{}'", "ready line: the answer has to have 'ready': true"),
        ('read hello; echo \'{"ready": false, "error": "no room"}\'', "ready line: the program refuses: no room"),
        ("read hello; yes | tr -d '\\n'", "its answer is longer than"),
        # What it is told, it may say again.
        ('read hello; echo "$hello" >&2', "********"),
        ('read hello; echo "$hello"', "********"),
    ],
)
def test_a_program_that_does_not_get_ready_is_ended(tmp_path: Path, text: str, words: str) -> None:
    options = {"kind": "program", "program": script(tmp_path, text), "ready_timeout_s": 1}
    provider = provider_of(tmp_path, options)
    with pytest.raises(MirrorError) as failed:
        provider.prepare(SESSION)
    assert words in failed.value.message, failed.value.message
    assert PASSWORD not in failed.value.message
    assert provider.split_result(SESSION) is None
    assert os.listdir(tmp_path / "state/mirrors") in ([], [".lock"])


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    for options in ({**PROGRAM, "program": ["/no/such"]}, {**COMMANDS, "arm": ["/no/such"], "undo": ["true"]}):
        with pytest.raises(MirrorError, match=r"/no/such.* cannot be started"):
            provider_of(tmp_path, options).prepare(SESSION)


# ---- answers ----


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("[]", "look: sh, pair t0: the answer has to have one JSON object, and is: []"),
        ("x", "one JSON object, and is: x"),
        ('{"size_bytes": "big"}', "look: pair t0: the answer has to have a number in 'size_bytes'"),
        ('{"size_bytes": -1}', "a number in 'size_bytes'"),
        ('{"sync_percent": true}', "a number in 'sync_percent'"),
        ('{"mark": 1}', "a text or null in 'mark'"),
        ('{"size_bytes": 1' + "0" * 400 + "}", "a number in 'size_bytes'"),
        ('{"sync_percent": 101}', "a number from 0 to 100 in 'sync_percent'"),
        ('{"problm": "no room"}', "look: pair t0: an answer to look has no 'problm' (did you mean 'problem'?)"),
    ],
)
def test_an_answer_of_another_shape_is_refused(tmp_path: Path, said: str, words: str) -> None:
    with pytest.raises(MirrorError) as refused:
        provider_of(tmp_path, {**COMMANDS, "look": ["sh", "-c", 'echo "$0"', said, "{pair}"]}).state()
    assert words in refused.value.message, refused.value.message


def test_what_the_array_reports_is_the_state_of_a_pair(tmp_path: Path) -> None:
    said = '{"size_bytes": "1024", "sync_percent": 40, "mark": null}'
    (first, _second) = provider_of(tmp_path, {**COMMANDS, "look": ["sh", "-c", 'echo "$0"', said, "{pair}"]}).state()
    assert (first.size_bytes, first.in_sync, first.sync_percent, first.phase) == (1024, False, 40.0, "none")
    assert first.problem == "pair t0: its mirror t0.snap is 40 % in sync."
    assert first.problem_code == "not_in_sync"


def test_preflight_does_not_report_as_a_fact_what_no_look_has_seen(tmp_path: Path) -> None:
    def asked(options: dict[str, Any]) -> tuple[list[str], set[str]]:
        preflight = Preflight()
        params = {"provider": "external", "pairs": toyoptions.PAIRS, "state_dir": str(tmp_path)}
        told = ask_array(preflight, {**params, "provider_options": options, "provider_secrets": {}})
        return told, {one.answer for one in preflight.findings if one.question.startswith("pair")}

    (warning,), answers = asked(COMMANDS)
    assert warning.startswith("provider_options: the state of the array is unknown, because kind command is given no")
    assert answers == {"No session holds it; its state on the array is unknown."}
    assert asked({**COMMANDS, "look": ["sh", "-c", "echo {}", "{pair}"]}) == ([], {"It is in sync and free."})


# ---- HTTP ----


def http(api: RestApi, certificate: Path, **changed: Any) -> dict[str, Any]:
    return {**toyoptions.of_http(api, certificate), "ready_timeout_s": 5, **changed}


def test_a_certificate_that_nobody_knows_is_refused(tmp_path: Path, api: RestApi, certificate: Path) -> None:
    other = toyrest.make_certificate(tmp_path)
    for changed in ({"ca_file": None}, {"ca_file": str(other)}):
        with pytest.raises(MirrorError, match=r"address: the certificate of 127\.0\.0\.1:\d+ is not trusted"):
            provider_of(tmp_path, http(api, certificate, **changed)).state()
    named = api.address.replace("127.0.0.1", "localhost")
    with pytest.raises(MirrorError, match="the certificate of localhost"):
        provider_of(tmp_path, http(api, certificate, address=named)).state()
    assert api.requests == []


def test_files_of_certificates_that_are_not_there_are_named(tmp_path: Path, api: RestApi, certificate: Path) -> None:
    with pytest.raises(MirrorError, match=r"with /no/ca\.pem \(No such file"):
        provider_of(tmp_path, http(api, certificate, ca_file="/no/ca.pem")).state()


def test_a_login_that_is_refused_says_so_without_the_password(tmp_path: Path, api: RestApi, certificate: Path) -> None:
    provider = provider_of(tmp_path, http(api, certificate), secrets={"TOY_PASSWORD": "hunter2"})
    with pytest.raises(MirrorError) as refused:
        provider.prepare(SESSION)
    assert "login: POST /login: the array refuses the login (401 Unauthorized)" in refused.value.message
    assert "hunter2" not in refused.value.message
    with pytest.raises(MirrorError, match="provider_secrets: there is no secret 'TOY_PASSWORD'"):
        provider_of(tmp_path, http(api, certificate), secrets={}).state()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"login": {"path": "/version"}, "headers": {}},
            "login: GET /version: the array refuses the login (401 Unauthorized)",
        ),
        ({"headers": {}}, "keep_alive: GET /version: the array refuses the login (401"),
        ({"keep_alive": {"path": "/nothing"}}, "keep_alive: GET /nothing: the array answers (404 Not Found)"),
        ({"arm": {"path": "/version", "expect": {"/version": ["2", "3"]}}}, "has '1' at /version, and not 2 or 3"),
        ({"arm": {"path": "/none/{primary}"}}, "arm: GET /none/{primary}, pair t0: the array answers (404 Not Found)"),
        ({"arm": {"path": "/version", "keep": {"x": "/versoin"}}}, "arm: the answer has to have a value at '/versoin'"),
        ({"arm": {"path": "/version", "keep": {"x": "header:X-Id"}}}, "arm: the array's answer has no header X-Id"),
        ({"arm": {"path": "/version", "keep": {"x": "cookie:id"}}}, "arm: the array's answer has no cookie id"),
        ({"arm": {"path": "/version", "status": [204]}}, "arm: GET /version: the array answers (200 OK)"),
        (
            {"arm": {"path": "/version", "for_each": {"path": "/version", "pointer": "/version"}}},
            "arm: for_each: the answer has to have a list at '/version'",
        ),
        (
            {"arm": {"path": "/version", "for_each": {"path": "/snapshots?name=x", "pointer": "/snapshots"}}},
            "arm: for_each: the array's list has no entry for this set",
        ),
    ],
)
def test_a_request_that_fails_at_arming_leaves_nothing(
    tmp_path: Path, api: RestApi, certificate: Path, changed: dict[str, Any], words: str
) -> None:
    provider = provider_of(tmp_path, http(api, certificate, **{"look": None, **changed}))
    with pytest.raises(MirrorError) as failed:
        provider.prepare(SESSION)
    assert words in failed.value.message, failed.value.message
    assert provider.split_result(SESSION) is None


def test_an_array_that_is_not_there_is_named(tmp_path: Path, api: RestApi, certificate: Path) -> None:
    options = http(api, certificate, address="https://127.0.0.1:1/api")
    with pytest.raises(MirrorError, match=r"there is no connection to 127\.0\.0\.1:1 .*Connection refused"):
        provider_of(tmp_path, options).state()
