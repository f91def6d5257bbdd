# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A program mtx that moves volumes in a file, in place of a library: the one part of such tests that is not real."""

from __future__ import annotations

import json
import sys
from pathlib import Path

_PROGRAM = """#!{python}
import json, sys
path, command, numbers = sys.argv[2], sys.argv[3], [int(word) for word in sys.argv[4:]]
held = json.load(open(path))
drives, slots = held["drives"], held["slots"]
full = lambda tag: "Full " + (":VolumeTag=" + tag if tag else "") if tag else "Empty"
if command == "status":
    for number, tag in enumerate(drives):
        home = "Full (Storage Element %d Loaded):VolumeTag = %s" % (held["home"].get(tag, 1), tag) if tag else "Empty"
        print("Data Transfer Element %d:%s" % (number, home))
    for number, tag in enumerate(slots, 1):
        mail = " IMPORT/EXPORT" if number > len(slots) - held["mail"] else ""
        print("      Storage Element %d%s:%s" % (number, mail, full(tag)))
    sys.exit(0)
places = {{
    "load": [(slots, numbers[0] - 1), (drives, numbers[-1])],
    "unload": [(drives, numbers[-1]), (slots, numbers[0] - 1)],
    "transfer": [(slots, numbers[0] - 1), (slots, numbers[-1] - 1)],
}}
(source, one), (target, other) = places[command]
if not source[one] or target[other]:
    sys.exit("source empty or target full")
if command == "load":
    held["home"][source[one]] = numbers[0]
source[one], target[other] = "", source[one]
json.dump(held, open(path, "w"))
"""


class FakeChanger:
    """A library of that program.

    :param folder: where the program and its state lie; the folder ``bin`` in it belongs into PATH.
    :param drives: barcodes in the drives, and of the slots in ``slots``; empty for an empty one.
    :param mail: how many of the slots, the last ones, are import/export slots.
    """

    def __init__(self, folder: Path, drives: list[str], slots: list[str], mail: int = 0) -> None:
        self.device = folder / "changer"
        self.programs = folder / "bin"
        self.programs.mkdir()
        (self.programs / "mtx").write_text(_PROGRAM.format(python=sys.executable), encoding="utf-8")
        (self.programs / "mtx").chmod(0o755)
        home = {barcode: slots.index("") + 1 for barcode in drives if barcode}
        self.device.write_text(
            json.dumps({"drives": drives, "slots": slots, "mail": mail, "home": home}), encoding="utf-8"
        )

    def held(self) -> tuple[list[str], list[str]]:
        """What is in the drives, and in the slots."""
        held = json.loads(self.device.read_text(encoding="utf-8"))
        return held["drives"], held["slots"]

    def put(self, slot: int, barcode: str) -> None:
        """As a person does. :param barcode: empty to take out what is there."""
        held = json.loads(self.device.read_text(encoding="utf-8"))
        held["slots"][slot - 1] = barcode
        self.device.write_text(json.dumps(held), encoding="utf-8")
