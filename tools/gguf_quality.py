#!/usr/bin/env python3
"""Perplexity, in llama.cpp, of a checkpoint under K types: ours and its own quantizer's, without and with calibration.

    tools/gguf_quality.py CHECKPOINT TEXT --peer PYTHON --calibration TEXT [--types q2_k,q3_k,q4_k] [--windows 96]

PYTHON is an interpreter with llama-cpp-python and gguf. All matrices have one type, the embedding and the output q6_k.
With calibration both sides get statistics of the same text: llama.cpp an importance matrix, made by
`ggq convert --calibration TEXT --imatrix FILE`, ours that matrix too, or with --feedback all of its own statistics
(`--method gptq`). The second halves of windows of 256 tokens are
scored. A line for each file; exits with 1 where a perplexity of ours is not lower.
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

from ggq.convert.options import Options  # noqa: E402
from ggq.export.gguf_checkpoint import convert_to_gguf  # noqa: E402
from tools.bench.sides import LLAMA, Bench, say  # noqa: E402

THEIRS = {"q2_k": "Q2_K", "q3_k": "Q3_K_S", "q4_k": "Q4_K_S", "q5_k": "Q5_K_S", "q6_k": "Q6_K"}
"""What llama.cpp calls a file of a type."""


class Sides:
    """The files of either side.

    Args:
        args: Of the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.folder = args, args.folder
        self.bench = Bench(args.folder, args.peer, args.threads)
        self.f16, self.imatrix = args.folder / "f16.gguf", args.folder / "imatrix.gguf"
        self.ids = args.folder / "ids.npy"

    def prepare(self) -> None:
        """What both sides begin with."""
        from ggq.text.tokenizer import load_tokenizer

        if self.ids.exists():
            return
        convert_to_gguf(self.args.checkpoint, self.f16, type="f16", imatrix=self.imatrix, options=self.calibrated())
        names = ("tokenizer.json", "tokenizer_config.json")
        assets = {name: (self.args.checkpoint / name).read_bytes() for name in names}
        tokenizer = load_tokenizer({name: Held(data) for name, data in assets.items()}, {}, str(self.args.checkpoint))
        ids = tokenizer.encode(self.args.text.read_text(encoding="utf-8"), add_special_tokens=False).ids
        count = min(self.args.windows, len(ids) // self.args.context)
        np.save(self.ids, np.array(ids[: count * self.args.context]).reshape(count, -1))

    def calibrated(self, **more: Any) -> Options:
        """Options of a conversion with the text of the calibration."""
        tokens, context = self.args.tokens, self.args.context
        text = {"calibration": self.args.calibration, "calibration_tokens": tokens, "calibration_context": context}
        return Options(force=True, **text, **more)

    def pair(self, kind: str, calibrated: bool) -> tuple[Path, Path]:
        """Make the files of both sides; files that are there already stay."""
        form = "imatrix" if calibrated else "plain"
        theirs = self.folder / f"theirs-{kind}-{form}.gguf"
        ours = self.folder / f"ours-{kind}-{'feedback' if calibrated and self.args.feedback else form}.gguf"
        imatrix = self.imatrix if calibrated else None
        if not ours.exists():
            feedback = "feedback" in ours.name
            given = self.calibrated(method="gptq") if feedback else Options(force=True)
            known = None if feedback else imatrix
            convert_to_gguf(self.args.checkpoint, ours, type=kind, imatrix=known, options=given)
        if not theirs.exists():
            words = [str(imatrix)] if imatrix else []
            self.bench.other(LLAMA, "pure", self.f16, theirs, self.args.threads, THEIRS[kind], *words)
        return ours, theirs

    def compare(self, pairs: dict[str, tuple[Path, Path]]) -> bool:
        """Score all files and tell of them; whether ours are better."""
        files = [path for pair in pairs.values() for path in pair]
        found = self.bench.other(LLAMA, "score", self.f16, self.args.threads, self.ids, *files)
        figures = dict(zip(files, zip(found["perplexity"], found["kl"])))
        better = True
        for name, (ours, theirs) in pairs.items():
            (a, a_kl), (b, b_kl) = figures[ours], figures[theirs]
            sizes = f"{ours.stat().st_size} / {theirs.stat().st_size} bytes"
            say(f"{name:14} perplexity {a:.4f} / {b:.4f}   KL {a_kl:.5f} / {b_kl:.5f}   {sizes}")
            better = better and a < b
        print(json.dumps({path.name: figure for path, figure in figures.items()}))
        return better


class Held:
    """An asset in memory."""

    def __init__(self, data: bytes) -> None:
        from ggq.format.digests import digest_of

        self.data, self.digest = data, digest_of(data)
        self.identity = self.digest

    def read(self) -> bytes:
        """Its bytes."""
        return self.data


def main() -> int:
    """Run what the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("text", type=Path, help="what is scored")
    parser.add_argument("--peer", required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=65536, help="of the calibration")
    parser.add_argument("--feedback", action="store_true", help="ours: errors make up for each other")
    parser.add_argument("--types", default="q2_k,q3_k,q4_k")
    parser.add_argument("--windows", type=int, default=96)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ggq-quality-") as made:
        args.folder = args.folder or Path(made)
        args.folder.mkdir(parents=True, exist_ok=True)
        sides = Sides(args)
        sides.prepare()
        forms = [(kind, calibrated) for calibrated in (False, True) for kind in args.types.split(",")]
        better = sides.compare({f"{kind}{' imatrix' * form}": sides.pair(kind, form) for kind, form in forms})
    return int(not better)


if __name__ == "__main__":
    sys.exit(main())
