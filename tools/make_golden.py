"""Writes tests/golden: what transformers computes in float64 for small models, which the engine's tests compare with.

Run it from the repository's root in an environment with torch, transformers and what ggq needs:
`python tools/make_golden.py [FOLDER of stories260k]`, or, for some families beside those that are there,
`python tools/make_golden.py --families NAME ...`.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.kit.small_families import FAMILIES, LAST, PROMPTS, experts_of, family_checkpoint  # noqa: E402
from tests.kit.small_models import CONFIGS, checkpoint, prompt  # noqa: E402

GOLDEN = ROOT / "tests" / "golden"
TOKENS = 80
"""Tokens of each random prompt: beyond the 32 after which llama3 scaling matters."""

CROSSING = "phi3_beyond"
"""The model whose RoPE is another one in texts that outgrow its original context, while they are written too."""

SAVED = {"gpt_neox": {"lm_head.weight": "embed_out.weight"}}
"""Names that transformers' tensors have in the files that it saves, where they are others, by "model_type"."""

WHOLE = ("gpt_oss", "gemma4_text")
"""Values of "model_type" of models whose experts are stacked in a checkpoint too; others are when it is read."""

FORMS = {"attn_implementation": "eager", "experts_implementation": "eager"}
"""Plain PyTorch, in any type."""

STORY = "Once upon a time, there was"


def main() -> None:
    """Compute and write everything, or some families."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--families"]:
        families(sys.argv[2:])
        return
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
    families()


def families(names: list[str] | None = None) -> None:
    """Compute and write what the families' tests compare with: of all, or of some beside what is there."""
    logits: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {"made_by": "tools/make_golden.py", "transformers": transformers.__version__}
    facts |= {"models": {}, "keys": {}, "rope": rotations()}
    if names is not None:
        logits = dict(np.load(GOLDEN / "families.npz"))
        facts["models"] = json.loads((GOLDEN / "families.json").read_text())["models"]
    for name, config in FAMILIES.items():
        if names is not None and name not in names:
            continue
        model, shapes = random_family(name)
        prompts = [prompt(config, count, seed) for seed, count in enumerate(PROMPTS)]
        for number, (tokens, last) in enumerate(zip(prompts, LAST, strict=True)):
            logits[f"{name}.{number}"] = forward(model, tokens)[-last:].astype(np.float32)
        facts["models"][name] = {"tensors": shapes, "prompts": prompts}
        if name == CROSSING:
            facts["models"][name]["generated"] = generated(model, prompts[1])
    for model_type in sorted({config["model_type"] for config in [*FAMILIES.values(), *CONFIGS.values()]}):
        facts["keys"][model_type] = keys(type(transformers.AutoConfig.for_model(model_type)))
    facts["models"] = {name: facts["models"][name] for name in FAMILIES if name in facts["models"]}
    logits = {f"{name}.{number}": logits[f"{name}.{number}"] for name in facts["models"] for number in range(len(LAST))}
    np.savez_compressed(GOLDEN / "families.npz", **logits)  # type: ignore[arg-type]
    text = json.dumps(facts, indent=1)
    (GOLDEN / "families.json").write_text(re.sub(r"\[\s+([-\d][^\[\]{}]*?)\s+\]", _on_one_line, text) + "\n")


def _on_one_line(found: re.Match[str]) -> str:
    return "[" + " ".join(found[1].split()) + "]"


def random_family(name: str) -> tuple[Any, dict[str, list[int]]]:
    """A model with the random tensors of `family_checkpoint`, and their shapes by name."""
    config = transformers.AutoConfig.for_model(**FAMILIES[name])
    model = transformers.AutoModelForCausalLM.from_config(config, **FORMS).double().eval()
    if experts_of(FAMILIES[name]) and config.model_type not in WHOLE:
        return split_family(name, model)
    saved = SAVED.get(config.model_type, {})
    shapes = {saved.get(key, key): list(value.shape) for key, value in model.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes[saved.get("lm_head.weight", "lm_head.weight")]
    tensors = family_checkpoint(name, shapes)
    own = {key: tensors.get(saved.get(key, key)) for key in model.state_dict()}
    found = model.load_state_dict(
        {key: torch.from_numpy(values).double() for key, values in own.items() if values is not None}, strict=False
    )
    assert set(found.missing_keys) <= {"lm_head.weight"} and not found.unexpected_keys, found
    return model, shapes


def split_family(name: str, model: Any) -> tuple[Any, dict[str, list[int]]]:
    """The same by way of a checkpoint, which has a tensor for each expert."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        file = Path(folder) / "model.safetensors"
        shapes = {key: list(value.shape) for key, value in load_file(file).items()}
        save_file(family_checkpoint(name, shapes), file)
        read = type(model).from_pretrained(folder, dtype=torch.float64, **FORMS)
    return read.eval(), shapes


def generated(model: Any, tokens: list[int]) -> list[int]:
    """The likeliest tokens behind a prompt, until the text is twenty tokens past its original context."""
    given = torch.tensor([tokens])
    count = int(model.config.original_max_position_embeddings) + 20 - len(tokens)
    with torch.no_grad():
        found = model.generate(given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=count)
    written: list[int] = found[0, len(tokens) :].tolist()
    assert len(written) == count, "another seed: the text ends early"
    return written


def keys(config: Any) -> dict[str, Any]:
    """What a configuration class reads of config.json, besides what all of them do, with the defaults."""
    common = {field.name for field in dataclasses.fields(transformers.PreTrainedConfig)}
    own = [field for field in dataclasses.fields(config) if field.name not in common]
    defaults = {field.name: field.default for field in own}
    return {"common": sorted(common), "own": defaults, "rope_theta": config.default_theta}


def rotations() -> list[dict[str, Any]]:
    """Frequencies and attention factors of some forms of RoPE."""
    forms: list[dict[str, Any]] = [
        {"rope_type": "default", "rope_theta": 5e5},
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0},
        {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 3.0},
        {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0},
        {
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 16.0,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "truncate": False,
        },
        {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "mscale": 0.7, "mscale_all_dim": 1.3},
        {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "attention_factor": 1.5},
    ]
    found = []
    for form in forms:
        if form["rope_type"] in ("llama3", "yarn"):
            form["original_max_position_embeddings"] = 512
        config = transformers.LlamaConfig(
            hidden_size=128, num_attention_heads=4, max_position_embeddings=8192, rope_parameters=dict(form)
        )
        rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
        frequencies = [float(value) for value in rotary.inv_freq]
        found.append({"form": form, "frequencies": frequencies, "attention_factor": rotary.attention_scaling})
    return found


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
