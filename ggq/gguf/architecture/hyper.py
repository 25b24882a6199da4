"""The hyper-parameters of a GGUF file, each of which must be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ggq.errors import ModelError, UnsupportedError
from ggq.models.fields import shown

MEANINGLESS = frozenset({"vocab_size", "attention.value_length", "rope.scaling.finetuned"})
"""Keys that repeat what others or the tensors say."""


class Keys:
    """The keys of an architecture, each remembered once it was read.

    Args:
        metadata: Of the file.
        path: The file, for messages.
    """

    def __init__(self, metadata: Mapping[str, Any], path: str) -> None:
        self.path, self.architecture = path, str(metadata.get("general.architecture", ""))
        prefix = f"{self.architecture}."
        self._values = {key.removeprefix(prefix): metadata for key in metadata if key.startswith(prefix)}
        self._prefix, self._metadata, self._read = prefix, metadata, set[str]()

    def get(self, key: str, default: Any = None) -> Any:
        """A value; the default where there is none."""
        self._read.add(key)
        return self._metadata[self._prefix + key] if key in self._values else default

    def has(self, key: str) -> bool:
        """Whether there is such a key; it does not count as read."""
        return key in self._values

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number; the only one of a list whose numbers are equal.

        Raises:
            ModelError: It is missing or something else.
            UnsupportedError: Layers have different ones.
        """
        found = self.get(key, default)
        if isinstance(found, np.ndarray) and found.size and found.dtype.kind in "iu":
            if (found != found[0]).any():
                raise UnsupportedError("layers of different sizes", path=self.path, where=self._prefix + key)
            found = int(found[0])
        if isinstance(found, bool) or not isinstance(found, int):
            problem = "missing" if found is None else f"{shown(found)} found, a whole number expected"
            raise ModelError(problem, path=self.path, where=self._prefix + key)
        return found

    def number(self, key: str, default: float | None = None) -> float:
        """A number.

        Raises:
            ModelError: It is missing or something else.
        """
        found = self.get(key, default)
        if isinstance(found, bool) or not isinstance(found, int | float):
            problem = "missing" if found is None else f"{shown(found)} found, a number expected"
            raise ModelError(problem, path=self.path, where=self._prefix + key)
        return float(str(np.float32(found)))  # the decimal number that was meant: 1e-05, not 9.99999975e-06

    def check_all_read(self) -> None:
        """Refuse a key that nobody has read.

        Raises:
            UnsupportedError: There is one that would change the model.
        """
        left = [key for key in self._values if key not in self._read | MEANINGLESS]
        if left:
            where = self._prefix + left[0]
            raise UnsupportedError(f"{shown(self._metadata[where])} is not supported", path=self.path, where=where)
