"""tools/train_table.py: recipes, shares of the gap, what is made once; conversions are real, trainings played."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.kit.support import DEMO
from tools import train_table as tool


def row(name: str, perplexity: float, trained: bool = False) -> tool.Row:
    return tool.Row(name, trained, 2.5, perplexity, 0.25, 3 if trained else 1, 60.0 if trained else 0.0)


def test_recipes_are_lines() -> None:
    found = tool.parse_recipes(["# a remark", "", "2 lsq: train --scheme q2-g64 --start {2 gptq}"])
    assert found == [tool.Recipe("2 lsq", "train", "--scheme q2-g64 --start {2 gptq}")] and found[0].group == "2"
    with pytest.raises(SystemExit, match="a recipe is 'name: convert OPTIONS'"):
        tool.parse_recipes(["lsq: --scheme q2-g64"])
    names = [recipe.name for recipe in tool.parse_recipes(tool.RECIPES.splitlines())]
    assert len(set(names)) == len(names) and "full" in names


def test_the_share_of_the_gap_is_told_against_the_best() -> None:
    rows = [
        row("full", 14),
        row("2 mse", 17),
        row("2 gptq", 16),
        row("2 lsq", 14.5, True),
        row("ternary lsq", 17, True),
    ]
    assert tool.closed(rows[3], rows) == 0.75 and tool.closed(rows[4], rows) == -0.5
    assert tool.closed(rows[3], rows[1:]) is None
    told = tool.table(rows).splitlines()
    assert told[5] == "| 2 lsq | 2.50 | 14.500 | 0.250, 3 | 75% | 60 s |" and told[2].endswith("|  |  |  |")


def test_files_and_figures_are_made_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []
    inner = tool.Bench.call

    def call(self: tool.Bench, command: str, *words: str) -> dict[str, Any]:
        calls.append((command, *words))
        if command == "train":  # without PyTorch: what comes out is a conversion
            assert words[words.index("--start") + 1] == str(tmp_path / "2-mse-0.ggq")
            report = inner(self, "convert", *words[:2], "--scheme", "q3-g64", "--force", "--json")
            return {"report": report, "cpu_seconds": 12.0}
        return inner(self, command, *words)

    monkeypatch.setattr(tool.Bench, "call", call)
    recipes = tmp_path / "recipes"
    recipes.write_text(
        "full: convert --scheme f32\n2 mse: convert --scheme q2-g64\n2 lsq: train --scheme q2-g64 --start {2 mse}\n"
    )
    text = str(DEMO / "valid.txt")
    options = [str(DEMO), "--text", text, "--score", text, "--work", str(tmp_path), "--recipes", str(recipes)]
    options += ["--windows", "2", "--seeds", "2", "--context", "64", "--json", str(tmp_path / "rows")]
    assert tool.main([*options, "--plot", str(tmp_path / "figure.png")]) == 0
    told, count = capsys.readouterr().out, len(calls)
    assert "| 2 lsq | " in told and count == 8 and (tmp_path / "figure.png").stat().st_size > 1000
    rows = json.loads((tmp_path / "rows").read_text())
    assert rows[0]["perplexity"] < rows[2]["perplexity"] < rows[1]["perplexity"] and rows[2]["seeds"] == 2
    assert tool.main(options) == 0
    assert capsys.readouterr().out == told and len(calls) == count
    with pytest.raises(SystemExit, match="there is no recipe 'x'"):
        tool.main([*options, "--only", "x"])


def test_a_command_that_fails_ends_the_tool(tmp_path: Path) -> None:
    recipes = tmp_path / "recipes"
    recipes.write_text("2 odd: convert --scheme q9-g64\n")
    text = str(DEMO / "valid.txt")
    with pytest.raises(SystemExit, match="ended with status 2"):
        tool.main([str(DEMO), "--text", text, "--score", text, "--work", str(tmp_path), "--recipes", str(recipes)])
