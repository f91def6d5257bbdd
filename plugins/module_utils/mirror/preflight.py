# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an array is asked before a backup begins: its state folder, and the state of each pair."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ..preflight import Preflight, folder_ready
from .base import MirrorError, PairState
from .registry import provider_of


def ask_array(preflight: Preflight, params: Mapping[str, Any]) -> list[str]:
    """Ask for the state folder and each pair.

    :param params: the options of the module.
    :returns: what the user should know although nothing is wrong, one sentence each.
    """
    preflight.ask("state folder", lambda: folder_ready(params["state_dir"], "state_dir"))
    states: list[PairState] = []
    unknown: list[str] = []

    def look() -> str:
        provider = provider_of(params)
        states.extend(provider.state())
        unknown.extend(filter(None, [provider.unknown()]))
        return f"Provider {params['provider']} answers."

    preflight.ask("mirrors", look)
    for found in states:
        preflight.ask(f"pair {found.name}", partial(_pair, found, bool(unknown)))
    return [f"provider_options: {sentence}" for sentence in unknown]


def _pair(state: PairState, is_unknown: bool) -> str:
    """:raises MirrorError: the pair has a problem that neither synchronization nor clean-up will solve."""
    if state.problem is None:
        return "No session holds it; its state on the array is unknown." if is_unknown else "It is in sync and free."
    if state.phase != "none":
        return f"Session {state.session} holds it ({state.phase}); a backup first cleans up what dead sessions left."
    if state.sync_percent is not None and state.sync_percent < 100:
        return f"It is {state.sync_percent:g} % in sync; a backup waits until it is in sync."
    raise MirrorError(state.problem, option="pairs", code=state.problem_code)
