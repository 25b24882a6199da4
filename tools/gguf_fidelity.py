"""How close the logits of GGUF files are to a float64 evaluation of the same files, ggq's and llama.cpp's.

    python tools/gguf_fidelity.py --peer PYTHON [--text FILE] [--windows 2] [--context 256] FILE.gguf ...
    python tools/gguf_fidelity.py --peer PYTHON --source F16.gguf --folder DIR --types Q4_0 Q6_K ... [--imatrix GGUF]

PYTHON is an interpreter with llama-cpp-python; with --source its own quantizer makes the files first. Each line is a
file: the root mean square of the error of the logits, as a share of theirs, and the mean KL divergence of what follows
them, of either side, and which is closer. Both sides round activations as they do by default, and keep an f16 cache.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import ggq  # noqa: E402
from ggq.generate.model import Model  # noqa: E402
from tools.bench.sides import LLAMA, Bench, Missing, say  # noqa: E402


def main() -> int:
    """Print the table and one JSON line; 1 where llama.cpp is closer for a file, or a file could not be made."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--peer", required=True, help="a Python with llama-cpp-python")
    parser.add_argument("--source", type=Path, help="an F16 file that llama.cpp quantizes")
    parser.add_argument("--types", nargs="*", default=[], help="to these types")
    parser.add_argument("--imatrix", type=Path, help="by this importance matrix, all matrices alike (IQ2_XS needs one)")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ggq-bench")
    parser.add_argument("--text", type=Path, help="what windows are cut from; without one, ids are random")
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.folder, args.peer, args.threads)
    files, failed = list(args.files), False
    for kind in args.types:
        target = args.folder / f"{args.source.stem}-{kind}.gguf"
        try:
            if not target.exists():
                mode, last = ("pure", [args.imatrix]) if args.imatrix else ("quantize", [])
                bench.other(LLAMA, mode, args.source, target, args.threads, kind, *last)
            files.append(target)
        except Missing as error:
            target.unlink(missing_ok=True)
            failed = True
            say(f"{kind}: {error}")
    found = [compare(path, bench, args) for path in files]
    print(json.dumps({"files": found}))
    return int(failed or any(each["ours_rms"] > each["theirs_rms"] for each in found))


def compare(path: Path, bench: Bench, args: argparse.Namespace) -> dict[str, Any]:
    """Both errors of one file."""
    with ggq.load(path, interpreter="numpy", activations="float32", cache="f32") as model:
        windows = cut(model, args)
        exact = np.stack([model.logits(window.tolist()) for window in windows]).astype(np.float64)
    with ggq.load(path, threads=args.threads) as model:
        ours = np.stack([model.logits(window.tolist()) for window in windows]).astype(np.float64)
    ids, out = args.folder / "ids.npy", args.folder / "logits.npy"
    np.save(ids, windows.astype(np.int64))
    bench.other(LLAMA, "logits", path, args.threads, ids, out)
    theirs = np.load(out).astype(np.float64)
    found: dict[str, Any] = {"file": path.name}
    for name, logits in (("ours", ours), ("theirs", theirs)):
        found[f"{name}_rms"] = float(np.sqrt(np.square(logits - exact).mean() / np.square(exact).mean()))
        found[f"{name}_kl"] = divergence(exact, logits)
    say("{file:40} rms {ours_rms:.5f} / {theirs_rms:.5f}   KL {ours_kl:.2e} / {theirs_kl:.2e}".format(**found))
    return found


def cut(model: Model, args: argparse.Namespace) -> np.ndarray:
    """Windows of ids, (windows, context)."""
    count = args.windows * args.context
    if args.text is None:
        ids = np.random.default_rng(0).integers(3, model.config.embedding.vocabulary_size, count)
    else:
        ids = np.array(model.encode(args.text.read_text(encoding="utf-8"))[:count])
    return ids.reshape(args.windows, args.context)


def divergence(exact: np.ndarray, logits: np.ndarray) -> float:
    """Mean KL divergence of the distributions of logits from those of the exact ones."""
    shifted = [x - x.max(axis=-1, keepdims=True) for x in (exact, logits)]
    p, q = (x - np.log(np.exp(x).sum(axis=-1, keepdims=True)) for x in shifted)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


if __name__ == "__main__":
    sys.exit(main())
