"""Transforms of a layer: found for inputs that matrices share, folded into what produces them, or left to be kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ggq.convert.calibrate.changes import read_changed
from ggq.convert.mix.candidates import searched
from ggq.convert.plan.plan import TensorPlan
from ggq.models.names import Source
from ggq.quant import default_method
from ggq.quant.change import Change
from ggq.quant.inputs import InputStatistics
from ggq.quant.methods import METHODS, Chain, Transform
from ggq.quant.methods.mse import Mse
from ggq.quant.methods.transforms.chain import composed, transformed_inputs
from ggq.quant.methods.transforms.smoothquant import static_step
from ggq.quant.methods.transforms.transform import Consumer, SharedInputs, Stored
from ggq.tape.folding import Site

SEARCH_ROWS = 512
"""Rows of a matrix, at most, that a search of a transform looks at."""

SEARCH_WEIGHTS = 1 << 20
"""Their weights, at most, about: each trial multiplies them with the products of all columns."""

Floats = NDArray[np.float32]


@dataclass(eq=False)
class Layer:
    """The tensors of a layer while its transforms are found.

    Args:
        source: Where weights are read.
        tensors: By role.
        statistics: Of inputs by role of the matrix; empty without calibration.
        activations: How inputs will be rounded: "group", "token" or "static".
    """

    source: Source
    tensors: Mapping[str, TensorPlan]
    statistics: Mapping[str, InputStatistics]
    activations: str
    changes: dict[str, Change] = field(default_factory=dict)
    inputs: dict[str, InputStatistics] = field(default_factory=dict)
    kept: dict[str, tuple[Floats | None, NDArray[np.int64] | None]] = field(default_factory=dict)
    done: dict[str, list[str]] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=dict)

    def run(self, sites: list[Site]) -> None:
        """Find and fold the transforms at all sites of the layer, in order."""
        for site in sites:
            if all(role in self.tensors for role in (*site.consumers, *site.producers)):
                self._site(site)

    def _site(self, site: Site) -> None:
        statistics = self.statistics.get(site.consumers[0])
        inputs = statistics if statistics is not None and not statistics.trouble else None
        scale: Floats | None = None
        order: NDArray[np.int64] | None = None  # of this site so far
        # What is folded comes first, so that what is kept is about the columns that are left.
        for transform in sorted(self._wanted(site), key=lambda each: self._keeps(site, each.kind)):
            if transform.requires and inputs is None:
                continue
            keeps = self._keeps(site, transform.kind)
            if not keeps and not (site.takes_scale if transform.kind == "scale" else site.takes_order):
                continue
            now = inputs
            if now is not None and keeps:
                now = transformed_inputs(now, scale, order)
            source = np.arange(site.columns) if keeps else site.source
            block = site.columns if keeps else site.block
            consumers = [self._consumer(role, scale, order) for role in site.consumers if self.tensors[role].method]
            found = transform.find(SharedInputs(consumers, now, source, block, self.activations))
            if found is None:
                continue
            for role in site.consumers:
                self.done.setdefault(role, []).append(transform.name)
            if keeps:
                scale, order = composed(scale, order, transform.kind, found)
                continue
            self._fold(site, transform.kind, found)
            if inputs is not None:
                as_scale = found if transform.kind == "scale" else None
                inputs = transformed_inputs(inputs, as_scale, None if as_scale is not None else found)
        for role in site.consumers:
            if inputs is not None:
                self.inputs[role] = inputs
            self.kept[role] = (scale, order)
        if self.activations == "static" and inputs is not None and inputs.samples is not None:
            consumers = [self._consumer(role, scale, order) for role in site.consumers if self.tensors[role].method]
            if consumers:
                moved = transformed_inputs(inputs, scale, order)
                step = static_step(SharedInputs(consumers, moved, np.arange(site.columns), 0, "static"))
                self.steps.update(dict.fromkeys(site.consumers, step))

    def _wanted(self, site: Site) -> tuple[Transform, ...]:
        """The transforms that all quantized matrices of a site ask for; none where they do not agree."""
        asked = []
        for role in site.consumers:
            tensor = self.tensors[role]
            if tensor.method is not None:
                asked.append(tensor.method.transforms if isinstance(tensor.method, Chain) else ())
        return asked[0] if asked and all(each == asked[0] for each in asked) else ()

    def _keeps(self, site: Site, kind: str) -> bool:
        """Whether the matrices keep a transform of this kind, by their schemes."""
        return all(kind in self.tensors[role].scheme.transform for role in site.consumers if self.tensors[role].method)

    def _consumer(self, role: str, scale: Floats | None, order: NDArray[np.int64] | None) -> Consumer:
        tensor = self.tensors[role]
        rows, columns = tensor.shape
        count = min(rows, SEARCH_ROWS, max(1, SEARCH_WEIGHTS // columns))
        picked = np.unique(np.linspace(0, rows - 1, count).astype(np.int64))
        weights = read_changed(self.source, tensor.expression, self.changes.get(role, Change()), picked.tolist())
        plain, method = replace(tensor.scheme, transform=frozenset()), tensor.method
        rounder = method.plain if isinstance(method, Chain) else METHODS[default_method(plain)]
        if isinstance(rounder, Mse):
            rounder = replace(rounder, compiled=searched(rows * columns))
        return Consumer(Stored(rounder, scale, order).transformed(weights), plain, rounder)

    def _fold(self, site: Site, kind: str, found: NDArray) -> None:
        """Change the columns of the consumers, and what makes their inputs."""
        for role in site.consumers:
            change = self.changes.get(role, Change())
            self.changes[role] = change.with_columns(found) if kind == "scale" else change.with_columns(None, found)
        if kind == "scale" and site.norms:
            for role in site.norms:
                change = self.changes.get(role, Change())
                self.changes[role] = change.with_columns((1 / found).astype(np.float32))
            return
        rows = int(site.source.max()) + 1
        by_row = np.empty(rows, found.dtype)
        first = np.unique(site.source, return_index=True)[1]
        if kind == "scale":
            by_row[:] = found[first]
            self._rows(site.producers[:1], site.biases[:1], (1 / by_row).astype(np.float32), None)
        else:
            by_row[:] = site.source[found[first]]
            self._rows(site.producers, site.biases, None, by_row)

    def _rows(
        self,
        producers: tuple[str, ...],
        biases: tuple[str | None, ...],
        scale: Floats | None,
        order: NDArray[np.int64] | None,
    ) -> None:
        for role in producers:
            self.changes[role] = self.changes.get(role, Change()).with_rows(scale, order)
        for bias in biases:
            if bias is not None:
                self.changes[bias] = self.changes.get(bias, Change()).with_columns(scale, order)
