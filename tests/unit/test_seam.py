# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The registries of seams: a process imports what it uses, and nothing else of the seam."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.seam import Classes
from ansible_collections.splitmirror.backup.tests.support.demo import ROOT

UTILS = "ansible_collections.splitmirror.backup.plugins.module_utils"
PROVIDERS = {"drbd", "external", "image", "lvm", "lvm_thin", "md", "qemu", "rbd", "zfs"}
TRANSPORTS = {"attach", "lio", "masked", "nbd", "no_export", "tgt"}


def test_a_class_is_loaded_when_it_is_asked_for() -> None:
    loaded = []

    def load() -> type[int]:
        loaded.append("int")
        return int

    classes = Classes({"int": load})
    assert "int" in classes
    assert sorted(classes) == ["int"]
    assert len(classes) == 1
    assert loaded == []
    assert classes["int"] is int
    assert loaded == ["int"]
    with pytest.raises(KeyError):
        classes["str"]


@pytest.mark.parametrize(
    ("line", "used"),
    [
        ("from {0}.mirror.registry import PROVIDERS; PROVIDERS['image']", {"mirror.image"}),
        ("from {0}.transport.registry import EXPORTERS; EXPORTERS['tgt']", {"transport.tgt"}),
        ("from {0}.transport.registry import ATTACHERS; ATTACHERS['static']", {"transport.attach"}),
        ("import ansible_collections.splitmirror.backup.plugins.filter.mirror_sets", set()),
    ],
)
def test_no_other_class_of_the_seam_is_imported(line: str, used: set[str]) -> None:
    known = {f"mirror.{name}" for name in PROVIDERS} | {f"transport.{name}" for name in TRANSPORTS}
    program = f"{line.format(UTILS)}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT / ".cache/tree")},
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {name.removeprefix(f"{UTILS}.") for name in done.stdout.split()}
    assert known & imported == used
