# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The split of the recipe cinder against a real Cinder. ``./run lab cinder`` brings one up and runs this beside it.

What the recipe does outside the window is done by modules that need Keystone; here the requests that they stand for are
sent by provider external itself, as present and withdraw.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import jinja2
import rados
import rbd
import yaml

from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import MirrorProvider
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.registry import make_provider
from ansible_collections.splitmirror.backup.plugins.module_utils.session import short_session
from ansible_collections.splitmirror.backup.tests.seams.mirrors import SESSION, killed_at, refused

HERE = Path(__file__).parent
PROJECT = "5f3c1d2e4a5b6c7d8e9f0a1b2c3d4e5f"
ADDRESS = f"http://127.0.0.1:8776/v3/{PROJECT}"
HEADERS = {"X-Auth-Token": f"admin:{PROJECT}", "OpenStack-API-Version": "volume 3.29"}
WAIT_S = 180
MIB = 1 << 20
Json = dict[str, Any]

#: What the maker's modules do outside the window.
PRESENT = {
    "method": "POST",
    "path": "/volumes",
    "body": {"volume": {"snapshot_id": "{part}", "size": 1, "name": "{mirror}_{short}"}},
    "status": [202],
    "keep": {"serial": "/volume/id"},
    "poll": {"path": "/volumes/{serial}", "pointer": "/volume/status", "done": ["available"], "failed": ["error"]},
    "for_each": {
        "path": "/snapshots/detail?volume_id={primary}",
        "pointer": "/snapshots",
        "where": {"/name": "{short}"},
        "keep": {"part": "/id"},
    },
}
WITHDRAW = {
    "method": "DELETE",
    "path": "/volumes/{clone}",
    "poll": {"path": "/volumes?name={mirror}_{short}", "pointer": "/volumes", "done": [[]]},
    "for_each": {"path": "/volumes?name={mirror}_{short}", "pointer": "/volumes", "keep": {"clone": "/id"}},
}


def ask(method: str, path: str, body: Any = None) -> Json:
    """One request, past everything that is tested."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        ADDRESS + path, data, {**HEADERS, "Content-Type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request) as answer:
        text = answer.read()
    found: Json = json.loads(text) if text else {}
    return found


def until(action: Callable[[], Any], wanted: Callable[[Any], bool], what: str) -> Any:
    """Ask until the answer is the wanted one."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            found = action()
            if wanted(found):
                return found
        except OSError as exc:
            found = exc
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: {found}")
        time.sleep(0.2)


