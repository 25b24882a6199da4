"""Which size to take: what is predicted for each preset is what converting gives."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import ggq
from ggq.cli.main import main
from ggq.convert import fits
from ggq.convert.fits import SHARE, Fit, what_fits
from ggq.convert.options import PRESETS, Options
from ggq.errors import UnsupportedError
from tests.kit.support import DEMO


@pytest.fixture(scope="module")
def found() -> list[Fit]:
    return what_fits("demo:", Options(), bandwidth=20.0)


def test_sizes_and_bits_are_those_of_the_result(found: list[Fit], tmp_path: Path) -> None:
    assert [each.preset for each in found] == list(PRESETS)
    for each in found[:2]:
        report = ggq.convert("demo:", tmp_path / f"{each.preset}.ggq", preset=each.preset)
        assert abs(each.file_bytes - report.file_bytes) < 0.02 * report.file_bytes + 16_384  # an index
        assert each.bits_per_weight == pytest.approx(report.bits_per_weight, abs=1e-9)


def test_the_divergence_is_about_what_is_measured(found: list[Fit], tmp_path: Path) -> None:
    """Within a factor of 2 for the included model, which has 0.9 million parameters."""
    ggq.convert("demo:", tmp_path / "exact.ggq", scheme="f32")
    ggq.convert("demo:", tmp_path / "small.ggq", preset="small")
    text = (DEMO / "valid.txt").read_text()
    scored = ggq.evaluate(
        tmp_path / "small.ggq", text, reference=tmp_path / "exact.ggq", context=256, windows=2, interpreter="numpy"
    )
    measured = scored.document()["mean_kld"]
    assert measured / 2 < found[0].predicted_kld < 2 * measured
    assert found[0].predicted_kld > found[1].predicted_kld > found[2].predicted_kld > 0


def test_the_speed_is_the_bandwidth_over_the_bytes_of_a_token(found: list[Fit]) -> None:
    twice = what_fits("demo:", Options(), bandwidth=40.0)
    for one, two in zip(found, twice):
        assert one.decode_tok_s and two.decode_tok_s == pytest.approx(2 * one.decode_tok_s)
        assert 0.8 * SHARE * 20e9 < one.decode_tok_s * one.file_bytes < 1.5 * SHARE * 20e9
        assert one.fits and one.context == 512


def test_a_model_that_does_not_fit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fits, "usable_memory", lambda: 600_000)
    small, balanced, high = what_fits("demo:", Options(), bandwidth=20.0)
    assert (small.fits, balanced.fits, high.fits) == (True, False, False)
    assert small.context < 512 and balanced.context == high.context == 0


def test_models_of_vectors_have_no_speed_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = SimpleNamespace(described=True, program=SimpleNamespace(outputs=("vectors",)))
    monkeypatch.setattr(fits, "unsolved_plan", lambda *_: planned)
    with pytest.raises(UnsupportedError, match="--what-fits is for models that continue texts"):
        what_fits("demo:", Options(), bandwidth=20.0)


def test_the_command_prints_a_table_or_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fits, "measured_bandwidth", lambda: 20.0)
    assert main(["convert", "demo:", "--what-fits"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["bits", "size", "divergence", "tokens/s", "context"]
    assert lines[3].split()[:3] == ["--preset", "balanced", "4.60"]
    assert main(["convert", "demo:", "--what-fits", "--json"]) == 0
    sizes = json.loads(capsys.readouterr().out)["sizes"]
    assert [each["preset"] for each in sizes] == list(PRESETS) and sizes[0]["decode_tok_s"] > 0
