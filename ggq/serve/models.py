"""The models of a server: loaded when they are asked for, unloaded when nobody asks or memory is short."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ggq.engine.footprint import available_memory
from ggq.errors import GGQError
from ggq.generate.loading import load
from ggq.generate.scheduler import Policy
from ggq.generate.serving.asynchronous import AsyncModel
from ggq.generate.serving.pace import Measured
from ggq.models.text.parts import VectorHead, head_of
from ggq.serve.errors import ApiError
from ggq.serve.settings import Settings

log = logging.getLogger("ggq.serve")

RESERVE = 1 << 30
"""Bytes of memory that the caches leave to others."""
LEAST_CACHE = 64 << 20
"""Bytes of a cache at least, however little memory there is."""


class Served:
    """One model of a server.

    Args:
        name: As requests call it.
        path: Its file.
        parent: The model that it is with adapters; "" for a model itself.
        lora: The adapters, FOLDER or FOLDER=WEIGHT each.
    """

    def __init__(self, name: str, path: Path, parent: str = "", lora: tuple[str, ...] = ()) -> None:
        self.name, self.path, self.parent, self.lora = name, path, parent, lora
        self.created = int(path.stat().st_mtime)
        self.model: AsyncModel | None = None
        self.in_use = 0
        """Requests that use it or wait for it."""
        self.used = time.monotonic()
        self.loading = asyncio.Lock()
        self.damaged = False
        """Whether its file was damaged while it ran."""
        self._file = (0, 0, 0)  # what the file was when it was loaded

    def note_file(self) -> None:
        """Remember which file is loaded."""
        found = self.path.stat()
        self._file, self.damaged = (found.st_ino, found.st_size, found.st_mtime_ns), False

    @property
    def outdated(self) -> bool:
        """Whether the file was replaced, changed or damaged since it was loaded."""
        try:
            found = self.path.stat()
        except OSError:
            return self.damaged  # what is mapped is there all the same
        return self.damaged or self._file != (found.st_ino, found.st_size, found.st_mtime_ns)

    @property
    def state(self) -> str:
        """ "loaded", "loading" or "unloaded"."""
        return "loaded" if self.model is not None else "loading" if self.loading.locked() else "unloaded"

    @property
    def loaded(self) -> AsyncModel:
        """The model, which a request that uses it keeps loaded."""
        assert self.model is not None
        return self.model

    @property
    def makes_vectors(self) -> bool:
        """Whether it makes vectors or scores of texts, and continues none."""
        return isinstance(head_of(self.loaded.model.config), VectorHead)

    @property
    def context(self) -> int:
        """Most tokens of a sequence."""
        return self.loaded.model.config.context_length

    def measured(self) -> dict[str, float]:
        """What the metrics tell of it now."""
        executor, scheduler = self.loaded.model.executor, self.loaded.scheduler
        limit = max(1, self.loaded.cache_limit)
        used = limit - executor.room() if scheduler is not None else 0
        counts = None if scheduler is None else scheduler.counts
        prefixes = None if scheduler is None else scheduler.prefixes
        return {
            "running": 0 if counts is None else min(counts.running, self.loaded.unfinished),
            "waiting": 0 if counts is None else max(0, self.loaded.unfinished - counts.running),
            "cache": used / limit,
            "cache_bytes": used,
            "kept": 0 if prefixes is None else prefixes.kept,
            "preempted": 0 if counts is None else counts.preempted,
            "steps": 0 if counts is None else counts.steps,
            "queries": 0 if prefixes is None else prefixes.queries,
            "hits": 0 if prefixes is None else prefixes.hits,
        }


class Models:
    """All models of a server.

    Args:
        settings: Which, and how they are loaded.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.by_name = {name: Served(name, Path(path)) for name, path in settings.models.items()}
        for name, adapter in settings.adapters.items():
            path = Path(settings.models[adapter.model])
            self.by_name[name] = Served(name, path, adapter.model, adapter.folders)
        self.closing = False

    def __iter__(self) -> Iterator[Served]:
        return iter(self.by_name.values())

    def find(self, name: str | None) -> Served:
        """The model of a name or alias; the only one where a request names none.

        Raises:
            ApiError: 404, there is none of that name; 400, there are several and none is named.
        """
        if name is None:
            if len(self._settings.models) != 1:
                raise ApiError(400, "model is missing", param="model", code="model_missing")
            return next(iter(self.by_name.values()))
        found = self.by_name.get(self._settings.aliases.get(name, name))
        if found is None:
            names = ", ".join(map(repr, self.by_name))
            raise ApiError(
                404, f"there is no model {name!r:.80}; there are {names}", param="model", code="model_not_found"
            )
        return found

    @contextmanager
    def use(self, served: Served) -> Iterator[None]:
        """Keep a model while a request uses it.

        Raises:
            ApiError: 503, the server ends; 429, too many requests wait for the model.
        """
        if self.closing:
            raise ApiError(503, "the server is shutting down", retry=5)
        if served.in_use >= self._settings.most_waiting:
            problem = f"{served.in_use} requests wait or run already, the most that are taken in"
            raise ApiError(429, problem, code="too_many_requests", retry=5)
        served.in_use += 1
        try:
            yield
        finally:
            served.in_use -= 1
            served.used = time.monotonic()

    async def ready(self, served: Served) -> AsyncModel:
        """The loaded model.

        Raises:
            ApiError: 503, it cannot be loaded.
        """
        if served.model is None or (served.in_use <= 1 and served.outdated):
            async with served.loading:
                if served.model is not None and served.in_use <= 1 and served.outdated:
                    await self.unload(served)
                if served.model is None:
                    await self._make_room(served)
                    served.note_file()
                    served.model = await self._load(served)
        return served.model

    async def _load(self, served: Served) -> AsyncModel:
        settings, start = self._settings, time.perf_counter()
        log.info("%s is being loaded", served.name)
        arguments: dict[str, Any] = dict(settings.load)
        arguments["cache_bytes"] = settings.cache_memory or default_cache(served.path)
        try:
            model = await asyncio.to_thread(lambda: load(served.path, lora=served.lora, **arguments))
        except (GGQError, OSError, MemoryError) as problem:
            log.error("%s cannot be loaded: %s", served.name, " ".join(str(problem).split()))
            text = problem.problem if isinstance(problem, GGQError) else type(problem).__name__
            raise ApiError(503, f"the model cannot be loaded: {text}", code="model_not_loaded", retry=60) from None
        log.info("%s is loaded (%.2f s)", served.name, time.perf_counter() - start)
        policy = Policy(Measured(settings.share), prefixes=True, most_running=settings.most_running)
        return AsyncModel(model, policy, cache_limit=arguments["cache_bytes"])

    async def _make_room(self, wanted: Served) -> None:
        """Unload models that nobody uses, those unused longest first, while memory is short."""
        try:
            need = wanted.path.stat().st_size + RESERVE
        except OSError as problem:
            text = f"the model cannot be loaded: {problem.strerror}"
            raise ApiError(503, text, code="model_not_loaded", retry=60) from None
        others = sorted((each for each in self if each.model is not None), key=lambda each: each.used)
        for other in others:
            if available_memory() >= need:
                return
            if not other.in_use:
                await self.unload(other)

    async def unload(self, served: Served) -> None:
        """Let go of a model."""
        model, served.model = served.model, None
        if model is not None:
            log.info("%s is unloaded", served.name)
            await model.aclose()

    async def unload_idle(self) -> None:
        """Unload now and then what was not used for as long as the settings say; ends when it is cancelled."""
        idle = self._settings.idle
        while True:
            await asyncio.sleep(max(0.05, min(idle / 4, 15)))
            for served in self:
                if served.model is not None and not served.in_use and time.monotonic() - served.used > idle:
                    await self.unload(served)

    async def close(self) -> None:
        """Refuse what comes, and end what runs."""
        self.closing = True
        for served in self:
            await self.unload(served)


def default_cache(path: Path) -> int:
    """Bytes of a model's cache: what the machine has left beside the model's file, less a reserve."""
    return max(LEAST_CACHE, available_memory() - path.stat().st_size - RESERVE)


def named_models(paths: Mapping[str, Path] | list[Path]) -> dict[str, Path]:
    """Files by name: a file's own without its ending; a folder stands for the models in it.

    Raises:
        GGQError: There is none, or two have one name.
    """
    if isinstance(paths, Mapping):
        return dict(paths)
    found: dict[str, Path] = {}
    for path in paths:
        files = sorted(each for each in path.iterdir() if each.suffix in (".ggq", ".gguf")) if path.is_dir() else [path]
        if not files:
            raise GGQError("there is no .ggq or .gguf file in it", path=path)
        for file in files:
            if file.stem in found:
                raise GGQError(f"two models are named {file.stem}", path=file, fix="rename one, or give NAME=FILE")
            found[file.stem] = file
    return found
