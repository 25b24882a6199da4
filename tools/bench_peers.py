"""Time ggq and what a user would pick instead, alternately on the same work, in one run.

    python tools/bench_peers.py --peer PYTHON [--work prefill-1b-q4 start ...] [--repeat 5] [--folder DIR]

PYTHON is an interpreter with llama-cpp-python and gguf, and for single matrices onnxruntime, onnx and openvino:

    CMAKE_ARGS="-DGGML_NATIVE=ON" PYTHON -m pip install llama-cpp-python gguf onnxruntime onnx openvino

Models of random weights are made in DIR and kept there: the same shape, the same bits for the body and for the
embedding (llama.cpp keeps a tied embedding of Q4_0 at 6 bits, and so does ggq). Each round runs one fresh process of
either side; the medians and their ratio are printed as a table and as one JSON line. --list says what there is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.bench.report import HEADER, Found, line, machine, summary
from tools.bench.sides import Bench, Missing, say
from tools.bench.works import WORKS, Work


def main() -> int:
    """Run the rounds and print what they gave; 1 when a row that was asked for has no peer to compare with."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer", default=sys.executable, help="a Python with the peers")
    parser.add_argument(
        "--work", nargs="*", default=[""], metavar="NAME", help="names of rows, or what they begin with"
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ggq-bench", help="for the models")
    parser.add_argument("--repeat", type=count, default=5)
    parser.add_argument("--threads", type=count, default=2)
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    args = parser.parse_args()
    chosen = choose(args.work)
    if args.list or not chosen:
        print("\n".join(row.name for work in WORKS for row in work.rows))
        return 0 if args.list else 2
    args.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.folder.resolve(), args.peer, args.threads)
    results, everything = [], []
    for work in chosen:
        found = measure(work, bench, args.repeat)
        everything.append(found)
        for row in work.rows:
            if any(row.name.startswith(name) for name in args.work):
                results.append(summary(found, row))
                say(line(results[-1]))
    print(HEADER)
    print("\n".join(map(line, results)))
    print(json.dumps({"repeat": args.repeat, **machine(everything, args.threads), "rows": results}))
    return 0 if all("ratio" in result for result in results) else 1


def count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: 1 or more expected")
    return int(text)


def choose(names: list[str]) -> list[Work]:
    """The works that have a row of such a name."""
    return [work for work in WORKS if any(row.name.startswith(name) for row in work.rows for name in names)]


def measure(work: Work, bench: Bench, repeat: int) -> Found:
    """Rounds of ours and of every peer in turn; a peer that cannot be run is named and left out from then on."""
    found = Found(work)
    for _ in range(repeat):
        found.ours.append(work.ours(bench))
        for name, peer in work.peers.items():
            if name in found.missing:
                continue
            try:
                found.peers.setdefault(name, []).append(peer(bench))
            except Missing as missing:
                found.missing[name] = str(missing)
                say(f"{name} is missing: {missing}")
            except FileNotFoundError:
                found.missing[name] = f"there is no {bench.peer}"
    return found


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(map(str, error.cmd))} failed:\n{str(error.stderr).strip()[-2000:]}")
    except OSError as error:
        say(f"error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
