# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a session's map is asked for, and what changed in what belongs to it."""

from __future__ import annotations

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.database.registry import DRIVERS, databases_spec
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapError
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.mapping import lun_specs, scope_changes


def test_scopes_that_came_went_or_changed() -> None:
    before = [Scope("/a"), Scope("/b"), Scope("/c", exclude=("x",))]
    after = [Scope("/a"), Scope("/c"), Scope("/d")]
    assert scope_changes(before, after) == (["/c", "/d"], ["/b"])
    assert scope_changes(after, after) == ([], [])


def test_a_pair_without_a_device() -> None:
    assert lun_specs([{"name": "l", "device": "/dev/x", "serial": None}])[0].device == "/dev/x"
    with pytest.raises(MapError, match="pairs: l names no device"):
        lun_specs([{"name": "l", "device": None}])


def test_the_option_databases_knows_every_option_of_every_driver() -> None:
    options = databases_spec()["options"]["options"]["options"]
    for driver in DRIVERS.values():
        for name, rules in driver.argument_spec.items():
            # Drivers share the names of their options, so two must not mean different types by one name.
            assert options[name]["type"] == rules.get("type", "str"), name
            assert options[name]["no_log"] is rules.get("no_log", False), name
            assert "default" not in options[name]
