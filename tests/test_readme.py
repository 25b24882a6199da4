"""README says what is: its commands and options exist, its Python runs against the real names."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

import ggq
from ggq.cli.main import COMMANDS, main
from tests.kit.support import ROOT, run_python

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))]
COMMANDS_PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
NAMES = {command.name for command in COMMANDS}


def blocks(*kinds: str, pages: Sequence[str] = (README,)) -> list[str]:
    """The fenced blocks of these kinds."""
    found = [each for page in pages for each in re.findall(r"^```(\w+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)]
    return [text for kind, text in found if kind in kinds]


def shown_commands() -> list[str]:
    """Every line of a block that calls ggq."""
    lines = [line.removeprefix("$ ") for block in blocks("sh", "console", pages=PAGES) for line in block.splitlines()]
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
    assert len(made) > 5
    (code,) = blocks("python")
    assert 'convert("demo:", "demo.ggq"' in code and "force=True" in code


def test_the_table_of_commands_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    rows = re.findall(r"^\| `ggq ([\w-]+)[^|]*\| (.*) \|$", COMMANDS_PAGE, re.MULTILINE)
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


def test_what_the_tour_shows_is_what_comes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its commands, as they stand there, in a folder that is not the clone: the sizes of the converted demo, the first
    lines of the inspection, the generated text."""
    monkeypatch.chdir(tmp_path)
    commands = [block.split("\n", 1) for block in blocks("console")]
    names = [shlex.split(command)[2] for command, _ in commands]
    assert names == ["convert", "inspect", "verify", "run"]
    for name, (command, shown) in zip(names, commands):
        words = shlex.split(command.removeprefix("$ ggq "))
        assert main(words) == 0
        printed = same(capsys.readouterr().out)
        if name == "convert":  # errors, times and memory are the machine's
            kept = [line for line in printed.splitlines() if line.startswith(("size  ", "bits per weight  ", "file  "))]
            assert len(kept) == 3 and all(f"\n{line}\n" in same(shown) for line in kept)
        elif name == "inspect":
            assert same(shown).removesuffix("...\n") in printed
        else:
            assert printed.rstrip() == same(shown).rstrip()


def test_the_python_block_prints_what_stands_below_it(tmp_path: Path) -> None:
    """Run as it is, in a folder that is not the clone."""
    (code,), (shown,) = blocks("python"), blocks("text")
    done = run_python("-c", f"import os\nos.chdir({str(tmp_path)!r})\n{code}")
    assert (done.returncode, done.stdout) == (0, shown), done.stderr


def test_links_lead_somewhere() -> None:
    names = ["README.md", "CONTRIBUTING.md", "NOTES.md", "CHANGELOG.md"]
    pages = [*(ROOT / name for name in names), *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_first_page_is_short_and_begins_with_what_counts() -> None:
    lines = README.splitlines()
    assert len(lines) < 140
    screen = "\n".join(lines[:25])
    assert "](docs/fidelity.svg)" in screen and screen.count("\n| ") == 5 and screen.count("\nggq ") == 3


def test_the_picture_shows_the_figures_that_stand_beside_it() -> None:
    data = json.loads((ROOT / "docs" / "fidelity.json").read_text())
    text = (ROOT / "docs" / "fidelity.md").read_text()
    assert len(data["rows"]) == 7
    for row in data["rows"]:
        figures = [f"{row[key]:g}".removeprefix("0") for key in ("llama.cpp_kl", "mix_kl", "gptq_kl")]
        assert f"| {row['llama.cpp']} | {row['bits']:.2f} | {' | '.join(figures)} |" in text
    assert "llama.cpp" in (ROOT / "docs" / "fidelity.svg").read_text()


def test_paths_in_contributing_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:ggq|kernels|tools|tests|spec)/[\w/.]*)`", text)
    assert len(paths) > 15
    for path in paths:
        assert (ROOT / path).exists(), path
