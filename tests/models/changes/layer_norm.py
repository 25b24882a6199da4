"""Changes. Families with layer norms: StableLM, GPT-NeoX, StarCoder2, Cohere, Falcon, GPT-2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ggq.models.decoder import with_layers, with_mixers
from ggq.models.parts import (
    ModelSpec,
)
from tests.models.changes.changed import (
    a_gate_less_activation,
    head,
    neighbours,
    no_bias_of_the_feed_forward,
    no_learned_positions,
    no_scaling,
    norm_of,
    norms_without_biases,
    one_after_the_other,
    other_feed_forward,
    rms_norms,
    rope_everywhere,
    rope_of,
    window_plus,
    windows_in_other_layers,
    without,
)

CHANGES: dict[str, dict[str, Callable[[ModelSpec], ModelSpec]]] = {
    "starcoder2": {
        "no window": without("window", 0),
        "a larger window": window_plus(1),
        "RMS norms": rms_norms,
        "norms without biases": norms_without_biases,
        "no bias of queries": without("query_bias", False),
        "no bias of the output": without("output_bias", False),
        "no bias of the feed-forward": no_bias_of_the_feed_forward,
        "ReLU": a_gate_less_activation,
    },
    "cohere2": {
        "no windows": without("window", 0),
        "a smaller window": window_plus(-1),
        "windows in other layers": windows_in_other_layers,
        "RoPE everywhere": rope_everywhere,
        "no RoPE": without("rope", None),
        "numbers paired otherwise": neighbours,
        "one after the other": one_after_the_other,
        "no scale of logits": head(scale=1.0),
    },
    "falcon": {
        "one after the other": one_after_the_other,
        "RMS norms": rms_norms,
        "norms without biases": norms_without_biases,
        "ReLU": a_gate_less_activation,
        "no RoPE": without("rope", None),
    },
    "falcon_new": {
        "another epsilon": lambda spec: with_layers(spec, feed_forward_norm=replace(norm_of(spec), epsilon=1.0)),
        "no bias of queries": without("query_bias", False),
        "no bias of the feed-forward": no_bias_of_the_feed_forward,
    },
    "falcon_serial": {
        "another epsilon": lambda spec: with_layers(spec, feed_forward_norm=replace(norm_of(spec), epsilon=1.0)),
        "no bias of values": without("value_bias", False),
        "no bias of the output": without("output_bias", False),
    },
    "gpt2": {
        "no positions": no_learned_positions,
        "RMS norms": rms_norms,
        "norms without biases": norms_without_biases,
        "no bias of keys and queries": lambda spec: with_mixers(spec, query_bias=False),
        "no bias of the output": without("output_bias", False),
        "no bias of the feed-forward": no_bias_of_the_feed_forward,
        "ReLU": a_gate_less_activation,
        "another scale of scores": without("scale", 1.0),
    },
    "cohere": {
        "RMS norms": rms_norms,
        "RoPE of halves": lambda spec: with_mixers(spec, rope=replace(spec.layers[0].mixer.rope, layout="half")),  # type: ignore[type-var]
        "one after the other": one_after_the_other,
        "no scale of logits": head(scale=1.0),
        "another base": lambda spec: with_mixers(spec, rope=replace(spec.layers[0].mixer.rope, theta=1e4)),  # type: ignore[type-var]
    },
    "stablelm": {
        "RMS norms": rms_norms,
        "norms without biases": norms_without_biases,
        "no biases": lambda spec: with_mixers(spec, query_bias=False, key_bias=False, value_bias=False),
        "RoPE of whole heads": lambda spec: with_mixers(spec, rope=replace(rope_of(spec), rotated=20)),
    },
    "stablelm_parallel": {
        "RMS norms": rms_norms,
        "norms without biases": norms_without_biases,
        "one after the other": one_after_the_other,
        "no linear scaling": no_scaling,
        "RoPE of whole heads": lambda spec: with_mixers(spec, rope=replace(rope_of(spec), rotated=8)),
    },
    "gpt_neox": {
        "RMS norms": rms_norms,
        "norms without biases": norms_without_biases,
        "one norm for both": lambda spec: with_layers(spec, feed_forward_norm=None),
        "one after the other": one_after_the_other,
        "RoPE of whole heads": lambda spec: with_mixers(spec, rope=replace(rope_of(spec), rotated=10)),
        "another base": lambda spec: with_mixers(spec, rope=replace(rope_of(spec), theta=1e4)),
        "SiLU": other_feed_forward,
        "no biases of the feed-forward": lambda spec: with_layers(
            spec, feed_forward=replace(spec.layers[0].feed_forward, bias=False)
        ),
        "no bias of queries": without("query_bias", False),
        "no bias of the output": without("output_bias", False),
    },
    "gpt_neox_serial": {
        "side by side": lambda spec: with_layers(spec, parallel=True),
        "RoPE of whole heads": lambda spec: with_mixers(spec, rope=replace(rope_of(spec), rotated=8)),
        "GELU": lambda spec: with_layers(spec, feed_forward=replace(spec.layers[0].feed_forward, activation="gelu")),
    },
}
