#!/usr/bin/env python3
"""Tiny random models of the families that ggq and llama.cpp both know, exported and run there: whether each type loads,
how far its f32 and f16 logits are from ours, relative to the largest, and whether 64 greedy tokens are the same.

    tools/gguf_families.py --peer PYTHON [--families phi3,mixtral]

PYTHON has llama-cpp-python and NumPy. One line for each family; exits with 1 if a file does not load, if f16 logits are
off by more than 2e-3, or if a token differs that is further behind than twice that error; a family with experts is well
if its f32 logits are the same to 1e-5, since a near tie may send a token to another expert. llama.cpp rounds inputs of
f16 products to halves, and looks GELU up in a table of halves: f32 shows whether it computes the same model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

TYPES = ("f32", "f16", "q8_0", "q4_0", "q4_k", "q6_k")
COMPARED = ("f32", "f16")
"""Types whose logits are compared."""

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
}
RMS = {"rms_norm_eps": 1e-5}
GEMMA = {"query_pre_attn_scalar": 32, "sliding_window": 24, "tie_word_embeddings": True, "num_hidden_layers": 6}
LOCAL = {"num_local_experts": 8, "num_experts_per_tok": 3}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 256, "use_sliding_window": False}
PLAIN: dict[str, Any] = dict.fromkeys(("num_key_value_heads", "head_dim", "rope_theta"))
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**RMS, "architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    "mistral": {**RMS, "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None},
    "qwen2": {**RMS, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": False},
    "qwen3": {**RMS, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "use_sliding_window": False},
    "gemma2": {**RMS, **GEMMA, "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2"},
    "gemma3": {**RMS, **GEMMA, "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"},
    "olmo2": {**RMS, "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2"},
    "granite": {
        **RMS,
        "architectures": ["GraniteForCausalLM"],
        "model_type": "granite",
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.4,
        "logits_scaling": 2.5,
    },
    "cohere": {"architectures": ["CohereForCausalLM"], "model_type": "cohere", "layer_norm_eps": 1e-5,
               "logit_scale": 0.25, "tie_word_embeddings": True},
    "cohere2": {"architectures": ["Cohere2ForCausalLM"], "model_type": "cohere2", "layer_norm_eps": 1e-5,
                "logit_scale": 0.25, "sliding_window": 24, "sliding_window_pattern": 4, "tie_word_embeddings": True},
    "smollm3": {**RMS, "architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3",
                "no_rope_layer_interval": 4, "use_sliding_window": False, "tie_word_embeddings": True},
    "arcee": {**RMS, "architectures": ["ArceeForCausalLM"], "model_type": "arcee", "hidden_act": "relu2"},
    "ernie4_5": {**RMS, "architectures": ["Ernie4_5ForCausalLM"], "model_type": "ernie4_5", "use_bias": False},
    "hunyuan": {**RMS, "architectures": ["HunYuanDenseV1ForCausalLM"], "model_type": "hunyuan_v1_dense"},
    "stablelm": {"architectures": ["StableLmForCausalLM"], "model_type": "stablelm", "layer_norm_eps": 1e-5,
                 "partial_rotary_factor": 0.25, "head_dim": None},
    "starcoder2": {"architectures": ["Starcoder2ForCausalLM"], "model_type": "starcoder2", "norm_epsilon": 1e-5,
                   "sliding_window": None, "head_dim": None, "hidden_act": "gelu_pytorch_tanh"},
    "mixtral": {**RMS, **LOCAL, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
                "sliding_window": None},
    "qwen2_moe": {**RMS, **EXPERTS, "architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe",
                  "shared_expert_intermediate_size": 512, "norm_topk_prob": False, "qkv_bias": True},
    "qwen3_moe": {**RMS, **EXPERTS, "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
                  "norm_topk_prob": True, "attention_bias": False},
    "olmoe": {**RMS, **EXPERTS, "architectures": ["OlmoeForCausalLM"], "model_type": "olmoe",
              "moe_intermediate_size": None, "use_sliding_window": None, "norm_topk_prob": False,
              "num_key_value_heads": 8, "intermediate_size": 256},
    "granitemoe": {**RMS, **LOCAL, "architectures": ["GraniteMoeForCausalLM"], "model_type": "granitemoe",
                   "embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.4,
                   "logits_scaling": 2.5},
    "granitemoe_shared": {**RMS, **LOCAL, "architectures": ["GraniteMoeSharedForCausalLM"],
                          "model_type": "granitemoeshared", "shared_intermediate_size": 512,
                          "embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.4,
                          "logits_scaling": 2.5},
    "phi3": {**RMS, "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "sliding_window": None,
             "head_dim": None},
    "glm4": {**RMS, "architectures": ["Glm4ForCausalLM"], "model_type": "glm4", "partial_rotary_factor": 0.5},
    "gpt_neox": {**PLAIN, "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "rotary_pct": 0.25,
                 "rotary_emb_base": 10000.0, "layer_norm_eps": 1e-5},
    "falcon": {**PLAIN, "architectures": ["FalconForCausalLM"], "model_type": "falcon", "intermediate_size": None,
               "num_kv_heads": 1, "ffn_hidden_size": 512, "multi_query": True, "parallel_attn": True, "bias": False,
               "layer_norm_epsilon": 1e-5},
    "gpt_oss": {**RMS, **LOCAL, "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "head_dim": 64,
                "num_hidden_layers": 4, "num_attention_heads": 8, "sliding_window": 24, "attention_bias": True,
                "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0,
                                 "truncate": True, "original_max_position_embeddings": 64}},
}  # fmt: skip
"""How each differs from SIZES; None leaves a key out where a family has none of it."""

PEER = r"""
import ctypes, json, sys
import llama_cpp as L, numpy as np
silent = L.llama_log_callback(lambda *a: None)
L.llama_log_set(silent, ctypes.c_void_p(0))
L.llama_backend_init()
def run(path, ids, greedy):
    params = L.llama_model_default_params()
    params.n_gpu_layers = 0
    model = L.llama_model_load_from_file(path.encode(), params)
    if not model:
        return None
    size = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))
    params = L.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = 1
    params.flash_attn_type = params.type_k = params.type_v = 0
    context = L.llama_init_from_model(model, params)
    def logits(tokens, start):
        batch = L.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, start + i, 1
            batch.seq_id[i][0], batch.logits[i] = 0, True
        if L.llama_decode(context, batch):
            raise SystemExit("llama_decode failed")
        made = [np.ctypeslib.as_array(L.llama_get_logits_ith(context, i), (size,)).copy() for i in range(len(tokens))]
        L.llama_batch_free(batch)
        return np.array(made)
    found = logits(ids, 0)
    last, made, place = found[-1], [], len(ids)
    for _ in range(greedy):
        made.append(int(last.argmax()))
        last, place = logits(made[-1:], place)[0], place + 1
    L.llama_free(context)
    L.llama_model_free(model)
    return found, made
