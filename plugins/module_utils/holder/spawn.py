# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Start the holder of a session from a task, unless the session has one."""

from __future__ import annotations

import gc
import sys
import traceback
from typing import Callable, Sequence

from ..host.daemon import daemonize
from ..session import StateDir
from .freeze import Needed, state_needed
from .protocol import NAME, ask_if_running
from .server import HolderConfig, run_holder

DEFAULT_LIFETIME_S = 86400.0


def ensure_holder(
    state: StateDir, session: str, needed: Sequence[Needed] = (), lifetime_s: float = DEFAULT_LIFETIME_S
) -> bool:
    """Start the holder of a session unless it runs; return whether it was started.

    Call it with no connection to a database open. All of its code is loaded in this process and stays with the new
    one: nothing may be left to be imported later, because Ansible removes the module when the task is over.

    :param needed: folders that are never frozen, besides the state folder and the system's own.
    :param lifetime_s: after which it ends by itself.
    :raises SplitMirrorError: it does not start.
    """
    if ask_if_running(state, session, "ping") is not None:
        return False
    folder = state.make_session_dir(session)
    config = HolderConfig(session, state, lifetime_s, state_needed(state, needed))

    def run(ready: Callable[[], None]) -> None:
        # Until it is ready, it reports errors to its starter; from then on to the log in the session's folder.
        said_ready = False

        def once_ready() -> None:
            nonlocal said_ready
            said_ready = True
            sys.path[:] = [entry for entry in sys.path if not entry.endswith(".zip")]
            ready()

        # Objects of the starter must not be collected here: their files are closed, and the numbers belong to new ones.
        gc.freeze()
        try:
            run_holder(config, once_ready)
        except Exception:
            if not said_ready:
                raise
            traceback.print_exc()

    daemonize(folder, NAME, run)
    return True
