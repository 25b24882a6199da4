#!/usr/bin/env python3
"""kill -9 at random moments of convert, edit, repack, --statistics, --save-logits, and of GGUF files that are written,
exported to or imported: the state is old or new, and --resume goes on to the same bytes. Exits with 1 if not.

    tools/kill_moments.py --count 200 --seed 1
    tools/kill_moments.py --count 200 --commands convert,gguf,export,import
    tools/kill_moments.py --disk 50     instead: files end at 50 sizes, as on a full disk
    tools/kill_moments.py --cut 50      instead: the input is cut short while it is read
    tools/kill_moments.py --count 200 --log kills.jsonl     goes on behind the moments that the file has already

A line for each moment as it has passed. What a moment is depends on the seed and its number alone.
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
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SYNC_OFTEN = (
    "import sys; from ggq.format.native import journal; journal.SYNC_BYTES = 1; from ggq.cli.main import main; "
    "print('ready', flush=True); sys.exit(main(sys.argv[1:]))"
)
"""A command that journals each tensor, so that small models leave true partial files."""

LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0})); "
"""Before it: no file may become larger. Python ignores the signal, and a write fails, as on a full disk."""


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
        self.gguf = folder / "base.gguf"
        self.run("export", str(self.base), str(self.gguf), "--type", "q4_0")
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
            "gguf": ["convert", str(self.model), f"{out}.gguf", "--type", "q4_k"],
            "export": ["export", str(self.base), f"{out}.gguf", "--type", "q3_k"],
            "import": ["convert", str(self.gguf), out],
        }

    def inputs(self) -> dict[str, Path]:
        """What each command that can be cut short reads."""
        weights = self.model / "model.safetensors"
        return {"convert": weights, "gguf": weights, "export": self.base, "import": self.gguf}

    def made(self, name: str) -> Path:
        """What a command writes."""
        return Path(f"{self.out}.gguf") if name in ("gguf", "export") else self.out

    def start(self, *arguments: str, limit: int | None = None) -> subprocess.Popen[bytes]:
        """A command that has imported what it needs to begin; `limit` is of the sizes of files that it writes."""
        path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
        process = subprocess.Popen(
            [sys.executable, "-c", SYNC_OFTEN if limit is None else LIMITED.format(limit) + SYNC_OFTEN, *arguments],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
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
        self.seconds[name], self.whole[name] = time.perf_counter() - start, state(self.made(name)) or b""

    def kill(self, name: str) -> tuple[str, bool]:
        """Kill a command at a random moment; what is wrong then, and whether a partial file was there."""
        old, made = self.prepare(name), self.made(name)
        process = self.start(*self.commands()[name])
        time.sleep(self.rng.random() * self.seconds[name])
        process.kill()
        process.communicate()
        partial = Path(f"{made}.partial").exists()
        found = state(made)
        torn_edit = name == "edit" and found is not None and old is not None and found.startswith(old)
        if found not in (old, self.whole[name]) and not (torn_edit and self.run("inspect", str(made)) == 0):
            return "neither old nor new", partial
        again = [*self.commands()[name], *(["--resume"] if name == "convert" else [])]
        if found != self.whole[name] or partial or Path(f"{made}.journal").exists():
            if self.run(*again) or (name != "edit" and state(made) != self.whole[name]):
                return "going on does not give the same bytes", partial
            if list(self.folder.glob(f"{made.name}.*")):
                return "something is left over", partial
        return "", partial

    def full(self, name: str) -> tuple[str, bool]:
        """Run a command where no file may be larger than a random size; what is wrong then, and whether it ended."""
        self.prepare(name)
        made, limit = self.made(name), self.rng.randrange(len(self.whole[name]))
        process = self.start(*self.commands()[name], limit=limit)
        _, errors = process.communicate()
        if process.returncode == 0:
            return ("a file of the whole size" if state(made) != self.whole[name] else ""), True
        return self.refused(process.returncode, errors, made), False

    def cut(self, name: str) -> tuple[str, bool]:
        """Cut a command's input short at a random moment; what is wrong then, and whether it ended before that."""
        self.prepare(name)
        made, source = self.made(name), self.inputs()[name]
        data = source.read_bytes()
        try:
            process = self.start(*self.commands()[name])
            time.sleep(self.rng.random() * self.seconds[name])
            os.truncate(source, self.rng.randrange(len(data)))
            _, errors = process.communicate()
        finally:
            source.write_bytes(data)
        if process.returncode == 0:
            return ("" if state(made) == self.whole[name] else "a file of other bytes"), True
        return self.refused(process.returncode, errors, made), False

    def refused(self, status: int, errors: bytes, made: Path) -> str:
        """What is wrong with how a command failed."""
        lines = errors.decode(errors="replace").strip().splitlines()
        if status != 2 or not 1 <= len(lines) <= 3 or "Traceback" in errors.decode(errors="replace"):
            return f"status {status}: {lines[-1:]}"
        if made.exists():
            return "a file that is not whole has the name"
        return ""


def passed(log: Path | None, attack: str, seed: int) -> dict[int, dict[str, Any]]:
    """The moments of an attack that a file tells of, by number; a last line that is torn is not counted."""
    found = {}
    for line in [] if log is None or not log.exists() else log.read_text().splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if (told["attack"], told["seed"]) == (attack, seed):
            found[told["number"]] = told
    return found


def run_all(
    moments: Moments, names: list[str], count: int, attack: str, seed: int, log: Path | None = None
) -> tuple[int, int]:
    """Attack the commands in turns; how many attacks left a partial file, or came too late, and how many went badly.

    Args:
        moments: What is attacked.
        names: Its commands.
        count: Of attacks.
        attack: "kill", "full" or "cut".
        seed: Of the moments.
        log: A file of those that have passed, which those to come are added to.
    """
    done = passed(log, attack, seed)
    for number in range(count):
        name = names[number % len(names)]
        if number in done and done[number]["command"] == name:
            continue
        if name not in moments.seconds:
            moments.measure(name)
        moments.rng = random.Random(f"{seed}/{number}")
        problem, note = getattr(moments, attack)(name)
        told = {"attack": attack, "seed": seed, "number": number, "command": name, "note": note, "problem": problem}
        done[number] = told
        print(f"{number + 1} of {count}: {name}: {problem or 'well'}{f', {NOTES[attack]}' * note}", flush=True)
        if log is not None:
            with log.open("a") as file:
                file.write(f"\n{json.dumps(told)}\n")  # behind a line that may be torn
    counted = [done[number] for number in range(count)]
    return sum(told["note"] for told in counted), sum(bool(told["problem"]) for told in counted)


NOTES = {"kill": "with a partial file", "full": "ended whole", "cut": "had ended before"}
"""What is noted of a moment beside whether all is well."""


def main() -> int:
    """Run what the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", default="", help="comma-separated; all by default")
    parser.add_argument("--disk", type=int, default=0, metavar="COUNT", help="so many full disks instead")
    parser.add_argument("--cut", type=int, default=0, metavar="COUNT", help="so many inputs cut short instead")
    parser.add_argument("--log", type=Path, help="moments that have passed; it is made, or gone on with")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ggq-kill-"))
    try:
        moments = Moments(folder, options.seed)
        attack, possible = ("full", moments.inputs()) if options.disk else ("kill", moments.commands())
        attack, possible = ("cut", moments.inputs()) if options.cut else (attack, possible)
        names = [each for each in options.commands.split(",") if each] or list(possible)
        count = options.cut or options.disk or options.count
        noted, bad = run_all(moments, names, count, attack, options.seed, options.log)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{count} moments ({attack}), {noted} {NOTES[attack]}, {bad} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
