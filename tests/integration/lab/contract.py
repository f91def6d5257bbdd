# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs cases of mirror providers on the array of the lab, as root: ``python3 -m …contract KIND CASE...``.

Most are those of all mirror providers (tests/seams/mirrors.py). One process for all cases of a provider, because a new
one takes a second to start there. Prints for each case nothing, or how it failed, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ansible_collections.splitmirror.backup.tests.seams.mirrors import TESTS, MirrorContract

from . import on_array, on_drbd, on_thin

#: Makes the LUNs of each provider.
BENCHES: dict[str, Callable[[], MirrorContract]] = {
    "drbd": on_drbd.Bench,
    "lvm": partial(on_array.Bench, "lvm"),
    "lvm_thin": on_thin.Bench,
    "md": partial(on_array.Bench, "md"),
}
_OWN: dict[str, Sequence[Callable[[Any], None]]] = {
    **on_array.OWN_CASES,
    "drbd": on_drbd.OWN_CASES,
    "lvm_thin": on_thin.OWN_CASES,
}
#: Options can be tried anywhere, see unit/mirror/test_registry.py.
_SHARED = [name for name in TESTS if "option" not in name]
#: The tests of the contract, and those of each provider.
CASES: dict[str, dict[str, Callable[[Any], None]]] = {
    kind: {
        **{name: getattr(MirrorContract, name) for name in _SHARED},
        **{case.__name__: case for case in _OWN[kind]},
    }
    for kind in BENCHES
}


def failure_of(kind: str, case: str) -> str:
    """Run one case; return how it failed, or an empty text."""
    try:
        with BENCHES[kind]() as bench:
            CASES[kind][case](bench)
    except Exception:
        return traceback.format_exc()
    return ""


def main(kind: str, *cases: str) -> None:
    """Run these cases, and print how each has ended."""
    failures = {}
    for case in cases:
        begin = time.monotonic()
        failures[case] = failure_of(kind, case)
        print(f"{time.monotonic() - begin:6.1f} s  {kind} {case}", file=sys.stderr)
    print(json.dumps(failures))


if __name__ == "__main__":
    main(*sys.argv[1:])
