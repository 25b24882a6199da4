"""Whether PyTorch is there, which only training needs."""

from __future__ import annotations

from importlib.util import find_spec

from ggq.errors import UsageError


def require_torch() -> None:
    """Refuse to train without PyTorch.

    Raises:
        UsageError: It is not installed.
    """
    if find_spec("torch") is None:
        raise UsageError('training needs PyTorch, which is not installed; pip install "ggq[train]" brings it')