jobs = json.loads(sys.stdin.read())
out = []
for job in jobs:
    found = run(job["path"], job["ids"], job["greedy"])
    if found is not None and job["keep"]:
        np.save(job["path"] + ".npy", found[0])
    out.append(None if found is None else found[1])
print(json.dumps(out))
"""


def made(name: str, folder: Path) -> Path:
    """A .ggq file of a family's random model: what it stores, whatever its checkpoints have fused or stacked."""
    from ggq.format import Writer
    from ggq.models.metadata import to_metadata
    from ggq.models.registry import find_architecture
    from ggq.quant import encode_tensor, parse_scheme
    from tests.kit.small_models import tensor

    config = {**SIZES, **FAMILIES[name]}
    config = {key: value for key, value in config.items() if value is not None or key == "sliding_window"}
    family, exact, path = find_architecture(config), parse_scheme("f32"), folder / f"{name}.ggq"
    spec = family.config(config)
    with Writer(path) as writer:
        for key, value in to_metadata(spec, config["architectures"][0]).items():
            writer.add_metadata(key, value)
        for number, each in enumerate(each for each in family.tensors(spec) if each.role):
            values = tensor(each, 1000 + number)
            segments = encode_tensor(values, exact)
            writer.add_tensor(each.role, values.shape, exact, segments, attributes={"role": each.role})
        writer.finish()
    return path


