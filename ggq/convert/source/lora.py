"""LoRA adapters as PEFT saves them: low-rank changes of matrices, added while a checkpoint is read."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ggq.convert.plan.pattern import Pattern
from ggq.convert.source.checkpoint import FLOATS, Checkpoint
from ggq.convert.source.folder import Folder
from ggq.convert.source.json_input import load_object
from ggq.convert.source.safetensors_header import SafetensorsFile, SourceTensor, read_header
from ggq.errors import ConvertError, UnsupportedError, UsageError
from ggq.models.combined import Product, Sum
from ggq.models.family import TensorSpec
from ggq.models.fields import shown
from ggq.models.names import Expression, Tensor, Transposed

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
LARGEST_CONFIG = 4 << 20

IN_FRONT = "base_model.model."
"""What PEFT puts before the names of a model's modules."""

READ = frozenset({"alpha_pattern", "fan_in_fan_out", "lora_alpha", "peft_type", "r", "rank_pattern", "use_rslora"})

MEANINGLESS = frozenset(
    "auto_mapping base_model_name_or_path base_model_class exclude_modules inference_mode init_lora_weights"
    " layers_pattern layers_to_transform lora_dropout megatron_config megatron_core modules_to_save parent_library"
    " peft_version revision runtime_config target_modules task_type loftq_config eva_config corda_config"
    " qalora_group_size".split()
)
"""Keys that say how it was trained, or what the names of its tensors say again."""

MOST_PATTERNS = 64
"""Regular expressions, but for names of modules, that an adapter may have for ranks or scales."""

_PLAIN = re.compile(r"[\w.]+", re.ASCII)
_PART = re.compile(r"(?P<module>.+)\.lora_(?P<kind>A|B|embedding_A|embedding_B)(?:\.weight)?")


@dataclass(frozen=True)
class Change:
    """What an adapter adds to a matrix.

    Args:
        down, up: Names of the tensors of rank rows and of rank columns.
        scale: What their product is multiplied by.
        transposed: Whether the matrix holds inputs as rows, as embeddings and GPT-2's do.
    """

    down: str
    up: str
    scale: float
    transposed: bool

    def expression(self) -> Expression:
        """Its numbers."""
        product = Product(Tensor(self.up), Tensor(self.down), self.scale)
        return Transposed(product) if self.transposed else product


def split_weight(text: str) -> tuple[Path, float]:
    """The folder and the weight of FOLDER or FOLDER=WEIGHT.

    Raises:
        UsageError: The weight is no finite number.
    """
    folder, found, weight = text.rpartition("=")
    if not found or os.path.isdir(text):
        return Path(text), 1.0
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"--lora {text}: the weight must be a number, not {weight!r}", fix="such as adapter=0.5")
    return Path(folder), number


def adapter_name(text: str) -> str:
    """What a file says of an adapter: the folder's name without its path, and the weight unless it is 1."""
    path, weight = split_weight(text)
    name = os.path.basename(os.path.realpath(path)).encode("utf-8", "replace").decode("utf-8")
    return name if weight == 1 else f"{name}={weight:.9g}"


def add_adapters(
    checkpoint: Checkpoint, specs: Sequence[TensorSpec], adapters: Iterable[str]
) -> tuple[TensorSpec, ...]:
    """The tensors of a model with adapters added to them.

    Args:
        checkpoint: Gets the adapters' tensors too, under names that begin with "lora1." and so on, and a note of each.
        specs: The model's tensors.
        adapters: FOLDER or FOLDER=WEIGHT of each.

    Raises:
        ConvertError: A folder is no adapter, or one of another model.
        UnsupportedError: An adapter of another kind, or with something that changes more than matrices.
        UsageError: See `split_weight`.
    """
    changed: dict[str, Expression] = {}
    for number, text in enumerate(adapters, 1):
        path, weight = split_weight(text)
        folder = Folder(path, follow_links=checkpoint.folder.follow_links)
        file, changes = read_adapter(folder, weight, f"lora{number}.")
        names = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
        _check(changes, {tensor.name: tensor for tensor in file.tensors}, names, specs, folder.path / WEIGHTS)
        checkpoint.add_file(file)
        for name, change in changes.items():
            changed[name] = Sum(changed.get(name, Tensor(name)), change.expression())
        scales = sorted({change.scale for change in changes.values()})
        told = f"{scales[0]:.4g}" if len(scales) == 1 else f"{scales[0]:.4g} to {scales[-1]:.4g}"
        checkpoint.notes.append(f"LoRA adapter {path.name} added to {len(changes)} matrices, times {told}")
    return tuple(replace(spec, expression=substituted(spec.expression, changed)) for spec in specs)


