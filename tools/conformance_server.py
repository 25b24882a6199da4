"""Serves the embedded model with a chat template and an end that it comes to, for conformance tests of the server.

python tools/conformance_server.py FOLDER [PORT]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ggq
from tests.kit.small_models import read_checkpoint, write_ggq
from tests.kit.support import DEMO

TEMPLATE = b"{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}assistant:"
ENDS = ["(", ":\n", ".\n", ")", "=", "_", "#"]
"""A model of code writes one of these soon; calls of functions and JSON hold none of them."""


def write(path: Path, stop_strings: list[str]) -> Path:
    """The embedded model with a context of 2,048 tokens."""
    path.unlink(missing_ok=True)
    config = json.loads((DEMO / "config.json").read_text())
    config["max_position_embeddings"] = 2048
    assets = {name: (DEMO / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}
    assets["chat_template.jinja"] = TEMPLATE
    assets["generation_config.json"] = json.dumps({"stop_strings": stop_strings}).encode()
    ends = {"tokenizer.eos_ids": [0], "tokenizer.add_bos": False}
    return write_ggq(path, config, read_checkpoint(DEMO), "q4-g32", assets, ends)


def main() -> None:
    """Write the models and serve them; "endless" comes to no end by itself."""
    folder, port = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 8099
    models = {"demo": write(folder / "demo.ggq", ENDS), "endless": write(folder / "endless.ggq", [])}
    ggq.serve(models, port=port, images="mention", aliases={"gpt-4o-mini": "demo", "claude-opus": "demo"})


if __name__ == "__main__":
    main()
