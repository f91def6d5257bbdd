# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stands in for the programs zfs and zpool, where the kernel has no ZFS: the command lines that provider zfs uses.

The programs are small scripts that ask a server, because a new Python for each would take most of the time of a test.
Volumes are loop devices with links in /dev/zvol, which come and go late, as those of udev do. Refusals have the words
of OpenZFS.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

Data = dict[str, Any]
#: What the command ``now`` sets.
ANSWERS = {"health": "ONLINE", "full": "", "udev_s": "0.1"}
#: What udev has still to do.
LATE: list[Callable[[], object]] = []
#: Numbers of transactions: what one command takes is in one of them.
TXGS = itertools.count(1)
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
    LATE.append(partial(make_link, f"/dev/zvol/{name}", device))
    return device


def make_link(link: str, device: str) -> None:
    """Name a device, as udev does: the last one has the name."""
    os.makedirs(os.path.dirname(link), exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(link)
    os.symlink(device, link)


def catch_up() -> None:
    """Do what udev has not done yet."""
    while LATE:
        LATE.pop(0)()


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
    txg = next(TXGS)
    for word in words:
        run("cp", "--sparse=always", image(word.split("@")[0]), image(word))
        data[word] = {"type": "snapshot", "volsize": "-", "own": own, "holds": [], "createtxg": txg}


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
        fail(f"cannot destroy snapshot {name}: it's being held. Run 'zfs holds -r {name}' to see holders.")
    if any(other.get("origin") == name for other in data.values()):
        fail(f"cannot destroy '{name}': snapshot has dependent clones")
    if any(other.startswith(f"{name}@") for other in data):
        fail(f"cannot destroy '{name}': volume has children")
    device = data[name].get("device")
    if device:
        try:
            os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
        except OSError:
            fail(f"cannot destroy '{name}': pool or dataset is busy")
        run("blockdev", "--setrw", device)  # the flag outlives the detach (seen on Linux 6.18)
        run("losetup", "--detach", device)
        LATE.append(partial(os.unlink, f"/dev/zvol/{name}"))
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
            # Of user properties of its own, and of those that a volume passes on.
            passed_on = data[one.split("@")[0]]["own"] if "@" in one and ":" in key else {}
            known = {**data[one], **passed_on, **data[one]["own"]}
            source = "inherited" if key in passed_on else "-"
            source = "local" if key in data[one]["own"] else source
            row = {"name": one, "property": key, "value": str(known.get(key, "-")), "source": source}
            if source in (sources or [source]):
                rows.append("\t".join(row[column] for column in columns) + "\n")
    return "".join(rows)


def set_property(data: Data, words: list[str]) -> None:
    """``zfs set PROPERTY=VALUE NAME``."""
    key, _equals, value = words[0].partition("=")
    data[words[1]]["own"][key] = value


def inherit(data: Data, words: list[str]) -> None:
    """``zfs inherit PROPERTY NAME``."""
    key, name = words
    del data[name]["own"][key]


def list_names(data: Data, words: list[str]) -> str:
    """``zfs list -H -r -t all -o name POOL``."""
    return "".join(f"{name}\n" for name in (words[-1], *data))


def now(_dummy: Data, words: list[str]) -> None:
    """``zfs now KEY VALUE``, of the stand-in alone.

    ``health`` is the state of the pool, ``full`` makes it full. udev does what it has to
    do after ``udev_s`` without a question, and now with ``settled``.
    """
    ANSWERS[words[0]] = words[1]
    if words[0] == "settled":
        catch_up()


def answer(data: Data, program: str, words: list[str]) -> str:
    """Do what a command line says, and return what the program prints."""
    if program == "zpool":
        if not any(name.startswith(f"{words[-1]}/") for name in data):
            fail(f"cannot open '{words[-1]}': no such pool")
        return ANSWERS["health"]
    verbs = (create, snapshot, clone, destroy, hold, release, holds, rename, get, inherit, now)
    return {"set": set_property, "list": list_names, **{known.__name__: known for known in verbs}}[words[0]](
        data, words[1:]
    ) or ""


def serve(folder: str, server: socket.socket) -> None:
    """Answer the programs, one after the other, until killed."""
    os.chdir(folder)
    data: Data = {}
    while True:
        if LATE and not select.select([server], [], [], float(ANSWERS["udev_s"]))[0]:
            catch_up()
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
