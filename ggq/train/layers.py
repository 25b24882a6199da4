"""Fake quantization in any PyTorch network: convolutions, recurrent layers and whatever else has matrices.

    quantize_module(network, "q4-g32", method="lsq")        its matrices compute with the numbers of a file
    optimizer = torch.optim.AdamW(module_groups(network))   steps move as shares of their size
    ... after each optimizer.step():  settle_module(network)
    store_module(network, "network.ggq")                    as `ggq convert --generic` stores it

Names of parameters, and state_dict() without the parametrizations, stay what they were.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from ggq.convert.convert import run
from ggq.convert.options import RunOptions
from ggq.convert.plan.generic import make_generic_plan, stored_shape
from ggq.convert.plan.recipe import Recipe, fit_group, make_recipe
from ggq.convert.plan.taken import GRIDS
from ggq.convert.source.hub import Source
from ggq.convert.write.report import Report
from ggq.errors import ConvertError, UsageError, one_of
from ggq.export.export import SHARD_BYTES, write_folder
from ggq.export.safetensors_output import Output, file_names, float_output
from ggq.format.paths import check_place
from ggq.format.scheme_names import parse_filled, scheme_name
from ggq.train.options import LSQ, QAT
from ggq.train.quantize.fake import FakeQuantizer, FollowingQuantizer, LearnedQuantizer, quantizer_of
from ggq.train.save import Outcome, write_grids


class Parametrization(nn.Module):
    """What `torch.nn.utils.parametrize` puts between a parameter and its use.

    Args:
        quantizer: Of the parameter as it is stored.
        shape: (rows, columns), every dimension but the last of what is stored counted as rows.
        stored: The shape that is stored.
    """

    def __init__(self, quantizer: FakeQuantizer, shape: tuple[int, int], stored: tuple[int, ...]) -> None:
        super().__init__()
        self.quantizer, self.shape, self.stored = quantizer, shape, stored

    def forward(self, weights: Any) -> Any:
        """The numbers of a file, in the parameter's shape."""
        return self.quantizer(weights.reshape(self.shape)).reshape(weights.shape)


def quantize_module(
    network: nn.Module, scheme: str, *, method: str = LSQ, grid: str | None = "mse", ignore: str = ""
) -> list[str]:
    """Fake-quantize every parameter of two dimensions or more of a network.

    Args:
        network: It is changed: its parameters get parametrizations.
        scheme: Name of a scheme of codes, such as "q2-g64" or "ternary-g64".
        method: "lsq", steps are parameters, or "qat", steps follow the weights.
        grid: The post-training method that chooses steps, or where they begin; None for the scheme's default.
        ignore: A regular expression; parameters whose whole names match stay as they are.

    Returns:
        Names of the parameters.

    Raises:
        UsageError: A scheme or a method that cannot be trained, or nothing to quantize.
    """
    if method not in (QAT, LSQ):
        raise UsageError(f"method must be {one_of((QAT, LSQ))}, not {method!r}")
    wanted, filled = parse_filled(scheme)
    found = []
    for name, owner, short in list(_matrices(network)):
        if re.fullmatch(ignore, name):
            continue
        weights = getattr(owner, short).detach()
        stored = stored_shape(tuple(weights.shape))
        shape = (int(np.prod(stored[:-1])), stored[-1])
        numbers = weights.numpy(force=True).astype(np.float32).reshape(shape)
        quantizer = quantizer_of(numbers, fit_group(wanted, shape[1]), method == LSQ, filled or grid)
        parametrize.register_parametrization(owner, short, Parametrization(quantizer, shape, stored))
        if isinstance(owner, nn.RNNBase) and not getattr(owner, "_ggq_hooked", False):
            owner.register_forward_pre_hook(_flat_weights)
            owner._ggq_hooked = True
        found.append(name)
    if not found:
        raise UsageError("the network has no parameter of two dimensions or more that is not ignored")
    return found


def _flat_weights(owner: Any, inputs: Any) -> None:
    """A recurrent layer computes with a list of its parameters that it made when it was built."""
    owner._flat_weights = [getattr(owner, name) for name in owner._flat_weights_names]


