"""Time vectors of texts: ggq, transformers and ONNX Runtime, in turns, on the same texts with the same threads.

    python tools/bench_embed.py FOLDER --texts FILE [--peer PYTHON] [--schemes f32 q8-g32 q4-g32] [--count 500]

FOLDER is a checkpoint of sentence-transformers, such as all-MiniLM-L6-v2; FILE has a text a line, of which the first
--count are taken. PYTHON is an interpreter with torch and transformers and, for sentence-transformers' ONNX path (the
model exported by torch, run by onnxruntime with all optimizations), onnx and onnxruntime; what it lacks is left out and
said. Each round runs one fresh process of each side, which sorts the texts by length and takes 32 at a time, as
sentence-transformers does; tokens are made from texts in it. The medians, the ratio to ggq's and the least cosine to
transformers' vectors are printed as a table and as one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

PEER = """
import json, sys, time
task = json.loads(sys.stdin.read())
import numpy as np, torch, transformers
torch.set_num_threads(task["threads"])
tokenizer = transformers.AutoTokenizer.from_pretrained(task["folder"])
model = transformers.AutoModel.from_pretrained(task["folder"]).eval()
names = ["input_ids", "attention_mask", "token_type_ids"]
def batch(texts):
    return tokenizer(texts, padding=True, truncation=True, max_length=task["most"], return_tensors="pt")
if task["side"] == "onnx":
    import onnxruntime
    class Rows(torch.nn.Module):
        def __init__(self): super().__init__(); self.model = model
        def forward(self, *given): return self.model(*given).last_hidden_state
    given = batch(["a b", "c"])
    names = [name for name in names if name in given]
    axes = {name: {0: "texts", 1: "tokens"} for name in [*names, "rows"]}
    torch.onnx.export(Rows(), tuple(given[name] for name in names), task["onnx"], input_names=names,
                      output_names=["rows"], dynamic_axes=axes, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task["threads"]
    session = onnxruntime.InferenceSession(task["onnx"], options, providers=["CPUExecutionProvider"])
def rows(given):
    if task["side"] == "onnx":
        return torch.from_numpy(session.run(None, {name: given[name].numpy() for name in names})[0])
    with torch.inference_mode():
        return model(**given).last_hidden_state
def embed(texts):
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    out = np.zeros((len(texts), model.config.hidden_size), np.float32)
    for start in range(0, len(texts), 32):
        part = order[start : start + 32]
        given = batch([texts[i] for i in part])
        mask = given["attention_mask"][..., None].float()
        mean = (rows(given) * mask).sum(1) / mask.sum(1)
        out[part] = torch.nn.functional.normalize(mean).numpy()
    return out
embed(task["texts"][:64])
start = time.perf_counter()
found = embed(task["texts"])
seconds = time.perf_counter() - start
np.save(task["out"], found)
print(json.dumps({"seconds": seconds}))
"""
"""What a process of the other sides runs."""

OWN = """
import json, sys, time
task = json.loads(sys.stdin.read())
import numpy as np
from ggq.generate.loading import load
with load(task["file"], threads=task["threads"]) as model:
    model.embed(task["texts"][:64])
    start = time.perf_counter()
    found = model.embed(task["texts"])
    seconds = time.perf_counter() - start
np.save(task["out"], found)
print(json.dumps({"seconds": seconds}))
"""
"""What a process of ggq's runs."""


def main(arguments: list[str] | None = None) -> int:
    """Run the rounds and print what they gave; 1 when no peer could be run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--peer", default=sys.executable)
    parser.add_argument("--schemes", nargs="+", default=["f32", "q8-g32", "q4-g32"])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args(arguments)
    lines = args.texts.read_text(encoding="utf-8").splitlines()
    texts = [line for line in lines if line.strip()][: args.count]
    with tempfile.TemporaryDirectory() as place:
        sides = make_sides(args.folder, Path(place), args.schemes, args.peer)
        seconds, vectors, missing = measure(sides, texts, Path(place), args)
    print(json.dumps(report(seconds, vectors, missing, len(texts))))
    return 0 if "transformers" in seconds or "onnx" in seconds else 1


def make_sides(folder: Path, place: Path, schemes: list[str], peer: str) -> dict[str, tuple[list[str], dict[str, Any]]]:
    """The command of each side, and what its process is told besides the texts; files of ggq are made."""
    import ggq

    most = 512
    sides: dict[str, tuple[list[str], dict[str, Any]]] = {}
    for scheme in schemes:
        file = place / f"{scheme}.ggq"
        ggq.convert(folder, file, scheme=scheme)
        with ggq.load(file, interpreter="numpy") as model:
            most = model.config.context_length
        sides[f"ggq {scheme}"] = ([sys.executable, "-c", OWN], {"file": str(file)})
    for side in ("transformers", "onnx"):
        told = {"side": side, "folder": str(folder.resolve()), "most": most, "onnx": str(place / "model.onnx")}
        sides[side] = ([peer, "-c", PEER], told)
    return sides


def measure(
    sides: dict[str, tuple[list[str], dict[str, Any]]], texts: list[str], place: Path, args: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, np.ndarray], dict[str, str]]:
    """Seconds of each round and vectors by side, and why a side could not be run."""
    seconds: dict[str, list[float]] = {}
    vectors: dict[str, np.ndarray] = {}
    missing: dict[str, str] = {}
    for _ in range(args.repeat):
        for name, (command, told) in sides.items():
            if name in missing:
                continue
            task = {**told, "texts": texts, "threads": args.threads, "out": str(place / "vectors.npy")}
            path = {"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"} if name.startswith("ggq") else {}
            done = run(command, json.dumps(task), path)
            if done.returncode:
                missing[name] = (done.stderr.strip().splitlines() or ["no message"])[-1]
                print(f"{name} cannot be run: {missing[name]}", file=sys.stderr)
                continue
            seconds.setdefault(name, []).append(json.loads(done.stdout.splitlines()[-1])["seconds"])
            vectors[name] = np.load(place / "vectors.npy")
    return seconds, vectors, missing


def run(command: list[str], given: str, more: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a process with text at its standard input, and more variables of the environment."""
    import os

    return subprocess.run(command, input=given, env={**os.environ, **more}, capture_output=True, text=True, check=False)


def report(
    seconds: dict[str, list[float]], vectors: dict[str, np.ndarray], missing: dict[str, str], count: int
) -> dict[str, Any]:
    """Print the table; what the JSON line holds."""
    reference, rows = vectors.get("transformers"), {}
    print("| side | seconds, median | texts/s | least cosine, 32 texts | least cosine, all |\n|---|---|---|---|---|")
    for name, found in seconds.items():
        median = statistics.median(found)
        rows[name] = {"seconds": found, "median": median}
        cosines = None if reference is None else (vectors[name] * reference).sum(axis=1)
        if cosines is not None:
            rows[name] |= {"cosine_32": float(cosines[:32].min()), "cosine": float(cosines.min())}
        shown = "- | -" if cosines is None else f"{cosines[:32].min():.7f} | {cosines.min():.7f}"
        print(f"| {name} | {median:.3f} | {count / median:.0f} | {shown} |")
    return {"texts": count, "sides": rows, "missing": missing}


if __name__ == "__main__":
    sys.exit(main())
