# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A lab comes up after whatever happened to the last one, and leaves nothing."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.tests.lab import network, rootfs
from ansible_collections.splitmirror.backup.tests.lab.description import DEFAULT_FILE, LabError, load
from ansible_collections.splitmirror.backup.tests.lab.lifecycle import RunningLab
from ansible_collections.splitmirror.backup.tests.support.mirrors import kill

pytestmark = [pytest.mark.root, pytest.mark.slow]

ONE_HOST = ("arrays.count=1", "database_hosts.count=0", "media_servers.count=0")


def left_behind(running: RunningLab) -> list[str]:
    """What of a lab is still on the machine."""
    folder = str(running.folder)
    left = [line for line in Path("/proc/self/mounts").read_text().splitlines() if folder in line]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            left += [words] if f"uml_dir={folder}/" in words else []
    left += [running.namespace] if network.exists(running.namespace) else []
    left += [folder] if running.folder.exists() else []
    return left


def test_a_lab_that_died_is_replaced_and_down_leaves_nothing(lab_tools: None) -> None:
    running = RunningLab("pytest-life")
    lab = load(DEFAULT_FILE, ONE_HOST)
    try:
        running.up(lab)
        with pytest.raises(LabError, match="is up"):
            running.up(lab)
        # As after a crash: the kernel's first process is gone, its children and all the rest are still there.
        machine = running.machine(lab.host("array1"))
        kill(int((machine.folder / "pid").read_text()))
        running.up(lab)
        assert running.ssh("array1", "hostname").stdout == "array1\n"
    finally:
        running.down()
    assert left_behind(running) == []
    running.down()


def test_a_failed_up_leaves_nothing(lab_tools: None, monkeypatch: pytest.MonkeyPatch) -> None:
    running = RunningLab("pytest-fail")

    def broken(*_dummy: object) -> None:
        raise LabError("broken on purpose")

    monkeypatch.setattr(running, "_set_up", broken)
    with pytest.raises(LabError, match="on purpose"):
        running.up(load(DEFAULT_FILE, ONE_HOST))
    assert left_behind(running) == []


def test_labs_that_come_up_at_once_share_one_building_of_the_image(
    lab_tools: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In place of the real one, which takes a minute: it wants to be alone in the folder, and takes a while.
    builder = tmp_path / "mmdebstrap"
    builder.write_text('#!/bin/sh -e\nfor folder; do :; done\nmkdir "$folder"\nfind /usr/lib >"$folder/found"\n')
    builder.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SPLITMIRROR_LAB_CACHE", str(tmp_path / "cache"))
    with ThreadPoolExecutor(4) as pool:
        images = [future.result() for future in [pool.submit(rootfs.ensure) for _dummy in range(4)]]
    assert len(set(images)) == 1
    assert [path.name for path in images[0].iterdir()] == ["found"]
