"""tools/fidelity_table.py and its peer: recipes, tables, what is computed again; llama.cpp itself is played."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kit.checkpoints import numbers
from tests.kit.support import DEMO, run_python
from tools import fidelity_table as tool
from tools import llama_cpp_peer as peer

Capture = pytest.CaptureFixture[str]


def row(engine: str, name: str, bits: float, kld: float, calibrated: bool = False) -> tool.Row:
    return tool.Row("m", engine, name, "absmax", calibrated, bits, 9.0, kld, kld, kld, 0.9)


def test_recipes_are_lines() -> None:
    found = tool.parse_recipes(
        ["", "# a remark", "one: --scheme q4-g32 --keep 'down=q6-g32'", "two : --text {calibration}"]
    )
    assert [recipe.name for recipe in found] == ["one", "two"]
    assert found[0].options == ("--scheme", "q4-g32", "--keep", "down=q6-g32")
    assert [recipe.calibrated for recipe in found] == [False, True]
    with pytest.raises(SystemExit, match="a recipe is 'name: options of ggq convert', found '--scheme q4'"):
        tool.parse_recipes(["--scheme q4"])
    assert tool.parse_recipes(tool.RECIPES.splitlines())


def test_recipes_for_the_sizes_of_the_peers_files() -> None:
    mix, plain = tool.parse_recipes(["mix {bits} x: --target-bpw {bits} --keep a=q4-g32", "plain: --scheme q4-g32"])
    assert plain.at([4.5]) == [plain]
    found = mix.at([8.5, 4.79464, 4.79499, 8.5])
    assert [recipe.name for recipe in found] == ["mix 8.500 x", "mix 4.794 x"]
    assert found[1].options == ("--target-bpw", "4.794", "--keep", "a=q4-g32")
    assert mix.at([]) == []
    (named,) = tool.parse_recipes(["mix: --target-bpw {bits}"])
    assert named.at([3.0])[0].name == "mix 3.000"  # two files must not have one name


def test_the_line_that_says_what_is_wrong() -> None:
    assert tool.complaint("Usage: ggq\nTry ggq\n\nError: No such option: --x") == "Error: No such option: --x"
    assert tool.complaint("error: it is so\ndo this\n") == "error: it is so"
    assert tool.complaint("killed") == "killed"
    assert tool.complaint("") == "no word of why"


def test_duels_take_the_best_at_no_more_bits() -> None:
    lines = tool.duels(
        [
            row("llama.cpp", "Q4", 4.8, 0.010),
            row("llama.cpp", "Q2", 3.0, 0.1),
            row("ggq", "larger", 4.81, 0.001),
            row("ggq", "worse", 4.0, 0.020),
            row("ggq", "best", 4.8, 0.008),
            row("ggq", "learnt", 4.7, 0.005, calibrated=True),
        ]
    )
    assert lines[2] == "| Q4 | 4.800 | 0.01000 | `best` | 4.800 | 0.00800 | 80% | `learnt` | 4.700 | 0.00500 | 50% |"
    assert lines[3] == "| Q2 | 3.000 | 0.10000 | none |  |  |  | none |  |  |  |"
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_the_table_is_ordered_by_bits() -> None:
    lines = tool.table([row("llama.cpp", "Q2", 3.0, 0.1), row("ggq", "q8", 8.5, 0.0002, calibrated=True)])
    assert lines[2] == "| `q8` | 8.500 | 0.00020 | 0.0002 | 90.0% | 9.000 | absmax | yes |"
    assert lines[3].startswith("| llama.cpp Q2 | 3.000 |")
    assert all(line.count("|") == lines[0].count("|") for line in lines)


@pytest.fixture
def played(tmp_path: Path) -> Path:
    """An interpreter that answers as tools/llama_cpp_peer.py would and keeps what it was called with."""
    path = tmp_path / "python"
    path.write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib, sys\n"
        f"calls = pathlib.Path({str(tmp_path / 'calls')!r})\n"
        "calls.write_text((calls.read_text() if calls.exists() else '') + json.dumps(sys.argv[1:]) + '\\n')\n"
        "figures = dict(perplexity=9.0, mean_kld=.05, kld_median=.04, kld_p99=.2, same_top=.8)\n"
        "for kind in ('F16', *sys.argv[6:]):\n"
        "    found = dict(problem='refused it') if kind == 'Q3_K' else dict(bits_per_weight=4.9, **figures)\n"
        "    print(json.dumps(dict(type=kind, version='0', **found)))\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["fidelity_table.py", *map(str, arguments), "--interpreter", "numpy"])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tool.ROOT), str(tool.ROOT / "kernels")]))
    assert tool.main() == 0


def test_a_whole_run(tmp_path: Path, played: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    pair, work, text = f"{DEMO}={DEMO / 'valid.txt'}", tmp_path / "work", tmp_path / "text"
    text.write_text("import os\n" * 100)
    recipes = ["q4: --scheme q4-g32", "broken: --scheme q4-g33", "learnt: --scheme q4-g32 --calibration {calibration}"]
    options: list[str | Path] = ["--context", "32", "--windows", "3", "--types", "Q4_0,Q3_K", "--peer", played]
    for recipe in recipes:
        options += ["--recipe", recipe]
    out, picture = tmp_path / "figures.json", tmp_path / "plot.png"
    run(monkeypatch, pair, "--work", work, *options, "--json", out, "--plot", picture)
    captured = capsys.readouterr()
    document = json.loads(out.read_text())
    q4, theirs = (next(r for r in document["rows"] if r["engine"] == engine) for engine in ("ggq", "llama.cpp"))
    assert (q4["name"], q4["method"], q4["calibrated"]) == ("q4", "absmax", False)
    assert q4["bits_per_weight"] == pytest.approx(4.786, abs=0.001)
    assert 0.001 < q4["mean_kld"] < 0.2
    assert (theirs["name"], theirs["mean_kld"]) == ("Q4_0", 0.05)
    assert "| llama.cpp Q4_0 | 4.900 | 0.05000 | 0.2000 | 80.0% | 9.000 |  |  |" in captured.out
    assert "| Q4_0 | 4.900 | 0.05000 | `q4` | 4.786 |" in captured.out
    problems = "\n".join(document["problems"])
    assert "demo: broken failed: " in problems and "learnt left out: it needs --calibration" in problems
    assert "demo: Q3_K: refused it" in problems
    assert picture.read_bytes().startswith(b"\x89PNG")
    windows = np.load(work / "demo-valid" / "windows.npy")
    assert windows.shape == (3, 32)
    (call,) = map(json.loads, (tmp_path / "calls").read_text().splitlines())
    assert call[1:] == [
        str(DEMO),
        str(work / "demo-valid"),
        str(work / "demo-valid" / "windows.npy"),
        "16",
        "Q4_0",
        "Q3_K",
    ]

    # Again: the same figures, and nothing is converted, scored or asked of the peer a second time.
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(tool, "score", forbidden)
    monkeypatch.setattr(tool.subprocess, "run", forbidden)
    again = tmp_path / "again.json"
    run(monkeypatch, pair, "--work", work, *options[:8], "--recipe", recipes[0], "--json", again)
    assert json.loads(again.read_text())["rows"] == document["rows"]


def test_a_peer_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = f"{DEMO}={DEMO / 'valid.txt'}"
    options = ("--context", "32", "--windows", "1", "--recipe", "f32: --scheme f32", "--peer", sys.executable)
    monkeypatch.setattr(tool, "PEER", tmp_path / "peer.py")
    tool.PEER.write_text("raise SystemExit('no module named llama_cpp')")
    with pytest.raises(SystemExit, match="failed:\nno module named llama_cpp"):
        run(monkeypatch, pair, "--work", tmp_path / "work", *options)
    with pytest.raises(SystemExit, match="MODEL=TEXT expected, found 'model'"):
        run(monkeypatch, "model", "--work", tmp_path / "work", *options)


def test_what_cannot_be_measured_is_said_in_words(tmp_path: Path) -> None:
    script, text, work = str(tool.ROOT / "tools" / "fidelity_table.py"), DEMO / "valid.txt", ["--work", str(tmp_path)]
    for options, status, words in (
        ([f"{tmp_path / 'none'}={text}"], 2, "error: [Errno 2] No such file or directory"),
        ([f"{DEMO}={tmp_path / 'none'}"], 2, f"error: {tmp_path / 'none'}: cannot open: No such file or directory"),
        ([f"{DEMO}={text}", "--context", "32", "--windows", "1", "--recipe", "a: --scheme q4"], 1, "demo: a failed: "),
    ):
        done = run_python(script, *options, *work, "--interpreter", "numpy")
        assert done.returncode == status and done.stderr.startswith(words) and "Traceback" not in done.stderr


def test_the_peer_reads_what_the_checkpoint_holds() -> None:
    tensors = dict(peer.read_tensors(DEMO))
    assert tensors["model.norm.weight"].dtype == np.float32
    for name, found in tensors.items():
        assert np.array_equal(found, numbers(DEMO / "model.safetensors", name)), name


def test_names_and_rows_of_the_peer() -> None:
    assert peer.peer_name("model.embed_tokens.weight") == "token_embd.weight"
    assert peer.peer_name("model.layers.11.mlp.down_proj.weight") == "blk.11.ffn_down.weight"
    assert peer.peer_name("lm_head.weight") == "output.weight"
    rows = np.arange(8, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    assert peer.pairs_of_neighbours(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    config = json.loads((DEMO / "config.json").read_text())
    peer.check_config(config)
    for change, problem in (
        ({"attention_bias": True}, "with biases"),
        ({"rope_scaling": {"rope_type": "llama3"}, "rope_parameters": None}, "RoPE scaling"),
        ({"architectures": ["Qwen2ForCausalLM"]}, "only Llama models"),
    ):
        with pytest.raises(SystemExit, match=problem):
            peer.check_config({**config, **change})


def test_figures_of_the_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first file is the reference; the second is compared with it, on the scored tokens only."""
    random = np.random.default_rng(4)
    tables = {name: random.normal(0, 2, (2, 2, 5)) for name in ("exact", "other")}
    tables = {name: t - np.log(np.exp(t).sum(axis=2, keepdims=True)) for name, t in tables.items()}
    monkeypatch.setattr(peer, "log_probabilities", lambda path, windows, scored: iter(tables[path.name]))
    windows, reference = np.array([[0, 1, 2, 3], [4, 3, 2, 1]]), list[np.ndarray]()
    first = peer.figures(Path("exact"), windows, 2, reference)
    assert first["mean_kld"] == pytest.approx(0, abs=1e-7) and first["same_top"] == 1
    chosen = [tables["exact"][0, 0, 2], tables["exact"][0, 1, 3], tables["exact"][1, 0, 2], tables["exact"][1, 1, 1]]
    assert first["perplexity"] == pytest.approx(np.exp(-np.mean(chosen)))
    second = peer.figures(Path("other"), windows, 2, reference)
    p, q = tables["exact"].reshape(4, 5), tables["other"].reshape(4, 5)
    assert second["mean_kld"] == pytest.approx((np.exp(p) * (p - q)).sum(axis=1).mean(), abs=1e-6)
    assert second["same_top"] == (p.argmax(axis=1) == q.argmax(axis=1)).mean()
