"""Convolutions, delta rules and scans that compute something else: goldens notice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ggq.models.names import Taps
from ggq.models.parts import (
    ModelSpec,
)
from ggq.models.registry import find_architecture
from ggq.tape import ops as tape
from tests.kit.family_models import (
    TOLERANCE,
    error,
    last_logits,
    reference,
    spec_of,
)
from tests.kit.small_families import FAMILIES as CONFIGS


@pytest.mark.parametrize("change", ["gates exchanged", "taps the other way round"])
def test_parts_of_a_convolution_in_another_order_are_noticed(change: str) -> None:
    family, spec = spec_of("lfm2")

    def wrong(role: str, spec: ModelSpec) -> Any:
        if change == "gates exchanged":
            return family.expression(role.replace("before", "x").replace("after", "before").replace("x", "after"), spec)
        found = family.expression(role, spec)
        return Reversed(found.expression) if isinstance(found, Taps) else found

    assert error(last_logits(reference(spec, "lfm2", wrong), "lfm2"), "lfm2") > 100 * TOLERANCE


class Reversed(Taps):
    def fill(self, source: Any, start: int, out: Any) -> None:
        super().fill(source, start, out)
        out[...] = out.reshape(4, -1)[::-1].reshape(1, -1)


class KeepsAll(tape.GatedDelta):
    """A delta rule that forgets nothing."""

    def oracle(self, run: Any) -> None:
        run[self.decay] = run[self.decay] - 1e9
        super().oracle(run)


class WritesAll(tape.GatedDelta):
    """A delta rule whose rate is 1."""

    def oracle(self, run: Any) -> None:
        run[self.rate] = run[self.rate] + 1e9
        super().oracle(run)


class AsTheyCome(tape.GatedDelta):
    """A delta rule whose queries and keys have the lengths that they come with."""

    def oracle(self, run: Any) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("ggq.tape.ops.recurrent.gated_delta.LEAST", 1e9)
            run[self.mixed] = run[self.mixed] * 1e4
            super().oracle(run)


class WithoutShift(tape.GatedDelta):
    """A delta rule without what is added to the decay."""

    def oracle(self, run: Any) -> None:
        run[self.decay] = run[self.decay] - run.weight(self.shift)
        super().oracle(run)


class Linear(tape.ShortConv):
    """A convolution without an activation."""

    def oracle(self, run: Any) -> None:
        tape.ShortConv(**{**vars(self), "activation": "none"}).oracle(run)


class WithoutSkip(tape.Mamba2):
    """A scan to which the values are not added."""

    def oracle(self, run: Any) -> None:
        super().oracle(run)
        values = run[self.mixed][:, : self.heads * self.head_dim]
        run[self.out] = run[self.out] - np.repeat(run.weight(self.skip), self.head_dim) * values


class OneNorm(tape.Norm):
    """A norm of whole rows where groups have one each."""

    def oracle(self, run: Any) -> None:
        tape.Norm(**{**vars(self), "heads": 1 if self.own else self.heads}).oracle(run)


MULTIPLIERS = [(f"{name}_multiplier", -1) for name in ("key", "attention_in", "attention_out", "ssm_in", "ssm_out")]


MULTIPLIERS += [("mlp_multipliers", place) for place in range(2)] + [("ssm_multipliers", place) for place in range(5)]


@pytest.mark.parametrize(("key", "place"), MULTIPLIERS)
def test_a_multiplier_that_is_left_out_is_noticed(key: str, place: int) -> None:
    hf, spec = dict(CONFIGS["falcon_h1"]), spec_of("falcon_h1")[1]
    if place < 0:
        del hf[key]
    else:
        hf[key] = [1.0 if i == place else each for i, each in enumerate(hf[key])]
    found = last_logits(reference(spec, "falcon_h1", find_architecture(hf).expression), "falcon_h1")
    assert error(found, "falcon_h1") > 100 * TOLERANCE


@pytest.mark.parametrize("wrong", [WithoutSkip, OneNorm])
def test_another_scan_is_noticed(wrong: Any) -> None:
    executor, kind = reference(spec_of("mamba2")[1], "mamba2"), wrong.__bases__[0]
    ops = tuple(wrong(**vars(op)) if type(op) is kind else op for op in executor.program.ops)
    executor.program = replace(executor.program, ops=ops)
    assert error(last_logits(executor, "mamba2"), "mamba2") > 100 * TOLERANCE


@pytest.mark.parametrize("wrong", [KeepsAll, WritesAll, AsTheyCome, WithoutShift, Linear])
def test_another_delta_rule_or_convolution_is_noticed(wrong: Any) -> None:
    executor, kind = reference(spec_of("qwen3_5")[1], "qwen3_5"), wrong.__bases__[0]
    ops = tuple(wrong(**vars(op)) if type(op) is kind else op for op in executor.program.ops)
    executor.program = replace(executor.program, ops=ops)
    assert error(last_logits(executor, "qwen3_5"), "qwen3_5") > 100 * TOLERANCE
