"""The plan: what a conversion would write, worked out from headers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

from ggq.convert.plan.described import Described
from ggq.convert.plan.match import match_tensors
from ggq.convert.plan.recipe import Recipe, check_rules
from ggq.convert.plan.settle import settle
from ggq.convert.plan.taken import METHOD, Taken, take_codes
from ggq.convert.source.assets import read_assets
from ggq.convert.source.chat import try_template
from ggq.convert.source.checkpoint import FLOATS, Checkpoint
from ggq.convert.source.hub import Source
from ggq.convert.source.lora import adapter_name, add_adapters
from ggq.convert.source.packed.find import exact_form, why_not
from ggq.convert.source.safetensors_header import SourceTensor
from ggq.convert.source.sentence import read_pooling
from ggq.convert.source.tokens import Tokens, read_tokens
from ggq.errors import UsageError
from ggq.format.native.layout import ALIGNMENT, FOOTER_BYTES, HEADER_BYTES
from ggq.format.scheme import Scheme, round_up
from ggq.models.build import build_program
from ggq.models.family import TensorSpec
from ggq.models.names import Expression
from ggq.models.parts import Stack
from ggq.quant import Method, scheme_name
from ggq.quant.matrix import geometry
from ggq.tape.program import Program

INDEX_BYTES = 512
"""Bytes of the index for each tensor, about: name, shape, segments with digests, attributes."""


def _no_model() -> UsageError:
    return UsageError("tensors that are stored without a model (--generic) have no inputs that could be known")


@dataclass(frozen=True)
class TensorPlan:
    """What becomes of one tensor.

    Args:
        spec: Its role, shape and expression.
        sources: The tensors of the checkpoint that it is made of.
        scheme: How it will be stored.
        method: What chooses codes and scales, None for floats.
        bytes: Its segments' length.
        taken: Where its codes are taken from; None where the method chooses them.
    """

    spec: TensorSpec
    sources: tuple[SourceTensor, ...]
    scheme: Scheme
    method: Method | None
    bytes: int
    taken: Taken | None = None

    @property
    def name(self) -> str:
        """Its name in the file."""
        return self.spec.name

    @property
    def role(self) -> str:
        """What it is to the model."""
        return self.spec.role

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""
        return self.spec.shape

    @property
    def expression(self) -> Expression:
        """What it is made of."""
        return self.spec.expression

    @property
    def method_name(self) -> str:
        """As users write it, "" for floats."""
        if self.taken is not None:
            return METHOD
        return "" if self.method is None else self.method.name

    @property
    def source_dtype(self) -> str:
        """The type of its sources: "bf16", or "bf16+f32" where they have several."""
        return "+".join(dict.fromkeys(FLOATS.get(source.dtype, source.dtype.lower()) for source in self.sources))

    @cached_property
    def source_bytes(self) -> int:
        """Bytes of its sources, of which a part may be this tensor's."""
        if self.expression.whole() is not None:
            return sum(source.bytes for source in self.sources)
        return prod(self.shape) * max(source.bytes // max(1, prod(source.shape)) for source in self.sources)


@dataclass(frozen=True)
class Plan:
    """A conversion that can be done.

    Args:
        source: The folder, and what to call it.
        checkpoint: Its headers.
        recipe: The options that chose the schemes.
        described: The model; None where tensors are stored without one.
        built: Its operations; None without a model.
        tokens: Its special tokens.
        assets: Files that are kept whole.
        tensors: In the order in which they are written: as a forward pass meets them.
        ignored: Names of tensors that are left out: nothing reads them.
        unread_keys: Keys of config.json that mean nothing, to transformers neither.
        adapters: Names and weights of the LoRA adapters that are added.
        divergence: What was predicted for a mix that was solved for; see `ggq.convert.mix.mix.Mix`.
    """

    source: Source
    checkpoint: Checkpoint
    recipe: Recipe
    described: Described | None
    built: Program | None
    tokens: Tokens
    assets: Mapping[str, bytes]
    tensors: tuple[TensorPlan, ...]
    ignored: tuple[str, ...]
    unread_keys: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    divergence: float | None = None

    @property
    def model(self) -> Stack:
        """The model's parts; a UsageError where there is no model."""
        return self._model.model

    @property
    def architecture(self) -> str:
        """Hugging Face's name of the architecture; a UsageError where there is no model."""
        return self._model.architecture

    @property
    def program(self) -> Program:
        """The model's operations; a UsageError where there is no model."""
        if self.built is None:
            raise _no_model()
        return self.built

    @property
    def _model(self) -> Described:
        if self.described is None:
            raise _no_model()
        return self.described

    @property
    def notes(self) -> tuple[str, ...]:
        """What is odd about the checkpoint, and what was done about it, in words."""
        return tuple(self.checkpoint.notes)

    @property
    def source_bytes(self) -> int:
        """Bytes of the tensors to be read."""
        return sum(tensor.source_bytes for tensor in self.tensors)

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

    @cached_property
    def weights(self) -> int:
        """Weights of all matrices."""
        return sum(prod(tensor.shape) for tensor in self.matrices)

    @cached_property
    def matrices(self) -> list[TensorPlan]:
        """The tensors of two dimensions or more."""
        return [tensor for tensor in self.tensors if len(tensor.shape) > 1]

    @property
    def expressions(self) -> dict[str, Expression]:
        """What each tensor is made of, by role."""
        return {tensor.role: tensor.expression for tensor in self.tensors}

    @property
    def sources(self) -> tuple[SourceTensor, ...]:
        """The tensors of the checkpoint that are read."""
        return tuple(dict.fromkeys(source for tensor in self.tensors for source in tensor.sources))

    @property
    def packed(self) -> bool:
        """Whether some of the checkpoint's matrices are codes and scales already."""
        return any(
            exact_form(source.dtype) or why_not(source.dtype) for tensor in self.tensors for source in tensor.sources
        )

    @property
    def bits_per_weight(self) -> float:
        """Bits of codes, scales and zero-points of all matrices, padding included, for each of their weights."""
        return 8 * sum(tensor.bytes for tensor in self.matrices) / self.weights


def make_plan(
    source: Source,
    recipe: Recipe,
    ignore: Sequence[str] = (),
    *,
    follow_links: bool = False,
    lora: Sequence[str] = (),
    pooling: str | None = None,
) -> Plan:
    """Read a checkpoint's headers and decide what becomes of each tensor.

    Args:
        source: A checkpoint's folder.
        recipe: Which scheme each tensor gets.
        ignore: Regular expressions of names of tensors to leave out.
        follow_links: Whether files may be links to somewhere else.
        lora: Adapters to add, FOLDER or FOLDER=WEIGHT each.
        pooling: Which rows make the vector of a text; by default as the checkpoint says, if it says so.

    Raises:
        GGQError: Whatever would make the conversion fail, as far as it shows before a weight is read.
    """
    checkpoint = Checkpoint(source.folder, follow_links=follow_links)
    described, left = settle(checkpoint, ignore, read_pooling(checkpoint.folder, pooling))
    specs, ignored = match_tensors(described.specs, checkpoint)
    specs = add_adapters(checkpoint, specs, lora)
    check_rules(recipe, specs)
    assets = read_assets(checkpoint.folder)
    tokens = read_tokens(checkpoint.folder, assets, described.model.vocabulary_size, checkpoint.notes)
    try_template(assets, checkpoint.folder.path, described.model.context_length, checkpoint.notes)
    return Plan(
        source=source,
        checkpoint=checkpoint,
        recipe=recipe,
        described=described,
        built=build_program(described.model),
        tokens=tokens,
        assets=assets,
        tensors=take_codes(checkpoint, [plan_tensor(spec, checkpoint.tensors, recipe) for spec in specs], recipe),
        ignored=(*left, *ignored),
        unread_keys=described.unread_keys,
        adapters=tuple(adapter_name(text) for text in lora),
    )


def with_recipe(plan: Plan, recipe: Recipe, divergence: float | None = None) -> Plan:
    """The plan with other schemes.

    Args:
        plan: Of any recipe.
        recipe: Which scheme each tensor gets.
        divergence: What was predicted for it.
    """
    tensors = (plan_tensor(tensor.spec, plan.checkpoint.tensors, recipe) for tensor in plan.tensors)
    return replace(plan, recipe=recipe, tensors=tuple(tensors), divergence=divergence)


def plan_tensor(spec: TensorSpec, found: Mapping[str, SourceTensor], recipe: Recipe) -> TensorPlan:
    """What a recipe makes of a tensor, given the tensors of its checkpoint by name."""
    sources = tuple(found[name] for name in dict.fromkeys(spec.expression.names()))
    exact = {exact_form(source.dtype) for source in sources} if len(spec.shape) > 1 else {None}
    scheme, method = recipe.choose(spec, exact.pop() if len(exact) == 1 else None)
    return TensorPlan(spec, sources, scheme, method, geometry(scheme, spec.shape).bytes)


def plan_document(plan: Plan) -> dict[str, Any]:
    """The plan for `--dry-run --json`."""
    return {
        "source": plan.source.name,
        "architecture": plan.architecture if plan.described else None,
        "scheme": scheme_name(plan.recipe.scheme),
        "source_bytes": plan.source_bytes,
        "file_bytes": plan.file_bytes,
        "weights": plan.weights,
        "bits_per_weight": plan.bits_per_weight,
        "predicted_kld": plan.divergence,
        "ignored": list(plan.ignored),
        "notes": list(plan.notes),
        "unread_keys": list(plan.unread_keys),
        "assets": {name: len(data) for name, data in plan.assets.items()},
        "tensors": [
            {
                "name": tensor.name,
                "role": tensor.role,
                "shape": list(tensor.shape),
                "source": str(tensor.expression),
                "source_dtype": tensor.source_dtype,
                "scheme": scheme_name(tensor.scheme),
                "method": tensor.method_name,
                "bytes": tensor.bytes,
            }
            for tensor in plan.tensors
        ],
    }
