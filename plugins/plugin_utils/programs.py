# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Small Python programs that are sent to a host as one command."""

from __future__ import annotations

import shlex

#: A terminal must pass on every byte unchanged, and must not echo.
_RAW = """\
import sys, posix
if posix.isatty(0):
    import tty
    tty.setraw(0)
"""

#: The first line of the runner.
RUNNER_GREETING = "splitmirror: ready"

#: It runs one command after another. It reads a line of JSON (``argv``, ``stdin_bytes``) and the standard input of the
#: command, and writes a line of JSON (``code``, ``err``, ``out_bytes``) and the standard output of the command.
RUNNER = f"""\
import json, subprocess
came, goes = sys.stdin.buffer, sys.stdout.buffer
goes.write(b"{RUNNER_GREETING}\\n")
goes.flush()
for line in iter(came.readline, b""):
    asked = json.loads(line.decode())
    given = came.read(asked["stdin_bytes"] or 0)
    argv = [word.encode("utf-8", "surrogateescape") for word in asked["argv"]]
    try:
        run = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = run.communicate(given)
        code = run.returncode
    except OSError as exc:
        code, out, err = 127, b"", ("%s: %s" % (asked["argv"][0], exc.strerror)).encode()
    told = {{"code": code, "err": err.decode("utf-8", "replace"), "out_bytes": len(out)}}
    goes.write(json.dumps(told).encode() + b"\\n" + out)
    goes.flush()
"""


def program(python: str, source: str, args: list[str]) -> list[str]:
    """The command that runs a Python program with its arguments.

    Program and arguments are passed as hex digits, because some shells (csh) do not accept newlines within quotes.
    """
    text = f"{_RAW}sys.argv = {['-c', *args]!a}\n{source}"
    return [*shlex.split(python), "-I", "-S", "-c", f'exec(bytes.fromhex("{text.encode().hex()}"))']
