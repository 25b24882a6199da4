"""llama.cpp's side of the comparison, run by an interpreter that has llama-cpp-python: one JSON line.

python llama_peer.py speed FILE THREADS PROMPT GENERATE        prefill and decoding of an empty sequence
python llama_peer.py context FILE THREADS PROMPT GENERATE      the prompt, then decoding behind it
python llama_peer.py start FILE THREADS PROMPT                 writes a line when the first token is known
python llama_peer.py quantize SOURCE TARGET THREADS KIND       its own quantizer, KIND such as Q4_0
python llama_peer.py pure SOURCE TARGET THREADS KIND [IMATRIX]  the same with one type for all matrices, Q6_K outside
python llama_peer.py score SOURCE THREADS IDS.npy FILE...      perplexity of windows' second halves, KL from SOURCE's
python llama_peer.py load FILE THREADS PROMPT                  loading alone, and with the first token of a prompt
python llama_peer.py logits FILE THREADS IDS.npy OUT.npy       float32 logits of windows of ids (windows, context)
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from importlib.metadata import version
from typing import Any

import llama_cpp as llama
import numpy as np

BATCH = 512
"""Tokens that are computed together, as llama-bench has it."""

Q6_K = 14
"""Number of the type."""

silent = llama.llama_log_callback(lambda *_: None)


class Context:
    """A model and a context with the f16 cache that is llama.cpp's default.

    Args:
        path: A GGUF.
        threads: For both phases.
        size: Tokens that it holds.
    """

    def __init__(self, path: str, threads: int, size: int) -> None:
        llama.llama_log_set(silent, ctypes.c_void_p(0))
        llama.llama_backend_init()
        model_options = llama.llama_model_default_params()
        model_options.n_gpu_layers = 0
        self.model = llama.llama_model_load_from_file(path.encode(), model_options)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        options = llama.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = max(2048, size), BATCH, BATCH
        options.n_threads = options.n_threads_batch = threads
        self.context = llama.llama_init_from_model(self.model, options)
        self.random = np.random.default_rng(0)

    def clear(self) -> None:
        """Forget all tokens."""
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)

    def feed(self, count: int, step: int) -> float:
        """Seconds for so many more tokens, `step` at a time, with the logits of each step's last."""
        ids = [int(token) for token in self.random.integers(0, 1000, count)]
        start = time.perf_counter()
        for first in range(0, count, step):
            part = ids[first : first + step]
            array = (llama.llama_token * len(part))(*part)  # must outlive the call
            if llama.llama_decode(self.context, llama.llama_batch_get_one(array, len(part))):
                raise SystemExit("llama_decode failed")
            llama.llama_get_logits_ith(self.context, -1)
        return time.perf_counter() - start


def speed(path: str, threads: int, prompt: int, generate: int) -> dict[str, Any]:
    """Prefill and decoding, each of an empty sequence, after a warm-up."""
    context = Context(path, threads, max(prompt, generate))
    seconds = []
    context.feed(16, BATCH), context.feed(4, 1)
    for count, step in ((prompt, BATCH), (generate, 1)):
        context.clear()
        seconds.append(context.feed(count, step))
    return {"prefill_tok_s": prompt / seconds[0], "decode_tok_s": generate / seconds[1]}


def behind(path: str, threads: int, prompt: int, generate: int) -> dict[str, Any]:
    """A long prompt, and decoding behind it."""
    context = Context(path, threads, prompt + generate)
    context.feed(16, BATCH), context.feed(4, 1)
    context.clear()
    seconds = context.feed(prompt, BATCH), context.feed(generate, 1)
    return {"prefill_tok_s": prompt / seconds[0], "decode_tok_s": generate / seconds[1]}


def start(path: str, threads: int, prompt: int) -> dict[str, Any]:
    """The first token of a prompt; whoever started this process looks at the clock when the line comes."""
    context = Context(path, threads, prompt)
    context.feed(prompt, BATCH)
    logits = llama.llama_get_logits_ith(context.context, -1)
    size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(context.model))
    print(int(np.ctypeslib.as_array(logits, (size,)).argmax()), flush=True)
    return {}


def quantize(source: str, target: str, threads: int, kind: str) -> dict[str, Any]:
    """Quantize a GGUF."""
    return quantized(source, target, threads, kind, llama.llama_model_quantize_default_params())


