"""SmoothQuant on a model with activation outliers: what int8 inputs lose without it, and with it hardly at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ggq
from tests.kit.support import DEMO
from tools.add_outliers import add_outliers

TEXT = (DEMO / "valid.txt").read_text(encoding="utf-8")
HALF = len(TEXT) // 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo as it is in full precision, its outlier version, and a text to calibrate on."""
    folder = tmp_path_factory.mktemp("outliers")
    add_outliers(DEMO, folder / "model")
    (folder / "text.txt").write_text(TEXT[HALF:], encoding="utf-8")
    ggq.convert(DEMO, folder / "exact.ggq", scheme="f32")
    return folder


def loss(folder: Path, **options: Any) -> float:
    """The share of perplexity that 8-bit weights and inputs lose on text that was not calibrated on."""
    out = folder / "m.ggq"
    ggq.convert(folder / "model", out, scheme="q8-row", force=True, **options)
    found = ggq.evaluate(out, TEXT[:HALF], reference=folder / "exact.ggq", context=256, windows=8).document()
    return float(found["perplexity"] / found["reference_perplexity"] - 1)


def test_without_smoothing_a_scale_for_each_token_loses_much(folder: Path) -> None:
    assert loss(folder, activations="token") > 0.05


@pytest.mark.parametrize("form, bound", [("token", 0.01), ("static", 0.03)])
def test_with_smoothing_hardly_anything_is_lost(folder: Path, form: str, bound: float) -> None:
    text = {"calibration": folder / "text.txt", "calibration_tokens": 1024, "calibration_context": 256}
    assert abs(loss(folder, activations=form, method="smoothquant", **text)) < bound