def read_adapter(folder: Folder, weight: float, prefix: str = "") -> tuple[SafetensorsFile, dict[str, Change]]:
    """An adapter's file by its header, and what it changes.

    Args:
        folder: Of the adapter.
        weight: What all its changes are multiplied by.
        prefix: Put before the names of its tensors.

    Returns:
        The file, and the changes by the name of the checkpoint's matrix; both tensors of each are in the file, but may
        be of any type and shape.

    Raises:
        ConvertError: The folder is no adapter.
        UnsupportedError: An adapter of another kind, or with something that changes more than matrices.
    """
    config = _read_config(folder)
    file = read_header(folder.locate(WEIGHTS)[0], folder.path / WEIGHTS)
    file = replace(file, tensors=tuple(replace(tensor, name=f"{prefix}{tensor.name}") for tensor in file.tensors))
    return file, _changes(file.tensors, config, folder.path / WEIGHTS, weight, len(prefix))


def check_matrices(down: SourceTensor, up: SourceTensor, path: Path, where: str) -> None:
    """Refuse a change whose tensors are no matrices of floats that fit each other.

    Args:
        down, up: The tensors.
        path: The adapter's file.
        where: The module, for the message.

    Raises:
        ConvertError: They are not.
    """
    for tensor in (down, up):
        if tensor.dtype not in FLOATS or len(tensor.shape) != 2:
            problem = f"{tensor.dtype} of shape {list(tensor.shape)} found, a matrix of floats expected"
            raise ConvertError(problem, path=path, where=where)
    if up.shape[1] != down.shape[0]:
        problem = f"matrices of shape {list(up.shape)} and {list(down.shape)} found, whose product is none"
        raise ConvertError(problem, path=path, where=where)


def misfit(shape: tuple[int, ...], expected: tuple[int, ...], path: Path, where: str) -> ConvertError:
    """The refusal of a change that is not as large as its matrix."""
    problem = f"a change of shape {list(shape)} found, the matrix has {list(expected)}"
    return ConvertError(problem, path=path, where=where, fix="is it of another model?")


def module_of(name: str) -> str:
    """A matrix's module, for messages."""
    return f"module {shown(name.removesuffix('.weight'))}"


def substituted(expression: Expression, changed: Mapping[str, Expression]) -> Expression:
    """An expression with source tensors replaced by expressions, by name."""
    if isinstance(expression, Tensor):
        return changed.get(expression.name, expression)
    values: dict[str, Any] = {}
    for field in fields(expression):  # type: ignore[arg-type]  # every kind of expression is a dataclass
        value = getattr(expression, field.name)
        if isinstance(value, Expression):
            values[field.name] = substituted(value, changed)
        elif isinstance(value, tuple) and value and isinstance(value[0], Expression):
            values[field.name] = tuple(substituted(each, changed) for each in value)
    return replace(expression, **values) if values else expression  # type: ignore[type-var]


def _read_config(folder: Folder) -> dict[str, Any]:
    path = folder.path / CONFIG
    if CONFIG not in folder or WEIGHTS not in folder:
        if CONFIG in folder and PICKLED in folder:
            raise ConvertError(
                "pickled weights, which can run code and are never opened",
                path=folder.path / PICKLED,
                fix="save the adapter as safetensors: PEFT's save_pretrained(FOLDER, safe_serialization=True)",
            )
        missing = CONFIG if CONFIG not in folder else WEIGHTS
        raise ConvertError(
            "missing: not a LoRA adapter", path=folder.path / missing, fix="give the folder of an adapter"
        )
    config = load_object(folder.read(CONFIG, LARGEST_CONFIG), path, infinite=True)
    if config.get("peft_type") != "LORA":
        raise UnsupportedError(f"{shown(config.get('peft_type'))} is no LoRA", path=path, where="peft_type")
    neutral: tuple[object, ...] = (None, False, "none", [], {}, "")
    odd = [key for key, value in config.items() if key not in READ | MEANINGLESS and value not in neutral]
    if odd:
        raise UnsupportedError(f"{shown(config[odd[0]])} is not supported", path=path, where=odd[0])
    return config


