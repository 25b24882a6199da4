#!/usr/bin/env python3
"""Mutated files of strangers against their readers: tokenizers, templates, recipes, statistics, saved logits, journals,
ggq files, GGUF files, importance matrices, safetensors files.

Structure-aware and seeded: JSON values, TOML lines, records and index fields are changed, checksums and digests made
right again. Each kind runs in a child that is stopped when it hangs. Exits with 1 on a crash, a hang, a failure that is
not one of ours, or memory beyond ten times the file and 64 MiB. Time is that of processors, the children's too; one of
16 inputs is traced, for the share of lines that are reached in the functions of the modules that were entered.

    tools/fuzz.py --seconds 3600 --seed 1
    tools/fuzz.py --count 20 --kinds recipe,journal
"""

from __future__ import annotations

import argparse
import inspect
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from zlib import crc32

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from tools.fuzz_inputs import Kind, kinds  # noqa: E402

HANG, ROOM, TIMES = 2.0, 64 << 20, 10
"""Seconds of a processor that an input may take; bytes of memory that it may, and how many times its own besides."""
SILENT = 60.0
"""Seconds on the clock after which a reader that says nothing hangs, however busy the machine is."""
TRACED = 16
"""Of so many inputs one is traced."""


def peaks() -> tuple[int, int]:
    """The most bytes that this process has held, and the most that a child has that it waited for."""
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return 1024 * resource.getrusage(kinds[0]).ru_maxrss, 1024 * resource.getrusage(kinds[1]).ru_maxrss


def held() -> int:
    """Bytes that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def taken(before: tuple[int, int], start: int, child: int) -> int:
    """Bytes that were taken since `peaks()` were `before`, beyond the `start` that were held and what a child takes for
    the good input; 0 where no peak has grown, as then it was less than before."""
    ours, theirs = peaks()
    return max(ours - start if ours > before[0] else 0, theirs - child if theirs > before[1] else 0)


def used() -> float:
    """Seconds of processors that this process and those that it has waited for have used."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def tracer(seen: set[tuple[str, int]]) -> Callable[..., Any]:
    """A function for `sys.settrace` that notes the lines of the package that run inside functions."""
    package = str(ROOT / "ggq") + os.sep

    def line(frame: Any, event: str, _: Any) -> Any:
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
        return line

    def call(frame: Any, _: str, __: Any) -> Any:
        code = frame.f_code
        return line if code.co_filename.startswith(package) and code.co_name != "<module>" else None

    return call


def lines_of(file: str) -> set[int]:
    """The lines of a module's functions that hold code."""
    waiting, found = [compile(Path(file).read_text(encoding="utf-8"), file, "exec")], set[int]()
    while waiting:
        code = waiting.pop()
        waiting += [constant for constant in code.co_consts if hasattr(constant, "co_code")]
        if code.co_flags & inspect.CO_NEWLOCALS and code.co_flags & inspect.CO_OPTIMIZED:
            found |= {line for _, _, line in code.co_lines() if line and line != code.co_firstlineno}
    return found


def covered(seen: set[tuple[str, int]]) -> str:
    """How many lines were reached of how many, in how many modules."""
    files = {file for file, _ in seen}
    every = {(file, line) for file in files for line in lines_of(file)}
    return f"{len(seen & every)} of {len(every)} lines in {len(files)} modules"


def attack(kind: Kind, folder: Path, seed: int, told: Connection) -> None:
    """Read changed inputs one after the other, and tell of each, until this process is stopped."""
    from ggq.errors import GGQError

    rng, path = random.Random(seed), folder / f"input-{seed}"
    path.write_bytes(kind.good)
    kind.read(path)  # the good one passes, and all libraries are there
    seen, number, child = set[tuple[str, int]](), 0, peaks()[1]
    while True:
        number += 1
        traced, known = number % TRACED == 1, set(seen)
        data = kind.change(rng, kind.good)
        path.write_bytes(data)
        before, memory, start, problem = peaks(), held(), used(), ""
        told.send(("begin", data))
        sys.settrace(tracer(seen) if traced else None)
        try:
            kind.read(path)
        except GGQError:
            pass
        except BaseException as error:
            problem = f"{type(error).__name__}: {error}"[:200]
        finally:
            sys.settrace(None)
        seconds, more = (0.0, 0) if traced else (used() - start, taken(before, memory, child))
        if more > ROOM + TIMES * len(data):
            problem = problem or f"{more >> 20} MiB of memory for {len(data)} bytes"
        told.send(("end", problem, seconds, more, seen - known))


def fuzz(name: str, kind: Kind, folder: Path, seed: int, count: int, until: float) -> tuple[int, list[str], str]:
    """Run one kind; how many were read, what was found, and a line of figures."""
    done, found, slowest, most, lines = 0, list[str](), 0.0, 0, set[tuple[str, int]]()
    context = multiprocessing.get_context("fork")
    while done < count and time.monotonic() < until:
        ours, theirs = context.Pipe()
        child = context.Process(target=attack, args=(kind, folder, seed + done, theirs), daemon=True)
        child.start()
        theirs.close()
        data = b""
        try:
            while done < count and time.monotonic() < until:
                if not ours.poll(SILENT):
                    raise TimeoutError("a hang")
                what, *rest = ours.recv()
                if what == "begin":
                    data = rest[0]
                    continue
                done += 1
                problem, seconds, more, new = rest
                lines |= new
                slowest, most = max(slowest, seconds), max(most, more)
                limit = HANG + (0.5 if name in ("template", "tokenizer") else 0)  # their worker is stopped after 2 s
                problem = problem or (f"{seconds:.1f} s" if seconds > limit else "")
                if problem:
                    found.append(keep(name, problem, data))
        except (EOFError, TimeoutError) as error:
            if not data:
                raise SystemExit(f"{name}: its good input is refused") from None
            done += 1
            found.append(keep(name, "a crash" if isinstance(error, EOFError) else "a hang", data))
        child.kill()
        child.join()
        ours.close()
    return (
        done,
        found,
        f"{name}: {done} read, slowest {slowest:.2f} s, most memory {most >> 20} MiB, {covered(lines)}, "
        f"{len(found)} found",
    )


def keep(name: str, problem: str, data: bytes) -> str:
    """Keep an input that was found, and say where."""
    place = Path(tempfile.gettempdir()) / f"ggq-fuzz-{name}-{crc32(data):08x}"
    place.write_bytes(data)
    return f"{name}: {problem} ({place})"


def main() -> int:
    """Run what the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1e9, help="time for all kinds together")
    parser.add_argument("--count", type=int, default=1 << 60, help="inputs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default="", help="comma-separated; all by default")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ggq-fuzz-"))
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    total, found = 0, list[str]()
    try:
        every = kinds(folder)
        chosen = [name for name in options.kinds.split(",") if name] or list(every)
        start = time.monotonic()
        for number, name in enumerate(chosen, 1):
            until = start + options.seconds * number / len(chosen)
            done, new, line = fuzz(name, every[name], folder, options.seed, options.count, until)
            print(line, flush=True)
            total, found = total + done, found + new
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{total} inputs, {len(found)} found")
    for line in found[:50]:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
