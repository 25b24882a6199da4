"""Training for few bits with PyTorch: quantizers in the loop, and what comes out is an ordinary ggq file.

Needs the extra `ggq[train]`. `run` trains a checkpoint; `quantize_module`, `settle_module` and `store_module` are for
networks and training loops of one's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ggq.train.layers import module_groups, quantize_module, settle_module, store_module
    from ggq.train.session import run

__all__ = ["module_groups", "quantize_module", "run", "settle_module", "store_module"]


def __getattr__(name: str) -> Any:
    """What needs PyTorch is imported when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ggq.train.extra import require_torch

    require_torch()
    if name == "run":
        from ggq.train.session import run

        return run
    from ggq.train import layers

    return getattr(layers, name)