def ours(path: Path, ids: list[int], theirs: list[int]) -> tuple[np.ndarray, int, float]:
    """Logits of a prompt; how many of the other's greedy tokens are ours; and how far the first that is not is behind
    our own, relative to the largest logit."""
    import ggq

    with ggq.load(path, interpreter="numpy") as model:
        logits = np.asarray(model.logits([*ids, *theirs]))
    for i, token in enumerate(theirs):
        row = logits[len(ids) - 1 + i]
        if int(row.argmax()) != token:
            return logits[: len(ids)], i, float((row.max() - row[token]) / np.abs(row).max())
    return logits[: len(ids)], len(theirs), 0.0


def compare(name: str, folder: Path, peer: str, greedy: int) -> tuple[str, bool]:
    """A line about a family, and whether all is well."""
    from ggq.export.gguf import export_gguf

    source = made(name, folder)
    ids = [int(token) for token in np.random.default_rng(1).integers(3, 300, 48)]
    jobs = []
    for kind in TYPES:
        export_gguf(source, folder / f"{name}-{kind}.gguf", type=kind)
        job = {"path": str(folder / f"{name}-{kind}.gguf"), "ids": ids, "keep": kind in COMPARED}
        jobs.append({**job, "greedy": greedy if kind == "f16" else 0})
    done = subprocess.run([peer, "-c", PEER], input=json.dumps(jobs), capture_output=True, text=True, check=False)
    if done.returncode:
        return f"{name}: {done.stderr.strip()[-120:]}", False
    loaded = json.loads(done.stdout)
    failed = [kind for kind, found in zip(TYPES, loaded, strict=True) if found is None]
    found = dict(zip(TYPES, loaded, strict=True))
    if any(found[kind] is None for kind in COMPARED):
        return f"{name}: does not load: {', '.join(failed)}", False
    errors, same, margin = {}, 0, 0.0
    for kind in COMPARED:
        path = folder / f"{name}-{kind}.gguf"
        logits, same, margin = ours(path, ids, found[kind])
        errors[kind] = float(np.abs(np.load(f"{path}.npy") - logits).max() / np.abs(logits).max())
    error = errors["f16"]
    line = f"{name}: f32 logits {errors['f32']:.1e}, f16 {error:.1e}, {same} of {greedy} greedy tokens the same"
    if same < greedy:
        line += f", then one that is {margin:.1e} behind"
    line += f"; does not load {failed}" if failed else "; loads all types"
    near = error < 2e-3 and margin < 2 * error
    if not near and "num_experts_per_tok" in FAMILIES[name] and errors["f32"] < 1e-5:
        near, line = True, f"{line} (f16 chooses another expert once)"
    return line, not failed and near


def main() -> int:
    """Run what the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="a Python with llama-cpp-python")
    parser.add_argument("--families", default="", help="comma-separated; all by default")
    parser.add_argument("--greedy", type=int, default=64)
    options = parser.parse_args()
    well = True
    with tempfile.TemporaryDirectory(prefix="ggq-families-") as folder:
        for name in [each for each in options.families.split(",") if each] or list(FAMILIES):
            try:
                line, good = compare(name, Path(folder), options.peer, options.greedy)
            except Exception as error:
                line, good = f"{name}: {error}", False
            well = well and good
            print(line, flush=True)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
