# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Exporters that export nothing. Those that do keep their contract in the lab (integration/lab/on_san.py) or on this
machine (integration/transport)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.transport.base import Device, Initiator
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.names import Portal, TransportError
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.registry import EXPORTERS, make_exporter
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.secret import chap_of
from ansible_collections.splitmirror.backup.tests.integration.lab import on_san
from ansible_collections.splitmirror.backup.tests.seams.exporters import SECRET, T1

HERE = Path(__file__).resolve().parents[1] / "integration/transport"
DEVICES = [Device("data", "/dev/null", "0" * 32)]
WHO = (Initiator("iqn.2026-01.test.splitmirror:media1", "127.0.0.1"), Portal("127.0.0.1"), chap_of(T1, SECRET))


@pytest.mark.parametrize("name", sorted(name for name, kind in EXPORTERS.items() if not kind.exports))
def test_an_exporter_that_exports_nothing_leaves_nothing(name: str) -> None:
    exporter = make_exporter(name)
    exporter.preflight(None)
    assert (exporter.find_exports(), exporter.luns(DEVICES)) == ([], {})
    assert exporter.matches(T1, DEVICES, *WHO)
    with pytest.raises(TransportError, match="exports nothing"):
        exporter.make(T1, DEVICES, *WHO)


def test_all_others_are_tried() -> None:
    here = "".join(path.read_text(encoding="utf-8") for path in HERE.glob("test_*.py"))
    tried = [*on_san.CONTRACTS, *re.findall(r'make_exporter\("(\w+)"\)', here)]
    assert sorted(tried) == sorted(name for name, kind in EXPORTERS.items() if kind.exports)
