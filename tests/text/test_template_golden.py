"""Chat templates against transformers' own renderer: random conversations with tools and reasoning, character for
character, and what is refused (tools/make_template_golden.py)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ggq.text.template import ChatTemplate
from tests.kit.chat_templates import TEMPLATES, TOKENS, WITH_TOOLS
from tests.kit.conversations import conversation
from tests.kit.support import ROOT
from tools.make_template_golden import digest, ours

GOLDEN = json.loads((ROOT / "tests" / "golden" / "templates.json").read_text(encoding="ascii"))


def agree(name: str, template: ChatTemplate, change: Any = None) -> list[int]:
    """Seeds of the conversations whose text is another, or that are refused otherwise."""
    found = []
    for seed, expected in enumerate(GOLDEN["digests"][name]):
        given = conversation(seed) if change is None else change(conversation(seed))
        text = ours(template, given)
        if (text if text == "error" else digest(text)) != expected:
            found.append(seed)
    return found


@pytest.mark.parametrize("name", TEMPLATES)
def test_texts_and_refusals_are_those_of_transformers(name: str) -> None:
    template = ChatTemplate(TEMPLATES[name], TOKENS)
    assert agree(name, template) == []
    texts = [ours(template, conversation(seed)) for seed in range(10)]
    first = GOLDEN["first"][name]
    assert not first or first in texts or first in [ours(template, conversation(seed)) for seed in range(10, 20)]


def test_conversations_with_tools_take_the_template_for_them() -> None:
    assert agree("named", ChatTemplate(TEMPLATES["parts"], TOKENS, with_tools=WITH_TOOLS)) == []
    assert agree("named", ChatTemplate(TEMPLATES["parts"], TOKENS)) != []


def test_the_golden_has_texts_refusals_and_errors() -> None:
    for kind, least in (("text", 100), ("refused", 8), ("error", 50)):
        assert sum(counts.get(kind, 0) for counts in GOLDEN["counts"].values()) >= least


@pytest.mark.parametrize("name", ["reasoning", "thinking", "reasoning_content"])
def test_reasoning_is_found_under_each_of_its_names(name: str) -> None:
    """Without it the golden fails."""

    def without(given: dict[str, Any]) -> dict[str, Any]:
        messages = [{key: value for key, value in each.items() if key != name} for each in given["messages"]]
        return {**given, "messages": messages}

    assert agree("chatml", ChatTemplate(TEMPLATES["chatml"], TOKENS), without) != []