def _changes(
    tensors: Iterable[SourceTensor], config: Mapping[str, Any], path: Path, weight: float, prefix: int
) -> dict[str, Change]:
    """What an adapter's tensors, whose names have so many letters more in front, change, by the name of the matrix."""
    parts: dict[str, dict[str, SourceTensor]] = {}
    for tensor in tensors:
        rest = tensor.name[prefix:]
        match = _PART.fullmatch(rest)
        if match is None or not rest.startswith(IN_FRONT):
            problem = "more than a low-rank change of a matrix"
            raise UnsupportedError(problem, path=path, where=f"tensor {shown(rest)}", fix="merge it with PEFT first")
        parts.setdefault(match["module"].removeprefix(IN_FRONT), {})[match["kind"]] = tensor
    alphas = _ByModule(config, "alpha_pattern", "lora_alpha", path.with_name(CONFIG))
    ranks = _ByModule(config, "rank_pattern", "r", path.with_name(CONFIG))
    found, rooted = {}, config.get("use_rslora") is True
    for module, kinds in parts.items():
        embedding = "embedding_A" in kinds or "embedding_B" in kinds
        down, up = (kinds.get(f"embedding_{kind}" if embedding else kind) for kind in "AB")
        if down is None or up is None or len(kinds) != 2:
            raise ConvertError("lora_A and lora_B belong together", path=path, where=f"module {shown(module)}")
        rank = down.shape[0] if down.shape else 0
        scale = weight * _scale(alphas[module], ranks[module], module, rank, path, root=rooted)
        transposed = embedding or config.get("fan_in_fan_out") is True
        found[f"{module}.weight"] = Change(down.name, up.name, scale, transposed)
    if not found:
        raise ConvertError("no tensors in it", path=path)
    return found


class _ByModule:
    """What an adapter's configuration says of single modules: the value of the first pattern that the end of a module's
    name, from a dot on, matches, as PEFT has it; most patterns are such ends themselves.

    Args:
        config: Of the adapter.
        key, standard: Where its patterns are, and the value of all other modules.
        path: Of the configuration.
    """

    def __init__(self, config: Mapping[str, Any], key: str, standard: str, path: Path) -> None:
        found = config.get(key)
        self._values, self._standard = found if isinstance(found, dict) else {}, config.get(standard)
        self._numbers = {pattern: number for number, pattern in enumerate(self._values)}
        others = [pattern for pattern in self._values if not _PLAIN.fullmatch(pattern)]
        if len(others) > MOST_PATTERNS:
            problem = f"{len(others)} regular expressions found, up to {MOST_PATTERNS} allowed"
            raise ConvertError(problem, path=path, where=key)
        self._others = {text: Pattern(rf"(?:.*\.)?(?:{text})", f"{CONFIG}: {text}") for text in others}

    def __getitem__(self, module: str) -> object:
        parts = module.split(".")
        ends = [".".join(parts[start:]) for start in range(len(parts))]
        fitting = [end for end in ends if end in self._numbers]
        fitting += [text for text, pattern in self._others.items() if pattern.fullmatch(module)]
        return self._values[min(fitting, key=self._numbers.__getitem__)] if fitting else self._standard


def _scale(alpha: object, said: object, module: str, rank: int, path: Path, *, root: bool) -> float:
    """alpha over the rank, or over its root with rank-stabilised LoRA."""
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise ConvertError(f"{shown(alpha)} found, a number expected", path=path.with_name(CONFIG), where="lora_alpha")
    if said != rank or rank < 1:
        problem = f"rank {shown(said)} said, {rank} found in module {shown(module)}"
        raise ConvertError(problem, path=path.with_name(CONFIG), where="r")
    return float(alpha) / (math.sqrt(rank) if root else rank)


def _check(
    changes: Mapping[str, Change],
    tensors: Mapping[str, SourceTensor],
    names: Mapping[str, tuple[int, ...]],
    specs: Iterable[TensorSpec],
    path: Path,
) -> None:
    """Refuse an adapter that does not fit the model."""
    roles = {name: spec.role for spec in specs for name in spec.expression.names()}
    tied = "output.weight" not in roles.values()
    for name, change in changes.items():
        where = module_of(name)
        if name not in names or name not in roles:
            raise ConvertError("the model has no such matrix", path=path, where=where, fix="is it of another model?")
        if tied and roles[name] == "embedding.weight":
            raise UnsupportedError("it changes an embedding that is the output too", path=path, where=where)
        down, up = tensors[change.down], tensors[change.up]
        check_matrices(down, up, path, where)
        shape = (up.shape[0], down.shape[1])
        if names[name] != (shape[::-1] if change.transposed else shape):
            raise misfit(shape, names[name], path, where)
