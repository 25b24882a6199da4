"""What is minimized: cross-entropy with the text, divergence from the full-precision model; and the score."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.functional import cross_entropy, log_softmax, softmax

SCORED_AT_ONCE = 8
"""Windows that are scored in one pass."""


def text_loss(logits: Any, tokens: Any) -> Any:
    """Mean cross-entropy of each token given those before it, nats.

    Args:
        logits: (windows, context, vocabulary).
        tokens: (windows, context).
    """
    return cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]).float(), tokens[:, 1:].reshape(-1))


def divergence(logits: Any, wanted: Any) -> Any:
    """Mean KL divergence of the model from the wanted logits at every token, nats; both (windows, context, vocabulary).

    The wanted logits get no gradient.
    """
    columns = logits.shape[-1]
    return _Divergence.apply(logits.reshape(-1, columns).float(), wanted.reshape(-1, columns).float())


class _Divergence(torch.autograd.Function):
    """Mean over rows of sum p (log p - log q), and its gradient (q - p) / rows: half the passes of PyTorch's parts."""

    @staticmethod
    def forward(ctx: Any, logits: Any, wanted: Any) -> Any:
        """Of float32 (rows, vocabulary) both."""
        log_q, log_p = log_softmax(logits, -1), log_softmax(wanted, -1)
        p = softmax(wanted, -1)
        loss = torch.dot(p.view(-1), log_p.sub_(log_q).view(-1)) / len(logits)
        ctx.save_for_backward(log_q.exp_().sub_(p).div_(len(logits)))
        return loss

    @staticmethod
    def backward(ctx: Any, slope: Any) -> tuple[Any, None]:
        """Of the logits."""
        (gradient,) = ctx.saved_tensors
        return gradient * slope, None


def mixed_loss(logits: Any, tokens: Any, wanted: Any, share: float) -> Any:
    """`share` of the divergence and the rest of the cross-entropy; logits `wanted` are None where the share is 0."""
    if wanted is None or share == 0:
        return text_loss(logits, tokens)
    kl = divergence(logits, wanted)
    return kl if share == 1 else share * kl + (1 - share) * text_loss(logits, tokens)


def perplexity(module: Any, windows: Any) -> float:
    """Of a model that gives logits, on windows of tokens (windows, context); each token but the first is scored."""
    total = 0.0
    with torch.no_grad():
        for part in windows.split(SCORED_AT_ONCE):
            total += float(text_loss(module(part), part)) * len(part)
    return math.exp(min(total / len(windows), 700.0))


def section_loss(found: dict[Any, Any], wanted: dict[Any, Any], worth: dict[Any, Any]) -> Any:
    """Mean squared error of a section's results over the mean square of what is wanted, summed over its buffers.

    Args:
        found, wanted: Tensors (windows, context, width) by buffer.
        worth: How much each column counts, (width,) by buffer.
    """
    total: Any = 0.0
    for buffer, numbers in wanted.items():
        counts = worth[buffer]
        size = (numbers.square() * counts).mean().clamp(min=1e-12)
        total = total + ((found[buffer] - numbers).square() * counts).mean() / size
    return total
