"""Writes tests/golden/encoders.{json,npz}: what transformers computes in float64 for small encoders.

Run it from the repository's root in an environment with torch, transformers and what ggq needs:
`python tools/make_encoder_golden.py`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.kit.small_encoders import ENCODERS, TEXTS, encoder_checkpoint, types_of  # noqa: E402
from tests.kit.small_models import prompt  # noqa: E402
from tools.make_golden import _on_one_line, keys  # noqa: E402

GOLDEN = ROOT / "tests" / "golden"


def main() -> None:
    """Compute and write everything."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    found: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {"made_by": "tools/make_encoder_golden.py", "transformers": transformers.__version__}
    facts |= {"models": {}, "keys": {}}
    for name, config in ENCODERS.items():
        model, shapes = random_encoder(name)
        texts = [prompt(config, count, seed) for seed, count in enumerate(TEXTS)]
        texts = [[token if token != config["pad_token_id"] else 4 for token in text] for text in texts]
        for number, tokens in enumerate(texts):
            rows, result = compute(model, name, tokens)
            found[f"{name}.{number}.rows"], found[f"{name}.{number}.result"] = rows[:: len(rows) // 5], result
        facts["models"][name] = {"tensors": shapes, "texts": texts}
    for model_type in sorted({config["model_type"] for config in ENCODERS.values()}):
        facts["keys"][model_type] = keys(type(transformers.AutoConfig.for_model(model_type)))
    np.savez_compressed(GOLDEN / "encoders.npz", **found)  # type: ignore[arg-type]
    text = json.dumps(facts, indent=1)
    (GOLDEN / "encoders.json").write_text(re.sub(r"\[\s+([-\d][^\[\]{}]*?)\s+\]", _on_one_line, text) + "\n")


def random_encoder(name: str) -> tuple[Any, dict[str, list[int]]]:
    """A model with the random tensors of `encoder_checkpoint`, and their shapes by name."""
    config = transformers.AutoConfig.for_model(**ENCODERS[name])
    kind = getattr(transformers, ENCODERS[name]["architectures"][0])
    more = {"add_pooling_layer": False} if kind.__name__ in ("BertModel", "RobertaModel") else {}
    config._attn_implementation = "eager"
    model = kind(config, **more).double().eval()
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    tensors = encoder_checkpoint(shapes)
    model.load_state_dict({key: torch.from_numpy(values).double() for key, values in tensors.items()})
    return model, shapes


def compute(model: Any, name: str, tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """float32 (tokens, width), the last layer's rows; the scores, or the mean of the rows."""
    types, given = types_of(name, len(tokens)), {"input_ids": torch.tensor([tokens])}
    if types is not None:
        given["token_type_ids"] = torch.from_numpy(types)[None]
    with torch.no_grad():
        out = model(**given, output_hidden_states=True)
        inner = model.base_model(**given).last_hidden_state[0].numpy()
    result = out.logits[0].numpy() if hasattr(out, "logits") else inner.mean(axis=0)
    return inner.astype(np.float32), result.astype(np.float32)


if __name__ == "__main__":
    main()
