"""llama.cpp's side of the comparison, run by an interpreter that has llama-cpp-python: one JSON line.

python llama_peer.py speed FILE THREADS PROMPT GENERATE        prefill and decoding of an empty sequence
python llama_peer.py context FILE THREADS PROMPT GENERATE      the prompt, then decoding behind it
python llama_peer.py start FILE THREADS PROMPT                 writes a line when the first token is known
python llama_peer.py quantize SOURCE TARGET THREADS KIND       its own quantizer, KIND such as Q4_0
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
    llama.llama_log_set(silent, ctypes.c_void_p(0))
    options = llama.llama_model_quantize_default_params()
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


def logits(path: str, threads: int, ids: str, out: str) -> dict[str, Any]:
    """All logits of some windows."""
    windows = np.load(ids)
    context = Context(path, threads, windows.shape[1])
    size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(context.model))
    found = np.zeros((*windows.shape, size), np.float32)
    batch = llama.llama_batch_init(windows.shape[1], 0, 1)
    for window, rows in zip(windows, found):
        context.clear()
        batch.n_tokens = len(window)
        for i, token in enumerate(window):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = int(token), i, 1, 0
            batch.logits[i] = 1
        if llama.llama_decode(context.context, batch):
            raise SystemExit("llama_decode failed")
        for i, row in enumerate(rows):
            row[:] = np.ctypeslib.as_array(llama.llama_get_logits_ith(context.context, i), (size,))
    np.save(out, found)
    return {}


def main() -> None:
    mode, *words = sys.argv[1:]
    modes: dict[str, Any] = {"speed": speed, "context": behind, "start": start, "quantize": quantize}
    modes |= {"load": load, "logits": logits}
    numbers = [int(word) if word.isdecimal() else word for word in words]
    found = modes[mode](*numbers)
    print(json.dumps({**found, "version": f"llama-cpp-python {version('llama-cpp-python')}"}))


if __name__ == "__main__":
    main()
