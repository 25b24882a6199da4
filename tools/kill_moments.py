#!/usr/bin/env python3
"""kill -9 at random moments of convert, edit, repack, --statistics and --save-logits: the state is old or new, and
--resume goes on to the same bytes. Exits with 1 if not.

    tools/kill_moments.py --count 200 --seed 1
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SYNC_OFTEN = (
    "import sys; from ggq.format.native import journal; journal.SYNC_BYTES = 1; from ggq.cli.main import main; "
    "print('ready', flush=True); sys.exit(main(sys.argv[1:]))"
)
"""A command that journals each tensor, so that small models leave true partial files."""


def state(path: Path) -> bytes | None:
    """A file's bytes; the names of a safetensors header in order, since the library writes them in any."""
    if not path.exists():
        return None
    data = path.read_bytes()
    if data[8:9] != b"{":
        return data
    length = int.from_bytes(data[:8], "little")
    return json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True).encode() + data[8 + length :]


class Moments:
    """Commands on a copy of the small model, and what they write when nothing stops them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng = folder, random.Random(seed)
        self.model, self.text = folder / "m", folder / "text"
        shutil.copytree(ROOT / "ggq" / "demo", self.model)
        self.text.write_bytes((self.model / "valid.txt").read_bytes()[:8000])
        self.base = folder / "base.ggq"
        self.run(*self.convert(self.base))
        self.run("edit", str(self.base), "general.name=once")
        self.out, self.seconds, self.whole = folder / "out", dict[str, float](), dict[str, bytes]()

    def convert(self, out: Path) -> list[str]:
        """The arguments of a conversion."""
        return ["convert", str(self.model), str(out), "--scheme", "q3z-g32", "--workers", "1"]

    def commands(self) -> dict[str, list[str]]:
        """Each command's arguments; it writes `out`."""
        out, text = str(self.out), str(self.text)
        calibrated = ["--calibration", text, "--calibration-tokens", "256", "--calibration-context", "64"]
        kept = [str(self.folder / "x.ggq"), "--force", "--scheme", "q4-g32", "--method", "gptq", *calibrated]
        scored = ["eval", str(self.base), "--text", text, "--windows", "2", "--context", "64", "--interpreter", "numpy"]
        return {
            "convert": self.convert(self.out),
            "edit": ["edit", out, "general.name=twice"],
            "repack": ["repack", str(self.base), out],
            "statistics": ["convert", str(self.model), *kept, "--statistics", out],
            "save-logits": [*scored, "--save-logits", out],
        }

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A command that has imported what it needs to begin."""
        path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
        process = subprocess.Popen(
            [sys.executable, "-c", SYNC_OFTEN, *arguments],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def run(self, *arguments: str) -> int:
        """A command to its end; its exit status."""
        process = self.start(*arguments)
        process.communicate()
        return process.returncode

    def prepare(self, name: str) -> bytes | None:
        """The old state: nothing, or for `edit` the file to edit."""
        for path in self.folder.glob("out*"):
            path.unlink()
        if name == "edit":
            shutil.copy(self.base, self.out)
            return self.base.read_bytes()
        return None

    def measure(self, name: str) -> None:
        """How long a command takes, and what it writes."""
        self.prepare(name)
        start = time.perf_counter()
        if self.run(*self.commands()[name]):
            raise SystemExit(f"{name} does not run")
        self.seconds[name], self.whole[name] = time.perf_counter() - start, state(self.out) or b""

    def kill(self, name: str) -> tuple[str, bool]:
        """Kill a command at a random moment; what is wrong then, and whether a partial file was there."""
        old = self.prepare(name)
        process = self.start(*self.commands()[name])
        time.sleep(self.rng.random() * self.seconds[name])
        process.kill()
        process.communicate()
        partial = Path(f"{self.out}.partial").exists()
        found = state(self.out)
        torn_edit = name == "edit" and found is not None and old is not None and found.startswith(old)
        if found not in (old, self.whole[name]) and not (torn_edit and self.run("inspect", str(self.out)) == 0):
            return "neither old nor new", partial
        again = [*self.commands()[name], *(["--resume"] if name == "convert" else [])]
        if found != self.whole[name] or partial or Path(f"{self.out}.journal").exists():
            if self.run(*again) or (name != "edit" and state(self.out) != self.whole[name]):
                return "going on does not give the same bytes", partial
            if list(self.folder.glob("out.*")):
                return "something is left over", partial
        return "", partial


def main() -> int:
    """Run what the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ggq-kill-"))
    bad, partials = 0, 0
    try:
        moments = Moments(folder, options.seed)
        names = list(moments.commands())
        for number in range(options.count):
            name = names[number % len(names)]
            if name not in moments.seconds:
                moments.measure(name)
            problem, partial = moments.kill(name)
            partials += partial
            if problem:
                bad += 1
                print(f"{name}: {problem}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{options.count} moments, {partials} with a partial file, {bad} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
