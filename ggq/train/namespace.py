"""PyTorch as the array namespace that operations are written against (`ggq.tape.passes.Values.xp`).

Names are the array API's. Where PyTorch has a function of that name and meaning it is taken as it is.
"""

from __future__ import annotations

from typing import Any

import torch

_SAME = (
    "arange",
    "argmax",
    "broadcast_to",
    "clip",
    "concat",
    "erf",
    "exp",
    "expm1",
    "eye",
    "finfo",
    "full",
    "full_like",
    "linalg",
    "log",
    "log1p",
    "maximum",
    "mean",
    "ones",
    "ones_like",
    "sigmoid",
    "sqrt",
    "stack",
    "sum",
    "tanh",
    "tril",
    "where",
    "zeros",
    "zeros_like",
)


class TorchNamespace:
    """The functions that operations call; one that is not here is an AttributeError, never another function."""

    bool: Any = torch.bool

    def __getattr__(self, name: str) -> Any:
        if name not in _SAME:
            raise AttributeError(f"operations may not call {name} of PyTorch: ggq.train.namespace does not list it")
        return getattr(torch, name)

    @staticmethod
    def permute_dims(x: Any, axes: tuple[int, ...]) -> Any:
        """Axes in another order."""
        return x.permute(axes)

    @staticmethod
    def attention(query: Any, keys: Any, values: Any, head_dim: int, scale: float, mask: Any) -> Any:
        """Softmax attention of heads that lie side by side in (texts, context, width); each sees those before it where
        there is no mask (`ggq.tape.passes.Values.mask`)."""
        q, k, v = (x.reshape(*x.shape[:2], -1, head_dim).transpose(1, 2) for x in (query, keys, values))
        mask = None if mask is None else mask.to(q.dtype)
        attended = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        return attended.transpose(1, 2).reshape(query.shape)

    @staticmethod
    def silu(x: Any) -> Any:
        """x * sigmoid(x), in one pass forwards and one backwards."""
        return torch.nn.functional.silu(x)

    @staticmethod
    def matrix_transpose(x: Any) -> Any:
        """The last two axes the other way round."""
        return x.mT

    @staticmethod
    def sort(x: Any, axis: int) -> Any:
        """Ascending along an axis."""
        return torch.sort(x, dim=axis).values

    @staticmethod
    def max(x: Any, axis: int, keepdims: Any = False) -> Any:
        """The largest along an axis."""
        return x.amax(dim=axis, keepdim=keepdims)

    @staticmethod
    def repeat(x: Any, times: int, axis: int) -> Any:
        """Each element as many times along an axis."""
        return x.repeat_interleave(times, dim=axis)

    @staticmethod
    def nonzero(x: Any) -> tuple[Any, ...]:
        """Places that are not zero, an array for each axis."""
        return tuple(torch.nonzero(x, as_tuple=True))


XP = TorchNamespace()
"""The one namespace."""
