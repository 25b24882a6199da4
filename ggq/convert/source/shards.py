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


def read_files(folder: Folder) -> tuple[list[SafetensorsFile], list[str]]:
    """The headers of a checkpoint's files, in the order of their names, and what is odd about them in words.

    An index only says which files there are: each tensor must be in one of them and in one alone, wherever (S-8).

    Raises:
        ConvertError: No safetensors files, a shard missing or one too many, a tensor twice.
        FormatError: A header or the index breaks a rule of its format.
    """
    if INDEX not in folder:
        if SINGLE not in folder:
            raise _no_weights(folder)
        return [_read(folder, SINGLE)], []
    places = shard_places(folder)
    shards, notes = _choose_files(folder, sorted(set(places.values())))
    files = [_read(folder, shard) for shard in shards]
    found = _check_unique(dict(zip(shards, files)), folder.path / INDEX)
    moved = [name for name, shard in places.items() if name in found and found[name] != shard]
    if moved and not notes:
        notes.append(f"{INDEX} puts {len(moved)} of {len(places)} tensors into other files than they are in")
    return files, notes


def read_all_files(folder: Folder, one: str | None = None) -> list[SafetensorsFile]:
    """The headers of all safetensors files of a folder, or of one of them, in the order of their names.

    Raises:
        ConvertError: There is none, or a tensor is in two.
        FormatError: A header breaks a rule of its format.
    """
    names = sorted(name for name in folder.names if name.endswith(".safetensors")) if one is None else [one]
    if not names:
        raise _no_weights(folder)
    files = [_read(folder, name) for name in names]
    _check_unique(dict(zip(names, files)), folder.path)
    return files


def _choose_files(folder: Folder, listed: list[str]) -> tuple[list[str], list[str]]:
    """The files to read where the index lists these, and what is odd about that."""
    missing = [shard for shard in listed if shard not in folder]
    numbered = sorted(name for name in folder.names if _NUMBERED.fullmatch(name))
    if SINGLE in folder and listed != [SINGLE]:
        if len(missing) == len(listed) and not numbered:
            return [SINGLE], [f"{INDEX} is of another split: none of its files is here"]
        raise ConvertError(
            f"{SINGLE} and {INDEX} both found", path=folder.path, fix="remove the one that is out of date"
        )
    extra = [name for name in numbered if name not in listed]
    if not missing and not extra:
        return listed, []
    if numbered and _is_whole(numbered):
        return numbered, [f"{INDEX} is of another split: it does not list the {len(numbered)} files that are here"]
    if missing:
        raise ConvertError(
            f"{len(missing)} of {len(listed)} files of the index are missing, the first is {missing[0]}",
            path=folder.path,
            fix="download the checkpoint again",
        )
    raise ConvertError(
        f"not in {INDEX}, so it may belong to another version",
        path=folder.path / extra[0],
        fix="remove one of them",
    )


def _is_whole(names: list[str]) -> bool:
    """Whether these are all the files of one numbered split, and of no other."""
    parts = [tuple(map(int, name.removesuffix(".safetensors").split("-")[1::2])) for name in names]
    return sorted(parts) == [(number, len(names)) for number in range(1, len(names) + 1)]


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


def _check_unique(files: dict[str, SafetensorsFile], path: Path) -> dict[str, str]:
    """Which file each tensor lies in; one in two files may have other numbers in each."""
    found: dict[str, str] = {}
    for shard, file in files.items():
        for tensor in file.tensors:
            if tensor.name in found:
                raise ConvertError(f"in {found[tensor.name]} and in {shard}", path=path, where=_tensor(tensor.name))
            found[tensor.name] = shard
    return found


def _tensor(name: str) -> str:
    return f"tensor {shown(name)}"


def _no_weights(folder: Folder) -> GGQError:
    """Why there is nothing to convert, from what there is instead."""
    names = sorted(folder.names)
    if "adapter_model.safetensors" in folder:
        return ConvertError(
            "an adapter (LoRA) found, not a whole model",
            path=folder.path,
            fix="give its base model, and this folder with --lora",
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
