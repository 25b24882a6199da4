"""`ggq.serve`: a server from Python."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggq.errors import UsageError
from ggq.serve.settings import Options, takes_settings

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from typing_extensions import Unpack

Paths = str | os.PathLike[str]


def make_settings(models: Paths | Sequence[Paths] | Mapping[str, Paths], **options: Any) -> Any:
    """The settings of a server, checked.

    Args:
        models: A file or folder, several, or files by name.
        options: See `ggq.serve.settings.Settings`.

    Raises:
        GGQError: A file is not there, a name occurs twice, an option is unknown or out of range.
    """
    need_packages()
    from ggq.adapters.lowrank import folder_of
    from ggq.serve.models import named_models
    from ggq.serve.settings import Settings

    if isinstance(models, Mapping):
        named = {name: Path(path) for name, path in models.items()}
    else:
        listed = [models] if isinstance(models, str | os.PathLike) else models
        named = named_models([Path(path) for path in listed])
    for name, path in named.items():
        if not path.is_file():
            raise UsageError("there is no such file", path=path)
        if not name or len(name) > 256:
            raise UsageError(f"a model's name has 1 to 256 characters, not {len(name)}", path=path)
    known = set(Settings.__dataclass_fields__) - {"models"}
    for name in options:
        if name not in known:
            raise UsageError(f"there is no option {name!r}; there are {', '.join(sorted(known))}")
    for alias, name in dict(options.get("aliases", {})).items():
        if name not in named or alias in named:
            raise UsageError(f"the alias {alias!r} must be a new name of a model; {name!r} is given")
    for name, adapter in dict(options.get("adapters", {})).items():
        if adapter.model not in named or name in named or name in options.get("aliases", {}):
            raise UsageError(f"the adapter {name!r} must be a new name, of a model; {adapter.model!r} is given")
        for folder in adapter.folders:
            if not folder_of(folder).is_dir():
                raise UsageError("there is no such folder", path=folder_of(folder))
    if not 0 < options.get("share", 0.5) <= 1:
        raise UsageError(f"share is {options['share']!r}, a number above 0 and at most 1 is allowed")
    if options.get("images", "refuse") not in ("refuse", "mention"):
        raise UsageError(f"images is {options['images']!r}, allowed are refuse and mention")
    return Settings(named, **options)


def need_packages() -> None:
    """Refuse to serve where the packages for it are missing.

    Raises:
        UsageError: One is not installed.
    """
    from importlib.util import find_spec

    missing = [name for name in ("starlette", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if missing:
        problem = f"a server needs {' and '.join(missing)}, which is not installed"
        raise UsageError(problem, fix='pip install "ggq[serve]"')


@takes_settings
def asgi(models: Paths | Sequence[Paths] | Mapping[str, Paths], **options: Unpack[Options]) -> Starlette:
    """An ASGI application that serves models, to be mounted in another one or run by a server of one's own.

    A mounted application is not told when the outer one starts and ends: call its lifespan there, or leave models to
    be loaded when they are asked for, which works without.

    Args:
        models: A file or folder, several, or files by name.
        {options}

    Raises:
        GGQError: See `make_settings`.
    """
    settings = make_settings(models, **options)
    from ggq.serve.application import application

    return application(settings)


@takes_settings
def serve(
    models: Paths | Sequence[Paths] | Mapping[str, Paths],
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    **options: Unpack[Options],
) -> None:
    """Serve models by the interfaces of OpenAI and Anthropic, until a signal says to end.

    Args:
        models: A file or folder, several, or files by name.
        host: The address to listen on; this machine alone by default.
        port: 0 for any that is free.
        {options}

    Raises:
        GGQError: See `make_settings`; or the address cannot be listened on.
    """
    settings = make_settings(models, **options)
    from ggq.serve.server import log_to_stderr, run

    log_to_stderr()
    run(settings, host, port)
