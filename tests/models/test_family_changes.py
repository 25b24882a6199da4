"""Each difference of a family from Llama, taken away: the comparison with transformers' logits must notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ggq.models.names import Plus
from ggq.models.parts import ModelSpec
from tests.kit.family_models import TOLERANCE, error, last_logits, reference, spec_of
from tests.kit.small_families import FAMILIES as CONFIGS
from tests.models.changes import dense, experts, gemma, layer_norm, recurrent, windowed

CHANGES: dict[str, dict[str, Callable[[ModelSpec], ModelSpec]]] = {
    **dense.CHANGES,
    **gemma.CHANGES,
    **layer_norm.CHANGES,
    **windowed.CHANGES,
    **recurrent.CHANGES,
    **experts.CHANGES,
}
"""For each model its differences from Llama, each taken away."""


def test_every_model_has_changes() -> None:
    assert set(CHANGES) == set(CONFIGS)


@pytest.mark.parametrize(("name", "change"), [(name, change) for name in CHANGES for change in CHANGES[name]])
def test_a_model_without_one_of_its_differences_is_noticed(name: str, change: str) -> None:
    spec = spec_of(name)[1]
    changed = CHANGES[name][change](spec)
    assert changed != spec
    assert error(last_logits(reference(changed, name), name), name) > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "qwen3_5"])
def test_norms_that_are_stored_less_one_are_noticed_without_it(name: str) -> None:
    family, spec = spec_of(name)

    def plain(role: str, spec: ModelSpec) -> Any:
        expression = family.expression(role, spec)
        return expression.expression if isinstance(expression, Plus) else expression

    assert error(last_logits(reference(spec, name, plain), name), name) > 100 * TOLERANCE
