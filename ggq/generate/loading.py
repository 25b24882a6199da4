"""From a file to a model that can run: its config, its tensors checked against that, an executor."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ggq.engine.prefault import map_pages
from ggq.errors import ModelError, UnsupportedError, UsageError
from ggq.format import open_reader
from ggq.format.container import Container
from ggq.format.scheme import Scheme
from ggq.format.stacks import unstacked
from ggq.generate.model import LONGER, Model
from ggq.generate.sampling import whole
from ggq.models.build import build_program, role_shapes
from ggq.models.fields import shown
from ggq.models.metadata import from_metadata
from ggq.models.parts import Stack, check, ropes
from ggq.models.rope import Dynamic
from ggq.models.text.parts import TextSpec
from ggq.notebook import compiling
from ggq.quant.stored import decoded, undecodable
from ggq.tape.executor import Executor
from ggq.tape.program import Program

ACTIVATIONS, CACHES, INTERPRETERS = ("int8", "float32"), ("f16", "f32"), ("numba", "numpy")

F16_ROOM = 65504 / 4
"""Largest bias of keys and values that are kept in f16: what weights add must fit too, or it is told as NaN."""


def load(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    activations: str = "int8",
    cache: str | None = None,
    interpreter: str = "numba",
    cache_bytes: int | None = None,
    lora: Sequence[str] = (),
    context: int | None = None,
    allow_longer: bool = False,
) -> Model:
    """Open a model to run it, as `ggq.load`.

    Args:
        path: A .ggq file.
        threads: Threads of the kernels; by default one for each physical core.
        activations: "int8" (fast) or "float32" (exact) where they meet quantized matrices.
        cache: Float type of the key-value cache, "f16" or "f32"; by default "f32" only for a model kept in f32 whole.
        interpreter: "numba", or "numpy", the slow reference.
        cache_bytes: Most bytes of keys and values; by default half of the memory that this process may use. What does
            not fit at once waits for its turn. The reference has no such limit.
        lora: LoRA adapters of PEFT that are computed beside the model's matrices, each a folder or "FOLDER=WEIGHT".
        context: Most tokens of a text; by default those that the model was made for.
        allow_longer: `context` may be more than that. RoPE goes on as it is, and what the model makes of positions that
            it was not trained on may be bad.

    Raises:
        ConvertError: A folder of `lora` is no adapter, or one of another model.
        FormatError: The file breaks a rule of the format.
        ModelError: What it holds is no whole model: see `from_metadata` and `roles_to_names`.
        UnsupportedError: A model or a scheme that this version cannot run, or not with a longer context.
        UsageError: An argument is out of range; `context` is longer than the model was made for.
    """
    model = open_model(
        path,
        threads=threads,
        activations=activations,
        cache=cache,
        interpreter=interpreter,
        cache_bytes=cache_bytes,
        lora=lora,
        context=context,
        allow_longer=allow_longer,
    )
    try:
        with compiling() if interpreter == "numba" else nullcontext():
            model.executor  # noqa: B018  made here, so that what it cannot run is refused here
    except BaseException:
        model.close()
        raise
    return model


def open_model(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    activations: str = "int8",
    cache: str | None = None,
    interpreter: str = "numba",
    cache_bytes: int | None = None,
    lora: Sequence[str] = (),
    context: int | None = None,
    allow_longer: bool = False,
) -> Model:
    """A model that is checked and can read text, and is made ready to run, its kernels compiled, when it first runs.

    Args, Raises: See `load`; but a scheme that no kernel computes is refused when it is made ready.
    """
    choose("activations", activations, ACTIVATIONS)
    choose("interpreter", interpreter, INTERPRETERS)
    if threads is not None:
        threads = whole("threads", threads, 1)
    if cache_bytes is not None:
        cache_bytes = whole("cache_bytes", cache_bytes, 1)
    if context is not None:
        context = whole("context", context, 1)
    elif allow_longer:
        raise UsageError("a longer context is allowed, and none is asked for", fix=f"say how long: {LONGER}")
    if cache is not None:
        choose("cache", cache, CACHES)
    container = open_container(path)
    try:
        config = from_metadata(container.metadata, container.path)
        if context is not None:
            config = with_context(config, context, allow_longer, container.path)
        model = model_of(container, threads, activations, cache, interpreter, cache_bytes, lora, config)
    except BaseException:
        container.close()
        raise
    chosen = {"threads": threads, "activations": activations, "cache": cache, "lora": tuple(lora)}
    more = {"context": context, "allow_longer": allow_longer}
    model.options = {**chosen, **more, "interpreter": interpreter, "cache_bytes": cache_bytes}
    return model


def reload(path: str | os.PathLike[str], options: Mapping[str, Any]) -> Model:
    """A model by the keywords of `load`, such as a pickled one in another process."""
    return load(path, **options)


def open_container(path: str | os.PathLike[str]) -> Container:
    """A file of any kind that holds a model: .ggq, or GGUF.

    Raises:
        GGQError: It is neither, breaks a rule of its format, or holds what this version does not know.
    """
    from ggq.format.gguf.kind import is_gguf

    if is_gguf(path):
        from ggq.gguf.container import GGUFModel

        return GGUFModel(path)
    return unstacked(open_reader(path))


def model_of(
    container: Container,
    threads: int | None = None,
    activations: str = "int8",
    cache: str | None = None,
    interpreter: str = "numba",
    cache_bytes: int | None = None,
    lora: Sequence[str] = (),
    config: Stack | None = None,
) -> Model:
    """The model in an open file of any kind; see `open_model`. Its `close` closes the file; `config` is what its
    metadata says, or that with another context."""
    config = config or from_metadata(container.metadata, container.path)
    check_token_ids(container.metadata, config.vocabulary_size, container.path)
    names, program = roles_to_names(container, config), build_program(config)
    cache = cache or default_cache(container, names)
    if lora:
        from ggq.adapters.adapted import with_adapters

        container, program, names = with_adapters(container, program, names, lora)
    if interpreter == "numpy":
        return Model(container, config, partial(numpy_executor, container, program, names, activations, cache))
    bind = partial(numba_executor, container, program, names, activations, cache, threads, cache_bytes)
    return Model(container, config, bind)


def with_context(config: Stack, context: int, allow_longer: bool, path: str) -> Stack:
    """A model for texts of at most so many tokens.

    Raises:
        UsageError: They are more than it was made for, and that was not allowed; or more than it has positions.
        UnsupportedError: Its RoPE is of a form that cannot go on.
    """
    if context > config.context_length:
        made = f"a context of {context} tokens is longer than the {config.context_length} that the model was made for"
        if not allow_longer:
            raise UsageError(made, path=path, fix=f"leave it, or allow it: {LONGER}")
        if isinstance(config, TextSpec) and 0 < config.embedding.positions < context:
            problem = f"{made}, and it has {config.embedding.positions} learned positions"
            raise UsageError(problem, path=path, fix=f"a context of at most {config.embedding.positions} can be had")
        if any(isinstance(rope.scaling, Dynamic) for rope in ropes(config)):
            problem = f"{made}, and beyond it the dynamic form of its RoPE would change keys that are kept"
            raise UnsupportedError(problem, path=path)
    return check(replace(config, context_length=context), path)


def choose(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse an argument that is none of the allowed words."""
    if value not in allowed:
        raise UsageError(f"{name} is {value!r}, allowed are {', '.join(allowed)}")


