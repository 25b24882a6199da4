"""The report: what a conversion has written, how far it is from the original, and what it took."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ggq.convert.plan.plan import Plan
from ggq.convert.write.stacked import file_tensors
from ggq.format import open_reader
from ggq.notebook import table
from ggq.quant import scheme_name

LOSSY = 0.5
"""Relative error above which a tensor is told by name."""


@dataclass(frozen=True)
class TensorResult:
    """One tensor of the result: as it was planned, its method and error as the file has them (see `ggq.quant.Error`),
    and why its statistics could not be used, if so."""

    name: str
    role: str
    shape: tuple[int, ...]
    source_dtype: str
    scheme: str
    method: str
    fallback: str
    bytes: int
    relative_rmse: float
    sqnr_db: float
    max_error: float


@dataclass(frozen=True)
class Report:
    """A finished conversion.

    Args:
        path: The result.
        digest: Its digest, 64 hexadecimal digits.
        file_bytes: Its size.
        source_bytes: Bytes of the tensors that it was made from.
        weights: Weights of all matrices.
        bits_per_weight: Bits of codes, scales and zero-points of all matrices for each of their weights.
        seconds: From the first byte read to the finished file.
        megabytes_per_second: Of the source, as far as it was read this time.
        peak_memory: The most bytes of memory that the process has held.
        workers: Threads that quantized.
        resumed: Tensors that an earlier run had finished.
        ignored: Tensors of the checkpoint that nothing reads and were left out.
        notes: What is odd about the checkpoint, and what was done about it.
        unread_keys: Keys of config.json that mean nothing, to transformers neither.
        tensors: In the plan's order.
    """

    path: Path
    digest: str
    file_bytes: int
    source_bytes: int
    weights: int
    bits_per_weight: float
    seconds: float
    megabytes_per_second: float
    peak_memory: int
    workers: int
    resumed: int
    ignored: tuple[str, ...]
    notes: tuple[str, ...]
    unread_keys: tuple[str, ...]
    tensors: tuple[TensorResult, ...]

    def worst(self, count: int = 5) -> list[TensorResult]:
        """The tensors with the largest error relative to their size, the largest first."""
        return sorted(self.tensors, key=lambda tensor: -tensor.relative_rmse)[:count]

    def _repr_html_(self) -> str:
        """The tensors as a table, for notebooks."""
        rows = [
            (t.name, " x ".join(map(str, t.shape)), t.scheme, t.method, t.bytes, f"{t.relative_rmse:.2%}")
            for t in self.tensors
        ]
        caption = f"{self.path}: {self.file_bytes} bytes, {self.bits_per_weight:.3f} bits per weight"
        return table(caption, ("tensor", "shape", "scheme", "method", "bytes", "error"), rows)

    def lossy(self) -> list[TensorResult]:
        """The tensors of which little is left: those with an error above LOSSY, the largest first."""
        return [tensor for tensor in self.worst(len(self.tensors)) if tensor.relative_rmse > LOSSY]

    def document(self) -> dict[str, Any]:
        """The report for `--json`."""
        lossy = [tensor.name for tensor in self.lossy()]
        given = asdict(self)
        return {"file": os.fspath(given.pop("path")), **given, "lossy": lossy}


def read_results(path: Path, plan: Plan) -> tuple[TensorResult, ...]:
    """The tensors of a finished file; those of an earlier run before a resume are there too."""
    with open_reader(path) as reader:
        return tuple(
            TensorResult(
                name=planned.name,
                role=str(entry.attributes.get("role", "")),
                shape=entry.shape,
                source_dtype=str(entry.attributes["source_dtype"]),
                scheme=scheme_name(planned.scheme),
                method=str(entry.attributes.get("method", "")),
                fallback=str(entry.attributes.get("fallback", "")),
                bytes=planned.bytes,
                relative_rmse=float(entry.attributes["relative_rmse"]),
                sqnr_db=float(entry.attributes["sqnr_db"]),
                max_error=float(entry.attributes["max_error"]),
            )
            for planned in file_tensors(plan)
            for entry in [reader.tensors[planned.name]]
        )
