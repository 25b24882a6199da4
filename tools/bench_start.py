"""Time how long a process of `ggq run` takes to the first byte of its answer to a short prompt.

    python tools/bench_start.py FILE... [--repeat 5] [--tokenizer DIR...]

FILE is a model; with --tokenizer, models of random weights with as many tokens as the tokenizer.json in DIR has are
made in --folder and timed too. Files are taken in turn; the median and the least of the seconds are printed, and
whether the ids of the prompt are those of the tokenizers library.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from tools.bench.sides import first_word, own_path  # noqa: E402
from tools.make_model import SHAPES, make_model  # noqa: E402

PROMPT = "The quick brown fox, said:"


def main() -> int:
    """Time the files; 1 when ids differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--tokenizer", type=Path, nargs="*", default=[])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ggq-bench")
    args = parser.parse_args()
    files = [*args.files, *(model_with(tokenizer, args.folder) for tokenizer in args.tokenizer)]
    commands = {file: [sys.executable, "-m", "ggq", "run", str(file), "-p", PROMPT, "-n", "2"] for file in files}
    same = {file: same_ids(file) for file in files}
    for command in commands.values():
        first_word(command)  # compiles kernels, and keeps what is kept of a vocabulary
    seconds: dict[Path, list[float]] = {file: [] for file in files}
    for _ in range(args.repeat):
        for file, command in commands.items():
            seconds[file].append(first_word(command))
    for file, found in seconds.items():
        print(f"{file.name}: {statistics.median(found):.3f} s, least {min(found):.3f} s, ids equal: {same[file]}")
    return 0 if all(same.values()) else 1


def model_with(tokenizer: Path, folder: Path) -> Path:
    """A model of the 135m shape, in q4-g32, with a tokenizer."""
    out = folder / f"start-{tokenizer.name}.ggq"
    if not out.exists():
        document = json.loads((tokenizer / "tokenizer.json").read_bytes())
        most = max([*document["model"]["vocab"].values(), *(item["id"] for item in document["added_tokens"])])
        checkpoint = folder / f"start-{tokenizer.name}"
        make_model(checkpoint, (*SHAPES["135m"][:5], -(-(most + 1) // 64) * 64))
        for file in tokenizer.glob("*.json"):
            shutil.copy(file, checkpoint / file.name)
        command = [sys.executable, "-m", "ggq", "convert", str(checkpoint), str(out), "--scheme", "q4-g32"]
        subprocess.run(command, check=True, capture_output=True, env=own_path())
        shutil.rmtree(checkpoint)
    return out


def same_ids(file: Path) -> bool:
    """Whether the prompt's ids are those of the whole tokenizer."""
    import ggq

    with ggq.load(file) as model:
        quick = model.encode(PROMPT)
        return quick == list(model.tokenizer.encode(PROMPT).ids)


if __name__ == "__main__":
    raise SystemExit(main())
