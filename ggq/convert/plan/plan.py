"""The plan: what a conversion would write, worked out from headers alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from ggq.convert.plan.recipe import Recipe, check_rules
from ggq.convert.source.assets import read_assets
from ggq.convert.source.checkpoint import CONFIG, FLOATS, Checkpoint
from ggq.convert.source.hub import Source
from ggq.convert.source.quantized import check_not_quantized
from ggq.convert.source.safetensors_header import SourceTensor
from ggq.convert.source.tokens import Tokens, read_tokens
from ggq.errors import ConvertError, UnsupportedError
from ggq.format.native.layout import ALIGNMENT, FOOTER_BYTES, HEADER_BYTES
from ggq.format.scheme import Scheme, round_up
from ggq.models.architecture import TensorSpec
from ggq.models.config import ModelConfig
from ggq.models.fields import shown
from ggq.models.registry import find_architecture
from ggq.quant import scheme_name
from ggq.quant.matrix import geometry

INDEX_BYTES = 512
"""Bytes of the index for each tensor, about: name, shape, segments with digests, attributes."""

NAMES_SHOWN = 5
"""Tensor names that a refusal lists."""


@dataclass(frozen=True)
class TensorPlan:
    """What becomes of one tensor.

    Args:
        source: Where it lies.
        role: Its normalised role.
        scheme: How it will be stored.
        method: How codes and scales are chosen, "" for floats.
        bytes: Its segments' length.
    """

    source: SourceTensor
    role: str
    scheme: Scheme
    method: str
    bytes: int

    @property
    def name(self) -> str:
        """The checkpoint's name of it."""
        return self.source.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""
        return self.source.shape


