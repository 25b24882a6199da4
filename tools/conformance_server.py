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


def main() -> None:
    """Write the model and serve it as "demo" and by the names that tests like."""
    folder, port = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 8099
    path = folder / "demo.ggq"
    path.unlink(missing_ok=True)
    config = json.loads((DEMO / "config.json").read_text())
    config["max_position_embeddings"] = 8192
    assets = {name: (DEMO / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}
    assets["chat_template.jinja"] = TEMPLATE
    assets["generation_config.json"] = json.dumps({"stop_strings": ENDS}).encode()
    ends = {"tokenizer.eos_ids": [0], "tokenizer.add_bos": False}
    write_ggq(path, config, read_checkpoint(DEMO), "q4-g32", assets, ends)
    ggq.serve({"demo": path}, port=port, images="mention", aliases={"gpt-4o-mini": "demo", "claude-opus": "demo"})


if __name__ == "__main__":
    main()
