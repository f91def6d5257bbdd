# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host that is anybody's by now can neither hold the controller for ever, nor fill its memory, nor confuse it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import become_loader, connection_loader, init_plugin_loader

from ansible_collections.splitmirror.backup.plugins.plugin_utils import line as line_module
from ansible_collections.splitmirror.backup.plugins.plugin_utils.channel import Channel
from ansible_collections.splitmirror.backup.plugins.plugin_utils.line import StandingLine
from ansible_collections.splitmirror.backup.plugins.plugin_utils.programs import RUNNER_GREETING
from ansible_collections.splitmirror.backup.tests.support.limits import within


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of these programs ends by itself."""
    monkeypatch.setattr(line_module, "_END_S", 0.1)


def line(script: str, become: bool = False, timeout_s: float = 1.0) -> StandingLine:
    init_plugin_loader()
    plugin = become_loader.get("ansible.builtin.sudo") if become else None
    if plugin is not None:
        plugin.set_options(direct={"become_pass": "secret"})
        plugin.build_become_command("id", connection_loader.get("local", PlayContext(), new_stdin=None)._shell)
    return StandingLine([b"/bin/sh", b"-c", script.encode()], "hostile", b"ready", timeout_s, plugin)


@pytest.mark.slow
@pytest.mark.parametrize("become", [False, True])
@pytest.mark.parametrize("script", ["exec yes", "exec yes >&2", "exec >&-; exec yes >&2", "yes >&2 & exec yes"])
def test_a_host_that_never_stops_talking_is_left(script: str, become: bool) -> None:
    with within(60), pytest.raises(AnsibleError, match=r"^hostile: "):
        line(script, become)


def test_an_answer_that_never_ends_is_left() -> None:
    talking = line("echo ready; read asked; exec yes >&2")
    with within(60), pytest.raises(AnsibleError, match=r"^hostile: "):
        talking.exchange("anything", 1.0)
    talking.close()


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "nonsense",
        "[]",
        "{}",
        "[" * 100000,
        '{"code": 0, "err": "", "out_bytes": -1}',
        '{"code": 0, "err": "", "out_bytes": "1"}',
        '{"code": 0, "err": "", "out_bytes": 1e3}',
        '{"code": 0, "err": "", "out_bytes": 1000000000000000000}',
        '{"code": 0, "err": null, "out_bytes": 1}',
        '{"code": "0", "err": "", "out_bytes": 1}',
    ],
)
def test_a_hostile_answer_is_a_sentence(tmp_path: Path, answer: str) -> None:
    python = tmp_path / "python"
    (tmp_path / "answer").write_text(answer + "\n", encoding="ascii")
    python.write_text(f"#!/bin/sh\necho '{RUNNER_GREETING}'\nread asked\ncat '{tmp_path}/answer'\nexec cat /dev/zero\n")
    python.chmod(0o755)
    connection = connection_loader.get("local", PlayContext(), new_stdin=None)
    connection.set_options()
    channel = Channel("hostile", connection, str(python))
    try:
        with within(60), pytest.raises(AnsibleError, match=r"^hostile: "):
            channel.run(["id", "-u"])
    finally:
        channel.close()
