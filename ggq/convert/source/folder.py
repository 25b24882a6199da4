"""Opening the files of a checkpoint's folder: only regular ones, only up to a size, and none that lies elsewhere.

A link out of the folder is followed to a file of the same name: a folder of links to another disk is one. A stranger's
checkpoint gains nothing by that, as it can only name files that are called as those of a model are, and are checked so.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ggq.errors import ConvertError
from ggq.format.paths import kind_of, os_error


class Folder:
    """A checkpoint's folder.

    Args:
        path: The folder; it may itself be a symbolic link.
        follow_links: Whether its files may be links to somewhere else, such as another disk.

    Raises:
        ConvertError: It is no folder.
        GGQError: It cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], *, follow_links: bool = False) -> None:
        self.path, self.follow_links = Path(path), follow_links
        try:
            self.real = Path(os.path.realpath(self.path, strict=True))
            self.names = frozenset(os.listdir(self.real))
        except NotADirectoryError:
            raise ConvertError(
                "a folder with config.json and safetensors files expected, found a file",
                path=self.path,
                fix="give the folder that holds config.json and the weights",
            ) from None
        except OSError as error:
            raise os_error(error, os.fspath(self.path), "read") from None
        self.roots = (self.real, *blob_folders(self.real))

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def locate(self, name: str) -> tuple[Path, os.stat_result]:
        """The real path of a file in the folder, and its state.

        Raises:
            ConvertError: It is missing, no regular file, or a symbolic link to somewhere else.
            GGQError: The system refuses.
        """
        path = self.path / name
        try:
            real = Path(os.path.realpath(path, strict=True))
            state = real.stat()
        except FileNotFoundError:
            raise ConvertError("missing", path=path) from None
        except OSError as error:
            raise os_error(error, os.fspath(path), "open") from None
        here = self.follow_links or real.name == name or any(real.is_relative_to(root) for root in self.roots)
        if not here:
            raise ConvertError(
                "a symbolic link out of the folder, which a checkpoint of a stranger could point at any file of yours",
                path=path,
                fix="--follow-links allows it where you made the link",
            )
        if not stat.S_ISREG(state.st_mode):
            raise ConvertError(f"a file expected, found {kind_of(state.st_mode)}", path=path)
        return real, state

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of a small file.

        Args:
            name: In the folder.
            limit: Bytes that it may have.

        Raises:
            ConvertError: As `locate`, or the file is larger.
        """
        real, state = self.locate(name)
        if state.st_size > limit:
            raise ConvertError(f"{state.st_size} bytes found, up to {limit} allowed", path=self.path / name)
        try:
            with real.open("rb") as file:
                return file.read(limit)
        except OSError as error:
            raise os_error(error, os.fspath(self.path / name), "read") from None


def blob_folders(folder: Path) -> tuple[Path, ...]:
    """Where a folder of the Hugging Face cache keeps the bytes of its files; nothing for any other folder.

    A snapshot lies in models--ORG--NAME/snapshots/COMMIT as symbolic links to models--ORG--NAME/blobs, and newer
    versions share blobs among models in a folder beside those.
    """
    model = folder.parent.parent
    if folder.parent.name != "snapshots" or not model.name.startswith("models--"):
        return ()
    return (model / "blobs", model.parent / "blobs")
