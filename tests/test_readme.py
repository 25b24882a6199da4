"""README says what is: its commands and options exist, its Python runs against the real names."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

import ggq
from ggq.cli.main import COMMANDS, main
from tests.kit.support import DEMO, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
NAMES = {command.name for command in COMMANDS}


def blocks(*kinds: str) -> list[str]:
    """The fenced blocks of these kinds."""
    return [
        text for kind, text in re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL) if kind in kinds
    ]


def shown_commands() -> list[str]:
    """Every line of a block that calls ggq."""
    lines = [line.removeprefix("$ ") for block in blocks("sh", "console") for line in block.splitlines()]
    return [line for line in lines if line.startswith("ggq ")]


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([name, "--help"]) == 0
    return capsys.readouterr().out


def test_there_are_two_set_up_commands() -> None:
    found = re.findall(r"^python3 -m venv \.venv && .*$", README, re.MULTILINE)
    assert found == [
        "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/ggq demo",
        'python3 -m venv .venv && .venv/bin/pip install -e ".[dev]" && .venv/bin/pytest',
    ]


@pytest.mark.parametrize("line", shown_commands())
def test_commands_exist_with_their_options(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, name, *arguments = shlex.split(line)
    assert name in NAMES
    text = help_of(name, capsys)
    for option in (argument for argument in arguments if argument.startswith("-")):
        assert re.search(rf"(^|[\s,]){re.escape(option)}[\s,]", text), f"{option} is no option of ggq {name}"


def test_no_command_finds_its_file_there_already() -> None:
    """Whoever types one after the other is refused nothing."""
    made = [shlex.split(line)[3] for line in shown_commands() if " convert " in line and "--force" not in line]
    assert len(made) > 5 and len(set(made)) == len(made)
    (code,) = blocks("python")
    assert 'convert("ggq/demo", "demo.ggq"' in code and "force=True" in code


def test_the_table_of_commands_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    rows = re.findall(r"^\| `ggq ([\w-]+)[^|]*\| (.*) \|$", README, re.MULTILINE)
    assert [name for name, _ in rows] == [command.name for command in COMMANDS]
    for name, row in rows:
        text = help_of(name, capsys)
        for option in re.findall(r"`(--[\w-]+)", row):
            assert option in text, f"{option} is no option of ggq {name}"


def test_the_python_names_exist() -> None:
    (code,) = blocks("python")
    used = {
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "ggq"
    }
    assert used == {"convert", "load", "open"}
    assert all(callable(getattr(ggq, name)) for name in used)


def same(text: str) -> str:
    """Text without digests: the errors kept in the file are sums, whose last digits may differ between processors."""
    return re.sub(r"\b[0-9a-f]{64}\b", "DIGEST", text)


def test_what_the_tour_shows_is_what_comes_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes of the converted demo, the first lines of the inspection, the generated text."""
    out, readme = tmp_path / "demo.ggq", same(README)
    assert main(["convert", str(DEMO), str(out), "--scheme", "q4-g32"]) == 0
    converted = capsys.readouterr().out.splitlines()
    for name in ("size", "bits per weight"):
        (line,) = [line for line in converted if line.startswith(f"{name}  ")]
        assert f"\n{line}\n" in readme
    assert main(["inspect", str(out)]) == 0
    summary = capsys.readouterr().out.split("\n\n")[0].replace(str(out), "demo.ggq")
    assert same(summary) in readme
    assert main(["verify", str(out)]) == 0
    assert same(capsys.readouterr().out.replace(str(out), "demo.ggq")) in readme
    (block,) = [block for block in blocks("console") if block.startswith("$ ggq run")]
    command, text = block.split("\n", 1)
    words = [str(out) if word == "demo.ggq" else word for word in shlex.split(command.removeprefix("$ ggq "))]
    assert main([*words, "--interpreter", "numpy"]) == 0
    assert capsys.readouterr().out.rstrip() == text.rstrip()


def test_links_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "NOTES.md", "CHANGELOG.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / target).exists(), f"{name} links to {target}"


def test_paths_in_contributing_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:ggq|kernels|tools|tests|spec)/[\w/.]*)`", text)
    assert len(paths) > 15
    for path in paths:
        assert (ROOT / path).exists(), path
