"""`ggq export`: a checkpoint of safetensors files from a file, dequantized."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ggq.errors import ConvertError, ModelError, UnsupportedError, UsageError
from ggq.evaluate.compare import FileTensors
from ggq.export.restore import restored
from ggq.export.safetensors_output import DTYPES, INDEX, Output, file_names, float_output, index_text, write_file
from ggq.format import Reader, open_reader
from ggq.format.names import KEPT
from ggq.format.paths import os_error
from ggq.models.family import TIED
from ggq.models.names import Expression, Tensor
from ggq.models.registry import stored_expressions
from ggq.quant.floats import STORAGE, finite, from_float32, to_float32
from ggq.quant.stored import undecodable

CONFIG = "config.json"

T = TypeVar("T")

FORMATS = ("safetensors",)
"""What a file can be exported to."""

TORCH_NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}

SHARD_BYTES = 5_000_000_000
"""Bytes of the largest safetensors file, as transformers has it."""

Progress = Callable[[int, int], None]
"""Called with the bytes written and those in all."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        path: The folder.
        files: Names of the files in it, the largest first.
        bytes: Of all of them.
        exact: Tensors that are the checkpoint's own, bit for bit.
        dequantized: Tensors that were decoded.
    """

    path: Path
    files: tuple[str, ...]
    bytes: int
    exact: int
    dequantized: int


def export(
    file: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    dtype: str = "f32",
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> Exported:
    """Write a file's tensors and assets as a checkpoint that transformers loads.

    What a method has folded into neighbours is undone, and fused tensors are put together again. Tensors that the file
    keeps as floats have the type that they had in the checkpoint where it holds them exactly.

    Args:
        file: A .ggq file.
        out: A folder that does not exist yet, or is empty. It appears when it is whole.
        dtype: Of tensors that are dequantized: "f32" (exact), "f16" or "bf16" (rounded).
        shard_bytes: Bytes of the largest safetensors file; a larger model gets several and an index.
        progress: Called now and then.

    Raises:
        FormatError: The file breaks a rule of the format.
        ModelError: The file's config.json is not that of its tensors.
        UnsupportedError: A scheme or an architecture that this version does not have.
        UsageError: An option is none, or the place is taken.
        ConvertError: The disk has too little room.
    """
    if dtype not in DTYPES:
        raise UsageError(f"dtype is {dtype!r}, allowed are {', '.join(DTYPES)}")
    out = Path(out)
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError("it exists already", path=out, fix="give the name of a new folder")
    with open_reader(file) as reader:
        contents = _Contents(reader, dtype)
        files = file_names(contents.tensors, shard_bytes)
        _check_assets(contents.assets, {INDEX, *(name for name, _ in files)}, reader.path)
        _check_disk(out, sum(tensor.size for tensor in contents.tensors))
        write_folder(out, files, contents.assets, progress)
        return Exported(
            path=out,
            files=(*(name for name, _ in files), *contents.assets),
            bytes=sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
            exact=contents.exact,
            dequantized=contents.dequantized,
        )


class _Contents:
    """What a folder is to hold.

    Args:
        reader: The open file.
        dtype: Of dequantized tensors.
    """

    def __init__(self, reader: Reader, dtype: str) -> None:
        self.decoded, self.dtype = FileTensors(reader), dtype
        self.reader = self.decoded.reader
        self.assets = {name: bytes(asset.read()) for name, asset in reader.assets.items() if name != KEPT}
        self.exact = self.dequantized = 0
        self.tensors: list[Output] = []
        if self.decoded.is_bundle:
            self.tensors += [self._whole(name, name) for name in reader.tensors]
            self.tensors += self._kept()
        else:
            self.tensors += self._checkpoint(*self._expressions())
        if CONFIG in self.assets:
            self.assets[CONFIG] = self._config()

    def _expressions(self) -> tuple[dict[str, Expression], dict[str, str]]:
        """What each role's tensor is made of, and its name in the file."""
        roles = {str(entry.attributes.get("role", "")): name for name, entry in self.reader.tensors.items()}
        path = Path(f"{self.reader.path}: {CONFIG}")
        expressions = stored_expressions(self._parsed_config, roles, path)
        return expressions, roles

    def _checkpoint(self, expressions: Mapping[str, Expression], roles: Mapping[str, str]) -> Iterator[Output]:
        """The tensors of a model's checkpoint: whole ones first, then those that are put together."""
        groups: dict[str, list[str]] = {}
        for role, expression in expressions.items():
            if isinstance(expression, Tensor):
                yield self._whole(roles[role], expression.name)
            else:
                groups.setdefault(expression.names()[0], []).append(role)
        for together in connected(groups, expressions):
            yield from self._joined({role: expressions[role] for role in together}, roles)

    def _joined(self, expressions: Mapping[str, Expression], roles: Mapping[str, str]) -> Iterator[Output]:
        """Tensors that were taken apart or changed when the file was made."""
        entries = [self.reader.tensors[roles[role]] for role in expressions]
        exact = all(entry.scheme is not None and entry.scheme.kind == "float" for entry in entries)
        pieces = [(expression, self._numbers(roles[role])) for role, expression in expressions.items()]
        for name, numbers in restored(pieces).items():
            kind = self.dtype
            if exact:
                kind = next((each for each in self._source_types(entries) if _holds(numbers, each)), "f32")
            self.exact += exact
            self.dequantized += not exact
            yield float_output(name, kind, numbers.shape, _pieces(partial(_once, numbers), kind, name))

    def _whole(self, name: str, source: str) -> Output:
        """A tensor that a checkpoint has as the file has it."""
        entry = self.reader.tensors[name]
        if entry.scheme is None:
            raise undecodable(self.reader, entry)
        kind, shape = self.dtype, self.decoded.shapes[name]
        if entry.scheme.kind == "float":
            own = entry.scheme.value
            found = self._source_types([entry])
            same = bool(found) and "folded" not in entry.attributes and (own == found[0] or own == "f32")
            kind = found[0] if same else own
            self.exact += same
        else:
            self.dequantized += 1
        return float_output(source, kind, shape, _pieces(lambda: self.decoded.blocks(name), kind, source))

    def _numbers(self, name: str) -> np.ndarray:
        blocks = [block.reshape(-1) for block in self.decoded.blocks(name)]
        return np.concatenate(blocks).reshape(self.decoded.shapes[name])

    def _source_types(self, entries: Iterable[Any]) -> list[str]:
        """The one float type that tensors had in the checkpoint; empty where they had several or it is not known."""
        types = {str(entry.attributes.get("source_dtype", "")) for entry in entries}
        return [each for each in types if each in DTYPES] if len(types) == 1 else []

    def _kept(self) -> Iterator[Output]:
        """The tensors that no scheme holds."""
        if KEPT not in self.reader.assets:
            return
        from safetensors import SafetensorError, deserialize

        try:
            found = deserialize(bytes(self.reader.assets[KEPT].read()))
        except SafetensorError as error:
            raise ModelError(f"no safetensors file: {error}", path=self.reader.path, where=KEPT) from None
        for name, tensor in found:
            data = bytes(tensor["data"])
            self.exact += 1
            yield Output(name, tensor["dtype"], tuple(tensor["shape"]), len(data), partial(_once, memoryview(data)))

    @cached_property
    def _parsed_config(self) -> dict[str, Any]:
        if CONFIG not in self.assets:
            raise UnsupportedError(
                f"there is no {CONFIG} in it, without which no checkpoint can be made", path=self.reader.path
            )
        try:
            found = json.loads(self.assets[CONFIG])
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ModelError("an object expected", path=self.reader.path, where=CONFIG)
        return found

    def _config(self) -> bytes:
        """config.json, changed where the checkpoint is no longer what it says."""
        config = self._parsed_config
        changed = {key: value for key, value in config.items() if key != "quantization_config"}
        if any(tensor.name == "lm_head.weight" for tensor in self.tensors) and changed.get(TIED):
            changed[TIED] = False
        if self.dequantized:
            changed.update({key: TORCH_NAMES[self.dtype] for key in ("dtype", "torch_dtype") if key in changed})
        return self.assets[CONFIG] if changed == config else (json.dumps(changed, indent=2) + "\n").encode()