def _matrices(network: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Parameters of two dimensions or more: their names, their modules and their names there."""
    for prefix, owner in network.named_modules():
        if isinstance(owner, FakeQuantizer | Parametrization) or ".parametrizations" in f".{prefix}":
            continue
        for short, parameter in owner.named_parameters(recurse=False):
            if parameter.ndim > 1:
                yield f"{prefix}.{short}" if prefix else short, owner, short


def quantized(network: nn.Module) -> Iterator[tuple[str, nn.Module, str, Parametrization]]:
    """The fake-quantized parameters: their names, their modules, their names there, and what rounds them."""
    for prefix, owner in network.named_modules():
        for short, stack in dict(getattr(owner, "parametrizations", {})).items():
            for each in stack:
                if isinstance(each, Parametrization):
                    yield f"{prefix}.{short}" if prefix else short, owner, short, each


def module_groups(network: nn.Module, rate: float = 1e-3, step_rate: float = 5e-3) -> list[dict[str, Any]]:
    """Parameters with their rates, as PyTorch's optimizers take them.

    Args:
        network: Any.
        rate: Of everything but steps.
        step_rate: Of steps and shifts, as a share of a matrix's mean step.
    """
    groups: list[dict[str, Any]] = []
    apart: set[int] = set()
    for _, _, _, each in quantized(network):
        if isinstance(each.quantizer, LearnedQuantizer):
            for found in each.quantizer.groups(step_rate):
                groups.append(found)
                apart.update(id(parameter) for parameter in found["params"])
    others = [p for p in network.parameters() if p.requires_grad and id(p) not in apart]
    return [{"params": others, "lr": rate}, *groups]


def settle_module(network: nn.Module) -> None:
    """After a step of an optimizer: steps that are learned go back into their range, others follow the weights."""
    for _, owner, short, each in quantized(network):
        each.quantizer.project()
        if isinstance(each.quantizer, FollowingQuantizer):
            original = owner.parametrizations[short].original
            each.quantizer.refresh(original.detach().reshape(each.shape))


def plain_state(network: nn.Module) -> dict[str, Any]:
    """The state of a network with the numbers that its quantizers give, under the names from before."""
    state = {}
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if ".parametrizations." not in f".{name}":
                state[name] = value.detach().clone()
        for name, owner, short, _ in quantized(network):
            state[name] = getattr(owner, short).detach().clone()
    return state


def store_module(
    network: nn.Module,
    out: str | os.PathLike[str],
    *,
    out_checkpoint: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> Report:
    """Write a network as `ggq convert --generic` stores one: its fake-quantized parameters as codes, the others as f32.

    Args:
        network: From `quantize_module`.
        out: The file.
        out_checkpoint: A new folder for the numbers as a safetensors file with their codes beside it; None for none.
        force: Replace an existing file.

    Raises:
        UsageError: Nothing is quantized, or a place is taken.
        ConvertError: The disk has too little room.
    """
    place = Path(out)
    check_place(place, force=force)
    if not any(True for _ in quantized(network)):
        raise UsageError("nothing in the network is fake-quantized", fix="call quantize_module first, and train it")
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=Path(os.path.realpath(place)).parent) as temporary:
        folder = Path(temporary) / "network" if out_checkpoint is None else Path(out_checkpoint)
        _write(network, folder)
        name = os.path.realpath(place if out_checkpoint is None else folder).rpartition(os.sep)[2]
        planned = make_generic_plan(Source(folder, name, name), recipe_of(network))
        untaken = [t.name for t in planned.tensors if t.scheme.kind != "float" and t.taken is None]
        if untaken:
            raise ConvertError("the codes that were trained are not found again", where=f"tensor {untaken[0]}")
        return run(planned, place, RunOptions(force=force))


def recipe_of(network: nn.Module) -> Recipe:
    """The recipe of a network's schemes: one for most, rules for the others; options of `ggq convert` say the same."""
    return make_recipe(*schemes_of(network))


def schemes_of(network: nn.Module) -> tuple[str, None, None, list[str]]:
    """--scheme and --keep of a conversion that stores a network's schemes."""
    schemes = {name: each.quantizer.scheme for name, _, _, each in quantized(network)}
    first = next(iter(schemes.values()))
    keep = [f"^{re.escape(name)}$={scheme_name(scheme)}" for name, scheme in schemes.items() if scheme != first]
    keep += [
        f"^{re.escape(name)}$=f32"
        for name, value in plain_state(network).items()
        if value.ndim > 1 and value.is_floating_point() and name not in schemes
    ]
    return scheme_name(first), None, None, keep


def _write(network: nn.Module, folder: Path) -> None:
    """The folder of safetensors and codes."""
    outputs: list[Output] = []
    state = plain_state(network)
    for name, value in state.items():
        if value.is_floating_point():
            numbers = np.ascontiguousarray(value.float().numpy(force=True))
            outputs.append(float_output(name, "f32", tuple(value.shape), partial(_bytes, numbers)))
    tensors = {}
    for name, owner, short, each in quantized(network):
        original = owner.parametrizations[short].original.detach()
        matrix = each.quantizer.matrix(original.reshape(each.shape))
        numbers = state[name].float().numpy(force=True).reshape(each.stored)
        tensors[name] = (each.stored, Outcome(numbers, matrix))
    files = file_names(outputs, SHARD_BYTES)
    write_folder(folder, files, {}, more=lambda made: write_grids(made / GRIDS, tensors, frozenset()))


def _bytes(numbers: np.ndarray) -> Iterator[memoryview]:
    yield numbers.reshape(-1).view(np.uint8).data
