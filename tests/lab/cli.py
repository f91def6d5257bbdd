# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line of the lab."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import ceph, cinder, zfs
from .description import DEFAULT_FILE, LabError, load
from .lifecycle import RunningLab


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab", description="Database hosts, an array, a tape library: one machine.")
    parser.add_argument("--name", help="which lab, when there are several (default: the description's name)")
    parser.add_argument("--file", type=Path, default=DEFAULT_FILE, help="description of the lab (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="build and boot the lab")
    up.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as database_hosts.count=4")
    up.add_argument("--keep", action="store_true", help="when a step fails, leave what came up, to look at it")
    commands.add_parser("down", help="take the lab away, whatever is left of it")
    commands.add_parser("status", help="what runs")
    commands.add_parser("inventory", help="print the Ansible inventory")
    ssh = commands.add_parser("ssh", help="a shell, or one command, on a host")
    ssh.add_argument("host")
    ssh.add_argument("words", nargs=argparse.REMAINDER, metavar="command")
    inside = commands.add_parser("exec", help="run a command of this machine in the lab's network")
    inside.add_argument("words", nargs=argparse.REMAINDER, metavar="command")
    kill = commands.add_parser("kill", help="cut the power of a host")
    kill.add_argument("host")
    kill.add_argument("--when", metavar="COMMAND", help="as soon as this shell command succeeds on it, as root")
    commands.add_parser("start", help="boot a host again").add_argument("host")
    one_node = commands.add_parser(
        "ceph", help="boot a Ceph of one node and a client, try provider rbd there, take both down"
    )
    one_node.add_argument("only", nargs="?", default="", help="a part of the names of the cases to run")
    storage = commands.add_parser("cinder", help="bring up a Cinder on a Ceph, try the recipe there, take both down")
    storage.add_argument("only", nargs="?", default="", help="a part of the names of the cases to run")
    pool = commands.add_parser(
        "zfs", help="boot an emulated machine with OpenZFS, try provider zfs there, take it down"
    )
    pool.add_argument("only", nargs="?", default="", help="a part of the names of the cases to run")
    return parser


def main(words: list[str] | None = None) -> int:
    """Do what the command line says, and return the exit status."""
    arguments = _parser().parse_args(words)
    os.umask(0o022)
    try:
        lab = load(arguments.file, tuple(getattr(arguments, "set", ())))
        running = RunningLab(arguments.name or lab.name)
        return int(_COMMANDS[arguments.command](running, lab, arguments) or 0)
    except (LabError, RuntimeError) as exc:
        print(f"lab: {exc}", file=sys.stderr)
        return 1


def _up(running: RunningLab, lab: Any, arguments: argparse.Namespace) -> None:
    begin = time.monotonic()
    running.up(lab, lambda line: print(f"{time.monotonic() - begin:6.1f} s  {line}", flush=True), arguments.keep)
    print(f"{time.monotonic() - begin:6.1f} s  up; inventory: {running.inventory_file}")


def _down(running: RunningLab, *_dummy: Any) -> None:
    running.down()


def _status(running: RunningLab, *_dummy: Any) -> int:
    whole = True
    for host in running.lab().hosts:
        runs = running.machine(host).runs()
        whole = whole and runs
        print(f"{host.name:10} {host.role:10} {host.address:14} {'runs' if runs else 'is dead'}")
    return 0 if whole else 3


def _inventory(running: RunningLab, *_dummy: Any) -> None:
    running.lab()
    print(json.dumps(json.loads(running.inventory_file.read_text()), indent=2))


def _exec(command: list[str]) -> None:
    sys.stdout.flush()
    os.execvp(command[0], command)


def _ssh(running: RunningLab, _dummy: Any, arguments: argparse.Namespace) -> None:
    _exec(running.ssh_command(arguments.host, arguments.words))


def _inside(running: RunningLab, _dummy: Any, arguments: argparse.Namespace) -> None:
    running.lab()
    if not arguments.words:
        raise LabError("exec: name the command to run")
    os.environ.setdefault("ANSIBLE_INVENTORY", str(running.inventory_file))
    _exec([*running.inside(), *arguments.words])


def _kill(running: RunningLab, _dummy: Any, arguments: argparse.Namespace) -> None:
    machine = running.machine(running.lab().host(arguments.host))
    if arguments.when is not None:
        running.wait_for(arguments.host, arguments.when)
    machine.kill()


def _start(running: RunningLab, _dummy: Any, arguments: argparse.Namespace) -> None:
    running.start(arguments.host)


def _ceph(_running: RunningLab, _lab: Any, arguments: argparse.Namespace) -> int:
    with ceph.up() as running:
        return 0 if ceph.run_contract(running, arguments.only) else 1


def _cinder(_running: RunningLab, _lab: Any, arguments: argparse.Namespace) -> int:
    return 0 if cinder.run(arguments.only) else 1


def _zfs(_running: RunningLab, _lab: Any, arguments: argparse.Namespace) -> int:
    return 0 if zfs.run(arguments.only) else 1


_COMMANDS: dict[str, Callable[[RunningLab, Any, argparse.Namespace], int | None]] = {
    "up": _up,
    "down": _down,
    "status": _status,
    "inventory": _inventory,
    "ssh": _ssh,
    "exec": _inside,
    "kill": _kill,
    "start": _start,
    "ceph": _ceph,
    "cinder": _cinder,
    "zfs": _zfs,
}