def pure(source: str, target: str, threads: int, kind: str, imatrix: str = "") -> dict[str, Any]:
    """Quantize a GGUF to one type, its embedding and output to Q6_K, by an importance matrix if there is one."""
    options = llama.llama_model_quantize_default_params()
    options.pure, options.token_embedding_type, options.output_tensor_type = True, Q6_K, Q6_K
    kept = means(imatrix) if imatrix else {}
    rows = (llama.llama_model_imatrix_data * (len(kept) + 1))()
    for row, (name, values) in zip(rows, kept.items()):
        row.name, row.size = name.encode(), values.size
        row.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if kept:
        options.imatrix = ctypes.cast(rows, ctypes.POINTER(llama.llama_model_imatrix_data))
    return quantized(source, target, threads, kind, options)


def means(imatrix: str) -> dict[str, np.ndarray]:
    """Mean squares of inputs by tensor, of an importance matrix in a GGUF."""
    import gguf

    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(imatrix).tensors}
    found = {}
    for name in (each.removesuffix(".in_sum2") for each in tensors if each.endswith(".in_sum2")):
        sums, counts = tensors[f"{name}.in_sum2"], tensors[f"{name}.counts"]
        found[name] = np.ascontiguousarray(sums.ravel() / counts.ravel()[0], np.float32)
    return found


def quantized(source: str, target: str, threads: int, kind: str, options: Any) -> dict[str, Any]:
    """Quantize a GGUF by these options."""
    llama.llama_log_set(silent, ctypes.c_void_p(0))
    options.ftype, options.nthread = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{kind}"), threads
    begun = time.perf_counter()
    if llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(options)):
        raise SystemExit(f"llama.cpp cannot quantize {source} to {kind}")
    return {"call_s": time.perf_counter() - begun}


def load(path: str, threads: int, prompt: int) -> dict[str, Any]:
    """Seconds until a model and its context are there, and until the first token of a prompt is known."""
    begun = time.perf_counter()
    context = Context(path, threads, prompt)
    loaded = time.perf_counter()
    context.feed(prompt, BATCH)
    return {"load_s": loaded - begun, "first_s": time.perf_counter() - begun}


def window_logits(context: Context, window: np.ndarray, first: int) -> np.ndarray:
    """Logits of a window alone, float32 (tokens, vocabulary), from the token `first` on."""
    size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(context.model))
    context.clear()
    batch = llama.llama_batch_init(len(window), 0, 1)
    batch.n_tokens = len(window)
    for i, token in enumerate(window):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = int(token), i, 1, 0
        batch.logits[i] = i >= first
    if llama.llama_decode(context.context, batch):
        raise SystemExit("llama_decode failed")
    llama.llama_batch_free(batch)
    rows = (llama.llama_get_logits_ith(context.context, i) for i in range(first, len(window)))
    return np.stack([np.ctypeslib.as_array(row, (size,)) for row in rows])


def logits(path: str, threads: int, ids: str, out: str) -> dict[str, Any]:
    """All logits of some windows."""
    windows = np.load(ids)
    context = Context(path, threads, windows.shape[1])
    np.save(out, np.stack([window_logits(context, window, 0) for window in windows]))
    return {}


def log_shares(found: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities, in double precision."""
    shifted = found.astype(np.float64) - found.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def score(source: str, threads: int, ids: str, *files: str) -> dict[str, Any]:
    """As llama-perplexity scores: what the second half of each window costs."""
    windows = np.load(ids)
    middle = windows.shape[1] // 2
    contexts = [Context(path, threads, windows.shape[1]) for path in (source, *files)]
    costs, divergences = ([[] for _ in files] for _ in range(2))  # type: ignore[var-annotated]
    for window in windows:
        p, *rest = (log_shares(window_logits(context, window, middle - 1)[:-1]) for context in contexts)
        for q, cost, divergence in zip(rest, costs, divergences):
            cost.append(-q[np.arange(len(q)), window[middle:]])
            divergence.append((np.exp(p) * (p - q)).sum(axis=-1))
    return {"perplexity": [float(np.exp(np.mean(c))) for c in costs], "kl": [float(np.mean(d)) for d in divergences]}


def main() -> None:
    mode, *words = sys.argv[1:]
    modes: dict[str, Any] = {"speed": speed, "context": behind, "start": start, "quantize": quantize}
    modes |= {"load": load, "logits": logits, "pure": pure, "score": score}
    numbers = [int(word) if word.isdecimal() else word for word in words]
    found = modes[mode](*numbers)
    print(json.dumps({**found, "version": f"llama-cpp-python {version('llama-cpp-python')}"}))


if __name__ == "__main__":
    main()