def connected(groups: Mapping[str, list[str]], expressions: Mapping[str, Expression]) -> Iterator[list[str]]:
    """Roles that share source tensors, together."""
    seen: set[str] = set()
    for roles in groups.values():
        together = [role for role in roles if role not in seen]
        names = {name for role in together for name in expressions[role].names()}
        more = [role for role, each in expressions.items() if role not in together and names & set(each.names())]
        together += [role for role in more if role not in seen]
        seen.update(together)
        if together:
            yield together


def _pieces(blocks: Callable[[], Iterator[np.ndarray]], kind: str, name: str) -> Callable[[], Iterator[memoryview]]:
    def made() -> Iterator[memoryview]:
        for block in blocks():
            stored = np.ascontiguousarray(from_float32(block, kind))
            if not np.all(finite(stored, kind)):
                problem = f"a number is too large for {kind}"
                raise UsageError(problem, where=f"tensor {name}", fix="give --dtype f32 or bf16")
            yield stored.view(np.uint8).reshape(-1).data

    return made


def _once(piece: T) -> Iterator[T]:
    yield piece


def _holds(numbers: np.ndarray, kind: str) -> bool:
    """Whether a float type holds numbers exactly."""
    return np.array_equal(to_float32(from_float32(numbers, kind).view(STORAGE[kind]), kind), numbers)


def _check_assets(assets: Iterable[str], weights: set[str], path: str) -> None:
    """Refuse assets that would take the place of the weights, of their index, or of a folder of another asset."""
    folders = {os.fspath(parent) for name in assets for parent in Path(name).parents}
    for name in assets:
        if name in weights or name in folders or weights & {os.fspath(parent) for parent in Path(name).parents}:
            raise ModelError("an asset has the name of another file of a checkpoint", path=path, where=f"asset {name}")


def _check_disk(out: Path, needed: int) -> None:
    folder = Path(os.path.realpath(out)).parent
    if not folder.is_dir():
        raise UsageError("its folder does not exist", path=out, fix=f"mkdir -p {folder}")
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConvertError(f"the disk has {free} bytes free, {needed} are needed", path=out)


def write_folder(
    out: Path,
    files: list[tuple[str, list[Output]]],
    assets: Mapping[str, bytes],
    progress: Progress | None = None,
    more: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Everything into a folder of a temporary name, which then takes its own.

    Args:
        out: Its own name.
        files: What each safetensors file holds.
        assets: Other files.
        progress: Called now and then.
        more: Called with the folder to write what else belongs there.
    """
    total, done = sum(tensor.size for _, tensors in files for tensor in tensors), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    real = Path(os.path.realpath(out))
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{real.name}.", dir=real.parent))
        try:
            for name, tensors in files:
                write_file(made / name, tensors, advance)
            if len(files) > 1:
                (made / INDEX).write_text(index_text(files), encoding="utf-8")
            for name, data in assets.items():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                (made / name).write_bytes(data)
            more(made)
            umask = os.umask(0)
            os.umask(umask)
            made.chmod(0o777 & ~umask)
            with suppress(FileNotFoundError):
                real.rmdir()
            made.rename(real)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    except OSError as error:
        raise os_error(error, os.fspath(out), "write") from None
