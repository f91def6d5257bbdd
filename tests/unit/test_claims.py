# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""docs/claims.md says which test shows which claim; here it is held to its word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PAGE = (TESTS.parent / "docs/claims.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("file", "name"), sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE))))
def test_every_test_that_the_page_names_is_there(file: str, name: str) -> None:
    assert re.search(rf"^( {{4}})?def {name}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_every_claim_and_promise_has_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if re.match(r"\| \d", line)]
    assert all("`" in row for row in rows)
    claims = {word for row in rows for word in re.findall(r"^\| ([\d\w, ]+)[ .]", row)[0].split(", ")}
    assert {f"1{letter}" for letter in "abcdefg"} | {str(number) for number in range(2, 13)} <= claims
    assert {f"{number}. " for number in range(9)} <= {row[2:5] for row in rows}
