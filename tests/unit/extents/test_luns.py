# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a LUN's identity is compared: a WWN with and without its type in front is the same."""

from __future__ import annotations

from typing import Optional

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.extents.luns import _check_identity
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import MapError
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.stack import LunSpec


@pytest.mark.parametrize(
    ("declared", "serial", "wwn"),
    [
        ("SN42", "SN42", None),
        ("sn42", "SN42 ", None),
        ("600140500d1e", "SN42", "naa.600140500d1e"),
        ("0x600140500D1E", None, "naa.600140500d1e"),
        (None, None, None),
    ],
)
def test_the_same_lun_is_known(declared: Optional[str], serial: Optional[str], wwn: Optional[str]) -> None:
    _check_identity(LunSpec("data", "/dev/sdb", declared), serial, wwn)


@pytest.mark.parametrize(("serial", "wwn"), [(None, None), ("SN43", "naa.600140500d1f"), ("", "")])
def test_another_lun_is_refused_with_both_names(serial: Optional[str], wwn: Optional[str]) -> None:
    with pytest.raises(MapError, match=r"/dev/sdb has serial .* not SN42; name the right device"):
        _check_identity(LunSpec("data", "/dev/sdb", "SN42"), serial, wwn)
