"""Renders chat templates in processes of their own, which can be killed: a template is a program from a stranger.

Reads one JSON document from standard input, writes one to standard output. With --keep it reads requests until there
are none for a while, and forks for each; a document is 8 bytes with its length, and what follows, and a length of -1
stands for an answer that there is not, -2 for no process to be had. Run as a script, it imports nothing of ggq.
"""

from __future__ import annotations

import json
import os
import select
import sys
from datetime import datetime
from typing import Any

SECONDS = 2
"""Processor time, where the system can limit it; the parent limits the time on the clock."""

PATIENCE = 300_000
"""Milliseconds without a request after which a process that is kept ends."""


def limit_resources(memory: int) -> None:
    """Ask the system to stop this process when it takes so many bytes more than it has, or too much time."""
    try:
        import resource
    except ImportError:  # Windows: the parent's clock and the length of the output remain
        return
    held = 0
    try:
        with open("/proc/self/statm") as file:
            held = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        held = 1 << 30
    for kind, amount in (
        (resource.RLIMIT_AS, held + memory),
        (resource.RLIMIT_CPU, SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(kind, (amount, amount))
        except (OSError, ValueError):  # a lower limit holds already, or macOS, which does not limit the address space
            pass


def guarded_namespace() -> Any:
    """The class of what a template may change from within a loop, without names that begin with _."""
    from jinja2.exceptions import SecurityError
    from jinja2.utils import Namespace

    def no_private_name(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace has no {name!r} for a template: names there do not begin with _")

    class Variables(Namespace):
        def __init__(*given: Any, **more: Any) -> None:
            own, *positional = given
            named = dict(*positional, **more)
            for name in named:
                no_private_name(name)
            Namespace.__init__(own, named)

        def __setitem__(self, name: Any, value: Any) -> None:
            no_private_name(name)
            super().__setitem__(name, value)

    return Variables


def render(request: dict[str, Any]) -> dict[str, str]:
    """{"text": ...}, or {"refused": ...} when the template itself refuses the messages, or {"error": ...}."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Refused(Exception):
        pass

    class Generation(Extension):
        """{% generation %} marks the assistant's words for training; what it encloses is rendered as it is."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def raise_exception(message: object) -> None:
        raise Refused(str(message))

    def tojson(
        x: object, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"], environment.globals["namespace"] = raise_exception, guarded_namespace()
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    pieces, room = [], int(request["limit"])
    try:
        for piece in environment.from_string(request["template"]).generate(**request["variables"]):
            room -= len(piece)
            if room < 0:
                return {"error": f"its output is longer than {request['limit']} characters"}
            pieces.append(piece)
    except Refused as problem:
        return {"refused": str(problem)}
    except RecursionError:
        return {"error": "it recurses too deeply"}
    except MemoryError:
        return {"error": "it takes too much memory"}
    except TemplateError as problem:
        return {"error": f"{type(problem).__name__}: {problem}"}
    except Exception as problem:  # whatever a stranger's program may raise
        return {"error": f"{type(problem).__name__}: {problem}"}
    return {"text": "".join(pieces)}


def answer(request: dict[str, Any]) -> bytes:
    """The answer to a request, under its limits."""
    import jinja2.sandbox  # noqa: F401  before the limits: they are the template's, not the library's

    limit_resources(request["memory"])
    return json.dumps(render(request)).encode("ascii")


def keep() -> None:
    """Answer requests, each in a process that is forked."""
    waiting = select.poll()
    waiting.register(0, select.POLLIN)
    while waiting.poll(PATIENCE) and (head := read(0, 8)):
        request = json.loads(read(0, int.from_bytes(head, "little", signed=True)))
        if "jinja2" not in sys.modules:
            sys.path[:] = request["path"]
            import jinja2.sandbox  # noqa: F401
        try:
            found = forked(request)
            size = -1 if found is None else len(found)
        except BlockingIOError:
            found, size = None, -2
        write(1, size.to_bytes(8, "little", signed=True) + (found or b""))


def forked(request: dict[str, Any]) -> bytes | None:
    """The answer of a process that is forked; None where that was stopped."""
    from_child, to_parent = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            write(to_parent, answer(request))
            os._exit(0)
        finally:
            os._exit(1)
    os.close(to_parent)
    pieces = []
    while piece := os.read(from_child, 1 << 16):
        pieces.append(piece)
    os.close(from_child)
    return None if os.waitpid(child, 0)[1] else b"".join(pieces)


def read(number: int, size: int) -> bytes:
    """So many bytes; none where nothing comes any more."""
    found = bytearray()
    while len(found) < size and (piece := os.read(number, size - len(found))):
        found += piece
    return bytes(found) if len(found) == size else b""


def write(number: int, data: bytes) -> None:
    """Write all of it."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(number, rest) :]


def main() -> None:
    """Answer the one request, or with --keep many."""
    if sys.argv[1:] == ["--keep"]:
        keep()
        return
    request = json.loads(sys.stdin.buffer.read())
    sys.path[:] = request["path"]
    sys.stdout.buffer.write(answer(request))


if __name__ == "__main__":
    main()
