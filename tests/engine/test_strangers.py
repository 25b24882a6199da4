"""A file that changes or shrinks while a model runs from it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import ggq
from ggq.convert.convert import convert
from ggq.errors import FormatError
from tests.kit.support import DEMO


def test_a_file_cut_short_between_two_passes_is_told_and_no_text_follows(tmp_path: Path) -> None:
    path = tmp_path / "m.ggq"
    convert(DEMO, path, scheme="q4-g32")
    with ggq.load(path) as model:
        assert model.logits([1, 2, 3]).shape[0] == 3
        os.truncate(path, 4096)
        with pytest.raises(FormatError, match=r"the file has become shorter since it was opened \(C-2\)"):
            model.logits([1, 2, 3])
        with pytest.raises(FormatError, match="has become shorter"):
            model.generate([1, 2, 3], max_tokens=3)
