"""Importing a GGUF file: each tensor in the scheme that expresses its type, number for number, where there is one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from ggq.format.stacks import SHARED, name_of_stack, place_in_stack
from ggq.gguf.container import Entry, GGUFModel
from ggq.models.family import TensorSpec
from ggq.models.names import Tensor
from ggq.quant import Error, ErrorSum, Method, decode_tensor, encode_tensor, scheme_name
from ggq.quant.matrix import geometry
from ggq.quant.small import refuse_small
from ggq.quant.tiles import Segments, empty_segments

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


@dataclass(frozen=True)
class _Unit:
    """A tensor of the file to be: one of the model's, or a stack of experts' matrices (M-17).

    Args:
        name, role: Of the tensor.
        members: Its matrices in order.
        scheme: How they are stored.
        method: What fills it where they are quantized anew.
    """

    name: str
    role: str
    members: tuple[Entry, ...]
    scheme: Scheme
    method: Method | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        own = self.members[0].shape
        return (len(self.members), *own) if len(self.members) > 1 else own

    def singly(self) -> list[_Unit]:
        """A tensor for each matrix."""
        return [replace(self, name=each.name, role=_role(each), members=(each,)) for each in self.members]


def _units(model: GGUFModel, recipe: Recipe | None) -> list[_Unit]:
    """The tensors of the file; a stack lies where its first matrix does. Experts of several schemes stay single."""
    found: dict[str, _Unit] = {}
    for entry in model.tensors.values():
        role, (scheme, method) = _role(entry), _choice(entry, recipe)
        place = place_in_stack(role)
        stack = role if place is None else place[0]
        if stack in found and (found[stack].scheme, found[stack].method) == (scheme, method):
            found[stack] = replace(found[stack], members=(*found[stack].members, entry))
        elif stack in found:
            found[role] = _Unit(entry.name, role, (entry,), scheme, method)
        else:
            name = entry.name if place is None else name_of_stack(entry.name, stack)
            found[stack] = _Unit(name, stack, (entry,), scheme, method)
    counts = Counter(place[0] for each in model.tensors.values() if (place := place_in_stack(_role(each))))
    units = ((unit, len(unit.members) == counts.get(unit.role, 1)) for unit in found.values())
    return [each for unit, whole in units for each in ([unit] if whole and counts[unit.role] != 1 else unit.singly())]


def _role(entry: Entry) -> str:
    return str(entry.attributes["role"])


def _write(model: GGUFModel, writer: Writer, recipe: Recipe | None, options: Options) -> Iterator[TensorResult]:
    total, done = sum(map(model.stored_bytes, model.tensors)), 0

    def advance(entry: Entry) -> None:
        nonlocal done
        if options.progress is not None:
            options.progress(done, total, entry.name)
        done += model.stored_bytes(entry.name)

    for unit in _units(model, recipe):
        segments, tables, sums = _filled(model, unit, recipe, advance)
        whole = len({bytes(table) for table in tables}) < 2
        for number, part in enumerate([unit] if whole else unit.singly()):
            pieces = segments
            if not whole:
                pieces = {name: data.reshape(len(unit.members), -1)[number] for name, data in segments.items()}
            if tables:
                pieces = {**pieces, SHARED: tables[number]}
            error = ErrorSum()
            for each in sums if whole else sums[number : number + 1]:
                error.merge(each)
            exact = Error(0.0, float("inf"), 0.0)
            yield _added(writer, part, pieces, exact if recipe is None else error.error())


def _filled(
    model: GGUFModel, unit: _Unit, recipe: Recipe | None, advance: Callable[[Entry], None]
) -> tuple[Segments, list[NDArray[np.uint8]], list[ErrorSum]]:
    """The parts of a tensor but for tables, and by matrix its table, if it has one, and its error."""
    sizes = geometry(unit.scheme, unit.shape)
    whole = {part: data for part, data in empty_segments(sizes).items() if part != SHARED}
    tables, sums = [], []
    for number, entry in enumerate(unit.members):
        advance(entry)
        error = ErrorSum()
        made = model.segments(entry.name) if recipe is None else _anew(model, entry, unit, error)
        sums.append(error)
        tables += [made[SHARED]] if SHARED in made else []
        if len(unit.members) == 1:
            return {part: data for part, data in made.items() if part != SHARED}, tables, sums
        for part, data in whole.items():
            data.reshape(len(unit.members), -1)[number] = made[part]
    return whole, tables, sums


def _anew(model: GGUFModel, entry: Entry, unit: _Unit, error: ErrorSum) -> Segments:
    """The parts of a matrix that is quantized anew, whose error is added."""
    numbers = model.numbers(entry.name)
    segments = encode_tensor(numbers, unit.scheme, unit.method, where=entry.name)
    decoded, columns = decode_tensor(unit.scheme, entry.shape, segments), entry.shape[-1]
    error.add(numbers.reshape(-1, columns), decoded.reshape(-1, columns))
    refuse_small(unit.scheme, error, numbers.size, entry.name, model.path)
    return segments


def _added(writer: Writer, unit: _Unit, segments: Segments, error: Error) -> TensorResult:
    """Write a tensor."""
    figures = {key: float(f"{value:.4g}") for key, value in error._asdict().items()}
    named = {} if unit.method is None else {"method": unit.method.name}
    attributes = {**unit.members[0].attributes, "role": unit.role, **named, **figures}
    sizes = geometry(unit.scheme, unit.shape)
    writer.add_tensor(unit.name, unit.shape, unit.scheme, {part: segments[part] for part in sizes.lengths}, attributes)
    return TensorResult(
        name=unit.name,
        role=unit.role,
        shape=unit.shape,
        source_dtype=str(unit.members[0].attributes["source_dtype"]),
        scheme=scheme_name(unit.scheme),
        method=named.get("method", ""),
        fallback="",
        bytes=sizes.bytes,
        **figures,
    )


def _choice(entry: Entry, recipe: Recipe | None) -> tuple[Scheme, Method | None]:
    """The scheme of a tensor, and what fills it where it is quantized anew."""
    assert entry.scheme is not None
    if recipe is None:
        return entry.scheme, None
    return recipe.choose(TensorSpec(str(entry.attributes["role"]), entry.shape, Tensor(entry.name)))


def _before(model: GGUFModel, result: TensorResult) -> int:
    """Bytes of a tensor, or of all matrices of a stack, in the GGUF file."""
    if result.name in model.tensors:
        return model.stored_bytes(result.name)
    roles = {name: place_in_stack(_role(entry)) for name, entry in model.tensors.items()}
    return sum(model.stored_bytes(name) for name, place in roles.items() if place and place[0] == result.role)


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
