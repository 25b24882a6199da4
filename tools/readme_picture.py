"""README's picture: mean KL divergence over bits per weight, ggq's mixes and llama.cpp's types.

    python tools/readme_picture.py

It reads docs/fidelity.json, the figures that tools/fidelity_table.py has measured, and writes docs/fidelity.svg: the
same bytes for the same figures and the same matplotlib.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE, PICTURE = ROOT / "docs" / "fidelity.json", ROOT / "docs" / "fidelity.svg"
LINES = (
    ("llama.cpp_kl", "llama.cpp", "#888888", "s--"),
    ("mix_kl", "ggq, --target-bpw", "#1f77b4", "o-"),
    ("gptq_kl", "ggq, --target-bpw --method gptq", "#d62728", "o-"),
)
"""Key of the figures, name, colour and form of each line."""


def main() -> int:
    """Draw the picture.

    Returns:
        0.
    """
    sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]
    from ggq.evaluate.plot import require_matplotlib

    pyplot = require_matplotlib()
    pyplot.rcParams.update({"svg.hashsalt": "ggq", "svg.fonttype": "none", "font.size": 10})
    data = json.loads(SOURCE.read_text(encoding="utf-8"))
    figure, axis = pyplot.subplots(figsize=(7.2, 3.6))
    for key, label, color, form in LINES:
        axis.plot(
            [row["bits"] for row in data["rows"]], [row[key] for row in data["rows"]], form, color=color, label=label
        )
    for row in data["rows"]:
        place = (row["bits"], row["llama.cpp_kl"])
        axis.annotate(row["llama.cpp"], place, xytext=(4, 4), textcoords="offset points", fontsize=8, color="#666666")
    axis.set_yscale("log")
    axis.set_xlabel("bits per weight")
    axis.set_ylabel("mean KL divergence")
    axis.grid(True, which="both", alpha=0.2)
    axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})
    pyplot.close(figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
