# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""No freeze outlives its deadline: two of holder, guard and backstop are killed or stopped at every line of their code.

SPLITMIRROR_ROUNDS says how many rounds there are, 1000 for the long form.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.tests.support.freezing import file_system
from ansible_collections.splitmirror.backup.tests.support.kills import (
    BACKSTOP,
    BLOWS,
    GUARD,
    HOLDER,
    NEVER,
    SIDES,
    K,
    Plan,
    Round,
    S,
    play,
)

pytestmark = pytest.mark.root
ROUNDS = int(os.environ.get("SPLITMIRROR_ROUNDS", "24"))
#: Rounds that are played at once; most of the time each of them waits for a deadline.
AT_ONCE = 8


@pytest.fixture
def mounts(scratch: Path) -> Iterator[list[list[Path]]]:
    with contextlib.ExitStack() as stack:
        yield [
            [stack.enter_context(file_system(scratch, kind, f"{kind}-{number}")) for kind in ("ext4", "xfs")]
            for number in range(AT_ONCE)
        ]


def plans(lines: dict[str, int], rescue: dict[str, tuple[int, int]]) -> list[Plan]:
    """As many plans as there are rounds, spread over all lines, and over all that may be hit there.

    :param lines: how many each side has in a freeze and thaw. :param rescue: first and last line of a rescue.
    """
    ways: list[tuple[str, dict[str, int], dict[str, int], range]] = [
        (side, blow, {}, range(1, lines[side] + 1)) for side in SIDES for blow in BLOWS
    ]
    # A guard that fails in the midst of its work, with its holder dead before.
    ways += [
        (GUARD, {GUARD: number}, {HOLDER: first}, range(rescue[GUARD][0], rescue[GUARD][1] + 1))
        for number in (K, S)
        for first in (K, S)
    ]
    # Two dead at once leave it to the third; a stop of the third is not among what is promised.
    ways += [(BACKSTOP, {HOLDER: K, GUARD: number}, {}, range(1, lines[BACKSTOP] + 1)) for number in (K, S)]
    made = []
    for number in range(ROUNDS):
        side, blow, first, where = ways[number % len(ways)]
        turn, turns = number // len(ways), -(-ROUNDS // len(ways))
        # Each way begins at another place, so that also few rounds come to all parts of the code.
        place = (turn / turns + (number % len(ways)) / len(ways)) % 1
        made.append(Plan(side, where[int(place * len(where))], blow, first, thaw=number % 3 > 0 and not first))
    return made


def test_nothing_stays_frozen_wherever_two_of_three_fail(scratch: Path, mounts: list[list[Path]]) -> None:
    place = Round(scratch, mounts[0])
    lines, rescue = {}, {}
    for side in SIDES:
        left, lines[side] = place.run(Plan(side, NEVER, {}))
        assert left == []
    left, last = place.run(Plan(GUARD, NEVER, {}, {HOLDER: K}, thaw=False))
    assert left == []
    rescue[GUARD] = (max(1, lines[GUARD] // 2), last)

    found = play(scratch, mounts, plans(lines, rescue))

    print(f"{ROUNDS} rounds over {lines} lines, rescue {rescue}: {len(found)} with something frozen")
    assert found == []
