"""docs/runbook.md has a section for each alert, with all that a reader needs at night, and commands that exist."""

from __future__ import annotations

import re
import shlex

import pytest
from typer.main import get_command

from daemon.cli.main import app
from tests.deploy.files import ROOT, alert_rules, read_yaml

PATH = "docs/runbook.md"
HEAD, *PARTS = re.split(r"^## ", (ROOT / PATH).read_text(), flags=re.MULTILINE)
SECTIONS = {name.strip(): text for name, _, text in (part.partition("\n") for part in PARTS)}
RULES = {rule["alert"]: rule for rule in alert_rules()}
FIVE = ["Means.", "Users notice.", "Look.", "Do.", "Stop when"]
COMMANDS = re.findall(r"^    (\S.*)$", "".join(PARTS), re.MULTILINE)
OURS = sorted(
    {
        command
        for command in [*COMMANDS, *re.findall(r"`([^`]+)`", "".join(PARTS))]
        if command.startswith("pixmill ")
    }
)


def test_each_alert_has_one_section_and_each_section_an_alert() -> None:
    assert len(PARTS) == len(SECTIONS)
    assert set(SECTIONS) == set(RULES)


def test_the_address_of_each_alert_leads_to_its_section() -> None:
    for name, rule in RULES.items():
        assert rule["annotations"]["runbook_url"] == f"{PATH}#{name.lower()}"


def test_the_first_sections_are_those_that_wake_a_person() -> None:
    severities = [RULES[name]["labels"]["severity"] for name in SECTIONS]
    assert severities == ["page"] * 6 + ["ticket"] * (len(SECTIONS) - 6)


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_has_five_parts_and_three_commands_to_look(name: str) -> None:
    bold = re.findall(r"^\*\*(.+?)\*\*", SECTIONS[name], re.MULTILINE)
    assert bold == FIVE
    look = SECTIONS[name].partition("**Look.**")[2].partition("**Do.**")[0]
    assert len(re.findall(r"^    \S", look, re.MULTILINE)) == 3


def test_links_lead_to_sections() -> None:
    anchors = {name.lower() for name in SECTIONS}
    for shown, anchor in re.findall(r"\[(\w+)\]\(#(\w+)\)", "".join(PARTS)):
        assert shown.lower() == anchor
        assert anchor in anchors


@pytest.mark.parametrize("line", OURS)
def test_the_commands_exist_with_their_options(line: str) -> None:
    command, arguments = get_command(app), shlex.split(line)[1:]
    context = command.make_context("pixmill", arguments)
    while hasattr(command, "resolve_command"):
        name, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, arguments, parent=context)


def test_the_other_commands_are_common_and_name_services_that_exist() -> None:
    services = read_yaml(ROOT / "compose.yaml")["services"]
    for line in COMMANDS:
        program, *arguments = shlex.split(line)
        assert program in {"pixmill", "curl", "redis-cli", "docker"}
        if program == "docker" and not arguments[-1].startswith("ps"):
            assert arguments[-1] in services
