"""tools/bench_peers.py: what counts as reached, and that a peer that is not there is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, run_python
from tools import bench_peers
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
    row = Row("batch", "many", 5.0, against="one")
    result = found(row, rounds("many", 60, one=10))
    assert (result["ratio"], result["peer"], result["reached"]) == (6.0, "one sequence", True)


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
    bench.peer = __import__("sys").executable
    with pytest.raises(Missing, match="there is no such thing"):
        bench.other("-c", "raise SystemExit('there is no such thing')")


def test_the_json_of_a_process_comes_with_its_seconds() -> None:
    import sys

    found = document([sys.executable, "-c", "print('warming up'); print('{\"a\": 1}')"])
    assert found["a"] == 1 and 0 < found["process_s"] < 60


def test_every_row_of_the_table_has_a_name_of_its_own() -> None:
    names = [row.name for work in WORKS for row in work.rows]
    assert len(names) == len(set(names)) == 15
    done = run_python(str(ROOT / "tools" / "bench_peers.py"), "--list")
    assert done.stdout.split() == names
    done = run_python(str(ROOT / "tools" / "bench_peers.py"), "--work", "nonsense")
    assert done.returncode == 2 and done.stdout.split() == names
