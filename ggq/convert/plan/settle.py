"""Bringing a checkpoint's tensors to the names that its architecture has, and deciding about those that it has not.

Rules S-9 to S-13 of docs/sources.md.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ggq.convert.plan.described import Described, describe
from ggq.convert.plan.leftovers import leave_out
from ggq.convert.plan.pattern import Pattern
from ggq.convert.source.checkpoint import CONFIG, FLOATS, Checkpoint
from ggq.convert.source.quantized import check_not_quantized
from ggq.convert.source.sentence import add_dense
from ggq.errors import ConvertError, UsageError
from ggq.models.family import TensorSpec
from ggq.models.fields import shown
from ggq.models.names import Tensor
from ggq.models.text.pooling import Pooling

INSIDE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer")
"""Parts of names that torch.compile, FSDP, checkpointing and LoRA put anywhere."""

IN_FRONT = ("module", "_forward_module", "base_model", "model", "language_model")
"""Parts of names that wrappers put before all of them, once or several times."""

OLD_NORM = {"gamma": "weight", "beta": "bias"}
"""What checkpoints of the first BERTs call the numbers of a norm, and what it is called today."""

TIED = "tie_word_embeddings"
BLOCK = 1 << 22
"""Numbers that are compared at once."""


def settle(
    checkpoint: Checkpoint, ignore: Iterable[str] = (), pooling: Pooling | None = None
) -> tuple[Described, tuple[str, ...]]:
    """Make a checkpoint what its architecture expects, as far as it means the same.

    Args:
        checkpoint: Its tensors are renamed, left out and added to; what was done is put into its notes.
        ignore: Regular expressions; tensors whose whole names match are left out whatever they are.
        pooling: See `describe`.

    Returns:
        The model, untied where the checkpoint has an output matrix of its own; the names of what was left out.

    Raises:
        ModelError: See `describe`.
        ConvertError: Two tensors would have one name, or a tensor is not the model's and would change it.
        UnsupportedError: The model is not supported, or the weights are quantized.
        UsageError: A regular expression is none, or no name matches it.
    """
    path = checkpoint.folder.path / CONFIG
    checkpoint.unpack()
    described = describe(checkpoint.config, path, pooling, checkpoint.tensors)
    packed = bool(checkpoint.packed)
    if check_not_quantized(checkpoint) and not packed:
        checkpoint.notes.append(f"{CONFIG} has a quantization_config, but all weights are floats: converted as such")
    left = leave_out_ignored(checkpoint, ignore) + leave_out_beside(checkpoint, described.beside)
    untied = describe({**checkpoint.config, TIED: False}, path, pooling, checkpoint.tensors)
    whole = source_names([*described.specs, *untied.specs])
    rename(checkpoint, whole)
    add_dense(checkpoint, pooling)
    described = settle_output(checkpoint, described, untied)
    add_missing_biases(checkpoint, described.specs)
    return described, (*left, *leave_out(checkpoint, source_names(described.specs), whole))


def source_names(specs: Iterable[TensorSpec]) -> set[str]:
    """The names of all tensors of a checkpoint that some are made of."""
    return {name for spec in specs for name in spec.expression.names()}


def leave_out_ignored(checkpoint: Checkpoint, patterns: Iterable[str]) -> list[str]:
    """Leave out what the user asked for; the names."""
    found: list[str] = []
    for text in patterns:
        pattern = Pattern(text, f"--ignore {text}")
        names = [name for name in checkpoint.tensors if pattern.fullmatch(name)]
        if not names and not any(pattern.fullmatch(name) for name in found):
            raise UsageError(f"--ignore {text}: no tensor's whole name matches", fix="for example --ignore 'v_head.*'")
        for name in names:
            checkpoint.leave_out(name)
        found += names
    return found


def leave_out_beside(checkpoint: Checkpoint, beginnings: tuple[str, ...]) -> list[str]:
    """Leave out what is no part of the text model; the names."""
    found = [name for name in checkpoint.tensors if name.startswith(beginnings)] if beginnings else []
    for name in found:
        checkpoint.leave_out(name)
    if found:
        problem = f"{len(found)} tensors are no part of the text model and are left out, such as {found[0]}"
        checkpoint.notes.append(problem)
    return found


def rename(checkpoint: Checkpoint, known: set[str]) -> None:
    """Take wrappers off the names, and give back a beginning that they lack (S-9)."""
    short = {name.partition(".")[2]: name for name in known}
    plain = sum(name in known for name in checkpoint.tensors)
    names = {name: canonical(name, known, short) for name in checkpoint.tensors}
    if sum(name in known for name in set(names.values())) <= plain:
        return
    seen: dict[str, str] = {}
    for old, new in names.items():
        if new in seen:
            raise ConvertError(
                f"{shown(seen[new])} and {shown(old)} are both {shown(new)}", path=checkpoint.folder.path
            )
        seen[new] = old
    old, new = next((old, new) for old, new in names.items() if old != new and new in known)
    checkpoint.rename(names)
    checkpoint.notes.append(f"tensors have other names than the architecture's: {shown(old)} is {shown(new)}")


def canonical(name: str, known: set[str], short: dict[str, str]) -> str:
    """The architecture's name of a tensor, or the name as it is."""
    parts = [part for part in name.split(".") if part not in INSIDE]
    parts[-1] = OLD_NORM.get(parts[-1], parts[-1])
    for start in range(len(parts)):
        rest = ".".join(parts[start:])
        if rest in known:
            return rest
        if rest in short:
            return short[rest]
        if parts[start] not in IN_FRONT:
            break
    return name


def settle_output(checkpoint: Checkpoint, described: Described, untied: Described) -> Described:
    """A tied model may store both matrices, different, or the output alone (S-10, S-11)."""
    names = {spec.role: spec.expression.whole() for spec in untied.specs}
    output, embedding = names.get("output.weight"), names.get("embedding.weight")
    tied = all(spec.role != "output.weight" for spec in described.specs)
    if not tied or output is None or embedding is None or output not in checkpoint.tensors:
        return described
    if embedding not in checkpoint.tensors:
        checkpoint.rename({output: embedding})
        checkpoint.notes.append(f"tied, and only {output} is stored: it is the embedding too")
        return described
    if same_numbers(checkpoint, embedding, output):
        return described
    checkpoint.notes.append(f"{CONFIG} ties the output to the embedding, but {output} has other numbers: kept, untied")
    return untied


def same_numbers(checkpoint: Checkpoint, one: str, other: str) -> bool:
    """Whether two tensors are equal; of other shapes or types than matrices of floats, whether the shapes are."""
    first, second = checkpoint.tensors[one], checkpoint.tensors[other]
    if first.shape != second.shape or not {first.dtype, second.dtype} <= set(FLOATS) or len(first.shape) != 2:
        return first.shape == second.shape
    rows, columns = first.shape
    step = max(1, BLOCK // max(1, columns))
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        if not np.array_equal(checkpoint.rows(one, start, stop), checkpoint.rows(other, start, stop)):
            return False
    return True


def add_missing_biases(checkpoint: Checkpoint, specs: Iterable[TensorSpec]) -> None:
    """A bias that config.json asks for and no file has is zeros (S-12)."""
    missing = [
        spec
        for spec in specs
        if spec.required and spec.role.endswith(".bias") and isinstance(spec.expression, Tensor)
        if spec.name not in checkpoint.tensors
    ]
    for spec in missing:
        checkpoint.add_zeros(spec.name, spec.shape)
    if missing:
        checkpoint.notes.append(f"{len(missing)} biases are in no file and count as zeros, such as {missing[0].name}")