def check_token_ids(metadata: Mapping[str, object], vocabulary: int, path: str) -> None:
    """Refuse a first or a last token that is none of the vocabulary (M-8)."""
    for key in ("tokenizer.bos_id", "tokenizer.eos_ids"):
        found = metadata.get(key)
        ids = found if isinstance(found, Iterable) and not isinstance(found, str | bytes) else [found]
        for token in [] if found is None else ids:
            if isinstance(token, bool) or not isinstance(token, int | np.integer) or not 0 <= token < vocabulary:
                raise ModelError(f"{shown(token)} found, token ids are 0 to {vocabulary - 1}", path=path, where=key)


def roles_to_names(container: Container, config: Stack) -> dict[str, str]:
    """Which tensor plays each role.

    Raises:
        ModelError: A tensor is missing, has another shape than the config says, no role in this model or another's.
        UnsupportedError: This version cannot decode one.
    """
    expected = role_shapes(config)
    names: dict[str, str] = {}
    for name, entry in container.tensors.items():
        role = entry.attributes.get("role")
        if not isinstance(role, str) or role not in expected:
            raise ModelError(f"its role {role!r} is none of this model's", path=container.path, where=f"tensor {name}")
        if role in names:
            raise ModelError(f"{names[role]} has the role {role} too", path=container.path, where=f"tensor {name}")
        if entry.shape != expected[role]:
            problem = f"shape {shape(entry.shape)}, {shape(expected[role])} expected for {role}"
            raise ModelError(problem, path=container.path, where=f"tensor {name}")
        if entry.scheme is None:
            raise undecodable(container, entry)
        names[role] = name
    missing = [role for role in expected if role not in names]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"no tensor for {missing[0]}{more}", path=container.path)
    return names


def shape(sizes: tuple[int, ...]) -> str:
    """A shape for a message."""
    return " x ".join(map(str, sizes))


def default_cache(container: Container, names: Mapping[str, str]) -> str:
    """ "f32" when every tensor is, as who keeps a model exact wants it run so, and when biases alone bring keys or
    values near the end of f16; else "f16"."""
    if all(entry.scheme == Scheme("float", 32, "f32") for entry in container.tensors.values()):
        return "f32"
    for role, name in names.items():
        if role.endswith((".attention.k.bias", ".attention.v.bias")):
            largest = np.abs(decoded(container, container.tensors[name])).max(initial=0)
            if not largest < F16_ROOM:
                return "f32"
    return "f16"


def numpy_executor(
    container: Container, program: Program, names: Mapping[str, str], activations: str, cache: str
) -> Executor:
    """The slow reference."""
    from ggq.quant.stored import StoredWeight, read_stored
    from ggq.tape.reference import NumpyExecutor

    def weight(role: str) -> StoredWeight:
        return read_stored(container, container.tensors[names[role]])

    return NumpyExecutor(program, weight, activations, cache)


def numba_executor(
    container: Container,
    program: Program,
    names: dict[str, str],
    activations: str,
    cache: str,
    threads: int | None,
    cache_bytes: int | None,
) -> Executor:
    """The kernels; numba is imported here and not before."""
    from ggq.engine.numba_executor import NumbaExecutor

    map_pages(container)
    executor: Executor = NumbaExecutor(
        program, container, names, threads=threads, activations=activations, cache=cache, cache_bytes=cache_bytes
    )
    getattr(container, "keep", lambda: None)()
    return executor
