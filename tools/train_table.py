"""Perplexity over bits, of matrices rounded after training and of matrices trained with the quantizer in the loop.

    python tools/train_table.py MODEL --text TRAIN --score VALID --work FOLDER [--seeds 3] [--plot FIGURE.png]

MODEL is a checkpoint's folder, TRAIN a text to calibrate and train on, VALID one that is only scored. A recipe is a
line "name: convert OPTIONS" or "name: train OPTIONS"; {name of an earlier recipe} stands for its file. Those of RECIPES
are built in, and --recipes FILE replaces them; --only picks some by their names.

A training is resumed if an earlier call was interrupted, and files and figures that are there are used again, so a call
may be repeated until all is done. A trained recipe is run once for each seed. The table says how much of the gap
between the best post-training recipe of a group of names and full precision is closed; a group is what stands before
the first space of a name.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from ggq.evaluate.plot import check_picture, require_matplotlib, save_picture

CALIBRATED = "--calibration {text} --calibration-context {context} --calibration-tokens 65536"

RECIPES = f"""
full: convert --scheme f32
8 absmax: convert --scheme q8-g64
4 gptq: convert --scheme q4m-g64 --method gptq {CALIBRATED}
3 gptq: convert --scheme q3m-g64 --method gptq {CALIBRATED}
2 mse: convert --scheme q2m-g64 --method mse
2 hqq: convert --scheme q2m-g64 --method hqq
2 q2-gptq: convert --scheme q2-g64 --method gptq {CALIBRATED}
2 q2-awq-gptq: convert --scheme q2-g64 --method awq+gptq {CALIBRATED}
2 q2z-gptq: convert --scheme q2z-g64 --method gptq {CALIBRATED}
2 gptq: convert --scheme q2m-g64 --method gptq {CALIBRATED}
2 awq-gptq: convert --scheme q2m-g64 --method awq+gptq {CALIBRATED}
2 blockwise: train --scheme q2m-g64 --start {{2 gptq}} --layer-steps 600 --steps 500 --sample 2000
2 lsq: train --scheme q2m-g64 --method lsq --start {{2 gptq}} --steps 600 --distill 1 --sample 2000
2 qat: train --scheme q2m-g64 --method qat --start {{2 gptq}} --steps 600 --distill 1 --sample 2000
ternary mean: convert --scheme ternary-g64
ternary lsq: train --scheme ternary-g64 --method lsq --steps 1200 --distill 1 --rate 0.0005
binary mean: convert --scheme binary-g64
binary lsq: train --scheme binary-g64 --method lsq --steps 1200 --distill 1 --rate 0.0005
"""
"""Each training takes under 30 minutes on two cores for a model of 7 million parameters."""


@dataclass(frozen=True)
class Recipe:
    """One way to make a file.

    Args:
        name: Its group, a space, and what it is.
        command: "convert" or "train".
        options: Of that command.
    """

    name: str
    command: str
    options: str

    @property
    def group(self) -> str:
        """What stands before the first space."""
        return self.name.split(" ")[0]


@dataclass(frozen=True)
class Row:
    """What came of a recipe.

    Args:
        name: Of the recipe.
        trained: Whether it was trained.
        bits: Bits per weight of all matrices.
        perplexity: Mean over seeds.
        spread: Largest less smallest perplexity.
        seeds: How many.
        seconds: Processor time of the longest training, of the processes that were not interrupted; 0 for conversions.
    """

    name: str
    trained: bool
    bits: float
    perplexity: float
    spread: float
    seeds: int
    seconds: float

    @property
    def group(self) -> str:
        """As of its recipe."""
        return self.name.split(" ")[0]


def parse_recipes(lines: Iterable[str]) -> list[Recipe]:
    """Recipes from lines; empty ones and those that begin with # count nothing.

    Raises:
        SystemExit: A line is no recipe.
    """
    found = []
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"([\w .-]+): (convert|train) (.*)", line.strip())
        if match is None:
            raise SystemExit(f"a recipe is 'name: convert OPTIONS' or 'name: train OPTIONS', found {line.strip()!r}")
        found.append(Recipe(*match.groups()))
    return found


def closed(row: Row, rows: Sequence[Row], group: str = "2") -> float | None:
    """The share of the gap between the best post-training row of a group and full precision that a row closes.

    Returns:
        1 where it is as good as full precision; None where there is nothing to compare with.
    """
    full = next((each.perplexity for each in rows if each.name == "full"), None)
    plain = [each.perplexity for each in rows if each.group == group and not each.trained]
    if full is None or not plain or min(plain) <= full:
        return None
    return (min(plain) - row.perplexity) / (min(plain) - full)


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| recipe | bits per weight | perplexity | spread, seeds | gap closed | processor time |"]
    lines.append("|---|---|---|---|---|---|")
    for row in rows:
        share = closed(row, rows) if row.trained else None
        told = "" if share is None else f"{share:.0%}"
        spread = f"{row.spread:.3f}, {row.seeds}" if row.trained else ""
        seconds = f"{row.seconds:.0f} s" if row.seconds else ""
        lines.append(f"| {row.name} | {row.bits:.2f} | {row.perplexity:.3f} | {spread} | {told} | {seconds} |")
    return "\n".join(lines)


class Bench:
    """Makes files and scores them in a work folder, each once.

    Args:
        arguments: Of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.work = arguments, Path(arguments.work)
        self.work.mkdir(parents=True, exist_ok=True)

    def row(self, recipe: Recipe) -> Row:
        """Carry out a recipe, for each seed."""
        seeds = range(self.arguments.seeds) if recipe.command == "train" else range(1)
        found = [self.one(recipe, seed) for seed in seeds]
        scores = [each["perplexity"] for each in found]
        return Row(
            recipe.name,
            recipe.command == "train",
            found[0]["bits"],
            mean(scores),
            max(scores) - min(scores),
            len(scores),
            max(each["seconds"] for each in found),
        )

    def place(self, name: str, seed: int = 0) -> Path:
        """The file of a recipe and a seed."""
        return self.work / f"{name.replace(' ', '-')}-{seed}.ggq"

    def one(self, recipe: Recipe, seed: int) -> dict[str, float]:
        """The figures of one file, which is made where it is not there yet."""
        place = self.place(recipe.name, seed)
        kept = place.with_suffix(".json")
        words = self.words(recipe, seed)
        if kept.is_file() and place.is_file() and (known := json.loads(kept.read_text()))["words"] == words:
            return dict(known["figures"])
        begun = time.perf_counter()
        made = self.call(recipe.command, str(self.arguments.model), str(place), *words, "--force", "--json")
        report = made.get("report", made)
        scored = self.call("eval", str(place), "--text", str(self.arguments.score), *self.scoring(), "--json")
        seconds = float(made.get("cpu_seconds", 0.0))
        figures = {"bits": report["bits_per_weight"], "perplexity": scored["perplexity"], "seconds": seconds}
        kept.write_text(json.dumps({"words": words, "figures": figures, "wall": time.perf_counter() - begun}))
        return figures

    def words(self, recipe: Recipe, seed: int) -> list[str]:
        """The options of a recipe, with what stands for a file or a text put in."""
        arguments = self.arguments
        given = {"text": str(arguments.text), "context": str(arguments.context)}
        names = re.findall(r"\{([^}]+)\}", recipe.options)
        given |= {name: str(self.place(name)) for name in names if name not in given}
        options = re.sub(r"\{([^}]+)\}", lambda match: shlex.quote(given[match[1]]), recipe.options)
        words = shlex.split(options)
        if recipe.command == "train":
            words += ["--text", str(arguments.text), "--context", str(arguments.context), "--seed", str(seed)]
        return words

    def scoring(self) -> list[str]:
        """How files are scored: with inputs as they are, so that only weights differ."""
        windows = [] if self.arguments.windows is None else ["--windows", str(self.arguments.windows)]
        return ["--context", str(self.arguments.context), "--activations", "float32", *windows]

    def call(self, command: str, *words: str) -> dict[str, Any]:
        """One command of ggq; a training goes on where an earlier one stopped."""
        state = Path(f"{words[1]}.training") if command == "train" else None
        if state is not None and state.is_file():
            words = (*words, "--resume")
        run = subprocess.run([sys.executable, "-m", "ggq", command, *words], stdout=subprocess.PIPE, check=False)
        if run.returncode:
            raise SystemExit(f"ggq {command} {shlex.join(words)} ended with status {run.returncode}")
        return dict(json.loads(run.stdout))


