# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every kind of splitter has to do for the window. Its test is a class that derives from SplitterContract."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pytest
from ansible.errors import AnsibleError

from ansible_collections.splitmirror.backup.plugins.plugin_utils.splitters import Splitter

SESSION, OTHER = "s1", "s2"


class SplitterContract(ABC):
    """The contract of a kind of splitter, tried on an array that splits one mirror set after the other.

    It has a mirror set of two pairs for each of the two sessions.
    """

    @abstractmethod
    def get_ready(self, session: str) -> None:
        """Do what the role does before the window, so that the splitter of the session can stand by."""

    @abstractmethod
    def splitter(self, session: str) -> Splitter:
        """The window's end of it, as make_splitters gives it."""

    @abstractmethod
    def split_pairs(self, session: str) -> int:
        """How many pairs of the session's set are split."""

    @abstractmethod
    def spoil(self, session: str) -> None:
        """Let the split of the session's second pair fail."""

    @abstractmethod
    def hang(self, session: str) -> None:
        """Let whatever splits stand still, and answer nothing."""

    @abstractmethod
    def kill(self, session: str) -> None:
        """End whatever splits, without a word."""

    # ---- the contract ----

    def test_what_is_not_ready_does_not_stand_by(self) -> None:
        splitter = self.splitter(SESSION)
        with pytest.raises(AnsibleError, match=splitter.host):
            splitter.stand_by()
        splitter.close()

    def test_it_splits_once_and_tells_how_long_that_took(self) -> None:
        self.get_ready(SESSION)
        splitter = self.splitter(SESSION)
        splitter.stand_by()
        assert splitter.take_turn(60)
        assert self.split_pairs(SESSION) == 0
        result = splitter.split(60)
        assert self.split_pairs(SESSION) == 2
        assert result["split_s"] >= 0
        assert len(result["devices"]) == len(result["pairs"]) == 2
        with pytest.raises(AnsibleError):
            splitter.split(60)
        splitter.close()
        splitter.close()

    def test_a_turn_is_one_sessions_until_it_has_split(self) -> None:
        for session in (SESSION, OTHER):
            self.get_ready(session)
        first, second = self.splitter(SESSION), self.splitter(OTHER)
        for splitter in (first, second):
            splitter.stand_by()
        assert first.take_turn(60)
        assert first.take_turn(60)
        assert not second.take_turn(60)
        first.split(60)
        assert second.take_turn(60)
        for splitter in (first, second):
            splitter.close()

    def test_a_split_that_fails_leaves_no_pair_split(self) -> None:
        self.get_ready(SESSION)
        splitter = self.splitter(SESSION)
        splitter.stand_by()
        assert splitter.take_turn(60)
        self.spoil(SESSION)
        with pytest.raises(AnsibleError):
            splitter.split(60)
        splitter.close()
        assert self.split_pairs(SESSION) == 0

    def test_silence_is_a_failure_at_the_deadline(self) -> None:
        self.get_ready(SESSION)
        splitter = self.splitter(SESSION)
        splitter.stand_by()
        assert splitter.take_turn(60)
        self.hang(SESSION)
        with pytest.raises(AnsibleError, match="no answer in time"):
            splitter.split(0.1)
        splitter.close()

    def test_death_is_a_failure(self) -> None:
        self.get_ready(SESSION)
        splitter = self.splitter(SESSION)
        splitter.stand_by()
        assert splitter.take_turn(60)
        self.kill(SESSION)
        with pytest.raises(AnsibleError, match=splitter.host):
            splitter.split(60)
        splitter.close()
