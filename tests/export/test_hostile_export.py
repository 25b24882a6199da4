"""A stranger's file that is exported: its assets stay in the folder and take no other file's place."""

from __future__ import annotations

from pathlib import Path

import pytest

import ggq
from ggq.errors import GGQError, ModelError
from ggq.export.export import export
from ggq.format import Writer, open_reader
from tests.kit.checkpoints import tiny


def with_assets(folder: Path, **changes: bytes) -> Path:
    """A file of a small model with other assets; names have two underscores for a slash."""
    good, bad = folder / "good.ggq", folder / "bad.ggq"
    if not good.exists():
        ggq.convert(tiny(folder / "m"), good, scheme="q4-g32")
    with open_reader(good) as reader, Writer(bad, force=True) as writer:
        for key in reader.metadata:
            writer.add_raw_metadata(key, reader.metadata.raw(key))
        for name, entry in reader.tensors.items():
            parts = [reader.copy(part) for part in entry.segments.values()]
            writer.add_raw_tensor(name, entry.shape, entry.descriptor.raw, parts, entry.attributes)
        named = {name.replace("__", "/"): data for name, data in changes.items()}
        assets = {name: asset.read() for name, asset in reader.assets.items()}
        for name, data in {**assets, **named}.items():
            writer.add_asset(name, data)
        writer.finish()
    return bad


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "model.safetensors.index.json",
        "model.safetensors__x",
        "config.json__x",
    ],
)
def test_an_asset_that_takes_another_files_place(tmp_path: Path, name: str) -> None:
    bad = with_assets(tmp_path, **{name: b"a stranger's"})
    with pytest.raises(ModelError, match="an asset has the name of another file of a checkpoint"):
        export(bad, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_an_asset_in_a_folder_of_its_own_is_kept(tmp_path: Path) -> None:
    export(with_assets(tmp_path, templates__tool__x=b"{{ 1 }}"), tmp_path / "out")
    assert (tmp_path / "out" / "templates" / "tool" / "x").read_text() == "{{ 1 }}"


@pytest.mark.parametrize(
    "config", [b"[" * 100_000, b"5", b"{", b"\xff", b'{"architectures": 5}', b'{"a": ' + b"9" * 5000 + b"}", b"{}"]
)
def test_a_config_that_is_none(tmp_path: Path, config: bytes) -> None:
    with pytest.raises(GGQError):
        export(with_assets(tmp_path, **{"config.json": config}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
