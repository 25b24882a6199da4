"""`ggq convert SOURCE OUT.gguf`: a GGUF file straight from a checkpoint, weights read and encoded by blocks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggq.convert.calibrate.calibration import Calibration, layer_statistics
from ggq.convert.convert import metadata, prepare
from ggq.convert.options import Options
from ggq.convert.plan.plan import Plan
from ggq.errors import UsageError
from ggq.export.gguf import ExportedGGUF, check_type, write_weights
from ggq.export.gguf_types import FLOATS
from ggq.format.container import StoredAsset
from ggq.format.digests import digest_of
from ggq.format.paths import check_not_input, check_place
from ggq.gguf.container import tensor_name
from ggq.gguf.imatrix import Imatrix, default_name, read_imatrix, write_imatrix
from ggq.quant.inputs import InputStatistics

ALLOWED = {"calibration", "calibration_tokens", "calibration_context", "statistics", "ignore", "lora", "method"}
ALLOWED |= {"follow_links", "workers", "force", "progress", "report"}
"""Options of a conversion that mean something for a GGUF file."""

SEARCHED = Options(scheme="q4-g32", method="mse")
"""Of a plan whose matrices all have a use for mean squares of inputs; nothing is stored so."""

FEEDBACK = "gptq"
"""The method by which errors make up for each other."""

LAYER = "layers."
"""What the roles of a layer begin with."""

BLOCK_WEIGHTS = 1 << 22
"""Weights that are read at once, about."""


@dataclass(frozen=True)
class _Asset:
    """A file of the checkpoint; see `ggq.format.container.StoredAsset`."""

    data: bytes

    @property
    def digest(self) -> bytes:
        """BLAKE3 of its bytes."""
        return digest_of(self.data)

    @property
    def identity(self) -> bytes:
        """The digest, as it is there."""
        return self.digest

    def read(self) -> bytes:
        """Its bytes."""
        return self.data


class CheckpointWeights:
    """The weights of a checkpoint; see `ggq.export.gguf_weights.Weights`.

    Args:
        plan: Any plan of its conversion.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan, self.path = plan, os.fspath(plan.checkpoint.folder.path)
        self._tensors = {tensor.name: tensor for tensor in plan.tensors}
        self.metadata: Mapping[str, Any] = dict(metadata(plan))
        self.assets: Mapping[str, StoredAsset] = {name: _Asset(data) for name, data in plan.assets.items()}
        self.roles: Mapping[str, str] = {name: tensor.role for name, tensor in self._tensors.items()}
        self.shapes: Mapping[str, tuple[int, ...]] = {name: tensor.shape for name, tensor in self._tensors.items()}

    def own_type(self, name: str) -> int | None:
        """The float type of its sources; None where they have several."""
        return FLOATS.get(self._tensors[name].source_dtype)

    def factor(self, name: str) -> None:
        """Floats have none."""

    def blocks(self, name: str) -> Iterator[NDArray[np.float32]]:
        """See `Weights`."""
        tensor = self._tensors[name]
        columns = tensor.shape[-1]
        rows = 1 if len(tensor.shape) == 1 else tensor.shape[-2]
        step = max(1, BLOCK_WEIGHTS // columns)
        for start in range(0, rows, step):
            yield tensor.expression.rows(self._plan.checkpoint, start, min(start + step, rows))

    def kept(self, name: str, kind: int, order: NDArray[np.int64] | None) -> Iterator[NDArray[np.uint8]]:
        """A checkpoint holds floats, which are none of this."""
        raise AssertionError(name)


def convert_to_gguf(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    type: str | None = None,
    imatrix: str | os.PathLike[str] | None = None,
    options: Options,
    progress: Callable[[int, int], None] | None = None,
) -> ExportedGGUF:
    """Write a checkpoint as a GGUF file.

    Args:
        source: A folder, or ORG/NAME[@REVISION] on the hub.
        out: The file to write.
        type: A type or a mix; None keeps the checkpoint's own float types.
        imatrix: An importance matrix by which errors count; one that does not exist yet is written, from a calibration
            on a text.
        options: Those of `convert` that are in ALLOWED.
        progress: Called now and then with the bytes written and those in all.

    Raises:
        GGQError: As for `ggq.convert` and `ggq.export.gguf.export_gguf`.
    """
    odd = [name for name in options.given() if name not in ALLOWED]
    if odd:
        raise UsageError(f"--{odd[0].replace('_', '-')} is for .ggq files; a GGUF file has --type", path=out)
    wanted = check_type(type)
    check_not_input(out, options.calibration, options.statistics, imatrix)
    made = _check_imatrix(imatrix, options)
    _check_method(options)
    planned, calibration = prepare(source, out, replace(options, scheme=SEARCHED.scheme, method=SEARCHED.method))
    known = None if imatrix is None or made else read_imatrix(imatrix)
    if calibration is not None:
        known = statistics_imatrix(planned, calibration, options)
        if made:
            assert imatrix is not None
            write_imatrix(imatrix, known)
    write = partial(write_weights, CheckpointWeights(planned), out, wanted, known, force=options.force)
    if options.method is None:
        return write(progress=progress)
    exact, again = prepare(source, out, replace(options, scheme=SEARCHED.scheme))
    with layer_statistics(exact, again, options.report) as layers:
        return write(progress=progress, inputs=in_order(layers))


def _check_method(options: Options) -> None:
    """Refuse a method that GGUF files have not, or one without its statistics."""
    if options.method is None:
        return
    if options.method != FEEDBACK:
        raise UsageError(f"--method is {options.method!r}, allowed for a GGUF file is {FEEDBACK}")
    if options.calibration is None:
        raise UsageError(f"--method {FEEDBACK} needs --calibration TEXT")


def in_order(layers: Iterator[Mapping[str, InputStatistics]]) -> Callable[[str], InputStatistics | None]:
    """Statistics by role, of one layer at a time, whose roles are asked for in the order of the layers; a role outside
    of the layers has none."""
    current: Mapping[str, InputStatistics] = {}

    def find(role: str) -> InputStatistics | None:
        nonlocal current
        if not role.startswith(LAYER):
            return None
        number = role.split(".")[1]
        while not any(each.startswith(f"{LAYER}{number}.") for each in current):
            more = next(layers, None)
            if more is None:
                raise AssertionError(f"the statistics of {role} have passed")
            current = more
        return current.get(role)

    return find


def _check_imatrix(imatrix: str | os.PathLike[str] | None, options: Options) -> bool:
    """Whether an importance matrix is to be written."""
    if imatrix is None:
        return False
    calibrated = options.calibration is not None or options.statistics is not None
    if Path(imatrix).exists():
        if calibrated:
            raise UsageError("it exists already; --calibration would make another", path=imatrix)
        return False
    if not calibrated:
        raise UsageError("it does not exist yet", path=imatrix, fix="give --calibration TEXT too, to make it")
    check_place(imatrix, force=False)
    return True


def statistics_imatrix(plan: Plan, calibration: Calibration, options: Options) -> Imatrix:
    """The importance matrix that a calibration finds; an embedding that is the output too has the output's."""
    means, counts = dict[str, NDArray[np.float32]](), dict[str, int]()
    with layer_statistics(plan, calibration, options.report) as layers:
        for layer in layers:
            for role, found in layer.items():
                if not found.trouble:
                    means[tensor_name(role)], counts[tensor_name(role)] = found.mean_square, found.count
    text = calibration.text
    names = () if options.calibration is None else (default_name(options.calibration),)
    shape = (0, 0) if text is None else text.windows.shape
    return Imatrix(means, counts, names, int(shape[0]), int(shape[1]))
