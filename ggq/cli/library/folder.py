"""Where converted models are kept: what `ggq run ORG/NAME` and `ggq pull` make, and `list` and `rm` see."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from pathlib import Path

from ggq.cli.bars import conversion_bar, reporting
from ggq.cli.layout import remark
from ggq.cli.output import printable
from ggq.convert.options import Options
from ggq.errors import UsageError, nearest
from ggq.format.paths import DEMO, included

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?", re.ASCII)
SUFFIX = ".ggq"


def models_folder() -> Path:
    """The folder: GGQ_MODELS, or one in the user's cache folder."""
    if own := os.environ.get("GGQ_MODELS"):
        return Path(own)
    from platformdirs import user_cache_path

    try:
        return user_cache_path("ggq") / "models"
    except RuntimeError:
        raise UsageError("this user has no home", fix="set GGQ_MODELS to a folder for converted models") from None


def entries() -> list[Path]:
    """The models that are kept, by name."""
    folder = models_folder()
    return sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []


def kept_name(source: str) -> str:
    """What the model of a source is called there: "ORG--NAME", "NAME-01234567-89abcdef" for a folder, "demo"."""
    path = Path(included(source))
    if path == DEMO:
        return "demo"
    if path.is_dir():
        return f"{path.resolve().name}-{_place(path)}-{_state(path)}"
    return re.sub(r"[/\\]", "--", source)


def find_kept(name: str) -> Path:
    """The file of a kept model.

    Args:
        name: As `ggq list` prints it, or the source that it was made from.

    Raises:
        UsageError: There is no such model.
    """
    known = {path.stem: path for path in entries()}
    for wanted in (name, kept_name(name)):
        if wanted in known:
            return known[wanted]
    hint = nearest(name, known) or "`ggq list` lists the models"
    raise UsageError(f"no model {name!r} is kept", path=models_folder(), fix=hint)


def model_file(given: str, options: dict[str, object] | None = None) -> Path:
    """The file to run: what was given, or what a checkpoint was converted to, now or before.

    Args:
        given: A file; a checkpoint's folder, ORG/NAME on the hub, or "demo:".
        options: How it is converted, if it has to be.
    """
    path = Path(included(given))
    known = {each.stem: each for each in entries()} if not path.exists() else {}
    if given in known:
        return known[given]
    if not (is_checkpoint(path) if os.path.lexists(path) else HUB_ID.fullmatch(given)):
        return path
    return pull_model(given, options or {})


def is_checkpoint(path: Path) -> bool:
    """Whether a folder holds a checkpoint."""
    return (path / "config.json").is_file()


def pull_model(source: str, options: dict[str, object], *, force: bool = False) -> Path:
    """Convert a checkpoint into the folder, if that was not done before.

    Args:
        source: A checkpoint's folder, ORG/NAME[@REVISION] on the hub, or "demo:".
        options: Those of `ggq.convert`.
        force: Convert it again.

    Returns:
        The file.
    """
    out = models_folder() / f"{kept_name(source)}{SUFFIX}"
    if out.exists() and not force:
        return out
    from ggq.convert.behind import compile_behind
    from ggq.convert.convert import prepare, run

    out.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    remark(f"converting {printable(source)}, once; `ggq list` lists what is kept")
    start = time.perf_counter()
    given = Options(**{**options, "force": force})  # type: ignore[arg-type]
    with reporting() as report_to:
        planned, calibrated = prepare(source, out, replace(given, report=report_to))
    compile_behind(planned)
    with conversion_bar(planned.source_bytes) as progress:
        report = run(planned, out, replace(given, progress=progress), calibrated, start)
    remark(f"converted in {report.seconds:.2f} s")
    if Path(source).is_dir():  # what was made of this folder before it changed
        for path in out.parent.glob(f"*-{_place(Path(source))}-*{SUFFIX}"):
            if path != out:
                path.unlink()
    return out


def _place(folder: Path) -> str:
    """A digest of a folder's path."""
    from blake3 import blake3

    return blake3(os.fsencode(folder.resolve())).hexdigest(length=4)


def _state(folder: Path) -> str:
    """A digest of the names, sizes and times of a checkpoint's files: another one when it has changed."""
    from blake3 import blake3

    state = blake3()
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".jinja")):
        status = path.stat()
        state.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return state.hexdigest(length=4)
