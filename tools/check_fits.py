"""How far what `ggq convert --what-fits` predicts is from what comes out: size, divergence and speed of every preset.

    python tools/check_fits.py MODEL --work FOLDER [--text FILE] [--calibration FILE] [--speed]

Each preset is converted into the folder. With a text the mean KL divergence from the model in f32 is measured on it;
with --speed what `ggq bench` decodes, and nothing else should run meanwhile. The memory's bandwidth is measured anew
before each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Row:
    """One preset, as foreseen and as it came out; None where it was not measured.

    Args:
        preset: Its name.
        sizes: Bytes of the file.
        divergences: Nats per token.
        speeds: Tokens per second of one sequence.
    """

    preset: str
    sizes: tuple[float, float]
    divergences: tuple[float, float] | None
    speeds: tuple[float, float] | None

    def line(self) -> str:
        """A row of a table of Markdown."""
        cells = [f"{self.sizes[0] / 1e6:.2f} / {self.sizes[1] / 1e6:.2f} MB ({self.sizes[0] / self.sizes[1] - 1:+.2%})"]
        for pair, form in ((self.divergences, ".4f"), (self.speeds, ".1f")):
            cells.append("" if pair is None else f"{pair[0]:{form}} / {pair[1]:{form}} ({pair[0] / pair[1]:.2f})")
        return f"| {self.preset} | {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> int:
    """Print the table; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER", help="where files are made")
    parser.add_argument("--text", type=Path, metavar="FILE")
    parser.add_argument("--context", type=int, default=256, metavar="N")
    parser.add_argument("--windows", type=int, default=96, metavar="N")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="for the sensitivities of the mixes")
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    more = ["--calibration", str(options.calibration)] if options.calibration else []
    print("| preset | size, foreseen / found | divergence | tokens/s |\n|---|---|---|---|")
    for fit in ggq("convert", options.model, "--what-fits", *more)["sizes"]:
        out = options.work / f"{fit['preset']}.ggq"
        ggq("convert", options.model, str(out), "--preset", fit["preset"], "--force", *more)
        divergences = speeds = None
        if options.text is not None:
            divergences = fit["predicted_kld"], divergence(out, options)
        if options.speed:
            now = {each["preset"]: each for each in ggq("convert", options.model, "--what-fits", *more)["sizes"]}
            speeds = now[fit["preset"]]["decode_tok_s"], ggq("bench", str(out))["decode_tok_s"]
        print(Row(fit["preset"], (fit["file_bytes"], out.stat().st_size), divergences, speeds).line(), flush=True)
    return 0


def divergence(file: Path, options: argparse.Namespace) -> float:
    """The mean KL divergence of a file from the model in f32, which is made once."""
    exact = options.work / "f32.ggq"
    if not exact.exists():
        ggq("convert", options.model, str(exact), "--scheme", "f32")
    settings = ["--context", str(options.context), "--windows", str(options.windows)]
    found = ggq("eval", str(file), "--text", str(options.text), "--reference", str(exact), *settings)
    return float(found["mean_kld"])


def ggq(*arguments: str) -> dict[str, Any]:
    """What a command prints with --json."""
    command = [sys.executable, "-m", "ggq", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    sys.exit(main())
