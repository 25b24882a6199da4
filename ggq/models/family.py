"""A family of checkpoints, as data: the one place that knows Hugging Face's names for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ggq.models.build import role_shapes
from ggq.models.config import COMMON, ROPE, Config, Keys
from ggq.models.fields import Fields
from ggq.models.names import Expression, Times
from ggq.models.parts import Stack, check

TIED = "tie_word_embeddings"


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that a checkpoint of the architecture has, as it is stored in a file.

    Args:
        role: Its normalised role (spec/metadata.md); "" for one that is known, means nothing here and is not stored.
        shape: Its dimensions as it is stored.
        expression: What it is made of, by the names in the checkpoint.
        required: Whether a checkpoint without it is refused.
    """

    role: str
    shape: tuple[int, ...]
    expression: Expression
    required: bool = True

    @property
    def name(self) -> str:
        """Its name in a file: the checkpoint's where it is one whole tensor of that in whatever form, else its role."""
        return self.expression.whole() or self.role or str(self.expression)


class Reading(NamedTuple):
    """What a config.json says.

    Args:
        spec: The model.
        unread: Keys that mean nothing, to transformers neither: "sliding_window", "rope_parameters.factor".
    """

    spec: Stack
    unread: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Family:
    """Checkpoints that are read in one way.

    Args:
        names: Hugging Face class names, as in "architectures" of config.json; the first is written into files.
        model_types: Values of "model_type" in config.json.
        keys: What its class of transformers reads of config.json, besides `COMMON` and `ROPE`.
        parts: The model of a config.json, not yet checked.
        expression: What the tensor of a role is made of, in a checkpoint of a model.
        constants: Tensors that checkpoints may carry for nothing.
        scaled: Factors of the rows of a role's tensor, of a config.json that was read: see `Times`; empty for none.
        text: The object of config.json that describes the text model, where there is more than that.
        beside: What the names of tensors begin with that belong to something else than the text model.
        others: The same as `expression` in other layouts of a checkpoint; the first whose tensors are there is taken.
    """

    names: tuple[str, ...]
    model_types: tuple[str, ...]
    keys: Keys
    parts: Callable[[Config], Stack]
    expression: Callable[[str, Any], Expression]
    constants: Callable[[Any], list[TensorSpec]] = lambda spec: []
    scaled: Callable[[Mapping[str, Any], str, Any], tuple[tuple[int, float], ...]] | None = None
    text: str = ""
    beside: tuple[str, ...] = ()
    others: tuple[Callable[[str, Any], Expression], ...] = ()

    def read(self, hf: Mapping[str, object], path: str | os.PathLike[str] | None = None) -> Reading:
        """The model of a config.json; what it leaves out has transformers' default, except for the sizes.

        Args:
            hf: The parsed config.json, of transformers 4 or 5.
            path: That file, for the messages.

        Raises:
            ModelError: A value is missing, of the wrong type, out of bounds or contradicts another.
            UnsupportedError: Something that the engine does not have, or a key that transformers reads and nobody here.
        """
        values = hf
        if self.text:  # of whether it is tied transformers looks at the whole model's word alone
            values = {**Fields(hf, path).inner(self.text).values, TIED: hf.get(TIED)}
        config = Config(values, {**COMMON, **ROPE, **self.keys}, path)
        config.prefix = f"{self.text}." if self.text else ""
        spec = check(self.parts(config), path)
        return Reading(spec, tuple(config.prefix + key for key in config.unread()))

    def of(self, hf: Mapping[str, Any]) -> Family:
        """The family with the factors of a config.json, which go into its tensors."""
        if self.scaled is None:
            return self
        scaled, plain = self.scaled, self.expression

        def expression(role: str, spec: Any) -> Expression:
            factors = scaled(hf, role, spec)
            return Times(plain(role, spec), factors) if factors else plain(role, spec)

        return replace(self, expression=expression)

    def laid_out(self, spec: Stack, names: Collection[str]) -> Family:
        """The family with the layout of a checkpoint whose tensors have these names: its own unless another fits."""
        for other in self.others:
            if all(name in names for role in role_shapes(spec) for name in other(role, spec).names()):
                return replace(self, expression=other)
        return self

    def config(self, hf: Mapping[str, object], path: str | os.PathLike[str] | None = None) -> Any:
        """The model alone; see `read`."""
        return self.read(hf, path).spec

    def tensors(self, spec: Stack) -> list[TensorSpec]:
        """Every tensor of such a checkpoint, in the order in which a forward pass meets them."""
        stored = [TensorSpec(role, shape, self.expression(role, spec)) for role, shape in role_shapes(spec).items()]
        return stored + self.constants(spec)


def checkpoint_name(role: str, modules: Mapping[str, str], layers: str = "model.layers") -> str:
    """Hugging Face's name of the tensor with this role.

    Args:
        role: Such as "layers.3.mlp.up.bias".
        modules: Names of modules by the middle of a role: "mlp.up" is "mlp.up_proj" in "model.layers.3".
        layers: What the name of a layer begins with.
    """
    if not role.startswith("layers."):
        module, kind = role.rsplit(".", 1)
        return f"{modules[module]}.{kind}"
    _, layer, rest = role.split(".", 2)
    module, kind = rest.rsplit(".", 1)
    return f"{layers}.{layer}.{modules[module]}.{kind}"
