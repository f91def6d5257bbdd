# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Provider external, whose splitter stands on another host than the one that has the disks. See also test_order.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.splitmirror.backup.tests.support import toyoptions, toyrest
from ansible_collections.splitmirror.backup.tests.support.demo import Demo
from ansible_collections.splitmirror.backup.tests.support.toyarray import ToyArray

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture
def array(bench: Demo) -> Iterator[ToyArray]:
    """The demo's images behind the array of the tests."""
    array = ToyArray(bench.folder / "array/luns")
    array.snaps.mkdir()
    secrets = bench.inventory.parent / "host_vars/db1/secrets.yml"
    secrets.parent.mkdir(parents=True, mode=0o700)
    secrets.touch(0o600)
    secrets.write_text(json.dumps({"splitmirror_provider_secrets": toyoptions.SECRETS}), encoding="utf-8")
    yield array
    secrets.unlink()
    secrets.parent.rmdir()
    for path in array.snaps.glob("*.snap"):
        array.unmap(path.name)
        path.unlink()
    array.snaps.rmdir()


def variables(bench: Demo, array: ToyArray, options: dict[str, Any]) -> dict[str, Any]:
    """What makes the demo's array one of provider external, which the media server speaks to.

    All but the secret, which comes from the inventory: every process of the machine can read the command line.
    """
    inventory = yaml.safe_load(bench.inventory.read_text(encoding="utf-8"))
    pairs = inventory["all"]["children"]["splitmirror_database_hosts"]["hosts"]["db1"]["splitmirror_pairs"]
    for pair in pairs:
        name = Path(pair["primary"]).stem
        pair.update(primary=f"{name}.img", mirror=f"{name}.snap")
    return {
        "splitmirror_array": "media1",
        "splitmirror_provider": "external",
        "splitmirror_provider_options": options,
        "splitmirror_pairs": pairs,
    }


def test_an_array_that_thaws_the_database_host_itself_makes_no_backup(
    bench: Demo, array: ToyArray, tmp_path: Path
) -> None:
    """As Proxmox and VMware do through the guest's agent. The split succeeds; the freeze is asked for after it."""
    certificate = toyrest.make_certificate(tmp_path)
    thaws = array.faulty(split=f"thaw {bench.folder / 'host/data'}")
    with thaws, toyrest.rest_api(array, certificate) as api:
        # Its LUNs are called after those of the contract.
        told = json.dumps(toyoptions.of_http(api, certificate)).replace("t0.", "data.").replace("t1.", "space.")
        done = bench.play("backup", **variables(bench, array, json.loads(told)))
    assert done.returncode != 0
    report = bench.report()
    assert report["state"] == "failed", done.stdout[-5000:]
    assert "was thawed by someone else" in report["reason"]
    # The splitter stood on the media server, and the array's own host did nothing.
    assert (bench.folder / "state/media1/mirrors").is_dir()
    assert list(array.snaps.iterdir()) == []
    assert not any(bench.sessions(host) for host in ("db1", "array1", "media1"))
