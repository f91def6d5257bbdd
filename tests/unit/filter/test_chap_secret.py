# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A secret of the user's is a variable, or the first line of a file that nobody else may read; else it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.splitmirror.backup.plugins.filter.chap_secret import chap_secret, chap_secret_faults

SECRET = "AbC123" * 5


def refused(secret: str, path: str) -> str:
    """The sentence by which both filters refuse."""
    with pytest.raises(AnsibleFilterError) as failed:
        chap_secret(secret, path)
    (sentence,) = chap_secret_faults(secret, path)
    assert sentence == failed.value.message
    return str(sentence)


def test_a_variable_comes_before_a_file_and_neither_is_nothing(tmp_path: Path) -> None:
    assert chap_secret("", "") == ""
    assert chap_secret(SECRET, str(tmp_path / "none")) == SECRET
    assert chap_secret_faults("", "") == chap_secret_faults(SECRET, "") == []


def test_a_file_is_ones_own_and_has_the_secret_in_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(f"  {SECRET} \nmore\n", encoding="ascii")
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        assert refused("", str(path)).startswith("splitmirror_chap_secret_file: others than you may read or change")
    path.chmod(0o600)
    assert chap_secret("", str(path)) == SECRET
    for wrong in (tmp_path, tmp_path / "none"):
        assert refused("", str(wrong)).startswith(f"splitmirror_chap_secret_file: {wrong} cannot be read")
    path.write_text("\n", encoding="ascii")
    assert refused("", str(path)) == "splitmirror_chap_secret_file: give 22 to 255 random letters and digits."


@pytest.mark.parametrize("secret", ["guessed", "with a blank" * 3, "\u00e9" * 30])
def test_a_secret_that_targets_do_not_take_is_refused_and_not_shown(secret: str) -> None:
    sentence = refused(secret, "")
    assert sentence == "splitmirror_chap_secret: give 22 to 255 random letters and digits."
