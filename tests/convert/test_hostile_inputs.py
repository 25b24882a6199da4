"""Files that came with later inputs (vocabularies, adapters, modules of sentence-transformers), written by strangers:
read, or refused by one error of ours that names the file; nothing else, and nothing outside of the folder is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggq.convert.source.folder import Folder
from ggq.convert.source.lora import read_adapter
from ggq.convert.source.sentence import read_pooling
from ggq.convert.source.vocabularies.find import FILES, make_tokenizer
from ggq.errors import ConvertError, GGQError
from tests.convert.test_lora import Q, adapter, parts
from tests.convert.test_vocabularies import KINDS, unpack

STRANGE = (None, -1, 0, 1 << 70, 1e400, float("nan"), "x", "", "../x", "\ud800", [], [[]], {}, {"a": []}, True)
MOST_PLACES = 12


def changed(value: Any, rng: np.random.Generator) -> Iterator[Any]:
    """A JSON document with one of its values replaced, at some of its places: odd values there, or the key gone."""
    places = list(paths(value))
    for place in rng.permutation(len(places))[:MOST_PLACES]:
        path = places[place]
        for odd in (*STRANGE, KeyError):
            copy = deepcopy(value)
            holder = copy
            for key in path[:-1]:
                holder = holder[key]
            if odd is KeyError:
                del holder[path[-1]]
            else:
                holder[path[-1]] = odd
            yield copy


def paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value[:8]) if isinstance(value, list) else ()
    for key, inner in list(pairs)[:200]:
        yield (*before, key)
        yield from paths(inner, (*before, key))


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8", errors="surrogatepass")


def mangled(data: bytes, rng: np.random.Generator) -> Iterator[bytes]:
    """Cut short, and with a few bytes changed."""
    for _ in range(12):
        yield data[: int(rng.integers(len(data)))]
        noise = bytearray(data)
        for place in rng.integers(len(data), size=4):
            noise[place] = int(rng.integers(256))
        yield bytes(noise)


@pytest.mark.parametrize("kind", KINDS)
def test_vocabularies_of_strangers(kind: str, tmp_path: Path) -> None:
    settings, config = unpack(kind, tmp_path / "m")
    rng, folder, refused = np.random.default_rng(11), tmp_path / "m", 0
    for name in (name for name in FILES if (folder / name).exists()):
        data = (folder / name).read_bytes()
        for written in mangled(data, rng):
            (folder / name).write_bytes(written)
            try:
                make_tokenizer(Folder(folder), settings, config)
            except GGQError as error:
                assert name.partition(".")[0] in str(error) or "merges" in str(error), str(error)
                refused += 1
        if name.endswith(".json"):
            for value in changed(json.loads(data), rng):
                write(folder / name, value)
                with suppress(GGQError):
                    make_tokenizer(Folder(folder), settings, config)
        (folder / name).unlink()
        outside = tmp_path / "outside"
        outside.write_bytes(data)
        (folder / name).symlink_to(outside)
        with pytest.raises(ConvertError, match="a symbolic link out of the folder"):
            make_tokenizer(Folder(folder), settings, config)
        (folder / name).unlink()
        (folder / name).write_bytes(data)
    assert refused > 5
    for value in changed(settings, rng):
        with suppress(GGQError):
            make_tokenizer(Folder(folder), value, config)


def test_adapters_of_strangers(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", parts(Q, 32, 32), rank_pattern={"x": 4}, alpha_pattern={"y": 2})
    rng, config = np.random.default_rng(12), json.loads((folder / "adapter_config.json").read_text())
    for value in changed(config, rng):
        write(folder / "adapter_config.json", value)
        with suppress(GGQError):
            read_adapter(Folder(folder), 1.0)
    write(folder / "adapter_config.json", config)
    weights, outside = folder / "adapter_model.safetensors", tmp_path / "outside"
    outside.write_bytes(data := weights.read_bytes())
    for written in mangled(data[:400], rng):
        weights.write_bytes(written + data[400:])
        with suppress(GGQError):
            read_adapter(Folder(folder), 1.0)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).symlink_to(outside)
        with pytest.raises(ConvertError, match="a symbolic link out of the folder"):
            read_adapter(Folder(folder), 1.0)
        (folder / name).unlink()
        (folder / name).write_bytes(kept if name.endswith("json") else data)


def test_pickled_adapters_are_never_opened(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", parts(Q, 32, 32))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ConvertError, match="adapter_model.bin: pickled weights, which can run code"):
        read_adapter(Folder(folder), 1.0)


def test_modules_of_strangers(tmp_path: Path) -> None:
    folder, rng = tmp_path / "m", np.random.default_rng(13)
    for place in ("1_Pooling", "2_Dense"):
        (folder / place).mkdir(parents=True)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
    files: dict[str, Any] = {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(kinds.items())
        ],
        "sentence_bert_config.json": {"max_seq_length": 64, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True},
        "2_Dense/config.json": {"in_features": 32, "out_features": 16, "bias": True},
    }
    for name, value in files.items():
        write(folder / name, value)
    pooling = read_pooling(Folder(folder))
    assert pooling is not None and (pooling.pool, pooling.normalized, len(pooling.dense)) == ("mean", True, 1)
    for name, value in files.items():
        for other in changed(value, rng):
            write(folder / name, other)
            with suppress(GGQError):
                read_pooling(Folder(folder))
        write(folder / name, value)
    for path in ("../outside", "/etc", "a/b", "1_Pooling/.."):
        write(folder / "modules.json", [{**files["modules.json"][1], "path": path}])
        with pytest.raises(GGQError, match="the name of a folder expected"):
            read_pooling(Folder(folder))
    write(folder / "modules.json", files["modules.json"])
    outside = tmp_path / "outside"
    (folder / "1_Pooling").rename(outside)
    (folder / "1_Pooling").symlink_to(outside)
    with pytest.raises(ConvertError, match="a symbolic link out of the folder"):
        read_pooling(Folder(folder))
