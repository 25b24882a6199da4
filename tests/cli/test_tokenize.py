"""`ggq tokenize`: ids of texts and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ggq
from ggq.cli.main import main
from tests.kit.support import DEMO

Capture = pytest.CaptureFixture[str]
TEXT = "def add(a, b):"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("t") / "demo.ggq"
    ggq.convert(DEMO, path, scheme="q4-g32")
    return path


def test_ids_are_those_of_the_model_and_come_back(file: Path, tmp_path: Path, capsys: Capture) -> None:
    with ggq.load(file, interpreter="numpy") as model:
        right = model.encode(TEXT)
    assert main(["tokenize", str(file), TEXT, "a"]) == 0
    first, _ = capsys.readouterr().out.splitlines()
    assert [int(part) for part in first.split()] == right
    assert main(["tokenize", str(file), TEXT, "--json", "--plain"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["texts"]
    assert found["ids"] == right[len(right) - len(found["ids"]) :] and len(found["tokens"]) == len(found["ids"])
    assert main(["tokenize", str(file), "--decode", " ".join(map(str, found["ids"]))]) == 0
    assert capsys.readouterr().out == f"{TEXT}\n"
    (tmp_path / "texts").write_text(f"{TEXT}\n\n")
    assert main(["tokenize", str(file), "--file", str(tmp_path / "texts"), "--count", "--plain"]) == 0
    assert capsys.readouterr().out == f"{len(found['ids'])}\n0\n"
    assert main(["tokenize", str(file), "a", "--pieces", "--plain"]) == 0
    assert capsys.readouterr().out.split()[-1] == "a"


def test_what_is_no_id_is_refused(file: Path, capsys: Capture) -> None:
    assert main(["tokenize", str(file), "--decode", "1 x"]) == 2
    assert "'x' is no token id" in capsys.readouterr().err
    assert main(["tokenize", str(file)]) == 2
    assert "no text was given" in capsys.readouterr().err
