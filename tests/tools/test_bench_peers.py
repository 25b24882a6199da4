"""tools/bench_peers.py: what counts as reached, and that a peer that is not there is named."""

from __future__ import annotations

from contextlib import nullcontext
from os import environ
from pathlib import Path
from sys import executable
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import pytest

from tests.kit.support import ROOT, run_python
from tools import bench_peers
from tools.bench import sides
from tools.bench.report import Found, line, summary
from tools.bench.sides import Bench, Missing, document
from tools.bench.works import WORKS, Row, Work


def rounds(key: str, *numbers: float, **more: float) -> list[dict[str, Any]]:
    return [{key: number, **more} for number in numbers]


def found(row: Row, ours: list[dict[str, Any]], **peers: list[dict[str, Any]]) -> dict[str, Any]:
    return summary(Found(Work(lambda _: {}, {}, (row,)), ours, peers), row)


def test_rates_are_ours_to_theirs_and_times_theirs_to_ours() -> None:
    rate = Row("a", "tok_s", 2.0)
    assert found(rate, rounds("tok_s", 9, 30, 20), x=rounds("tok_s", 10, 8, 100))["ratio"] == 2.0
    time = Row("b", "seconds", 2.0, "s")
    assert found(time, rounds("seconds", 0.5), x=rounds("seconds", 2.0))["ratio"] == 4.0


def test_short_times_are_shown_in_milliseconds_and_kept_in_seconds() -> None:
    row = Row("matrix-1", "seconds", 1.0, "s")
    for ours, theirs, shown in ((0.0025, 0.005, "2.500     5.000 ms "), (0.25, 0.5, "0.25      0.50 s  ")):
        result = found(row, rounds("seconds", ours), x=rounds("seconds", theirs))
        assert (result["ours"], result["theirs"], result["unit"]) == (ours, theirs, "s")
        assert shown in line(result) and "  2.00  1.00  yes" in line(result)
    assert "20.00     10.00 tokens/s" in line(found(Row("a", "t", 1.0), rounds("t", 20), x=rounds("t", 10)))


def test_operations_are_a_share_of_the_peak_and_bytes_of_the_bandwidth() -> None:
    limits = {"bandwidth_gb_s": 40.0, "peak_gop_s": 400.0}
    result = found(Row("prefill", "t", 1.0), rounds("t", 1.0, prefill_gop_s=100.0, read_gb_s=10.0, **limits))
    assert (result["peak_share"], result["bandwidth_share"]) == (0.25, 0.25)
    assert "25% of 400 GOP/s" in line(result) and "tiles" not in line(result)
    tiles = {**limits, "prefill_gop_s": 600.0, "tile_gop_s": 1500.0}
    assert "150% of 400 GOP/s; 40% of 1500 GOP/s in tiles" in line(
        found(Row("prefill", "t", 1.0), rounds("t", 1, **tiles))
    )
    result = found(Row("matrix-1", "t", 1.0), rounds("t", 1.0, gop_s=100.0, read_gb_s=30.0, **limits))
    assert (result["peak_share"], result["bandwidth_share"]) == (0.25, 0.75)
    assert "75% of 40.0 GB/s" in line(result)


