"""Hold recipes of ggq against llama.cpp's types: KL divergence from full precision per bit, on the same tokens.

    python tools/fidelity_table.py MODEL=TEXT [MODEL=TEXT ...] --peer PYTHON --work FOLDER [--calibration TEXT]

MODEL is a checkpoint's folder, TEXT a file that it was not trained on, PYTHON an interpreter with llama-cpp-python and
gguf (see tools/llama_cpp_peer.py). Each recipe is a line "name: options of ggq convert"; the built-in ones are in
RECIPES, and --recipe and --recipes replace them. A recipe with {calibration} in its options runs only with
--calibration; one with {bits} runs for each of llama.cpp's types, at the bits per weight of its file.

llama.cpp quantizes the same weights by itself and is compared with its own F16; ggq is compared with the model
converted to f32. Bits count all matrices of a file, embedding and scales included, on both sides.

Converted files and figures are kept in the work folder and used again while nothing that they depend on has changed.
The tables go to standard output as Markdown; --json and --plot write files.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

import ggq
from ggq.evaluate.plot import check_picture, require_matplotlib, save_picture
from ggq.evaluate.reference import LogProbs, ModelReference, Reference
from ggq.evaluate.scores import score
from ggq.evaluate.text import read_text, text_windows
from ggq.evaluate.text_windows import Windows
from ggq.format import open_reader
from ggq.format.native.summary import summarize

ROOT = Path(__file__).resolve().parents[1]
PEER = Path(__file__).with_name("llama_cpp_peer.py")

TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "Q4_0", "IQ4_XS", "Q3_K_M", "Q2_K")
"""Types of llama.cpp that need no importance matrix."""

RECIPES = """
q8-g32: --scheme q8-g32
q8-row: --scheme q8-row
q6-g32: --scheme q6-g32
q5-g32: --scheme q5-g32
q5-g32-s6 mse: --scheme q5-g32-s6 --method mse
q4-g32: --scheme q4-g32
q4-g32 mse: --scheme q4-g32 --method mse
q4z-g32 hqq: --scheme q4z-g32 --method hqq
q4-g32-s6 mse: --scheme q4-g32-s6 --method mse
q4m-g32-s6: --scheme q4m-g32-s6
c4-g32-s6: --scheme c4-g32-s6
nf4-g64: --scheme nf4-g64
q4-g128 mse: --scheme q4-g128 --method mse
q3-g32-s6 mse: --scheme q3-g32-s6 --method mse
c3-g32-s6: --scheme c3-g32-s6
q2m-g32-s4: --scheme q2m-g32-s4
q4-g32-s6 gptq: --scheme q4-g32-s6 --method gptq --calibration {calibration}
q4-g64 gptq: --scheme q4-g64 --method gptq --calibration {calibration}
q3-g32-s6 gptq: --scheme q3-g32-s6 --method gptq --calibration {calibration}
q2m-g32-s4 gptq: --scheme q2m-g32-s4 --method gptq --calibration {calibration}
q4-g64 awq: --scheme q4-g64 --method awq --calibration {calibration}
q4-g64 awq+gptq: --scheme q4-g64 --method awq+gptq --calibration {calibration}
q3-g32-s6 awq+gptq: --scheme q3-g32-s6 --method awq+gptq --calibration {calibration}
q8-row per token: --scheme q8-row --activations token
q8-row smoothquant per token: --scheme q8-row --method smoothquant --activations token --calibration {calibration}
q8-row smoothquant static: --scheme q8-row --method smoothquant --activations static --calibration {calibration}
mix {bits}: --target-bpw {bits}
mix {bits} gptq: --target-bpw {bits} --method gptq --calibration {calibration}
"""
"""What is compared when nobody says."""

CALIBRATION, BITS = "{calibration}", "{bits}"
"""What stands in a recipe for the text, and for the bits per weight of each of llama.cpp's files in turn."""

MEMORY = 1 << 30
"""Bytes for the reference's log-probabilities; where they take more, the reference runs alongside each file."""


