# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An array for the tests of provider external: files as LUNs, behind a program and a command line (toyrest: REST).

A snapshot is a copy of the LUN's file; the mark of its session lies beside it. A mirror is shown as a loop device. Run
as a program, this file is the array's command line, or with ``serve-lines`` the program that stands ready. It imports
nothing of the collection.

What the array is to do wrong stands in its file ``faults.json``, by operation:

- ``refuse NAME``: refuse when it comes to that LUN, after those before it.
- ``some``: do it for the first LUN alone, and say so.
- ``hang``: never answer. ``die``, ``die-after``: end before, or after it is done, without an answer.
- ``garbage``: answer with something else. ``kill``, ``kill-after``: kill whoever asks, before or after it is done.
- ``slow S``: take S seconds.
- ``same NAME``: show the snapshot of that name in place of every other.
- ``thaw PATH``: thaw a file system when it is done, as the snapshots of some hypervisors thaw that of the guest.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Optional

#: Who may ask. The command line takes the password from its environment.
USER, PASSWORD = "backup", "correct-horse/battery+staple"


class Refused(Exception):
    """The array refuses, in one sentence."""


class ToyArray:
    """The array in a folder: LUNs are the files in it, snapshots those in its folder snaps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.snaps = folder / "snaps"

    @property
    def password(self) -> str:
        """What it wants to hear: what stands in its file password, or PASSWORD."""
        path = self.folder / "password"
        return path.read_text(encoding="ascii") if path.exists() else PASSWORD

    def make(self, luns: Sequence[str], size_bytes: int) -> None:
        """Make the array, with these LUNs."""
        self.snaps.mkdir(parents=True)
        for name in luns:
            with open(self.folder / name, "wb") as lun:
                lun.truncate(size_bytes)

    @contextlib.contextmanager
    def faulty(self, **faults: str) -> Iterator[None]:
        """Let operations go wrong for as long as the context lasts."""
        path = self.folder / "faults.json"
        path.write_text(json.dumps(faults), encoding="utf-8")
        yield
        path.unlink()

    def fault(self, op: str) -> str:
        """What is to go wrong with an operation."""
        with contextlib.suppress(FileNotFoundError):
            return str(json.loads((self.folder / "faults.json").read_text(encoding="utf-8")).get(op, ""))
        return ""

    def do(self, op: str, action: Callable[[], Any]) -> Any:
        """An operation with what goes wrong before it and after it."""
        what, _space, how = self.fault(op).partition(" ")
        if what == "kill":
            os.kill(os.getppid(), signal.SIGKILL)
        if what in ("die", "kill"):
            os._exit(9)
        if what == "hang":
            signal.pause() if threading.current_thread() is threading.main_thread() else time.sleep(30)
        if what == "slow":
            time.sleep(float(how))
        done = action()
        if what == "same":
            for one in done.get("pairs", {"": done}).values():
                one.update({key: self.map(how) for key in ("device", "path") if key in one})
        if what == "thaw":
            subprocess.run(["fsfreeze", "--unfreeze", how], check=True)
        if what == "kill-after":
            os.kill(os.getppid(), signal.SIGKILL)
        if what in ("die-after", "kill-after"):
            os._exit(9)
        return "garbage" if what == "garbage" else done

    # ---- what it can do ----

    def look(self, primary: str, mirror: str) -> dict[str, Any]:
        """What it knows of a LUN."""
        lun, snap = self.folder / primary, self.snaps / mirror
        mark = (self.snaps / f"{mirror}.mark").read_text(encoding="ascii") if self._marked(mirror) else None
        if mark is None and snap.exists():
            mark = ""
        problem = None if lun.exists() else f"the array has no LUN {primary}"
        return {"size_bytes": lun.stat().st_size if lun.exists() else None, "problem": problem, "mark": mark}

    def split(self, short: str, luns: Sequence[tuple[str, str]]) -> list[str]:
        """Copy LUNs; the names of those that are copied."""
        what, _space, which = self.fault("split").partition(" ")
        done = []
        for primary, mirror in luns:
            if what == "refuse" and which == primary:
                raise Refused(f"LUN {primary} has no room for a snapshot")
            mark = self.snaps / f"{mirror}.mark"
            if (self.snaps / mirror).exists() or mark.exists():
                raise Refused(f"there is a snapshot {mirror} already")
            new = self.folder / f".{mirror}.new"
            new.write_text(short, encoding="ascii")
            new.rename(mark)  # one that is killed has marked what it has made
            _copy(self.folder / primary, self.snaps / mirror)
            done.append(primary)
            if what == "some":
                break
        return done

    def undo(self, short: str, mirrors: Sequence[str]) -> None:
        """Delete the snapshots of a session."""
        for mirror in mirrors:
            mark = self.snaps / f"{mirror}.mark"
            if self._marked(mirror) and mark.read_text(encoding="ascii") == short:
                if self.devices(mirror):
                    raise Refused(f"snapshot {mirror} is mapped")
                (self.snaps / mirror).unlink(missing_ok=True)
                mark.unlink()

    def map(self, mirror: str) -> str:
        """Show a snapshot; the device."""
        found = self.devices(mirror)
        if found:
            return found[0]
        # With the sectors of its primary, where that is a loop device as well.
        primary = self.folder / f"{Path(mirror).stem}.img"
        sectors = _losetup("--noheadings", "--output", "LOG-SEC", "--associated", str(primary)).split() or ["512"]
        words = ("--find", "--show", "--read-only", "--direct-io=on", f"--sector-size={sectors[0]}")
        return _losetup(*words, str(self.snaps / mirror)).strip()

    def unmap(self, mirror: str) -> list[str]:
        """Do not show it any more; the devices that are gone."""
        found = self.devices(mirror)
        for device in found:
            _losetup("--detach", device)
        return found

    def devices(self, mirror: str) -> list[str]:
        """The devices of a snapshot."""
        rows = _losetup("--noheadings", "--output", "NAME", "--associated", str(self.snaps / mirror))
        return rows.split()

    def deleted(self) -> list[str]:
        """The devices of snapshots that somebody has deleted."""
        rows = _losetup("--noheadings", "--output", "NAME,BACK-FILE").splitlines()
        return [row.split()[0] for row in rows if f"{self.snaps}/" in row and row.endswith("(deleted)")]

    def names_of(self, short: str) -> list[str]:
        """The snapshots of a session."""
        marks = self.snaps.glob("*.mark")
        return sorted(mark.stem for mark in marks if mark.read_text(encoding="ascii") == short)

    def _marked(self, mirror: str) -> bool:
        return (self.snaps / f"{mirror}.mark").exists()


def _copy(source: Path, target: Path) -> None:
    """Share all blocks where the file system can (FICLONE), else copy them."""
    with open(source, "rb") as stream, open(target, "wb") as new:
        try:
            fcntl.ioctl(new.fileno(), 0x40049409, stream.fileno())
        except OSError:
            shutil.copyfile(source, target)


def _losetup(*words: str) -> str:
    return subprocess.run(["losetup", *words], check=True, capture_output=True, text=True).stdout


# ---- the program that stands ready ----


def serve_lines(array: ToyArray) -> None:
    """Answer lines as the page of provider external says it."""
    hello = json.loads(sys.stdin.readline())
    if hello["secrets"] != {"TOY_PASSWORD": array.password}:
        print(json.dumps({"ready": False, "error": "the array refuses this password"}), flush=True)
        return
    pairs = {pair["name"]: pair for pair in hello["pairs"]}
    names = {pair["primary"]: name for name, pair in pairs.items()}
    mirrors = [pair["mirror"] for pair in pairs.values()]

    def answer(op: str) -> Any:
        if op == "look":
            return {"pairs": {name: array.look(pair["primary"], pair["mirror"]) for name, pair in pairs.items()}}
        if op == "split":
            done = array.split(hello["short"], [(pair["primary"], pair["mirror"]) for pair in pairs.values()])
            return {"pairs": [names[primary] for primary in done]}
        if op == "present":
            return {"pairs": {name: {"device": array.map(pair["mirror"])} for name, pair in pairs.items()}}
        if op == "withdraw":
            for mirror in mirrors:
                array.unmap(mirror)
        elif op == "undo":
            array.undo(hello["short"], mirrors)
        return {}

    say = array.do("ready", lambda: {"ready": True})
    print(json.dumps(say) if isinstance(say, dict) else say, flush=True)
    for line in sys.stdin:
        op = json.loads(line)["op"]
        if op == "stop":
            return
        try:
            said = array.do(op, partial(answer, op))
        except Refused as exc:
            print(json.dumps({"ok": False, "error": str(exc)}), flush=True)
            continue
        print(json.dumps({"ok": True, **said}) if isinstance(said, dict) else said, flush=True)


# ---- the command line ----


def run_command(array: ToyArray, op: str, words: Sequence[str]) -> None:
    """``look PRIMARY MIRROR``, ``split SHORT PRIMARY=MIRROR…``, ``undo SHORT MIRROR…``, ``map`` or ``unmap MIRROR``."""
    if os.environ.get("TOY_PASSWORD") != array.password:
        raise Refused("the array refuses this password")
    if op == "look":
        print(array.do(op, lambda: json.dumps(array.look(*words))))
    elif op == "split":
        luns = [(word.partition("=")[0], word.partition("=")[2]) for word in words[1:]]
        done = array.do(op, lambda: array.split(words[0], luns))
        if len(done) < len(luns):
            raise Refused(f"only {', '.join(done)} of the group could be split")
    elif op == "undo":
        array.do(op, lambda: array.undo(words[0], words[1:]))
    elif op == "map":
        print(json.dumps(array.do("present", lambda: {"device": array.map(words[0])})))
    elif op == "unmap":
        array.do("withdraw", lambda: array.unmap(words[0]))


def main(folder: str, op: str, *words: str) -> Optional[str]:
    """The command line; returns what is wrong."""
    array = ToyArray(Path(folder))
    try:
        if op == "serve-lines":
            serve_lines(array)
        else:
            run_command(array, op, words)
    except Refused as exc:
        return f"toyarray: {exc}"
    return None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
