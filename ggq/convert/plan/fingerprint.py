"""The digest of everything that decides the bytes of a result, so that a resume goes on from the same input only."""

from __future__ import annotations

import json

import numpy as np
from blake3 import blake3

import ggq
from ggq.convert.calibrate.calibration import Calibration
from ggq.convert.plan.plan import Plan
from ggq.convert.plan.recipe_file import recipe_text
from ggq.quant import scheme_name


def fingerprint(plan: Plan, calibration: Calibration | None = None) -> bytes:
    """A digest over versions, options, calibration, assets, and the headers, sizes and times of change of the weights.

    The weights themselves are not read: that would take as long as converting them. The number of workers is no part.

    Returns:
        32 bytes.
    """
    parts = {
        "versions": [ggq.__version__, np.__version__],
        "origin": [plan.source.name, plan.source.origin],
        "recipe": recipe_text(plan.recipe),
        "tensors": [
            [tensor.name, tensor.role, str(tensor.expression), scheme_name(tensor.scheme), tensor.method_name]
            for tensor in plan.tensors
        ],
        "files": [[file.path.name, file.size, file.modified, _digest(file.header)] for file in plan.checkpoint.files],
        "taken": sorted({tensor.taken.digest for tensor in plan.tensors if tensor.taken is not None}),
        "calibration": [] if calibration is None else calibration.identity,
        "assets": [[name, _digest(data)] for name, data in plan.assets.items()],
    }
    return blake3(json.dumps(parts).encode("ascii")).digest()


def _digest(data: bytes) -> str:
    return blake3(data).hexdigest()
