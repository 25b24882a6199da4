"""`ggq profile`: what it adds up, apart from how fast anything is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggq.cli.main import main
from ggq.engine.emit import Step
from ggq.engine.profile import Limits, kind, shares, time_prompt, time_token
from ggq.tape.program import Run
from tests.kit.small_models import write_demo

pytestmark = pytest.mark.kernels


def test_kinds_tell_matrices_apart() -> None:
    assert kind(Step("linear", "layers.3.mlp.gate.weight layers.3.mlp.up.weight", "tokens")) == "linear gate up"
    assert kind(Step("linear", "embedding.weight", "wanted")) == "linear output"
    assert kind(Step("norm", "norm.weight", "wanted")) == "norm"


def test_shares_add_up_and_count_wanted_rows_once() -> None:
    steps = [
        Step("norm", "a", "tokens"),
        Step("linear", "layers.0.attention.o.weight", "tokens", weight_bytes=10**9, operations=10**9),
        Step("linear", "layers.1.attention.o.weight", "wanted", weight_bytes=10**9, operations=10**9),
        Step("norm", "b", "tokens"),
    ]
    linear, norm = shares(steps, np.array([0.5, 1.5, 0.5, 0.5]), 3, Limits(read_gb_s=4.0, integer_gop_s=20.0))
    assert (linear.operation, linear.count, linear.seconds, linear.share) == ("linear o", 2, 2.0, 2 / 3)
    assert (linear.read_gb_s, linear.read_share) == (1.0, 0.25)
    assert (linear.gop_s, linear.peak_share) == (2.0, 0.1)  # three rows and one
    assert (norm.count, norm.seconds, norm.read_gb_s, norm.gop_s) == (2, 1.0, 0.0, 0.0)


def test_products_of_many_tokens_are_held_against_tiles() -> None:
    step = Step("linear", "layers.0.attention.o.weight", "tokens", weight_bytes=10**9, operations=10**9)
    last = Step("linear", "embedding.weight", "wanted", weight_bytes=10**9, operations=10**9)
    limits = Limits(4.0, 20.0, tile_gop_s=80.0, tiles_from=16)
    for tokens, share in ((16, 0.2), (15, 0.75)):
        found = {each.operation: each for each in shares([step, last], np.array([1.0, 1.0]), tokens, limits)}
        assert found["linear o"].peak_share == share
        assert found["linear output"].peak_share == 0.05


class Timed:
    """An executor whose passes take the seconds given."""

    def __init__(self, *seconds: float) -> None:
        self.seconds, self.open = [*seconds], 0

    def open_sequence(self) -> int:
        self.open += 1
        return self.open

    def close_sequence(self, sequence: int) -> None:
        self.open -= 1

    def forward(self, runs: list[Run]) -> None:
        pass

    def time_steps(self, runs: list[Run]) -> np.ndarray:
        return np.array([self.seconds.pop(0), 1.0])


@pytest.mark.parametrize("timed", [time_prompt, time_token])
def test_the_first_pass_warms_up_and_medians_of_the_others_count(timed: Any) -> None:
    executor = Timed(100.0, 1.0, 3.0, 2.0)
    assert timed(executor, np.arange(4, dtype=np.int32), 3).tolist() == [2.0, 1.0]
    assert executor.open == 0 and not executor.seconds


def test_profile_of_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ggq_kernels.run.limits.BUFFER_BYTES", 1 << 20)
    path = write_demo(tmp_path / "demo.ggq", "q4-g32")
    options = ["--prompt", "5", "--context", "3", "--repeat", "1", "--threads", "1"]
    assert main(["profile", str(path), *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["read_gb_s"] > 0 and found["integer_gop_s"] > 0
    for listed in found["passes"].values():
        assert sum(share["share"] for share in listed) == pytest.approx(1)
        counts = {share["operation"]: share["count"] for share in listed}
        assert counts["linear q k v"] == counts["attention"] == 4
        assert counts["linear output"] == counts["embed"] == 1
    assert found["threads"] == 1
    assert main(["profile", str(path), "--repeat", "1", "--json"]) == 0  # without a word, as much as the context holds
    assert list(json.loads(capsys.readouterr().out)["passes"]) == ["a prompt of 512 tokens", "one token after 509"]
    assert main(["profile", str(path), *options]) == 0
    out = capsys.readouterr().out
    assert "one token after 3:" in out and "linear gate up" in out


def test_a_context_beyond_the_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_demo(tmp_path / "demo.ggq")
    assert main(["profile", str(path), "--context", "512"]) == 2
    assert "tokens do not fit into the model's context of 512" in capsys.readouterr().err
