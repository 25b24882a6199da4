"""Chat templates of our own that use what families' templates use: loops that look ahead and back, namespaces, macros
that recurse, filters with options, tests, slices, string methods, refusals, marks of what is trained on, dates."""

from __future__ import annotations

from pathlib import Path

TEMPLATES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("templates/*"))}
"""By name."""

WITH_TOOLS = TEMPLATES.pop("with_tools")
"""The one for conversations with tools, beside the one named "parts"."""

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
"""Named tokens of the tokenizer that they are rendered with."""