class Sides:
    """A bench whose processes answer at once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.threads, self.asked = folder, 2, list[tuple[object, ...]]()

    def checkpoint(self, shape: str) -> Path:
        return self.folder

    def gguf(self, shape: str, scheme: str = "") -> Path:
        return self.folder / "model.safetensors"

    def quantized(self, shape: str, scheme: str) -> Path:
        return self.folder / "model.safetensors"

    def prompt(self, path: Path, tokens: int) -> str:
        self.asked.append(("prompt", tokens))
        return "text"

    def ggq(self, *words: object) -> dict[str, Any]:
        self.asked.append(words)
        (self.folder / "converted.ggq").touch()
        return {"seconds": 1.0, "process_s": 3.0}

    def own(self, mode: str, *words: object) -> dict[str, Any]:
        self.asked.append((mode, *words))
        return {"bandwidth_gb_s": 40.0} if mode == "limits" else {"seconds": 0.5, "bytes": 10**9}

    def other(self, *words: object) -> dict[str, Any]:
        (self.folder / "converted.gguf").touch()
        self.asked.append(words)
        return {"seconds": 2.0, "process_s": 9.0, "call_s": 8.0, "version": "x"}


def test_whole_processes_are_compared_on_both_sides_of_a_conversion(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    (work,) = (work for work in WORKS if work.rows[0].name.startswith("convert"))
    bench: Any = Sides(tmp_path)
    assert work.ours(bench) == {"seconds": 3.0, "call_s": 1.0}
    assert work.peers["llama.cpp"](bench) == {"seconds": 9.0, "call_s": 8.0, "version": "x"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("converted")]


def test_both_sides_multiply_the_same_matrix(tmp_path: Path) -> None:
    (work,) = (work for work in WORKS if work.rows[0].name == "matrix-512")
    bench: Any = Sides(tmp_path)
    result = work.ours(bench)
    assert result["gop_s"] == pytest.approx(2 * 8192 * 2048 * 512 / 0.5 / 1e9)
    assert result["read_gb_s"] == pytest.approx(2.0) and result["bandwidth_gb_s"] == 40
    for peer in work.peers.values():
        peer(bench)
    shapes = [asked[-5:] for asked in bench.asked if asked[0] != "limits"]
    assert len(shapes) == 3 and set(shapes) == {(8192, 2048, 512, 2, 2)}


def test_both_sides_read_and_write_as_many_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    works = {work.rows[0].name: work for work in WORKS}
    started: list[list[str]] = []
    monkeypatch.setattr("tools.bench.works.first_word", lambda command: started.append(command) or 1.0)
    for name, ours, theirs in (
        (
            "prefill-1b-q4",
            ("bench", path, "--prompt", 512, "--generate", 64, "--threads", 2),
            ("speed", path, 2, 512, 64),
        ),
        ("prefill-4096-1b-q4", ("context", path, 2, 4096, 32), ("context", path, 2, 4096, 32)),
    ):
        bench: Any = Sides(tmp_path)
        works[name].ours(bench)
        bench.peer = "python"
        works[name].peers["llama.cpp"](bench)
        asked = [words for words in bench.asked if words[0] != "limits"]
        assert asked[0][: len(ours)] == ours and asked[1][1:] == theirs
    bench = Sides(tmp_path)
    bench.peer = "python"
    works["start-1b-q4"].ours(bench)
    works["start-1b-q4"].peers["llama.cpp"](bench)
    assert bench.asked == [("prompt", 16)] and started[1][-3:] == [str(path), "2", "16"]
    assert started[0][3:] == ["run", str(path), "--prompt", "text", "--max-tokens", "1", "--greedy", "--threads", "2"]


@pytest.mark.parametrize("scheme, kind", [("q4-g32", "Q4_0"), ("q8-g32", "Q8_0")])
def test_llama_cpp_gets_as_many_bits(tmp_path: Path, scheme: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def other(self: Bench, *words: Any) -> dict[str, Any]:
        asked.append(words)
        next(word for word in words if isinstance(word, Path) and word.suffix == ".part").touch()
        return {}

    monkeypatch.setattr(Bench, "other", other)
    path = Bench(tmp_path, "python", 2).gguf("135m", scheme)
    assert path.name == f"model-135m-{kind}.gguf" and asked[1][1] == "quantize" and asked[1][-1] == kind
    assert asked[0][0] == sides.GGUF and asked[1][2] == tmp_path / "model-135m-F16.gguf"


def test_tokens_of_all_sequences_count(monkeypatch: pytest.MonkeyPatch) -> None:
    from tools.bench import own

    class Model:
        clock = 0.0

        @property
        def executor(self) -> Model:
            return self

        def open_sequence(self) -> int:
            return 0

        def close_sequence(self, sequence: int) -> None:
            pass

        def forward(self, runs: list[Any]) -> None:
            Model.clock += 0.5 + 0.5 * len(runs)  # a second for one, and half of it for each more

    monkeypatch.setattr(own, "load", lambda *_, **__: nullcontext(Model()))
    monkeypatch.setattr(own, "time", SimpleNamespace(perf_counter=lambda: Model.clock))
    assert own.batch("m.ggq", 2, 7, 10) == {"one_tok_s": 1.0, "many_tok_s": 7 / 4}


def test_the_best_peer_counts() -> None:
    row = Row("a", "seconds", 1.0, "s")
    result = found(row, rounds("seconds", 1.0), slow=rounds("seconds", 3.0), fast=rounds("seconds", 0.5))
    assert (result["peer"], result["ratio"], result["reached"]) == ("fast", 0.5, False)
    assert result["peers"] == {"slow": 3.0, "fast": 0.5}


@pytest.mark.parametrize(
    ("row", "reached"),
    [
        (Row("decode", "tok_s", 2.0), True),
        (Row("decode", "tok_s", 2.1), False),
        (Row("decode", "tok_s", 2.0, share=0.8), True),
        (Row("decode", "tok_s", 2.0, share=0.9), False),
        (Row("decode", "tok_s", 2.0, most=20.0), True),
        (Row("decode", "tok_s", 2.0, most=19.0), False),
    ],
)
def test_all_that_is_asked_must_be_reached(row: Row, reached: bool) -> None:
    result = found(row, rounds("tok_s", 20, read_gb_s=16, bandwidth_gb_s=20), peer=rounds("tok_s", 10))
    assert result["reached"] is reached
    assert ("yes" if reached else "no ") in line(result)
    assert "80% of 20.0 GB/s" in line(result)


def test_shares_of_each_round_are_preferred() -> None:
    """The bandwidth of a shared machine changes between rounds: a round's share is of its own bandwidth."""
    ours = [{"tok_s": 1.0, "read_gb_s": 9.0, "bandwidth_gb_s": b, "bandwidth_share": 9 / b} for b in (10, 10, 20)]
    assert found(Row("decode", "tok_s", 1.0), ours)["bandwidth_share"] == 0.9


