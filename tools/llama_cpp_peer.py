"""llama.cpp's side of tools/fidelity_table.py: write a checkpoint as F16, quantize it, score it.

    PYTHON tools/llama_cpp_peer.py MODEL WORK WINDOWS.npy SCORED TYPE ...

Run by an interpreter that has llama-cpp-python, gguf and NumPy, and neither ggq nor its dependencies. WINDOWS.npy holds
token ids (windows, context); the last SCORED tokens of each window are scored. TYPE is any of llama.cpp's
LLAMA_FTYPE_MOSTLY_ names; each is made from the F16 file by llama.cpp's own quantizer and compared with that file. One
JSON line per file on standard output, F16 first; a type that llama.cpp refuses is named there too.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""llama.cpp's names of Hugging Face's modules."""

THREADS = 2


def read_tensors(folder: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The tensors of a checkpoint's safetensors files as float32."""
    for path in sorted(folder.glob("*.safetensors")):
        blob = path.read_bytes()
        start = 8 + int.from_bytes(blob[:8], "little")
        for name, entry in json.loads(blob[8:start]).items():
            if name == "__metadata__":
                continue
            first, last = (start + offset for offset in entry["data_offsets"])
            stored = np.frombuffer(blob[first:last], {"BF16": "<u2", "F16": "<f2", "F32": "<f4"}[entry["dtype"]])
            wide = stored.astype(np.uint32) << 16 if entry["dtype"] == "BF16" else stored.astype(np.float32)
            yield name, wide.view(np.float32).reshape(entry["shape"])


def pairs_of_neighbours(weights: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of a query or key matrix in llama.cpp's order: it rotates neighbours, Hugging Face the halves of a head."""
    half = len(weights) // heads // 2
    return weights.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(weights.shape)


def peer_name(name: str) -> str:
    """llama.cpp's name of a tensor."""
    module, kind = name.rsplit(".", 1)
    if module in NAMES:
        return f"{NAMES[module]}.{kind}"
    layer, rest = module.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{NAMES[rest]}.{kind}"


def check_config(config: dict[str, Any]) -> None:
    """End where this file's translation would be another model."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if config["architectures"] != ["LlamaForCausalLM"] or rope.get("rope_type", "default") != "default":
        raise SystemExit("only Llama models without RoPE scaling are translated for llama.cpp")
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise SystemExit("models with biases are not translated for llama.cpp")


def write_f16(folder: Path, target: Path) -> None:
    """Write a checkpoint as an F16 GGUF without a tokenizer: it is scored by token ids."""
    import gguf

    config = json.loads((folder / "config.json").read_text())
    check_config(config)
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads", heads)
    rope = config.get("rope_parameters") or {}
    writer = gguf.GGUFWriter(str(target), "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_rope_freq_base(float(rope.get("rope_theta", config.get("rope_theta", 10000.0))))
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(1)
    writer.add_tokenizer_model("no_vocab")
    for name, weights in read_tensors(folder):
        if name.endswith("rotary_emb.inv_freq") or (name == "lm_head.weight" and config.get("tie_word_embeddings")):
            continue
        for module, count in (("q_proj", heads), ("k_proj", kv_heads)):
            if name.endswith(f"{module}.weight"):
                weights = pairs_of_neighbours(weights, count)
        writer.add_tensor(peer_name(name), weights if weights.ndim == 1 else weights.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def log_probabilities(path: Path, windows: NDArray[np.int64], scored: int) -> Iterator[NDArray[np.float64]]:
    """Of each window: log p of every token at the places of its scored ones, float64 (scored, vocabulary)."""
    import llama_cpp as llama

    context_length = windows.shape[1]
    first = context_length - scored - 1  # the row before the first scored token predicts it
    parameters = llama.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = llama.llama_model_load_from_file(str(path).encode(), parameters)
    vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    options = llama.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = context_length
    options.n_threads = options.n_threads_batch = THREADS
    context = llama.llama_init_from_model(model, options)
    for window in windows:
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        batch = llama.llama_batch_init(context_length, 0, 1)
        batch.n_tokens = context_length
        for i, token in enumerate(window):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = int(token), i, 1, 0
            batch.logits[i] = i >= first
        if llama.llama_decode(context, batch):
            raise SystemExit("llama_decode failed")
        places = range(first, context_length - 1)
        logits = [llama.llama_get_logits_ith(context, i) for i in places]
        rows = np.array([np.ctypeslib.as_array(row, (vocabulary,)) for row in logits], np.float64)
        llama.llama_batch_free(batch)
        rows -= rows.max(axis=1, keepdims=True)
        yield rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    llama.llama_free(context)
    llama.llama_model_free(model)


def figures(
    path: Path, windows: NDArray[np.int64], scored: int, reference: list[NDArray[np.float32]]
) -> dict[str, float]:
    """How far a file is from the reference; the first file fills the list and becomes it."""
    kld, nll, same = [], [], []
    for number, (found, window) in enumerate(zip(log_probabilities(path, windows, scored), windows)):
        if len(reference) <= number:
            reference.append(found.astype(np.float32))
        exact = reference[number].astype(np.float64)
        kld.append((np.exp(exact) * (exact - found)).sum(axis=1))
        nll.append(-found[np.arange(scored), window[-scored:]])
        same.append(exact.argmax(axis=1) == found.argmax(axis=1))
    divergence, surprise = np.concatenate(kld), np.concatenate(nll)
    return {
        "perplexity": float(np.exp(surprise.mean())),
        "mean_kld": float(divergence.mean()),
        "kld_median": float(np.median(divergence)),
        "kld_p99": float(np.quantile(divergence, 0.99)),
        "same_top": float(np.concatenate(same).mean()),
    }


def bits_per_weight(path: Path) -> float:
    """Bits of all matrices, embedding and scales included, for each of their weights."""
    import gguf

    matrices = [tensor for tensor in gguf.GGUFReader(path).tensors if len(tensor.shape) > 1]
    return 8 * sum(int(t.n_bytes) for t in matrices) / sum(int(t.n_elements) for t in matrices)


def main() -> int:
    """The command line."""
    import llama_cpp as llama

    folder, work, windows_path, scored = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    silent = llama.llama_log_callback(lambda *_: None)
    llama.llama_log_set(silent, ctypes.c_void_p(0))
    llama.llama_backend_init()
    windows = np.load(windows_path).astype(np.int64)
    exact = work / "F16.gguf"
    write_f16(folder, exact)
    reference: list[NDArray[np.float32]] = []
    for kind in ("F16", *sys.argv[5:]):
        path, line = work / f"{kind}.gguf", {"type": kind, "version": version("llama-cpp-python")}
        if kind != "F16":
            options = llama.llama_model_quantize_default_params()
            options.ftype, options.nthread = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{kind}"), THREADS
            if llama.llama_model_quantize(str(exact).encode(), str(path).encode(), ctypes.byref(options)):
                print(json.dumps({**line, "problem": "llama.cpp's quantizer refused it"}), flush=True)
                continue
        found = {"bits_per_weight": bits_per_weight(path), **figures(path, windows, scored, reference)}
        print(json.dumps({**line, **found}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