@dataclass(frozen=True)
class Recipe:
    """A way to convert: its name and the options of `ggq convert`."""

    name: str
    options: tuple[str, ...]

    @property
    def calibrated(self) -> bool:
        """Whether it needs a text."""
        return any(CALIBRATION in option for option in self.options)

    def at(self, sizes: Iterable[float]) -> list[Recipe]:
        """Itself, or if it has a place for bits, one for each size, rounded down to a thousandth."""
        if not any(BITS in option for option in self.options):
            return [self]
        texts = dict.fromkeys(f"{floor(1000 * size) / 1000:.3f}" for size in sizes)
        name = self.name if BITS in self.name else f"{self.name} {BITS}"
        return [
            Recipe(name.replace(BITS, text), tuple(option.replace(BITS, text) for option in self.options))
            for text in texts
        ]


@dataclass(frozen=True)
class Row:
    """One file's figures; `engine` is "ggq" or "llama.cpp"."""

    model: str
    engine: str
    name: str
    method: str
    calibrated: bool
    bits_per_weight: float
    perplexity: float
    mean_kld: float
    kld_median: float
    kld_p99: float
    same_top: float


def parse_recipes(lines: Iterable[str]) -> list[Recipe]:
    """Recipes from lines "name: options"; empty lines and those that begin with # are skipped."""
    recipes = []
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, options = line.partition(":")
        if not colon or not name.strip():
            raise SystemExit(f"a recipe is 'name: options of ggq convert', found {line.strip()!r}")
        recipes.append(Recipe(name.strip(), tuple(shlex.split(options))))
    return recipes


def main() -> int:
    """Run everything and print the tables; 1 when there is nothing to print."""
    args = arguments()
    if args.recipes:
        lines = args.recipes.read_text(encoding="utf-8").splitlines()
    else:
        lines = [] if args.recipe else RECIPES.splitlines()
    recipes = parse_recipes([*lines, *args.recipe])
    if args.plot:
        check_picture(args.plot)
    rows: list[Row] = []
    problems: list[str] = []
    for pair in args.pairs:
        model, _, text = pair.partition("=")
        if not text:
            raise SystemExit(f"MODEL=TEXT expected, found {pair!r}")
        rows += compare(Path(model), Path(text), recipes, args, problems)
    report(rows, args, problems)
    return 0 if rows else 1


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="MODEL=TEXT")
    parser.add_argument("--work", type=Path, required=True, help="folder for converted files and figures")
    parser.add_argument("--peer", help="a Python with llama-cpp-python and gguf; without it only ggq is measured")
    parser.add_argument("--types", default=",".join(TYPES), help="llama.cpp's types")
    parser.add_argument("--recipe", action="append", default=[], metavar="'NAME: OPTIONS'", help="may be repeated")
    parser.add_argument("--recipes", type=Path, help="a file of such lines")
    parser.add_argument("--calibration", type=Path, help="a text that is neither scored nor was")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--windows", type=int, default=96)
    parser.add_argument("--interpreter", default="numba", help="numba, or numpy for schemes that no kernel multiplies")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--plot", type=Path, help="write a plot here (needs matplotlib)")
    return parser.parse_args()


def compare(
    source: Path, text: Path, recipes: Sequence[Recipe], args: argparse.Namespace, problems: list[str]
) -> list[Row]:
    """All rows of one model and text."""
    work: Path = args.work / f"{source.name}-{text.stem}"
    work.mkdir(parents=True, exist_ok=True)
    exact = convert(source, Recipe("f32", ("--scheme", "f32")), work, None)
    rows = []
    with ggq.load(exact, activations="float32", interpreter=args.interpreter) as model:
        windows = text_windows(model, read_text(text), args.context, None, None, args.windows, text)
        memory = 4 * windows.tokens * model.config.vocabulary_size
        reference: Reference = LogProbs.of(model, windows) if memory <= MEMORY else ModelReference(model)
        if args.peer:
            rows += peer_rows(source, work, windows, args, problems)
        sizes = [found.bits_per_weight for found in rows]
        for recipe in (sized for given in recipes for sized in given.at(sizes)):
            if recipe.calibrated and args.calibration is None:
                problems.append(f"{source.name}: {recipe.name} left out: it needs --calibration")
                continue
            try:
                rows.append(ggq_row(source, recipe, work, windows, reference, args))
            except (ggq.GGQError, ConversionFailed) as error:
                problems.append(f"{source.name}: {recipe.name} failed: {complaint(str(error))}")
                continue
            say(rows[-1])
    return rows


