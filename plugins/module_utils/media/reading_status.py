# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The status of work that reads a session from tape, which has no folder of the session on this host."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ..errors import SplitMirrorError
from ..host.status import StatusWriter
from ..session import StateDir


@contextlib.contextmanager
def reading_status(state: StateDir, session: str, phase: str) -> Iterator[StatusWriter]:
    """Tell how far reading a session has come; the file, and the folder if nothing else is in it, go at the end.

    :param phase: ``verify``, ``restore`` or ``copy``. The unit is bytes of the archive.
    """
    path = None
    with contextlib.suppress(SplitMirrorError):
        state.make_session_dir(session)
        path = state.status_file(session)
    try:
        yield StatusWriter(path, phase, "bytes")
    finally:
        if path is not None:
            with contextlib.suppress(OSError):
                os.unlink(path)
                os.rmdir(state.session_dir(session))
