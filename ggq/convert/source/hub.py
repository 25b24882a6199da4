"""Finding a checkpoint: a folder, or a model of the Hugging Face hub that is downloaded to its cache."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ggq.convert.source.assets import ASSETS
from ggq.convert.source.folder import Folder
from ggq.convert.source.shards import INDEX, SINGLE, shard_places
from ggq.convert.source.vocabularies.find import FILES
from ggq.errors import ConvertError, GGQError
from ggq.format.paths import included
from ggq.text.template import TEMPLATES

SMALL_FILES = [*ASSETS, INDEX, *FILES, "*_Pooling/config.json", f"{TEMPLATES}/*.jinja"]
SMALL_FILES += ["LICENSE*", "LICENCE*", "NOTICE*", "COPYING*"]
"""Downloaded first, so that a model that cannot be converted is refused before its weights are downloaded."""

_HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?", re.ASCII)


@dataclass(frozen=True)
class Source:
    """A checkpoint's folder.

    Args:
        folder: Where its files lie.
        name: What to call the model.
        origin: Where it comes from: ORG/NAME@COMMIT, or the folder's name without its path, which is nobody's business.
    """

    folder: Path
    name: str
    origin: str


Download = Callable[[str, str | None, list[str]], str]
"""Downloads the files of a model that match patterns and returns their folder: (ORG/NAME, revision, patterns)."""


def find_source(
    source: str | os.PathLike[str],
    check: Callable[[Path], None],
    download: Download | None = None,
    weights: list[str] | None = None,
    *,
    offline: bool = False,
) -> Source:
    """The folder of a checkpoint, downloaded if need be.

    Args:
        source: A folder, ORG/NAME or ORG/NAME@REVISION on the hub, or "demo:".
        check: Called with the folder once its small files are there; raises what makes downloading the rest pointless.
        weights: Patterns of the files with the weights; by default those that the index lists, or model.safetensors.
        download: What downloads; by default huggingface_hub, which minds HF_ENDPOINT, HF_HOME, HF_TOKEN and
            HF_HUB_OFFLINE, goes on where a connection broke, and keeps what it has.
        offline: Take what the cache has, and ask nobody.

    Raises:
        ConvertError: There is no such folder and no such model, or the hub refuses.
    """
    path = Path(included(source))
    text = os.fspath(source)
    if "\0" in text:
        raise ConvertError("a folder or a hub id expected, found a NUL character in it", path=repr(text))
    if os.path.lexists(path):
        name = os.path.realpath(path).rpartition(os.sep)[2].encode("utf-8", "replace").decode("utf-8")
        return Source(path, name, name)
    match = _HUB_ID.fullmatch(text)
    if match is None:
        raise ConvertError(
            "no such folder", path=path, fix="give the folder of a checkpoint, or ORG/NAME of a model on the hub"
        )
    name, revision = match["name"], match["revision"]
    fetch = download or partial(_download, offline=offline)
    try:
        folder = Path(fetch(name, revision, SMALL_FILES))
        check(folder)
        folder = Path(fetch(name, revision, [*SMALL_FILES, *(weights or _weight_files(folder))]))
    except GGQError:
        raise
    except Exception as error:  # the hub's client raises errors of several libraries, which change with its versions
        raise ConvertError(
            f"no such folder, and not from the hub: {_reason(error)}",
            path=text,
            fix="check the name and the network, or download the model's folder by other means and give that",
        ) from None
    commit = folder.name if folder.parent.name == "snapshots" else revision
    return Source(folder, name.rpartition("/")[2], f"{name}@{commit}" if commit else name)


def _weight_files(folder: Path) -> list[str]:
    """Names of the files with the weights, from the index if there is one."""
    small = Folder(folder)
    return sorted(set(shard_places(small).values())) if INDEX in small else [SINGLE]


def _download(name: str, revision: str | None, patterns: list[str], *, offline: bool = False) -> str:
    from huggingface_hub import snapshot_download

    return str(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=offline))


def _reason(error: Exception) -> str:
    """One line for what the hub's client raised."""
    known = {
        "GatedRepoError": "the model is gated; accept its terms on the hub and run `hf auth login`",
        "RepositoryNotFoundError": "no such model (a private one needs `hf auth login`)",
        "RevisionNotFoundError": "the model has no such revision",
        "DisabledRepoError": "the model was disabled",
        "LocalEntryNotFoundError": "it cannot be reached and the model is not in the cache",
        "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set and the model is not in the cache",
    }
    for kind in type(error).__mro__:
        if kind.__name__ in known:
            return known[kind.__name__]
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}{f': {line[:200]}' if line else ''}"
