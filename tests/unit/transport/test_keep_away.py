# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The udev rule that keeps a media server's own LVM, mdadm and systemd away from a mirror."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.transport.base import Wanted
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.keep_away import keep_away, let_in, rule_of

ONE = Wanted("data", "0xABC1", 0, "naa.6001405a0fe08c6c")
ODD = Wanted("wal", 'S 1"*, RUN+="/bin/false\n')


def test_each_lun_has_a_rule_of_its_own_until_it_is_let_go_of(tmp_path: Path) -> None:
    rules = tmp_path / "udev/rules.d"
    keep_away([ONE], str(rules))
    assert not rules.exists()  # a host without udev
    rules.parent.mkdir()
    keep_away([ONE], str(rules))
    keep_away([ODD], str(rules))
    assert len(list(rules.iterdir())) == 2
    let_in([ONE.serial, "unknown"], str(rules))
    (left,) = rules.iterdir()
    assert left.read_text(encoding="utf-8") == rule_of(ODD)
    let_in(['s 1"*, run+="/bin/false\n'], str(rules))
    assert list(rules.iterdir()) == []


def test_a_rule_has_the_identity_in_all_its_forms_and_nothing_that_it_would_do() -> None:
    text = rule_of(ONE)
    for pattern in ("*0xABC1", "*abc1", "*6001405a0fe08c6c"):
        assert f'ENV{{ID_SERIAL_SHORT}}=="{pattern}"' in text
        assert f'ENV{{DM_UUID}}=="*mpath-{pattern}"' in text
    assert 'ENV{ID_SERIAL}=="*S?1????RUN??' in rule_of(ODD)
    assert "RUN+" not in rule_of(ODD)


@pytest.mark.skipif(shutil.which("udevadm") is None, reason="needs udevadm (package udev)")
def test_udev_takes_the_rule(tmp_path: Path) -> None:
    path = tmp_path / "61-splitmirror-test.rules"
    path.write_text(rule_of(ONE) + rule_of(ODD).replace("splitmirror_", "other_"), encoding="utf-8")
    done = subprocess.run(["udevadm", "verify", str(path)], capture_output=True, text=True, check=False)
    if "Unknown command" in done.stderr + done.stdout:
        pytest.skip("udevadm verify is of systemd 254")
    assert done.returncode == 0, done.stderr + done.stdout
