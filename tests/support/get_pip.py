# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stand-in for get-pip.py in the cache of ansible-test: installs pip from the wheel beside it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: Options of get-pip.py that pip itself does not know.
GET_PIP_ONLY = ("--no-setuptools", "--no-wheel")


def main() -> int:
    """Call pip's install, out of its wheel, with the arguments that get-pip.py was given."""
    here = Path(__file__).resolve().parent
    sys.path.insert(0, os.fspath(next(here.glob("pip-*.whl"))))
    from pip._internal.cli.main import main as pip_main

    arguments = [word for word in sys.argv[1:] if word not in GET_PIP_ONLY]
    return int(pip_main(["install", "--find-links", os.fspath(here), *arguments]))


if __name__ == "__main__":
    sys.exit(main())
