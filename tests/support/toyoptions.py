# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What provider external is told of the array of the tests (toyarray), by each of its kinds."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import toyarray
from .toyrest import RestApi

COMMAND = [sys.executable, "-IS", toyarray.__file__]
PAIRS = [{"name": name, "primary": f"{name}.img", "mirror": f"{name}.snap"} for name in ("t0", "t1")]
SECRETS = {"TOY_PASSWORD": toyarray.PASSWORD}


def of_program(folder: Path) -> dict[str, Any]:
    """The options of kind program. :param folder: of the array."""
    return {
        "kind": "program",
        "program": [*COMMAND, str(folder), "serve-lines"],
        "program_answers": ["look", "present", "withdraw"],
        "atomic_set": True,
    }


def of_commands(folder: Path) -> dict[str, Any]:
    """The options of kind command, with one for each pair. :param folder: of the array."""
    toy = [*COMMAND, str(folder)]
    return {
        "kind": "command",
        "look": [*toy, "look", "{primary}", "{mirror}"],
        "split": [*toy, "split", "{short}", "{primary}={mirror}"],
        "present": [*toy, "map", "{mirror}"],
        "withdraw": [*toy, "unmap", "{mirror}"],
        "undo": [*toy, "undo", "{short}", "{mirror}"],
    }


def of_one_command(folder: Path) -> dict[str, Any]:
    """The same with one command that splits the set."""
    toy = [*COMMAND, str(folder)]
    return {
        **of_commands(folder),
        "atomic_set": True,
        "split": [*toy, "split", "{short}", "t0.img=t0.snap", "t1.img=t1.snap"],
        "undo": [*toy, "undo", "{short}", "t0.snap", "t1.snap"],
    }


def of_http(api: RestApi, certificate: Path) -> dict[str, Any]:
    """The options of kind http for the REST API of the array."""
    luns = [{"name": f"{name}.img", "snapshot": f"{name}.snap"} for name in ("t0", "t1")]
    snapshots = {"path": "/snapshots?name={short}", "pointer": "/snapshots", "where": {"/of": "{short}"}}
    poll: Mapping[str, Any] = {
        "path": "/jobs/{job}",
        "pointer": "/state",
        "done": ["completed"],
        "failed": ["error"],
        "interval_s": 0.005,
    }
    return {
        "kind": "http",
        "atomic_set": True,
        "address": api.address,
        "ca_file": str(certificate),
        "login": {
            "method": "POST",
            "path": "/login",
            "body": {"user": "backup", "password": "{secret.TOY_PASSWORD}"},
            "keep": {"token": "header:X-Auth-Token"},
        },
        "headers": {"X-Auth-Token": "{token}"},
        "keep_alive": {"path": "/version", "interval_s": 0.5},
        "look": {
            "path": "/luns/{primary}/{mirror}",
            "keep": {key: f"/{key}" for key in ("size_bytes", "problem", "mark")},
        },
        "split": {
            "method": "POST",
            "path": "/snapshots",
            "body": {"name": "{short}", "luns": luns},
            "keep": {"job": "/job/id"},
            "poll": poll,
        },
        "present": {"method": "POST", "path": "/maps/{mirror}", "keep": {"device": "/path"}},
        "withdraw": {"method": "DELETE", "path": "/maps/{mirror}"},
        "undo": {"method": "DELETE", "path": "/snapshots/{id}", "for_each": {**snapshots, "keep": {"id": "/id"}}},
    }
