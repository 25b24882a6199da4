"""Tries a stranger's tokenizer in a process of its own, which can be killed: its patterns and rules are a program.

Reads one JSON document from standard input, writes one to standard output. Run as a script, it imports nothing of ggq.
"""

from __future__ import annotations

import json
import sys
from typing import Any

GROWTH, ROOM = 16, 4096
"""A text may become this many times as long by normalizing or decoding, and this many characters more."""

LENGTHS = (40, 1500)
"""Characters of the texts that are one character again and again."""

CHARACTERS = "ae1 \n.-_\t#\u00e9\u6f22"
MOST = 48
"""Characters of the rules that are tried."""


def limit_resources(memory: int, seconds: int) -> None:
    """Ask the system to stop this process when it takes more than it has and so many bytes, or so many seconds."""
    try:
        import resource
    except ImportError:  # Windows: the parent's clock remains
        return
    held = 0
    try:
        with open("/proc/self/statm") as file:
            held = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        held = 1 << 30
    for kind, amount in (
        (resource.RLIMIT_AS, held + memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(kind, (amount, amount))
        except (OSError, ValueError):
            pass


def rules_characters(document: Any) -> str:
    """The characters that occur in a tokenizer's rules, but for its vocabulary."""
    found: dict[str, None] = {}
    waiting = [document.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, str):
            found.update(dict.fromkeys(item[:200]))
    return "".join(found)[:MOST]


def texts(document: Any) -> list[str]:
    """What is tried: ordinary text, and characters again and again with something behind that breaks a pattern."""
    plain = (
        "Once upon a time, 12345 people (and 'you') said:\n\n\thi! caf\u00e9 \u6f22\u5b57 \U0001f642 xyyyyyyyyyyyyyyy"
    )
    repeated = [c * n + "!" for c in dict.fromkeys(CHARACTERS + rules_characters(document)) for n in LENGTHS]
    return [plain, *repeated]


def attempt(text: str) -> dict[str, str]:
    """{} when all went well, or {"error": ...}; a tokenizer may refuse a text, but not grow or panic."""
    from tokenizers import Tokenizer

    try:
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception:  # no tokenizer: whoever parses it next says so
            return {}
        tokenizer.no_truncation()
        tokenizer.no_padding()
        for piece in texts(json.loads(text)):
            try:
                if tokenizer.normalizer is not None:
                    check_growth("normalizing", piece, tokenizer.normalizer.normalize_str(piece))
                tokenizer.encode(piece[:9])  # with what its post-processor adds
                encoding = tokenizer.encode(piece, add_special_tokens=False)
                if len(encoding.ids) > GROWTH * len(piece) + ROOM:
                    return {"error": f"it makes {len(encoding.ids)} tokens of {len(piece)} characters"}
                shown = "".join(encoding.tokens)
                check_growth("decoding", shown, tokenizer.decode(encoding.ids[:200]))
            except OverflowError:
                raise
            except Exception:  # it knows no token for this text: told when somebody's text is like that
                pass
    except OverflowError as problem:
        return {"error": str(problem)}
    except MemoryError:
        return {"error": "it takes too much memory"}
    except BaseException as problem:  # a panic of the library is no Exception
        return {"error": f"{type(problem).__name__}: {problem}"[:300]}
    return {}


def check_growth(doing: str, before: str, after: str) -> None:
    """Refuse a rule that multiplies a text."""
    if len(after) > GROWTH * len(before) + ROOM:
        raise OverflowError(f"{doing} makes {len(after)} characters of {len(before)}")


def main() -> None:
    """Answer the one request."""
    request = json.loads(sys.stdin.buffer.read())
    sys.path[:] = request["path"]
    import tokenizers  # noqa: F401  before the limits: they are the file's, not the library's

    limit_resources(request["memory"], request["seconds"])
    answer = attempt(request["tokenizer"])
    sys.stdout.buffer.write(json.dumps(answer).encode("ascii"))


if __name__ == "__main__":
    main()
