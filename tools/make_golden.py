"""Writes tests/golden: what transformers computes in float64 for small models, which the engine's tests compare with.

Run it from the repository's root in an environment with torch, transformers and what ggq needs:
`python tools/make_golden.py [FOLDER of stories260k]`.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.kit.small_models import CONFIGS, checkpoint, prompt  # noqa: E402

GOLDEN = ROOT / "tests" / "golden"
TOKENS = 80
"""Tokens of each random prompt: beyond the 32 after which llama3 scaling matters."""

STORY = "Once upon a time, there was"


def main() -> None:
    """Compute and write everything."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    logits: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {
        "made_by": "tools/make_golden.py",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    for name, config in CONFIGS.items():
        tokens = prompt(config, TOKENS)
        logits[name] = forward(random_model(config), tokens)[-16:]
        facts[name] = {"tokens": tokens, "last": 16}
    logits["demo"], facts["demo"] = demo()
    stories = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT.parent / "shared" / "models" / "stories260k"
    logits["stories260k"], facts["stories260k"] = story(stories)
    GOLDEN.mkdir(exist_ok=True)
    rounded = {key: value.astype(np.float32) for key, value in logits.items()}
    np.savez_compressed(GOLDEN / "logits.npz", **rounded)  # type: ignore[arg-type]
    (GOLDEN / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")


def random_model(config: dict[str, Any]) -> Any:
    """A model with the random tensors of `checkpoint`."""
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).double().eval()
    tensors = {name: torch.from_numpy(values).double() for name, values in checkpoint(config).items()}
    found = model.load_state_dict(tensors, strict=False)
    assert not found.unexpected_keys and set(found.missing_keys) <= {"lm_head.weight"}, found
    return model


def trained_model(folder: Path) -> Any:
    """A checkpoint in float64."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()


def forward(model: Any, tokens: list[int]) -> np.ndarray:
    """float64 (tokens, vocabulary)."""
    with torch.no_grad():
        result: np.ndarray = model(torch.tensor([tokens])).logits[0].numpy()
    return result


def demo() -> tuple[np.ndarray, dict[str, Any]]:
    """The embedded checkpoint on the beginning of its own held-out text."""
    folder = ROOT / "ggq" / "demo"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer((folder / "valid.txt").read_text()[:400]).input_ids[:100]
    return forward(trained_model(folder), tokens)[-8:], {"tokens": tokens, "last": 8}


def story(folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """stories260k on the beginning of a story, and how it goes on."""
    model, tokenizer = trained_model(folder), transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(STORY).input_ids
    whole = model.generate(torch.tensor([tokens]), max_new_tokens=40, do_sample=False, pad_token_id=0)[0].tolist()
    text = tokenizer.decode(whole, skip_special_tokens=True)
    facts = {"prompt": STORY, "tokens": tokens, "last": len(tokens), "greedy": whole[len(tokens) :]}
    return forward(model, tokens), {**facts, "text": text[len(STORY) :]}


if __name__ == "__main__":
    main()