def draw(rows: Sequence[Row], path: Path) -> None:
    """Perplexity over bits, post-training and trained."""
    pyplot = require_matplotlib()
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for trained, label, mark in ((False, "rounded after training", "o"), (True, "trained", "^")):
        some = [row for row in rows if row.trained == trained and row.name != "full"]
        axes.scatter([row.bits for row in some], [row.perplexity for row in some], marker=mark, label=label)
        for row in some:
            axes.annotate(row.name, (row.bits, row.perplexity), fontsize=7, xytext=(3, 3), textcoords="offset points")
    full = next((row.perplexity for row in rows if row.name == "full"), None)
    if full is not None:
        axes.axhline(full, color="gray", linewidth=0.8, label="full precision")
    axes.set(xlabel="bits per weight, all matrices", ylabel="perplexity", yscale="log")
    axes.legend()
    figure.tight_layout()
    save_picture(figure, path)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    for name in ("text", "score", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--windows", type=int)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--recipes", type=Path)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    if given.plot is not None:
        check_picture(given.plot)
    recipes = parse_recipes((RECIPES if given.recipes is None else given.recipes.read_text()).splitlines())
    unknown = [name for name in given.only if name not in {recipe.name for recipe in recipes}]
    if unknown:
        raise SystemExit(f"there is no recipe {unknown[0]!r}")
    bench, rows = Bench(given), list[Row]()
    for recipe in recipes:
        if not given.only or recipe.name in given.only:
            rows.append(bench.row(recipe))
            print(f"{rows[-1].name}: {rows[-1].perplexity:.3f}", file=sys.stderr, flush=True)
    print(table(rows))
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    if given.plot is not None:
        draw(rows, given.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
