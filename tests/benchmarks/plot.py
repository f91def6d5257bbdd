# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The figures that were measured, kept as JSON beside this file, and the plot of them in the documentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_RESULTS = Path(__file__).parent / "results"


def save(found: dict[str, Any]) -> None:
    """Keep the result of one bench."""
    _RESULTS.mkdir(exist_ok=True)
    path = _RESULTS / f"{found['bench']}.json"
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def draw() -> None:
    """Draw."""