@dataclass(frozen=True)
class Plan:
    """A conversion that can be done.

    Args:
        source: The folder, and what to call it.
        checkpoint: Its headers.
        recipe: The options that chose the schemes.
        model: The model's sizes.
        architecture: Hugging Face's name of the architecture.
        tokens: Its special tokens.
        assets: Files that are kept whole.
        tensors: In the order in which they are written: as a forward pass meets them.
        ignored: Names of tensors that are known to mean nothing.
        divergence: What was predicted for a mix that was solved for; see `ggq.convert.mix.mix.Mix`.
    """

    source: Source
    checkpoint: Checkpoint
    recipe: Recipe
    model: ModelConfig
    architecture: str
    tokens: Tokens
    assets: Mapping[str, bytes]
    tensors: tuple[TensorPlan, ...]
    ignored: tuple[str, ...]
    divergence: float | None = None

    @property
    def source_bytes(self) -> int:
        """Bytes of the tensors to be read."""
        return sum(tensor.source.bytes for tensor in self.tensors)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of the segments to be written."""
        return sum(tensor.bytes for tensor in self.tensors)

    @property
    def file_bytes(self) -> int:
        """Bytes of the result, about (a little more than it will have)."""
        segments = sum(tensor.bytes + 3 * (ALIGNMENT - 1) for tensor in self.tensors)
        assets = sum(round_up(len(data), ALIGNMENT) for data in self.assets.values())
        return HEADER_BYTES + segments + assets + INDEX_BYTES * (len(self.tensors) + 16) + FOOTER_BYTES

    @property
    def weights(self) -> int:
        """Weights of all matrices."""
        return sum(prod(tensor.shape) for tensor in self.matrices)

    @property
    def matrices(self) -> list[TensorPlan]:
        """The tensors of two dimensions or more."""
        return [tensor for tensor in self.tensors if len(tensor.shape) > 1]

    @property
    def bits_per_weight(self) -> float:
        """Bits of codes, scales and zero-points of all matrices, padding included, for each of their weights."""
        return 8 * sum(tensor.bytes for tensor in self.matrices) / self.weights


def make_plan(source: Source, recipe: Recipe) -> Plan:
    """Read a checkpoint's headers and decide what becomes of each tensor.

    Args:
        source: A checkpoint's folder.
        recipe: Which scheme each tensor gets.

    Raises:
        GGQError: Whatever would make the conversion fail, as far as it shows before a weight is read.
    """
    checkpoint = Checkpoint(source.folder)
    path = checkpoint.folder.path / CONFIG
    architecture = find_architecture(checkpoint.config, path)
    model = architecture.config(checkpoint.config, path)
    check_not_quantized(checkpoint)
    specs = architecture.tensors(model)
    wanted, ignored = match_tensors(specs, checkpoint)
    check_rules(recipe, wanted)
    assets = read_assets(checkpoint.folder)
    return Plan(
        source=source,
        checkpoint=checkpoint,
        recipe=recipe,
        model=model,
        architecture=architecture.names[0],
        tokens=read_tokens(checkpoint.folder, assets, model.vocabulary_size),
        assets=assets,
        tensors=tuple(_plan_tensor(spec, checkpoint.tensors[spec.name], recipe) for spec in wanted),
        ignored=ignored,
    )


def with_recipe(plan: Plan, recipe: Recipe, divergence: float | None = None) -> Plan:
    """The plan with other schemes.

    Args:
        plan: Of any recipe.
        recipe: Which scheme each tensor gets.
        divergence: What was predicted for it.
    """
    tensors = (
        _plan_tensor(TensorSpec(tensor.name, tensor.role, tensor.shape), tensor.source, recipe)
        for tensor in plan.tensors
    )
    return replace(plan, recipe=recipe, tensors=tuple(tensors), divergence=divergence)


def match_tensors(specs: Iterable[TensorSpec], checkpoint: Checkpoint) -> tuple[list[TensorSpec], tuple[str, ...]]:
    """The tensors to convert, and the names of those to ignore.

    Raises:
        ConvertError: Tensors are missing, unknown or of another shape than config.json says.
        UnsupportedError: A tensor's type cannot be converted.
    """
    known = {spec.name: spec for spec in specs}
    found, path = checkpoint.tensors, checkpoint.folder.path
    missing = [name for name, spec in known.items() if spec.required and name not in found]
    if missing:
        raise ConvertError(
            f"{len(missing)} of {len(known)} tensors missing: {_some(missing)}",
            path=path,
            fix="the checkpoint is incomplete, or config.json belongs to another model",
        )
    extra = [name for name in found if name not in known]
    if extra:
        raise ConvertError(
            f"{len(extra)} tensors that the architecture does not have: {_some(extra)}",
            path=path,
            fix="config.json may leave out a part of the model, such as biases, that this version cannot guess",
        )
    for name, tensor in found.items():
        if tensor.shape != known[name].shape:
            raise ConvertError(
                f"shape {list(tensor.shape)} found, config.json asks for {list(known[name].shape)}",
                path=tensor.file,
                where=f"tensor {name}",
            )
        if known[name].role and tensor.dtype not in FLOATS:
            raise UnsupportedError(
                f"dtype {tensor.dtype} found, {', '.join(FLOATS)} can be converted",
                path=tensor.file,
                where=f"tensor {name}",
                fix="save the model as bfloat16 with transformers first",
            )
    wanted = [spec for name, spec in known.items() if spec.role and name in found]
    return wanted, tuple(name for name in found if not known[name].role)


def _plan_tensor(spec: TensorSpec, source: SourceTensor, recipe: Recipe) -> TensorPlan:
    scheme, method = recipe.choose(spec)
    return TensorPlan(source, spec.role, scheme, method, geometry(scheme, source.shape).bytes)


def plan_document(plan: Plan) -> dict[str, Any]:
    """The plan for `--dry-run --json`."""
    return {
        "source": plan.source.name,
        "architecture": plan.architecture,
        "scheme": scheme_name(plan.recipe.scheme),
        "source_bytes": plan.source_bytes,
        "file_bytes": plan.file_bytes,
        "weights": plan.weights,
        "bits_per_weight": plan.bits_per_weight,
        "predicted_kld": plan.divergence,
        "ignored": list(plan.ignored),
        "assets": {name: len(data) for name, data in plan.assets.items()},
        "tensors": [
            {
                "name": tensor.name,
                "role": tensor.role,
                "shape": list(tensor.shape),
                "source_dtype": FLOATS[tensor.source.dtype],
                "scheme": scheme_name(tensor.scheme),
                "method": tensor.method,
                "bytes": tensor.bytes,
            }
            for tensor in plan.tensors
        ],
    }


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(shown(name) for name in names[:NAMES_SHOWN]) + rest
