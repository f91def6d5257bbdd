# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The figures that were measured, kept as JSON beside this file, and the plot of them in the documentation."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

_RESULTS = Path(__file__).parent / "results"
_IMAGE = Path(__file__).parents[2] / "docs" / "images" / "benchmarks.svg"
_ORDER = ("small", "small-aged", "large", "map", "check", "proof", "memory", "crypt", "span", "incremental")
_LEFT, _UNIT, _MOST, _ROW, _TOP = 120, 210, 2.0, 46, 50
_REACHED, _MISSED, _INK, _FAINT = "#2f7d4f", "#b5542c", "#24292f", "#8c959f"


def save(found: dict[str, Any]) -> None:
    """Keep the result of one bench."""
    _RESULTS.mkdir(exist_ok=True)
    path = _RESULTS / f"{found['bench']}.json"
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def draw() -> None:
    """Draw what is kept: each figure by how much of its bar it reaches, each run a dot."""
    results = [json.loads(path.read_text(encoding="utf-8")) for name in _ORDER if (path := _path(name)).exists()]
    width, height = _LEFT + round(_UNIT * _MOST) + 230, _TOP + _ROW * len(results) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(_LEFT, 22, "How much of its bar each bench reaches: from 1 on it is reached (dots: single runs)", _INK),
    ]
    for number, found in enumerate(results):
        parts += _row(found, _TOP + number * _ROW)
    bottom = _TOP + _ROW * len(results)
    for score in (0.0, 0.5, 1.0, 1.5, 2.0):
        x = _LEFT + score * _UNIT
        heavy = score == 1.0
        parts.append(
            f'<line x1="{x:g}" y1="{_TOP - 12}" x2="{x:g}" y2="{bottom}" stroke="{_INK if heavy else _FAINT}" '
            f'stroke-width="{2 if heavy else 0.5}"/>'
        )
        parts.append(_text(x, bottom + 18, f"{score:g}", _INK if heavy else _FAINT, "middle"))
    parts.append("</svg>")
    _IMAGE.parent.mkdir(exist_ok=True)
    _IMAGE.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _path(name: str) -> Path:
    return _RESULTS / f"{name}.json"


def _row(found: dict[str, Any], y: int) -> list[str]:
    at_least = found["reached_when"] == "at least the bar"
    colour = _REACHED if found["reached"] else _MISSED
    length = min(_MOST, _score(found["ratio"], found["bar"], at_least)) * _UNIT
    asked = f"{found['ratio']:g} ({'≥' if at_least else '≤'} {found['bar']:g} asked)"
    row = [
        _text(_LEFT - 10, y + 19, found["bench"], _INK, "end"),
        f'<rect x="{_LEFT}" y="{y + 4}" width="{length:.1f}" height="20" fill="{colour}" fill-opacity="0.75"/>',
        _text(_LEFT + _UNIT * _MOST + 14, y + 19, asked, colour),
    ]
    for ratio in _run_ratios(found, at_least):
        x = _LEFT + min(_MOST, _score(ratio, found["bar"], at_least)) * _UNIT
        row.append(f'<circle cx="{x:.1f}" cy="{y + 14}" r="3.5" fill="#ffffff" stroke="{_INK}"/>')
    return row


def _score(ratio: float, asked: float, at_least: bool) -> float:
    return ratio / asked if at_least else asked / ratio


def _run_ratios(found: dict[str, Any], at_least: bool) -> list[float]:
    """The ratio of each run to the rival's run beside it."""
    pairs = zip(found["ours"]["runs"], found["rival"]["runs"])
    return [rival / ours if at_least else ours / rival for ours, rival in pairs]


def _text(x: float, y: float, words: str, colour: str, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}" text-anchor="{anchor}">{escape(words)}</text>'
