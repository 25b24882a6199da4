"""Storing any tensors by a recipe, without a model: what `--generic` does with vision, speech and other checkpoints."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import prod

from ggq.convert.plan.plan import Plan, TensorPlan, plan_tensor
from ggq.convert.plan.recipe import Recipe, check_rules
from ggq.convert.plan.settle import leave_out_ignored
from ggq.convert.plan.taken import take_codes
from ggq.convert.source.assets import read_assets
from ggq.convert.source.checkpoint import FLOATS, Checkpoint
from ggq.convert.source.hub import Source
from ggq.convert.source.safetensors_header import SourceTensor
from ggq.convert.source.tokens import Tokens
from ggq.errors import ConvertError, FormatError, UnsupportedError
from ggq.format.names import KEPT, check_name
from ggq.format.scheme import COLUMN_STEP, TILE_ROWS, round_up
from ggq.models.family import TensorSpec
from ggq.models.names import Expression, Flattened, Tensor
from ggq.quant import parse_scheme
from ggq.quant.matrix import geometry

MOST_KEPT = 256 << 20
"""Bytes of them: assets are held in memory."""

MOST_PADDING = 1.25
"""How much larger padding may make a tensor of more than two dimensions before it is stored as one matrix."""


def make_generic_plan(
    source: Source, recipe: Recipe, ignore: Sequence[str] = (), *, follow_links: bool = False
) -> Plan:
    """Read the headers of all safetensors files of a folder, or of one, and decide what becomes of each tensor.

    Args:
        source: The folder, or the file.
        recipe: Which scheme each tensor of two dimensions or more gets.
        ignore: Regular expressions of names of tensors to leave out.
        follow_links: Whether files may be links to somewhere else.

    Raises:
        GGQError: Whatever would make the conversion fail, as far as it shows before a number is read.
    """
    checkpoint = Checkpoint(source.folder, follow_links=follow_links, generic=True)
    left = leave_out_ignored(checkpoint, ignore)
    _check_names(checkpoint)
    stored = [tensor for tensor in checkpoint.tensors.values() if _has_scheme(tensor)]
    if not any(len(tensor.shape) > 1 for tensor in stored):
        raise ConvertError("no tensor of floats with two dimensions or more: nothing to quantize", path=source.folder)
    assets = read_assets(checkpoint.folder) if checkpoint.one is None else {}
    others = [tensor for tensor in checkpoint.tensors.values() if not _has_scheme(tensor)]
    if others:
        assets[KEPT] = _together(checkpoint, others)
        kinds = ", ".join(f"{count} {dtype}" for dtype, count in Counter(each.dtype for each in others).items())
        checkpoint.notes.append(f"tensors that no scheme holds are kept as they are in the asset {KEPT}: {kinds}")
    specs = [_spec(tensor) for tensor in stored]
    check_rules(recipe, specs)
    return Plan(
        source=source,
        checkpoint=checkpoint,
        recipe=recipe,
        described=None,
        built=None,
        tokens=Tokens(None, (), None),
        assets=assets,
        tensors=take_codes(checkpoint, [_plan(spec, checkpoint, recipe) for spec in specs], recipe),
        ignored=tuple(left),
    )


def _has_scheme(tensor: SourceTensor) -> bool:
    return tensor.dtype in FLOATS and len(tensor.shape) > 0 and tensor.bytes > 0


def _check_names(checkpoint: Checkpoint) -> None:
    for name, tensor in checkpoint.tensors.items():
        try:
            check_name(name, "tensor")
        except FormatError as error:
            fix = "leave it out with --ignore, or rename it in the source"
            raise ConvertError(f"{error.problem}: a ggq file cannot have it", path=tensor.file, fix=fix) from None


def _spec(tensor: SourceTensor) -> TensorSpec:
    """A tensor as it is stored."""
    expression: Expression = Tensor(tensor.name)
    shape = stored_shape(tensor.shape)
    return TensorSpec(tensor.name, shape, expression if shape == tensor.shape else Flattened(expression))


def stored_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A tensor's dimensions; those of a matrix of its first dimension's rows where padding would make it large."""
    if len(shape) > 2:
        rows, columns = shape[-2:]
        if round_up(rows, TILE_ROWS) * round_up(columns, COLUMN_STEP) > MOST_PADDING * rows * columns:
            return shape[0], prod(shape[1:])
    return shape


def _plan(spec: TensorSpec, checkpoint: Checkpoint, recipe: Recipe) -> TensorPlan:
    """What the recipe says; floats as the source has them where those take less, as in very narrow matrices."""
    planned = plan_tensor(spec, checkpoint.tensors, recipe)
    own = parse_scheme(FLOATS[planned.sources[0].dtype])
    size = geometry(own, spec.shape).bytes
    return planned if size > planned.bytes else replace(planned, scheme=own, method=None, bytes=size)


def _together(checkpoint: Checkpoint, tensors: Iterable[SourceTensor]) -> bytes:
    """Tensors as they are, as the bytes of a safetensors file."""
    header, data, size = {}, list[bytes](), 0
    for tensor in sorted(tensors, key=lambda each: (-each.bytes, each.name)):
        if size + tensor.bytes > MOST_KEPT:
            raise UnsupportedError(
                f"no scheme holds {tensor.dtype}, and no more than {MOST_KEPT >> 20} MiB are kept as they are",
                path=tensor.file,
                where=f"tensor {tensor.name}",
                fix="leave it out with --ignore, or save it as bfloat16 first",
            )
        offsets = [size, size + tensor.bytes]
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        data.append(checkpoint.read_bytes(tensor))
        size += tensor.bytes
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *data])
