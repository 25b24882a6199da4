"""Write tests/golden/templates.json: what transformers makes of random conversations with chat templates of our own.

    PYTHON tools/make_template_golden.py [OUT.json]
    PYTHON tools/make_template_golden.py --check FOLDER [--conversations 200]

PYTHON has transformers 5.24, and for --check, which compares both renderers over the templates of FOLDER (*.jinja, as
families publish them) and over our own, ggq's packages too. It exits with 1 if a text differs, or if one of the two
refuses what the other renders.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from tests.kit.chat_templates import TEMPLATES, TOKENS, WITH_TOOLS  # noqa: E402
from tests.kit.conversations import conversation  # noqa: E402

OUT = ROOT / "tests" / "golden" / "templates.json"
CONVERSATIONS = 20
"""Conversations of the golden, seeds from 0."""


def tokenizer() -> Any:
    """A tokenizer of transformers that has TOKENS."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({name: i for i, name in enumerate(TOKENS.values())}, TOKENS["unk_token"]))
    return PreTrainedTokenizerFast(tokenizer_object=made, **TOKENS)


def theirs(of: Any, given: dict[str, Any]) -> str:
    """Their text; "refused: ..." where the template refuses, "error" where it fails."""
    from jinja2 import TemplateError

    words = {name: value for name, value in given.items() if name != "variables"}
    messages = words.pop("messages")
    try:
        return "text: " + str(of.apply_chat_template(messages, tokenize=False, **words, **given["variables"]))
    except TemplateError as problem:
        return f"refused: {problem}" if type(problem) is TemplateError else "error"
    except Exception:  # whatever a template may raise
        return "error"


def ours(of: Any, given: dict[str, Any]) -> str:
    """Our text in the same words."""
    from ggq.errors import ModelError, UsageError

    try:
        return "text: " + str(of.render(given["messages"], **{n: v for n, v in given.items() if n != "messages"}))
    except UsageError as problem:
        return "refused: " + problem.problem.removeprefix("the chat template refuses: ")
    except ModelError:
        return "error"


def digest(text: str) -> str:
    """Twelve letters that stand for a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def golden() -> dict[str, Any]:
    """What transformers makes of the conversations, by template."""
    found, of = {}, tokenizer()
    for name, source in TEMPLATES.items():
        of.chat_template = source
        found[name] = [theirs(of, conversation(seed)) for seed in range(CONVERSATIONS)]
    of.chat_template = {"default": TEMPLATES["parts"], "tool_use": WITH_TOOLS}
    found["named"] = [theirs(of, conversation(seed)) for seed in range(CONVERSATIONS)]
    kept = {name: [text if text == "error" else digest(text) for text in texts] for name, texts in found.items()}
    rendered = {name: next((text for text in texts if text.startswith("text")), "") for name, texts in found.items()}
    counts = {name: dict(Counter(text.partition(":")[0] for text in texts)) for name, texts in found.items()}
    return {"digests": kept, "first": rendered, "counts": counts}


def check(folder: Path, conversations: int) -> int:
    """Compare both renderers; the number of differences."""
    from ggq.text.template import ChatTemplate

    of, different = tokenizer(), 0
    files = sorted(folder.glob("*.jinja"))
    for name, source in {**TEMPLATES, **{file.stem: file.read_text(encoding="utf-8") for file in files}}.items():
        of.chat_template, own, counts, wrong = source, ChatTemplate(source, TOKENS), Counter[str](), list[int]()
        for seed in range(conversations):
            given = conversation(seed)
            expected = theirs(of, given)
            counts[expected.partition(":")[0]] += 1
            if ours(own, given) != expected:
                wrong.append(seed)
        different += len(wrong)
        said = f"differs for seeds {wrong[:5]}" if wrong else "the same"
        print(f"{name:<56}{counts['text']:>5} texts {counts['refused']:>4} refused {counts['error']:>4} errors  {said}")
    return different


def main() -> int:
    """Write the golden, or compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path, default=OUT)
    parser.add_argument("--check", type=Path, metavar="FOLDER")
    parser.add_argument("--conversations", type=int, default=200)
    args = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if args.check:
        return int(check(args.check, args.conversations) > 0)
    args.out.write_text(json.dumps(golden(), indent=1, ensure_ascii=True) + "\n", encoding="ascii")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
