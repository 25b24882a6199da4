"""Where transforms can be folded, as the program tells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ggq.models.build import build_program
from ggq.models.registry import find_architecture
from ggq.tape.folding import Site, sites
from ggq.tape.ops import Linear
from tests.kit.small_models import CONFIGS


def found(name: str) -> dict[str, Site]:
    config = find_architecture(CONFIGS[name]).config(CONFIGS[name])
    return {site.consumers[0]: site for site in sites(build_program(config))}


def test_the_sites_of_a_decoder() -> None:
    places = found("grouped")  # four heads of 8, two of them share keys and values
    assert len(places) == 2 * 4 + 1
    query = places["layers.1.attention.q.weight"]
    assert query.consumers == tuple(f"layers.1.attention.{name}.weight" for name in "qkv")
    assert query.norms == ("layers.1.attention_norm.weight",) and query.takes_scale and not query.takes_order
    for layer in (0, 1):  # the last layer's inputs go through a selection of rows
        attended = places[f"layers.{layer}.attention.o.weight"]
        assert attended.producers == (f"layers.{layer}.attention.v.weight",) and attended.norms == ()
        assert attended.block == 8 and attended.takes_scale and attended.takes_order
        assert attended.source.tolist() == [*range(8), *range(8), *range(8, 16), *range(8, 16)]
        down = places[f"layers.{layer}.mlp.down.weight"]
        assert down.producers == (f"layers.{layer}.mlp.up.weight", f"layers.{layer}.mlp.gate.weight")
        assert down.block == 44 and down.source.tolist() == list(range(44))
        assert places[f"layers.{layer}.mlp.gate.weight"].norms == (f"layers.{layer}.mlp_norm.weight",)
    output = places["embedding.weight"]  # the table of the first operation too
    assert not output.takes_scale and not output.takes_order


def test_biases_and_an_output_of_its_own() -> None:
    places = found("biased")
    assert places["layers.0.mlp.down.weight"].biases == ("layers.0.mlp.up.bias", "layers.0.mlp.gate.bias")
    assert places["layers.0.attention.o.weight"].biases == ("layers.0.attention.v.bias",)
    assert places["output.weight"].norms == ("norm.weight",)


@pytest.mark.parametrize("where", ["layers.0.mlp.gate.weight", "layers.0.attention.o.weight"])
def test_inputs_that_something_else_reads_are_left_alone(where: str) -> None:
    config = find_architecture(CONFIGS["grouped"]).config(CONFIGS["grouped"])
    program = build_program(config)
    place = next(i for i, op in enumerate(program.ops) if isinstance(op, Linear) and where in op.weights)
    op = program.ops[place]
    assert isinstance(op, Linear)
    other = replace(op, weights=("other",), biases=(None,), outs=(op.outs[0],))
    changed = replace(program, ops=(*program.ops[:place], other, *program.ops[place:]))
    assert not next(site for site in sites(changed) if where in site.consumers).takes_scale
    assert np.array_equal(found("grouped")[where].source, found("grouped")[where].source)
