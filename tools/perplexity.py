"""Perplexity of a .ggq file on a text: how well it predicts each token from those before it in a window.

    python tools/perplexity.py demo.ggq ggq/demo/valid.txt --context 256

Figures compare only at one context and one tokenizer, so both are printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import ggq
from ggq.engine.model import Model


def negative_log_likelihood(model: Model, ids: Sequence[int]) -> float:
    """Sum over a window of -log p(token | tokens before it), in nats; the first token is not predicted."""
    logits = model.logits(ids[:-1]).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    chosen = logits[np.arange(len(ids) - 1), list(ids[1:])]
    return float((np.log(np.exp(logits).sum(axis=1)) - chosen).sum())


def perplexity(model: Model, ids: Sequence[int], context: int) -> tuple[float, int]:
    """Perplexity over whole windows of `context` tokens, and how many tokens were predicted."""
    windows = [ids[start : start + context] for start in range(0, len(ids) - context + 1, context)]
    total = sum(negative_log_likelihood(model, window) for window in windows)
    count = len(windows) * (context - 1)
    return float(np.exp(total / count)), count


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=None, help="read only so many tokens of the text")
    parser.add_argument("--activations", default="int8", help="int8 or float32")
    parser.add_argument("--interpreter", default="numba", help="numba or numpy")
    options = parser.parse_args()
    with ggq.load(options.file, activations=options.activations, interpreter=options.interpreter) as model:
        ids = model.encode(options.text.read_text(encoding="utf-8"), begin=False)[: options.tokens]
        if len(ids) < options.context:
            parser.error(f"the text has {len(ids)} tokens, fewer than one window of {options.context}")
        value, count = perplexity(model, ids, options.context)
    print(f"perplexity {value:.4f} ({count} tokens, context {options.context}, {options.activations} activations)")


if __name__ == "__main__":
    main()
