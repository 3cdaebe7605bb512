"""docs/runbook.md against the alerts that send people there, and against the commands that it tells them to type."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import yaml

from deploy.cli import COMMANDS, _load
from tests.conftest import ROOT

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
RULES: list[dict[str, Any]] = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"][0][
    "rules"
]
SECTIONS = dict(
    zip(*[iter(re.split(r"^### (\w+)$", RUNBOOK.partition("## Replays")[0], flags=re.M)[1:])] * 2, strict=True)
)
TYPED = sorted(
    {
        " ".join(found.split())
        for text in (RUNBOOK, (ROOT / "README.md").read_text())
        for found in re.findall(r"(?:`|^    (?:\$ )?|  )(trendstream [a-z][^`\n]*)", text, re.M)
    }
)


def test_every_alert_leads_to_a_section_and_no_section_is_of_an_alert_that_is_gone() -> None:
    assert list(SECTIONS) == [rule["alert"] for rule in RULES]
    for rule in RULES:
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"


@pytest.mark.parametrize("alert", SECTIONS)
def test_a_section_says_what_it_means_what_to_look_at_and_what_to_do_with_what_a_command_really_said(
    alert: str,
) -> None:
    said = SECTIONS[alert]
    assert re.findall(r"^\*(\w+):\*", said, re.M) == ["Means", "Look", "Do"]
    assert re.search(r"^    \$ \w.*\n    (?!\$)", said, re.M), "no command with its output"


@pytest.mark.parametrize("typed", TYPED)
def test_what_the_runbook_and_the_readme_tell_to_type_is_a_command_with_these_options(typed: str) -> None:
    words = shlex.split(typed.replace("…", "x"), comments=True)[1:]
    assert words[0] in COMMANDS, typed
    command, rest = _load(words[0]), words[1:]
    if hasattr(command, "commands") and rest:
        assert rest[0] in command.commands, typed
        command, rest = command.commands[rest[0]], rest[1:]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help"
    }
    assert {word.partition("=")[0] for word in rest if re.match(r"--?[a-zA-Z]", word)} <= options, typed
