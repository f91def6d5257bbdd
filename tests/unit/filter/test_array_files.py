# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which task files the role takes for the steps of an array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.filter.array_files import array_files

STEPS = ["sync", "present", "recover"]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name in ("default/sync", "default/present", "default/recover", "external/recover", "pure/present"):
        path = tmp_path / "ours" / f"{name}.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def found(folders: Path, tasks: str = "", provider: str = "external") -> dict[str, Any]:
    ours = folders / "ours"
    told = array_files(tasks, str(ours), provider, STEPS, [str(folders)])
    for of in ("files", "ours"):
        paths = [Path(told[of][step]) for step in STEPS]
        assert [path.stem for path in paths] == STEPS
        base = folders if of == "files" else ours
        told[of] = [path.parent.relative_to(ours if ours in path.parents else base).as_posix() for path in paths]
    return told


@pytest.mark.parametrize(
    ("tasks", "provider", "files"),
    [
        ("", "image", ["default", "default", "default"]),
        ("", "external", ["default", "default", "external"]),
        ("pure", "external", ["default", "pure", "external"]),
        ("mine", "external", ["mine", "default", "external"]),
        ("default", "external", ["default", "default", "default"]),
    ],
)
def test_a_step_comes_from_the_first_folder_that_has_it(
    folders: Path, tasks: str, provider: str, files: list[str]
) -> None:
    (folders / "mine").mkdir()
    (folders / "mine/sync.yml").touch()
    (folders / "mine/helper.yml").touch()
    told = found(folders, tasks, provider)
    assert (told["files"], told["faults"]) == (files, [])
    assert told["ours"][2] == provider.replace("image", "default")


def test_a_folder_of_the_users_comes_before_one_of_ours_with_its_name(folders: Path) -> None:
    (folders / "pure").mkdir()
    (folders / "pure/sync.yml").touch()
    assert found(folders, "pure")["files"] == ["pure", "default", "external"]


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ("nowhere", ["there is no folder nowhere", "(default, external, pure)"]),
        ("empty", ["/empty has none of the files sync.yml, present.yml, recover.yml"]),
        ("typo", ["/typo/presnet.yml is not a step of an array; did you mean present.yml?"]),
    ],
)
def test_a_folder_without_use_is_refused(folders: Path, tasks: str, words: list[str]) -> None:
    (folders / "empty").mkdir()
    (folders / "typo").mkdir()
    for name in ("sync", "presnet"):
        (folders / f"typo/{name}.yml").touch()
    (fault,) = found(folders, tasks)["faults"]
    assert fault.startswith("splitmirror_array_tasks: ")
    assert [word for word in words if word not in fault] == [], fault