def ggq_row(
    source: Path, recipe: Recipe, work: Path, windows: Windows, reference: Reference, args: argparse.Namespace
) -> Row:
    """Convert and score one recipe."""
    path = convert(source, recipe, work, args.calibration)
    with open_reader(path) as reader:
        digest, bits, methods = reader.digest, summarize(reader).bits_per_weight, methods_of(reader.tensors.values())
    code = sources("ggq/tape", "ggq/engine", "ggq/generate", "ggq/text", "ggq/evaluate", "kernels")
    cache = work / f"{recipe.name}.{key(digest, windows.digest, args.interpreter, code)}.json"
    if cache.exists():
        found = json.loads(cache.read_text())
    else:
        with ggq.load(path, interpreter=args.interpreter) as model:
            found = score(model, windows, reference).figures()
        cache.write_text(json.dumps(found))
    assert bits is not None
    return row(source, "ggq", recipe.name, methods, recipe.calibrated, bits, found)


def row(source: Path, engine: str, name: str, method: str, calibrated: bool, bits: float, found: dict[str, Any]) -> Row:
    """A row from figures by name."""
    names = ("perplexity", "mean_kld", "kld_median", "kld_p99", "same_top")
    return Row(source.name, engine, name, method, calibrated, bits, *(float(found[key]) for key in names))


def methods_of(tensors: Iterable[Any]) -> str:
    """The methods of a file's matrices, the one of the most weights first."""
    weights: dict[str, int] = {}
    for tensor in tensors:
        method = str(tensor.attributes.get("method", "") or "")
        if len(tensor.shape) > 1 and method:
            weights[method] = weights.get(method, 0) + int(np.prod(tensor.shape))
    return ", ".join(sorted(weights, key=lambda method: -weights[method]))


def complaint(text: str) -> str:
    """The line of an error's text that says what is wrong."""
    lines = text.strip().splitlines() or ["no word of why"]
    return next((line for line in lines if line.lower().startswith("error: ")), lines[0])


class ConversionFailed(Exception):
    """What `ggq convert` said."""


def convert(source: Path, recipe: Recipe, work: Path, calibration: Path | None) -> Path:
    """Run `ggq convert`, unless the work folder has the result of the same inputs."""
    options = [option.replace(CALIBRATION, str(calibration)) for option in recipe.options]
    inputs = [state(path) for path in sorted(source.iterdir())]
    if recipe.calibrated and calibration is not None:
        inputs.append(state(calibration))
    code = sources("ggq/convert", "ggq/quant", "ggq/format", "ggq/models", "kernels/ggq_kernels/quantize/encode.py")
    path = work / f"{recipe.name}.{key(*options, *inputs, code)}.ggq"
    if not path.exists():
        command = [sys.executable, "-m", "ggq", "convert", str(source), str(path), *options, "--json"]
        result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if result.returncode:
            raise ConversionFailed(result.stderr)
    return path


def state(path: Path) -> str:
    """What tells whether a file is still the same."""
    found = path.stat()
    return f"{path.name} {found.st_size} {found.st_mtime_ns}"


def sources(*places: str) -> str:
    """A digest of the project's own code in some folders and files: figures of other code are no figures of this."""
    paths = [path for place in places for path in (sorted((ROOT / place).rglob("*.py")) or [ROOT / place])]
    return key(*(path.read_bytes() for path in paths))


def key(*parts: str | bytes) -> str:
    """A short name for everything that a file depends on."""
    digest = blake3()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


def peer_rows(source: Path, work: Path, windows: Windows, args: argparse.Namespace, problems: list[str]) -> list[Row]:
    """llama.cpp's rows; F16 itself is not one."""
    types = args.types.split(",")
    inputs = [state(path) for path in sorted(source.iterdir())]
    cache = work / f"llama_cpp.{key(*types, *inputs, windows.digest, PEER.read_bytes(), args.peer)}.jsonl"
    if not cache.exists():
        ids = work / "windows.npy"
        np.save(ids, windows.ids)
        command = [args.peer, str(PEER), str(source), str(work), str(ids), str(windows.scored), *types]
        result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if result.returncode:
            raise SystemExit(f"{args.peer} failed:\n{result.stderr.strip()[-2000:]}")
        cache.write_text(result.stdout)
    rows = []
    for found in map(json.loads, cache.read_text().splitlines()):
        if "problem" in found:
            problems.append(f"{source.name}: {found['type']}: {found['problem']}")
        elif found["type"] != "F16":
            rows.append(row(source, "llama.cpp", found["type"], "", False, found["bits_per_weight"], found))
            say(rows[-1])
    return rows


