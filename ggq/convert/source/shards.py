"""Which safetensors files a checkpoint is made of."""

from __future__ import annotations

import re
from pathlib import Path

from ggq.convert.source.folder import Folder
from ggq.convert.source.json_input import load_object
from ggq.convert.source.safetensors_header import SafetensorsFile, read_header
from ggq.errors import ConvertError, FormatError, GGQError
from ggq.format.paths import os_error
from ggq.models.fields import shown

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
LARGEST_INDEX = 64 << 20
"""Bytes of the largest index.json that is read."""

_SHARD = re.compile(r"[A-Za-z0-9_.-]+\.safetensors", re.ASCII)
_NUMBERED = re.compile(r"model-[0-9]+-of-[0-9]+\.safetensors", re.ASCII)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def read_files(folder: Folder) -> list[SafetensorsFile]:
    """The headers of a checkpoint's files, in the order of their names, checked against the index if there is one.

    Raises:
        ConvertError: No safetensors files, a shard missing or one too many, a tensor twice or not where the index says.
        FormatError: A header or the index breaks a rule of its format.
    """
    if INDEX in folder and SINGLE in folder:
        raise ConvertError(
            f"{SINGLE} and {INDEX} both found", path=folder.path, fix="remove the one that is out of date"
        )
    if INDEX in folder:
        return _read_sharded(folder)
    if SINGLE not in folder:
        raise _no_weights(folder)
    return [_read(folder, SINGLE)]


def _read(folder: Folder, name: str) -> SafetensorsFile:
    real, _ = folder.locate(name)
    try:
        return read_header(real, folder.path / name)
    except OSError as error:
        raise os_error(error, str(folder.path / name), "read") from None


def shard_places(folder: Folder) -> dict[str, str]:
    """Which file each tensor lies in, as index.json says; every name is that of a safetensors file, without a path.

    Raises:
        FormatError: The index breaks a rule of its format, or a name leaves the folder.
    """
    path = folder.path / INDEX
    places = load_object(folder.read(INDEX, LARGEST_INDEX), path).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise FormatError("an object of tensor names and file names expected", path=path, where="weight_map")
    for tensor, shard in places.items():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
            raise FormatError(
                f"the name of a safetensors file in this folder expected, found {shown(shard)}",
                path=path,
                where=f"weight_map: {shown(tensor)}",
            )
    return places


def _read_sharded(folder: Folder) -> list[SafetensorsFile]:
    places = shard_places(folder)
    shards = sorted(set(places.values()))
    missing = [shard for shard in shards if shard not in folder]
    if missing:
        raise ConvertError(
            f"{len(missing)} of {len(shards)} files of the index are missing, the first is {missing[0]}",
            path=folder.path,
            fix="download the checkpoint again",
        )
    extra = sorted(name for name in folder.names - set(shards) if _NUMBERED.fullmatch(name))
    if extra:
        raise ConvertError(
            f"not in {INDEX}, so it may belong to another version",
            path=folder.path / extra[0],
            fix="remove one of them",
        )
    files = [_read(folder, shard) for shard in shards]
    _check_places(places, dict(zip(shards, files)), folder.path / INDEX)
    return files


def _check_places(places: dict[str, str], files: dict[str, SafetensorsFile], path: Path) -> None:
    """Every tensor must lie in the one file that the index names."""
    found: dict[str, str] = {}
    for shard, file in files.items():
        for tensor in file.tensors:
            if tensor.name in found:
                raise ConvertError(f"in {found[tensor.name]} and in {shard}", path=path, where=_tensor(tensor.name))
            found[tensor.name] = shard
            if tensor.name not in places:
                raise ConvertError(f"in {shard}, but not in the index", path=path, where=_tensor(tensor.name))
    for name, shard in places.items():
        if found.get(name) != shard:
            place = found.get(name, "no file")
            raise ConvertError(f"in {place}, the index says {shard}", path=path, where=_tensor(name))


def _tensor(name: str) -> str:
    return f"tensor {shown(name)}"


def _no_weights(folder: Folder) -> GGQError:
    """Why there is nothing to convert, from what there is instead."""
    names = sorted(folder.names)
    if "adapter_model.safetensors" in folder:
        return ConvertError(
            "an adapter (LoRA) found, not a whole model", path=folder.path, fix="merge it into its base model first"
        )
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles:
        return ConvertError(
            f"only pickled weights found ({shown(pickles[0])}), which can run code and are never opened",
            path=folder.path,
            fix="convert them to safetensors first: load the model with transformers and save_pretrained it",
        )
    if any(name.endswith(".gguf") for name in names):
        return ConvertError(
            "only a GGUF file found, which is quantized already",
            path=folder.path,
            fix="convert the original checkpoint",
        )
    others = [name for name in names if name.endswith(".safetensors")]
    hint = f"; found {shown(others[0])} without {INDEX}" if others else ""
    return ConvertError(f"neither {SINGLE} nor {INDEX}{hint}", path=folder.path, fix="download the whole checkpoint")