def test_a_row_may_compare_ours_with_ours() -> None:
    row = Row("batch", "many", 5.0, against="one_tok_s")
    result = found(row, rounds("many", 60, one_tok_s=10))
    assert (result["ratio"], result["peer"], result["reached"]) == (6.0, "one sequence", True)


@pytest.mark.parametrize("share, reached", [(0.87, False), (0.88, True)])
def test_enough_of_the_bandwidth_is_enough(share: float, reached: bool) -> None:
    row = Row("decode", "tok_s", 1.1, enough=0.88)
    ours = rounds("tok_s", 10, read_gb_s=100 * share, bandwidth_gb_s=100, bandwidth_share=share)
    assert found(row, ours, peer=rounds("tok_s", 10))["reached"] is reached
    assert found(row, ours, peer=rounds("tok_s", 9))["reached"]


def test_a_hybrid_is_held_against_a_dense_model_and_the_bandwidth(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    (work,) = (work for work in WORKS if work.rows[0].name == "prefill-2048-lfm2-350m-q4")
    bench: Any = Sides(tmp_path)
    answers = iter(({"prefill_gop_s": 300.0}, {"prefill_gop_s": 240.0, "decode_tok_s": 90.0, "bandwidth_share": 0.9}))
    bench.ggq = lambda *words: next(answers)
    ours = work.ours(bench)
    prefill, decode = (found(row, [ours]) for row in work.rows)
    assert (prefill["ratio"], prefill["peer"], prefill["reached"]) == (0.8, "dense model", True)
    assert decode["ratio"] == pytest.approx(0.9) and decode["reached"]


def test_a_missing_peer_is_named_and_not_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def absent(bench: Bench) -> dict[str, Any]:
        asked.append(1)
        raise Missing("ModuleNotFoundError: No module named 'llama_cpp'")

    row = Row("a", "tok_s", 1.0)
    work = Work(lambda _: {"tok_s": 1.0}, {"llama.cpp": absent, "other": lambda _: {"tok_s": 2.0}}, (row,))
    result = summary(bench_peers.measure(work, Bench(Path(), "", 1), 3), row)
    assert len(asked) == 1
    assert "llama.cpp is missing: ModuleNotFoundError" in capsys.readouterr().err
    assert "llama.cpp is missing: ModuleNotFoundError: No module named 'llama_cpp'" in line(result)
    assert (result["peer"], result["reached"]) == ("other", False)
    alone = summary(Found(Work(work.ours, {}, (row,)), [{"tok_s": 1.0}], {}, {"llama.cpp": "gone"}), row)
    assert "ratio" not in alone and not alone["reached"] and "llama.cpp is missing: gone" in line(alone)


def test_a_peer_that_fails_says_why() -> None:
    bench = Bench(Path(), "", 1)
    bench.peer = executable
    with pytest.raises(Missing, match="there is no such thing"):
        bench.other("-c", "raise SystemExit('there is no such thing')")


def test_the_json_of_a_process_comes_with_its_seconds() -> None:
    found = document([executable, "-c", "print('warming up'); print('{\"a\": 1}')"])
    assert found["a"] == 1 and 0 < found["process_s"] < 60
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sides, "time", SimpleNamespace(perf_counter=iter([5.0, 7.5]).__next__))
        assert document([executable, "-c", "print('{}')"]) == {"process_s": 2.5}


def test_the_script_that_writes_a_gguf_ends_in_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = """
        class GGUFWriter:
            def __init__(self, path, name): open(path, "wb").write(b"gguf")
            def __getattr__(self, name): return lambda *_: None
        """
    (tmp_path / "gguf.py").write_text(dedent(stub), encoding="utf-8")
    monkeypatch.setattr(sides, "own_path", lambda: {**environ, "PYTHONPATH": str(tmp_path)})
    path = Bench(tmp_path, executable, 1).gguf("tiny")
    assert path == tmp_path / "model-tiny-F16.gguf" and path.read_bytes() == b"gguf"


def test_every_row_of_the_table_has_a_name_of_its_own() -> None:
    names = [row.name for work in WORKS for row in work.rows]
    assert len(names) == len(set(names)) == 39
    done = run_python(str(ROOT / "tools" / "bench_peers.py"), "--list")
    assert done.stdout.split() == names
    done = run_python(str(ROOT / "tools" / "bench_peers.py"), "--work", "nonsense")
    assert done.returncode == 2 and done.stdout.split() == names


def test_what_cannot_be_measured_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for options, words in (
        (["--repeat", "0"], "argument --repeat: 0: 1 or more expected"),
        (["--threads", "-1"], "argument --threads: -1: 1 or more expected"),
        (["--folder", str(tmp_path / "file")], f"error: [Errno 17] File exists: '{tmp_path / 'file'}'"),
    ):
        done = run_python(str(ROOT / "tools" / "bench_peers.py"), "--work", "matrix-1", *options)
        assert done.returncode == 2 and done.stderr.strip().endswith(words) and "Traceback" not in done.stderr
