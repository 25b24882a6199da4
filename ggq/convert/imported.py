"""Importing a GGUF file: each tensor in the scheme that expresses its type, number for number, where there is one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import ggq
from ggq.convert.options import Options
from ggq.convert.plan.choices import read_choices
from ggq.convert.plan.recipe import Recipe
from ggq.convert.write.report import Report, TensorResult
from ggq.engine.footprint import peak_memory
from ggq.errors import UsageError
from ggq.format import Writer
from ggq.format.paths import check_place
from ggq.format.scheme import Scheme
from ggq.gguf.container import Entry, GGUFModel
from ggq.models.family import TensorSpec
from ggq.models.names import Tensor
from ggq.quant import Error, ErrorSum, Method, decode_tensor, encode_tensor, scheme_name
from ggq.quant.matrix import geometry
from ggq.quant.small import refuse_small

GROWN = 1.02
"""A tensor is told to have grown where it has become more than so many times as large."""

ALLOWED = {"force", "progress", "report", "scheme", "method", "embedding", "keep", "workers"}
"""Options that mean something for a file that is quantized already."""


def import_gguf(source: Path, out: Path, options: Options) -> Report:
    """Write a .ggq file of a GGUF file's model.

    Args:
        source: The file.
        out: The file to write.
        options: `force`, `progress`; `scheme`, `method`, `embedding` and `keep` quantize its tensors anew.

    Raises:
        GGQError: The file cannot be read, the model is not known, or an option cannot be used.
    """
    odd = [name for name in options.given() if name not in ALLOWED]
    if odd:
        shown = f"--{odd[0].replace('_', '-')}"
        raise UsageError(f"{shown} is for checkpoints: {source.name} is quantized already", path=source)
    anew = {"scheme", "method", "embedding", "keep"} & set(options.given())
    if anew and options.scheme is None:
        raise UsageError("--method, --embedding and --keep need --scheme to quantize a GGUF file anew", path=source)
    recipe = read_choices(options).recipe if anew else None
    check_place(out, force=options.force)
    start, model = time.perf_counter(), GGUFModel(source)
    try:
        with Writer(out, force=options.force) as writer:
            for key, value in _metadata(model, source, recipe):
                writer.add_metadata(key, value)
            for name, asset in model.assets.items():
                writer.add_asset(name, asset.read())
            results = list(_write(model, writer, recipe, options))
            digest = writer.finish()
        return _report(model, out, digest, start, results)
    finally:
        model.close()


def _metadata(model: GGUFModel, source: Path, recipe: Recipe | None) -> Iterator[tuple[str, Any]]:
    found = dict(model.metadata)
    yield "general.name", found.pop("general.name")
    yield "general.source", source.name
    yield "general.producer", f"ggq {ggq.__version__}"
    yield from found.items()
    if recipe is not None:
        yield "quantization.scheme", scheme_name(recipe.scheme)
        yield "quantization.method", recipe.body_method


def _write(model: GGUFModel, writer: Writer, recipe: Recipe | None, options: Options) -> Iterator[TensorResult]:
    total, done = sum(map(model.stored_bytes, model.tensors)), 0
    for name, entry in model.tensors.items():
        if options.progress is not None:
            options.progress(done, total, name)
        scheme, method = _choice(entry, recipe)
        if recipe is None:
            segments, error = model.segments(name), Error(0.0, float("inf"), 0.0)
        else:
            numbers = model.numbers(name)
            segments = encode_tensor(numbers, scheme, method, where=name)
            total_error = ErrorSum()
            decoded = decode_tensor(scheme, entry.shape, segments)
            columns = entry.shape[-1]
            total_error.add(numbers.reshape(-1, columns), decoded.reshape(-1, columns))
            refuse_small(scheme, total_error, numbers.size, name, model.path)
            error = total_error.error()
        figures = {key: float(f"{value:.4g}") for key, value in error._asdict().items()}
        named = {} if recipe is None or method is None else {"method": method.name}
        writer.add_tensor(name, entry.shape, scheme, segments, {**entry.attributes, **named, **figures})
        done += model.stored_bytes(name)
        yield TensorResult(
            name=name,
            role=str(entry.attributes["role"]),
            shape=entry.shape,
            source_dtype=str(entry.attributes["source_dtype"]),
            scheme=scheme_name(scheme),
            method=named.get("method", ""),
            fallback="",
            bytes=geometry(scheme, entry.shape).bytes,
            **figures,
        )


def _choice(entry: Entry, recipe: Recipe | None) -> tuple[Scheme, Method | None]:
    """The scheme of a tensor, and what fills it where it is quantized anew."""
    assert entry.scheme is not None
    if recipe is None:
        return entry.scheme, None
    return recipe.choose(TensorSpec(str(entry.attributes["role"]), entry.shape, Tensor(entry.name)))


def _before(model: GGUFModel, result: TensorResult) -> int:
    """Bytes of a tensor in the GGUF file."""
    return model.stored_bytes(result.name)


def _kinds_and_sizes(model: GGUFModel, results: list[TensorResult]) -> tuple[str, str]:
    """The types of some tensors, and how many bytes they had and have."""
    kinds = ", ".join(dict.fromkeys(result.source_dtype for result in results))
    before, now = sum(_before(model, result) for result in results), sum(result.bytes for result in results)
    return kinds, f"{before} bytes became {now}"


def _report(model: GGUFModel, out: Path, digest: bytes, start: float, results: list[TensorResult]) -> Report:
    seconds = time.perf_counter() - start
    source = sum(tensor.bytes or 0 for tensor in model.reader.tensors.values())
    matrices = [result for result in results if len(result.shape) > 1]
    weights = sum(prod(result.shape) for result in matrices)
    anew = [result for result in matrices if result.relative_rmse > 0]
    exact = [result for result in matrices if result.relative_rmse == 0]
    larger = [result for result in exact if _before(model, result) * GROWN < result.bytes]
    notes = []
    if anew:
        worst = max(result.relative_rmse for result in anew)
        kinds, sizes = _kinds_and_sizes(model, anew)
        notes.append(
            f"{len(anew)} of {len(matrices)} matrices ({kinds}) are quantized anew: {sizes}, with a relative error of"
            f" up to {worst:.2g}"
        )
    if larger:
        kinds, sizes = _kinds_and_sizes(model, larger)
        notes.append(
            f"{len(larger)} of {len(matrices)} matrices ({kinds}) are kept number for number in larger schemes:"
            f" {sizes}; --scheme quantizes them anew"
        )
    return Report(
        path=out,
        digest=digest.hex(),
        file_bytes=out.stat().st_size,
        source_bytes=source,
        weights=weights,
        bits_per_weight=8 * sum(result.bytes for result in matrices) / max(1, weights),
        seconds=seconds,
        megabytes_per_second=source / 1e6 / seconds,
        peak_memory=peak_memory(),
        workers=1,
        resumed=0,
        ignored=(),
        notes=tuple(notes),
        unread_keys=(),
        tensors=tuple(results),
    )