class Bench:
    """Two volumes of one group, and what is on them."""

    def __init__(self) -> None:
        until(lambda: ask("GET", "/types"), bool, "the API does not answer")
        until(
            lambda: ask("GET", "/os-services")["services"],
            lambda them: sorted(one["state"] for one in them) == ["up", "up"],
            "the services are not up",
        )
        volume_type = ask("POST", "/types", {"volume_type": {"name": "ceph"}})["volume_type"]["id"]
        group_type = ask("POST", "/group_types", {"group_type": {"name": "sets"}})["group_type"]["id"]
        group = {"name": "db1", "group_type": group_type, "volume_types": [volume_type]}
        self.group = ask("POST", "/groups", {"group": group})["group"]["id"]
        self.await_status("group", self.group)
        self.volumes = []
        for name in ("t0", "t1"):
            volume = {"name": name, "size": 1, "volume_type": volume_type, "group_id": self.group}
            self.volumes.append(ask("POST", "/volumes", {"volume": volume})["volume"]["id"])
        for one in self.volumes:
            self.await_status("volume", one)
        self.pool = rados.Rados(conffile="/etc/ceph/ceph.conf")
        self.pool.connect()
        self.pool = self.pool.open_ioctx("volumes")

    def await_status(self, kind: str, name: str) -> None:
        """Wait until Cinder has made it."""
        until(lambda: ask("GET", f"/{kind}s/{name}")[kind]["status"], "available".__eq__, f"{kind} {name}")

    def write(self, byte: int) -> None:
        """Fill the first MiB of both volumes."""
        for volume in self.volumes:
            with rbd.Image(self.pool, f"volume-{volume}") as image:
                image.write(bytes([byte]) * MIB, 0)

    def content(self, image: str, snapshot: str | None = None) -> int:
        """The byte that fills the first MiB."""
        with rbd.Image(self.pool, image, snapshot=snapshot, read_only=True) as one:
            found = one.read(0, MIB)
        assert found == found[:1] * MIB
        return int(found[0])

    def snapshots(self) -> list[Json]:
        """The snapshots of volumes that Cinder has."""
        found: list[Json] = ask("GET", "/snapshots/detail")["snapshots"]
        return found

    def provider(self, state_dir: str, **changed: Any) -> MirrorProvider:
        """The provider as the recipe makes it, without its login."""
        environment = jinja2.Environment(autoescape=False)  # YAML
        environment.filters.update(to_json=json.dumps, bool=bool, urlencode=partial(quote, safe=""))
        text = (HERE / "roles/mirrored_backup/templates/recipes/cinder.yml.j2").read_text(encoding="utf-8")
        told = {"auth_url": "https://none", "volume_url": ADDRESS, "project": "p", "group": self.group, **changed}
        options = yaml.safe_load(environment.from_string(text).render(splitmirror_array_options=told))
        del options["login"]
        options["headers"]["X-Auth-Token"] = HEADERS["X-Auth-Token"]
        options.update(present=PRESENT, withdraw=WITHDRAW)
        names = zip(("t0", "t1"), self.volumes)
        pairs = [{"name": name, "primary": volume, "mirror": f"{name}_mirror"} for name, volume in names]
        return make_provider("external", pairs, state_dir, options)

    def clean(self) -> None:
        """Delete all that is not the group itself."""
        until(lambda: busy(self), [].__eq__, "something is never finished")
        for one in ask("GET", "/group_snapshots")["group_snapshots"]:
            ask("DELETE", f"/group_snapshots/{one['id']}")
        for one in ask("GET", "/volumes")["volumes"]:
            if one["id"] not in self.volumes:
                ask("DELETE", f"/volumes/{one['id']}")
        until(lambda: ask("GET", "/group_snapshots")["group_snapshots"], [].__eq__, "a snapshot stays")
        until(lambda: len(ask("GET", "/volumes")["volumes"]), len(self.volumes).__eq__, "a volume stays")

    def check_clean(self) -> None:
        """Nothing of a session is left: nothing in Cinder, nothing in Ceph."""
        assert ask("GET", "/group_snapshots")["group_snapshots"] == []
        assert self.snapshots() == []
        assert [one["name"] for one in ask("GET", "/volumes")["volumes"] if one["name"] not in ("t0", "t1")] == []
        for volume in self.volumes:
            with rbd.Image(self.pool, f"volume-{volume}") as image:
                assert list(image.list_snaps()) == []


def the_split_is_the_instant(bench: Bench, state_dir: str) -> str:
    """What is written before it is in the mirror, and what is written after it is not."""
    provider = bench.provider(state_dir)
    prepared = provider.prepare(SESSION)
    bench.write(0xA1)
    began = time.monotonic()
    prepared.split()
    took_s = time.monotonic() - began
    bench.write(0xB2)
    prepared.settle()
    (made,) = ask("GET", "/group_snapshots/detail")["group_snapshots"]
    assert (made["name"], made["status"]) == (short_session(SESSION), "available")
    parts = bench.snapshots()
    assert sorted(part["volume_id"] for part in parts) == sorted(bench.volumes)
    for part in parts:
        assert bench.content(f"volume-{part['volume_id']}", f"snapshot-{part['id']}") == 0xA1
        assert bench.content(f"volume-{part['volume_id']}") == 0xB2
    shown = provider.present(SESSION).luns
    assert sorted(shown) == ["t0", "t1"]
    for lun in shown.values():
        assert bench.content(f"volume-{lun['serial']}") == 0xA1
    provider.withdraw(SESSION)
    provider.resync(SESSION, wait=True, timeout_s=60)
    return f"split of two volumes in {took_s:.2f} s"


def by_hand(bench: Bench, after: Callable[[], None] = lambda: None) -> tuple[float, float, list[int]]:
    """Take a snapshot by a request, and delete it.

    :param after: is called when Cinder has answered.
    :returns: after how many seconds it answered, after how many the snapshot was available, and what is in it.
    """
    began = time.monotonic()
    body = {"group_snapshot": {"group_id": bench.group, "name": "by-hand"}}
    made = ask("POST", "/group_snapshots", body)["group_snapshot"]["id"]
    answered_s = time.monotonic() - began
    after()
    assert ask("GET", f"/group_snapshots/{made}")["group_snapshot"]["status"] == "creating"
    bench.await_status("group_snapshot", made)
    done_s = time.monotonic() - began
    parts = [(f"volume-{part['volume_id']}", f"snapshot-{part['id']}") for part in bench.snapshots()]
    content = [bench.content(*part) for part in parts]
    bench.clean()
    return answered_s, done_s, content


