# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One small file says what stands in the lab."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.tests.lab.description import DEFAULT_FILE, Host, LabError, load
from ansible_collections.splitmirror.backup.tests.lab.kernel import Machine


def test_more_hosts_are_a_change_of_numbers() -> None:
    lab = load(DEFAULT_FILE, ("arrays.count=2", "database_hosts.count=8", "media_servers.drives=4"))
    assert [host.name for host in lab.with_role("database")] == [f"db{n}" for n in range(1, 9)]
    assert [host.settings["array"] for host in lab.with_role("database")] == ["array1", "array2"] * 4
    assert lab.host("media1").settings["drives"] == 4
    for kind in ("address", "storage_address", "initiator"):
        assert len({getattr(host, kind) for host in lab.hosts}) == len(lab.hosts)
    for array in lab.with_role("array"):
        needed = sum(lun["size_mib"] for export in array.settings["exports"] for lun in export["luns"])
        assert len(array.disks_mib) == 2
        assert min(array.disks_mib) > needed


@pytest.mark.parametrize("change", ["arrays.count", "arrays.colour=red", "nothing.count=1", "arrays.mirror=zfs"])
def test_a_change_that_means_nothing_is_refused(change: str) -> None:
    with pytest.raises(LabError):
        load(DEFAULT_FILE, (change,))


def test_database_hosts_need_an_array() -> None:
    with pytest.raises(LabError, match="at least one array"):
        load(DEFAULT_FILE, ("arrays.count=0",))


def test_a_number_that_is_another_processs_by_now_is_not_killed(tmp_path: Path) -> None:
    other = subprocess.Popen(["cat"], stdin=subprocess.PIPE)

    class SeenBefore(Machine):
        """What it found has ended meanwhile."""

        found = [[other.pid], []]  # noqa: RUF012

        def processes(self) -> list[int]:
            return self.found.pop(0)

    try:
        SeenBefore(tmp_path, "none", Host("array1", "array", 0, 0)).kill()
        other.communicate()
        assert other.returncode == 0
    finally:
        other.kill()
