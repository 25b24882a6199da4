"""A model runs from whatever answers the protocol of a container."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggq.format import open_reader
from ggq.format.container import Container
from ggq.format.scheme import Scheme
from ggq.generate.loading import load, model_of
from ggq_kernels.run.threads import aligned_zeros
from tests.kit.small_models import CONFIGS, checkpoint, prompt, write_ggq


@dataclass
class Entry:
    name: str
    shape: tuple[int, ...]
    scheme: Scheme | None
    attributes: dict[str, Any]
    segments: dict[str, Any]
    stored_as: str = "in memory"


@dataclass
class Memory:
    """A file that is a few dictionaries."""

    metadata: dict[str, Any]
    tensors: dict[str, Entry]
    assets: dict[str, Any] = field(default_factory=dict)
    path: str = "memory"
    digest: bytes = bytes(32)

    def segment(self, name: str, part: str) -> np.ndarray:
        return self.tensors[name].segments[part].data

    def read_segment(self, name: str, part: str) -> np.ndarray:
        return self.segment(name, part)

    def mapped(self) -> None:
        return None

    def close(self) -> None:
        self.tensors.clear()


@dataclass
class Part:
    data: np.ndarray

    @property
    def length(self) -> int:
        return self.data.nbytes


def aligned(data: np.ndarray) -> Part:
    copy = aligned_zeros(data.nbytes)
    copy[:] = data
    return Part(copy)


@pytest.mark.kernels
@pytest.mark.parametrize("interpreter", ["numba", "numpy"])
@pytest.mark.parametrize("scheme", ["f32", "q4-g32"])
def test_a_model_runs_from_a_dictionary(tmp_path: Path, interpreter: str, scheme: str) -> None:
    config = CONFIGS["grouped"]
    path = write_ggq(tmp_path / "m.ggq", config, checkpoint(config), scheme)
    with open_reader(path) as reader:
        tensors = {
            name: Entry(
                name, e.shape, e.scheme, e.attributes, {p: aligned(reader.segment(name, p)) for p in e.segments}
            )
            for name, e in reader.tensors.items()
        }
        memory: Container = Memory(dict(reader.metadata), tensors)
    tokens = prompt(config, 20)
    with model_of(memory, interpreter=interpreter) as ours, load(path, interpreter=interpreter) as theirs:
        assert np.array_equal(ours.logits(tokens), theirs.logits(tokens))
        assert ours.stream(tokens, max_tokens=4).answer.prompt == tokens