def say(found: Row) -> None:
    """A line on standard error while the work goes on."""
    print(f"{found.model}: {found.name} {found.bits_per_weight:.3f} bits, {found.mean_kld:.5f}", file=sys.stderr)


def report(rows: Sequence[Row], args: argparse.Namespace, problems: Sequence[str]) -> None:
    """Print the tables, and write what was asked for."""
    for model in dict.fromkeys(found.model for found in rows):
        mine = [found for found in rows if found.model == model]
        print(f"\n{model}: windows of {args.context} tokens, {args.windows} at most, second halves scored\n")
        print("\n".join(table(mine)))
        if any(found.engine == "llama.cpp" for found in mine):
            print()
            print("\n".join(duels(mine)))
    for problem in problems:
        print(problem, file=sys.stderr)
    if args.json:
        document = {"context": args.context, "windows": args.windows, "problems": list(problems)}
        args.json.write_text(json.dumps({**document, "rows": [asdict(found) for found in rows]}, indent=2) + "\n")
    if args.plot:
        plot(rows, args.plot)


def table(rows: Sequence[Row]) -> list[str]:
    """Every file, by bits, as lines of Markdown."""
    lines = [
        "| | bits per weight | mean KL divergence | 99 % | same top token | perplexity | method | calibrated |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for found in sorted(rows, key=lambda found: -found.bits_per_weight):
        name = f"`{found.name}`" if found.engine == "ggq" else f"llama.cpp {found.name}"
        cells = [
            name,
            f"{found.bits_per_weight:.3f}",
            f"{found.mean_kld:.5f}",
            f"{found.kld_p99:.4f}",
            f"{found.same_top:.1%}",
            f"{found.perplexity:.3f}",
            found.method,
            "yes" if found.calibrated else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def duels(rows: Sequence[Row]) -> list[str]:
    """Each of llama.cpp's types and the best recipes that take no more bits, as lines of Markdown."""
    lines = [
        "| llama.cpp | bits | mean KL | best without calibration | bits | mean KL | of theirs | best with it | bits | "
        "mean KL | of theirs |",
        f"|{'---|' * 11}",
    ]
    ours = [found for found in rows if found.engine == "ggq"]
    for peer in sorted((r for r in rows if r.engine == "llama.cpp"), key=lambda found: -found.bits_per_weight):
        cells = [peer.name, f"{peer.bits_per_weight:.3f}", f"{peer.mean_kld:.5f}"]
        for calibrated in (False, True):
            fit = [r for r in ours if r.calibrated == calibrated and r.bits_per_weight <= peer.bits_per_weight]
            best = min(fit, key=lambda found: found.mean_kld, default=None)
            if best is None:
                cells += ["none", "", "", ""]
            else:
                share = best.mean_kld / peer.mean_kld
                cells += [f"`{best.name}`", f"{best.bits_per_weight:.3f}", f"{best.mean_kld:.5f}", f"{share:.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def plot(rows: Sequence[Row], path: Path) -> None:
    """Mean KL divergence over bits per weight, one panel for each model."""
    pyplot = require_matplotlib()
    models = list(dict.fromkeys(found.model for found in rows))
    figure, axes = pyplot.subplots(1, len(models), figsize=(7 * len(models), 5), squeeze=False)
    for model, axis in zip(models, axes[0]):
        for label, engine, calibrated, mark, color in (
            ("llama.cpp", "llama.cpp", False, "s-", "tab:gray"),
            ("ggq", "ggq", False, "o", "tab:blue"),
            ("ggq, calibrated", "ggq", True, "^", "tab:orange"),
        ):
            points = [r for r in rows if (r.model, r.engine, r.calibrated) == (model, engine, calibrated)]
            points.sort(key=lambda found: found.bits_per_weight)
            if not points:
                continue
            axis.plot([r.bits_per_weight for r in points], [r.mean_kld for r in points], mark, color=color, label=label)
            for found in points:
                place = (found.bits_per_weight, found.mean_kld)
                axis.annotate(found.name, place, (3, 3), textcoords="offset points", fontsize=6, color=color)
        axis.set(title=model, xlabel="bits per weight", ylabel="mean KL divergence, nats", yscale="log")
        axis.grid(True, which="both", alpha=0.3)
        axis.legend()
    figure.tight_layout()
    save_picture(figure, path)
    pyplot.close(figure)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ggq.GGQError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except ConversionFailed as error:
        print(str(error).strip(), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
