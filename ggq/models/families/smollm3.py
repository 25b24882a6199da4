"""SmolLM3: Llama in which every fourth layer has no RoPE; windows, where asked for, in the layers without."""

from __future__ import annotations

from dataclasses import replace

from ggq.models import decoder
from ggq.models.config import Config, Keys, OrNull
from ggq.models.family import Family
from ggq.models.fields import shown
from ggq.models.parts import ModelSpec

KEYS: Keys = {
    **decoder.BASE,
    "num_key_value_heads": OrNull(4),
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "rope_theta": 2000000.0,
    "no_rope_layers": OrNull(),
    "no_rope_layer_interval": 4,
    "use_sliding_window": False,
    "sliding_window": OrNull(),
    "layer_types": OrNull(),
}


def parts(config: Config) -> ModelSpec:
    """The model of a config.json."""
    spec = decoder.read_decoder(config)
    turns = rotated_layers(config, len(spec.layers))
    mixers = [each.attention if turn else replace(each.attention, rope=None) for each, turn in zip(spec.layers, turns)]
    layers = (replace(layer, mixer=mixer) for layer, mixer in zip(spec.layers, mixers))
    window = decoder.read_window(config, used=config.flag("use_sliding_window"))
    windows = decoder.layer_windows(config, window, slides=lambda n: window is not None and not turns[n])
    return decoder.with_windows(replace(spec, layers=tuple(layers)), windows)


def rotated_layers(config: Config, count: int) -> list[bool]:
    """Whether each layer has RoPE: what "no_rope_layers" has a 1 for, in spite of its name."""
    given, interval = config.get("no_rope_layers"), config.integer("no_rope_layer_interval", (1, 1 << 20))
    if given is None:
        return [(number + 1) % interval != 0 for number in range(count)]
    if not isinstance(given, list) or len(given) != count or any(each not in (0, 1) for each in given):
        raise config.error("no_rope_layers", f"{shown(given)} found, a list of {count} times 0 or 1 expected")
    return [bool(each) for each in given]


SMOLLM3 = Family(
    ("SmolLM3ForCausalLM", "SmolLM3Model"), ("smollm3",), KEYS, parts, decoder.expression, decoder.constants
)