def an_answer_is_not_a_split(bench: Bench, _state_dir: str) -> str:
    """Cinder answers before the instant is taken: what is written after the answer is in the snapshot."""
    bench.write(0x11)
    answered_s, done_s, content = by_hand(bench, lambda: bench.write(0x22))
    assert 0x22 in content
    return f"answered after {answered_s:.2f} s, available after {done_s:.2f} s, with what was written in between"


def a_split_that_is_late_is_undone(bench: Bench, state_dir: str) -> str:
    """The window does not wait for Cinder longer than it is told."""
    answered_s, done_s, _content = by_hand(bench)
    limit_s = (answered_s + done_s) / 2
    prepared = bench.provider(state_dir, split_timeout_s=limit_s).prepare(SESSION)
    refused(prepared.split, "in time")
    prepared.cancel()
    return f"not done in {limit_s:.2f} s"


def a_split_that_is_not_even_answered_is_undone_by_the_recovery(bench: Bench, state_dir: str) -> str:
    """Cinder may begin with it after the undo, which finds nothing. The recovery of the failed session names it."""
    answered_s, _done_s, _content = by_hand(bench)
    prepared = bench.provider(state_dir, split_timeout_s=answered_s * 0.6).prepare(SESSION)
    refused(prepared.split, "in time")
    prepared.cancel()
    # When a later request is done, so is that one.
    body = {"group_snapshot": {"group_id": bench.group, "name": "later"}}
    bench.await_status("group_snapshot", ask("POST", "/group_snapshots", body)["group_snapshot"]["id"])
    found = [one["name"] for one in ask("GET", "/group_snapshots")["group_snapshots"]]
    bench.provider(state_dir).recover([SESSION])
    assert [one["name"] for one in ask("GET", "/group_snapshots")["group_snapshots"]] == ["later"]
    bench.clean()
    return f"{len(found) - 1} came after the undo"


def a_group_that_is_not_there_is_refused_before_the_window(bench: Bench, state_dir: str) -> str:
    """Arming asks for the group."""
    provider = bench.provider(state_dir, group="0d3f1c52-6a0b-4a3f-9a55-0d1f3b8f8a11")
    refused(lambda: provider.prepare(SESSION), "404")
    return ""


def whoever_is_killed_leaves_what_the_next_one_deletes(bench: Bench, state_dir: str) -> str:
    """Killed before each new request of a session."""
    number = 0
    while True:

        def session() -> None:
            provider = bench.provider(state_dir)
            provider.split(SESSION)
            provider.present(SESSION)

        if not killed_at(number, partial(is_new_request, {}), session):
            break
        # A snapshot or a volume that is being made cannot be deleted.
        until(lambda: busy(bench), [].__eq__, "something is never finished")
        bench.provider(state_dir).recover()
        bench.check_clean()
        number += 1
    provider = bench.provider(state_dir)
    provider.withdraw(SESSION)
    provider.resync(SESSION, wait=True, timeout_s=60)
    assert number > 6
    return f"killed at {number} requests"


def is_new_request(last: dict[str, bytes], event: str, args: tuple[Any, ...]) -> bool:
    """Whether a request is sent that is not the one before once more, as when a status is awaited."""
    if event != "http.client.send":
        return False
    before, last["line"] = last.get("line"), bytes(args[1]).partition(b"\r\n")[0]
    return last["line"] != before


def busy(bench: Bench) -> list[str]:
    """What Cinder is at work on."""
    them = ask("GET", "/group_snapshots/detail")["group_snapshots"] + bench.snapshots()
    them += ask("GET", "/volumes/detail")["volumes"]
    return [one["status"] for one in them if one["status"].endswith("ing")]


CASES = [
    the_split_is_the_instant,
    an_answer_is_not_a_split,
    a_split_that_is_late_is_undone,
    a_split_that_is_not_even_answered_is_undone_by_the_recovery,
    a_group_that_is_not_there_is_refused_before_the_window,
    whoever_is_killed_leaves_what_the_next_one_deletes,
]


@contextmanager
def told(name: str) -> Iterator[list[str]]:
    """Print how a case ends, and how long it took."""
    words: list[str] = []
    began = time.monotonic()
    yield words
    print(f"{time.monotonic() - began:6.1f} s  {name}: {' '.join(words)}", flush=True)


def main(only: str) -> int:
    """Run the cases whose names have ``only`` in them."""
    with told("Cinder is up") as words:
        bench = Bench()
        words.append("a group of two volumes")
    failed = 0
    for case in (one for one in CASES if only in one.__name__):
        with told(case.__name__) as words, TemporaryDirectory() as state_dir:
            try:
                words.append(case(bench, state_dir) or "passed")
                bench.check_clean()
            except Exception:
                failed += 1
                words.append(f"FAILED\n{traceback.format_exc()}")
                bench.clean()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
