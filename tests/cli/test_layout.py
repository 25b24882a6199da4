"""What commands print fits into terminals of 60, 80 and 120 columns, and no word is broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ggq.cli.layout import example, shortened
from ggq.cli.main import COMMANDS
from tests.cli.test_mistakes import WIDTHS, broken_words, printed
from tests.kit.small_models import write_demo
from tests.kit.support import DEMO, ROOT

NAME = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("layout") / "demo.ggq", "q4-g32")


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("command", ["", *(command.name for command in COMMANDS)])
def test_help_fits(command: str, columns: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    status, text = printed(monkeypatch, columns, [*command.split(), "--help"])
    assert status == 0 and "Usage: ggq" in text
    assert [line for line in broken_words(text, columns) if "'{" not in line] == []  # a quoted word has spaces
    assert "<int" not in text and "<float" not in text and "<str>" not in text


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize(
    "arguments",
    [
        *("schemes", "methods", "list", "inspect {demo}", "inspect {demo} --tensors", "verify {demo}"),
        *("convert {source} {out} --scheme q4-g32 --force", "convert {source} --dry-run --scheme q4-g32"),
        *("compare {demo} {source}", "repack {demo} {out} --force", "edit {demo} general.name=x"),
    ],
)
def test_results_fit(
    arguments: str, columns: int | None, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GGQ_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(demo.parent)
    given = [part.format(demo="demo.ggq", source=DEMO, out="out.ggq") for part in arguments.split()]
    status, text = printed(monkeypatch, columns, given)
    assert status == 0
    assert broken_words(text, columns) == []


def test_names_give_way_first_and_say_where_they_belong(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["inspect", str(demo), "--tensors"]
    shown = {columns: printed(monkeypatch, columns, arguments)[1] for columns in (*WIDTHS, 100)}
    assert NAME in shown[120] and NAME in shown[None]
    narrow = [line for line in shown[100].splitlines() if "q_proj" in line]
    assert len(narrow) == 4 and all(line.split()[0].endswith("self_attn.q_proj.weight") for line in narrow)
    assert len({line.split()[0] for line in narrow}) == 4  # each names its layer
    assert f"tensor          {NAME}" in shown[60]  # as pairs: nothing would be left of the names


def test_shortening() -> None:
    assert shortened(NAME, 38) == NAME
    assert shortened(NAME, 37) == "...layers.0.self_attn.q_proj.weight"
    assert shortened(NAME, 20) == "...q_proj.weight"
    assert shortened("abcdefghijkl", 8) == "...hijkl"


def test_examples_go_on_as_a_shell_has_it() -> None:
    text = '    ggq run model.ggq "Once upon a time" --temperature 0.8 --seed 1'
    lines = example(text, 40).splitlines()
    assert max(map(len, lines)) <= 40 and len(lines) > 1
    joined = "".join(line.removesuffix("\\") if line.endswith("\\") else line for line in lines)
    assert joined.split() == text.split()
    assert '"Once upon a time"' in example(text, 30)  # quoted words stay whole


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_real_terminal_is_asked_for_its_width(demo: Path) -> None:
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    command = [sys.executable, "-m", "ggq", "inspect", str(demo)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    found = b""
    try:
        while piece := os.read(ours, 1 << 16):
            found += piece
    except OSError:  # Linux says so when the other side is closed
        pass
    os.close(ours)
    assert process.wait(60) == 0
    text = found.decode().replace("\r\n", "\n")
    assert "parameters" in text and broken_words(text, 60) == []
