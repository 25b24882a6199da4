"""Time ggq and llama.cpp alternately on the same work, in one run.

    python tools/bench_peers.py MODEL.ggq MODEL.gguf --peer PYTHON [--repeat 5] [--prompt 512] [--generate 64]

PYTHON is an interpreter with llama-cpp-python (pip install llama-cpp-python with CMAKE_ARGS="-DGGML_NATIVE=ON").
Both files shall have the same shape and the same bits. Each round runs one fresh process of either side; medians and
their ratio are printed as a table and as one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

PEER = r"""
import ctypes, json, sys, time
import llama_cpp as L, numpy as np
path, threads, prompt, generate = sys.argv[1], *map(int, sys.argv[2:5])
silent = L.llama_log_callback(lambda *a: None)
L.llama_log_set(silent, ctypes.c_void_p(0))
L.llama_backend_init()
mp = L.llama_model_default_params()
mp.n_gpu_layers = 0
model = L.llama_model_load_from_file(path.encode(), mp)
cp = L.llama_context_default_params()
cp.n_ctx, cp.n_batch, cp.n_ubatch = max(2048, prompt + generate), 512, 512
cp.n_threads = cp.n_threads_batch = threads
context = L.llama_init_from_model(model, cp)
memory = L.llama_get_memory(context)
rng = np.random.default_rng(0)

def feed(count, step):
    L.llama_memory_clear(memory, True)
    ids = [int(t) for t in rng.integers(0, 1000, count)]
    start = time.perf_counter()
    for i in range(0, count, step):
        part = ids[i:i + step]
        array = (L.llama_token * len(part))(*part)  # must outlive the call
        if L.llama_decode(context, L.llama_batch_get_one(array, len(part))):
            raise SystemExit("llama_decode failed")
        L.llama_get_logits_ith(context, -1)
    return count / (time.perf_counter() - start)

feed(16, 512), feed(4, 1)
version = __import__("importlib.metadata", fromlist=["version"]).version("llama-cpp-python")
print(json.dumps({"prefill_tok_s": feed(prompt, 512), "decode_tok_s": feed(generate, 1), "version": version}))
"""


def main() -> int:
    """Run the rounds and print what they gave."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ggq", type=Path)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--peer", required=True, help="a Python with llama-cpp-python")
    for name, value in (("repeat", 5), ("prompt", 512), ("generate", 64), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    ours, theirs = [], []
    for number in range(args.repeat):
        ours.append(run_ggq(args))
        theirs.append(run_peer(args))
        print(f"round {number + 1} of {args.repeat}: {rates(ours[-1])}, llama.cpp {rates(theirs[-1])}", file=sys.stderr)
    report(args, ours, theirs)
    return 0


def run_ggq(args: argparse.Namespace) -> dict[str, Any]:
    """One process of `ggq bench`."""
    options = ["--prompt", args.prompt, "--generate", args.generate, "--threads", args.threads, "--repeat", 1, "--json"]
    return document([sys.executable, "-m", "ggq", "bench", str(args.ggq), *map(str, options)])


def run_peer(args: argparse.Namespace) -> dict[str, Any]:
    """One process of llama.cpp."""
    numbers = map(str, (args.threads, args.prompt, args.generate))
    return document([args.peer, "-c", PEER, str(args.gguf), *numbers])


def document(command: list[str]) -> dict[str, Any]:
    """The JSON that a command prints last; a missing peer ends the run with its own words."""
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if result.returncode:
        raise SystemExit(f"{command[0]} failed:\n{result.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(result.stdout[result.stdout.index("{") :])
    return found


def rates(found: dict[str, Any]) -> str:
    """Both rates of one process."""
    return f"prefill {found['prefill_tok_s']:.1f}, decode {found['decode_tok_s']:.2f} tokens/s"


def report(args: argparse.Namespace, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """Medians, ratios and what they were measured on."""
    summary: dict[str, Any] = {"ggq": args.ggq.name, "gguf": args.gguf.name, "rounds": len(ours)}
    print(f"{'tokens/s':<10}{'ggq':>10}{'llama.cpp':>12}{'ratio':>8}")
    for key in ("prefill_tok_s", "decode_tok_s"):
        mine, other = (statistics.median(found[key] for found in side) for side in (ours, theirs))
        summary |= {key: mine, f"peer_{key}": other, f"{key}_ratio": mine / other}
        print(f"{key.split('_')[0]:<10}{mine:>10.1f}{other:>12.1f}{mine / other:>8.2f}")
    for key in ("prefill_gop_s", "read_gb_s", "bandwidth_gb_s", "bandwidth_share"):
        summary[key] = statistics.median(found[key] for found in ours)
    first = ours[0]
    summary |= {"threads": first["threads"], "isa": first["isa"], "processor": processor()}
    summary |= {"versions": first["versions"], "peer_version": theirs[0]["version"]}
    print(json.dumps(summary))


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
