# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stands in for the programs zfs and zpool, where the kernel has no ZFS: the command lines that provider zfs uses.

The programs are small scripts that ask a server, because a new Python for each would take most of the time of a test.
Volumes are loop devices with links in /dev/zvol. Refusals have the words of OpenZFS.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

Data = dict[str, Any]
#: What the command ``now`` sets.
ANSWERS = {"health": "ONLINE", "full": ""}
STUB = """#!/bin/bash
exec 3<>/dev/tcp/127.0.0.1/{port}
printf '%s\\0' "${{0##*/}}" "$@" >&3
printf '\\n' >&3
read -r code <&3
IFS= read -r -d '' text <&3
if [ "$code" = 0 ]; then printf '%s' "$text"; else printf '%s\\n' "$text" >&2; fi
exit "$code"
"""


@contextlib.contextmanager
def fake_zfs(folder: Path) -> Iterator[None]:
    """Have the programs in a folder, and the files of volumes and snapshots, for as long as the context lasts."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        for program in ("zfs", "zpool"):
            (folder / program).write_text(STUB.format(port=server.getsockname()[1]))
            (folder / program).chmod(0o755)
        process = subprocess.Popen([sys.executable, __file__, folder, str(server.fileno())], pass_fds=[server.fileno()])
    try:
        yield
    finally:
        process.kill()
        process.wait()


class Refused(Exception):
    """The program ends with an error."""


def fail(words: str) -> NoReturn:
    """End with an error."""
    raise Refused(words)


def take(words: list[str], flag: str) -> list[str]:
    """Remove each ``flag VALUE`` from the words, and return the values."""
    values = []
    while flag in words:
        at = words.index(flag)
        values.append(words.pop(at + 1))
        words.pop(at)
    return values


def run(*command: str) -> str:
    """Run a program to its end and return its output."""
    return subprocess.run(command, check=True, text=True, capture_output=True).stdout.strip()


def image(name: str) -> str:
    """The file of a volume or snapshot."""
    return name.replace("/", "+")


def attach(name: str, read_only: bool) -> str:
    """Make the device of a volume."""
    options = ["--find", "--show", "--sector-size=512", *(["--read-only"] if read_only else [])]
    device = run("losetup", *options, image(name))
    # The read-only flag of a loop device that another test has set stays when the device is used anew.
    run("blockdev", "--setro" if read_only else "--setrw", device)
    link = f"/dev/zvol/{name}"
    os.makedirs(os.path.dirname(link), exist_ok=True)
    os.symlink(device, link)
    return device


def create(data: Data, words: list[str]) -> None:
    """``zfs create -V BYTES NAME``, or a file system without ``-V``."""
    sizes = take(words, "-V")
    (name,) = words
    if name in data:
        fail(f"cannot create '{name}': dataset already exists")
    data[name] = {"type": "volume" if sizes else "filesystem", "volsize": sizes[0] if sizes else "-", "own": {}}
    if sizes:
        with open(image(name), "wb") as file:
            file.truncate(int(sizes[0]))
        data[name]["device"] = attach(name, read_only=False)


def settings_of(words: list[str]) -> dict[str, str]:
    """The properties that ``-o`` sets."""
    return dict(setting.split("=", 1) for setting in take(words, "-o"))


def snapshot(data: Data, words: list[str]) -> None:
    """``zfs snapshot [-o property=value]... NAME@SNAPSHOT...``, all or none."""
    own = settings_of(words)
    if len({word.split("/")[0] for word in words}) > 1:
        fail("cannot create snapshots : operation not permitted across pools")
    for word in words:
        if word.split("@")[0] not in data:
            fail(f"cannot open '{word.split('@')[0]}': dataset does not exist\nno snapshots were created")
        if word in data:
            fail(f"cannot create snapshot '{word}': dataset already exists\nno snapshots were created")
    if ANSWERS["full"]:
        fail(f"cannot create snapshot '{words[0]}': out of space\nno snapshots were created")
    for word in words:
        run("cp", "--sparse=always", image(word.split("@")[0]), image(word))
        data[word] = {"type": "snapshot", "volsize": "-", "own": own, "holds": []}


def clone(data: Data, words: list[str]) -> None:
    """``zfs clone [-o property=value]... SNAPSHOT NAME``."""
    own = settings_of(words)
    origin, name = words
    if name in data:
        fail(f"cannot create '{name}': dataset already exists")
    if origin not in data:
        fail(f"cannot open '{origin}': dataset does not exist")
    size = data[origin.split("@")[0]]["volsize"]
    run("cp", "--sparse=always", image(origin), image(name))
    device = attach(name, own.get("readonly") == "on")
    data[name] = {"type": "volume", "volsize": size, "own": own, "origin": origin, "device": device}


def destroy(data: Data, words: list[str]) -> None:
    """``zfs destroy NAME``."""
    (name,) = words
    if name not in data:
        fail(f"cannot open '{name}': dataset does not exist")
    if data[name].get("holds"):
        fail(f"cannot destroy snapshot {name}: dataset is busy")
    if any(other.get("origin") == name for other in data.values()):
        fail(f"cannot destroy '{name}': snapshot has dependent clones")
    if any(other.startswith(f"{name}@") for other in data):
        fail(f"cannot destroy '{name}': volume has children")
    device = data[name].get("device")
    if device:
        try:
            os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
        except OSError:
            fail(f"cannot destroy '{name}': dataset is busy")
        run("blockdev", "--setrw", device)  # the flag outlives the detach (seen on Linux 6.18)
        run("losetup", "--detach", device)
        os.unlink(f"/dev/zvol/{name}")
    if os.path.exists(image(name)):
        os.unlink(image(name))
    del data[name]


def hold(data: Data, words: list[str]) -> None:
    """``zfs hold TAG SNAPSHOT...``."""
    tag, *names = words
    for name in names:
        if tag in data[name]["holds"]:
            fail(f"cannot hold snapshot '{name}': tag already exists on this dataset")
        data[name]["holds"].append(tag)


def release(data: Data, words: list[str]) -> None:
    """``zfs release TAG SNAPSHOT``."""
    tag, name = words
    if tag not in data[name]["holds"]:
        fail(f"cannot release hold from snapshot '{name}': no such tag on this dataset")
    data[name]["holds"].remove(tag)


def holds(data: Data, words: list[str]) -> str:
    """``zfs holds -H SNAPSHOT``."""
    return "".join(f"{words[-1]}\t{tag}\tFri Nov 27 12:00 2026\n" for tag in data[words[-1]]["holds"])


def rename(data: Data, words: list[str]) -> None:
    """``zfs rename NAME NEW``; the device stays."""
    data[words[1]] = data.pop(words[0])


def get(data: Data, words: list[str]) -> str:
    """``zfs get [-H] [-p] -o COLUMNS [-s local] [-t snapshot -d 1] PROPERTIES NAME``."""
    columns = take(words, "-o")[0].split(",")
    sources, kinds, _depth = take(words, "-s"), take(words, "-t"), take(words, "-d")
    *_flags, properties, name = words
    if name not in data:
        fail(f"cannot open '{name}': dataset does not exist")
    rows = []
    for one in [other for other in data if other.startswith(f"{name}@")] if kinds else [name]:
        for key in properties.split(","):
            known = {**data[one], **data[one]["own"]}
            source = "local" if key in data[one]["own"] else "-"
            row = {"name": one, "property": key, "value": str(known.get(key, "-")), "source": source}
            if source in (sources or [source]):
                rows.append("\t".join(row[column] for column in columns) + "\n")
    return "".join(rows)


def set_property(data: Data, words: list[str]) -> None:
    """``zfs set PROPERTY=VALUE NAME``."""
    key, _equals, value = words[0].partition("=")
    data[words[1]]["own"][key] = value


def now(_dummy: Data, words: list[str]) -> None:
    """``zfs now KEY VALUE``, of the stand-in alone: ``health`` is the state of the pool, ``full`` makes it full."""
    ANSWERS[words[0]] = words[1]


def answer(data: Data, program: str, words: list[str]) -> str:
    """Do what a command line says, and return what the program prints."""
    if program == "zpool":
        return ANSWERS["health"]
    verbs = (create, snapshot, clone, destroy, hold, release, holds, rename, get, now)
    return {"set": set_property, **{known.__name__: known for known in verbs}}[words[0]](data, words[1:]) or ""


def serve(folder: str, server: socket.socket) -> None:
    """Answer the programs, one after the other, until killed."""
    os.chdir(folder)
    data: Data = {}
    while True:
        connection, _address = server.accept()
        with connection, connection.makefile("rw", newline="\n") as stream:
            program, *words, _end = stream.readline().split("\0")
            try:
                code, text = 0, answer(data, program, words)
            except Refused as exc:
                code, text = 1, str(exc)
            stream.write(f"{code}\n{text}")


if __name__ == "__main__":
    serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2])))
