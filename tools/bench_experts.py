"""Time a model of eight experts with two chosen beside a dense one of as many numbers as a token of it meets.

    python tools/bench_experts.py [--folder DIR] [--repeat 3] [--scheme q4-g32]

Both are made in DIR of random weights and kept there. Each round runs `ggq bench` of either in a fresh process. Printed
are the share of the read bandwidth at which the experts decode, by the bytes of those that are chosen, and the rate of
a prompt of 512 for the same work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import ggq  # noqa: E402
from tools.make_model import make_model  # noqa: E402

EXPERTS, DENSE = "moe-8x0.2b", "moe-dense"


def main() -> int:
    """Run the rounds; 1 where a share is below what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ggq-bench")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--scheme", default="q4-g32")
    parser.add_argument("--only-make", action="store_true", help="make the files, and time nothing")
    args = parser.parse_args()
    files = {name: made(args.folder, name, args.scheme) for name in (EXPERTS, DENSE)}
    if args.only_make:
        return 0
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in files}
    for _ in range(args.repeat):
        for name, file in files.items():
            found[name].append(bench(file))

    def median(name: str, key: str) -> float:
        return statistics.median(each[key] for each in found[name])

    reached = median(EXPERTS, "bandwidth_share")
    prompt = median(EXPERTS, "prefill_gop_s") / median(DENSE, "prefill_gop_s")
    for name in files:
        shares = ", ".join(
            f"{each['bandwidth_share']:.0%} of {each['bandwidth_gb_s']:.1f} GB/s" for each in found[name]
        )
        print(
            f"{name}: prompt {median(name, 'prefill_tok_s'):.1f} tok/s, {median(name, 'prefill_gop_s'):.0f} GOP/s; "
            f"decode {median(name, 'decode_tok_s'):.1f} tok/s, {shares}"
        )
    print(
        f"experts decode at {reached:.1%} of the bandwidth (80 % asked), "
        f"read prompts at {prompt:.1%} of the dense rate (60 %)"
    )
    return 0 if reached >= 0.8 and prompt >= 0.6 else 1


def made(folder: Path, name: str, scheme: str) -> Path:
    """The file of a model; made where it is not there."""
    file = folder / f"{name}-{scheme}.ggq"
    if not file.exists():
        checkpoint = folder / name
        make_model(checkpoint, name)
        ggq.convert(checkpoint, file, scheme=scheme, method="absmax", embedding=scheme)
    return file


def bench(file: Path) -> dict[str, Any]:
    """What `ggq bench` says of a file."""
    command = [sys.executable, "-m", "ggq", "bench", str(file), "--json", "--repeat", "3", "--prompt", "512"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path})
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    sys.exit(main())
