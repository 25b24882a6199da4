"""Renders one chat template in a process of its own, which can be killed: a template is a program from a stranger.

Reads one JSON document from standard input, writes one to standard output. Run as a script, it imports nothing of ggq.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Any

SECONDS = 2
"""Processor time, where the system can limit it; the parent limits the time on the clock."""


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

    def tojson(value: object, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
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


def main() -> None:
    """Answer the one request."""
    request = json.loads(sys.stdin.buffer.read())
    sys.path[:] = request["path"]
    import jinja2.sandbox  # noqa: F401  before the limits: they are the template's, not the library's

    limit_resources(request["memory"])
    sys.stdout.buffer.write(json.dumps(render(request)).encode("ascii"))


if __name__ == "__main__":
    main()
