"""Answers that must match something match it, whatever the model would like to write."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.errors import GGQError, ModelError, UsageError
from ggq.generate.grammar import Grammar
from ggq.generate.model import Model
from tests.kit.small_models import write_demo
from tests.kit.support import run_ggq

SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["a", "bc"]}, "n": {"type": "integer", "minimum": 10, "maximum": 99}},
    "required": ["name", "n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("demo") / "demo.ggq")


@pytest.fixture(scope="module")
def model(path: Path) -> Any:
    with ggq.load(path, interpreter="numpy") as loaded:
        yield loaded


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.5, "seed": 1}, {"temperature": 5.0, "seed": 2, "top_p": 0.9}]
)
def test_json_fits_its_schema(model: Model, options: dict[str, Any]) -> None:
    for schema in (SCHEMA, json.dumps(SCHEMA)):
        found = json.loads(model.generate("def f(", json_schema=schema, max_tokens=60, **options))
        assert set(found) == {"name", "n"} and found["name"] in ("a", "bc") and 10 <= found["n"] <= 99


def test_a_regular_expression_is_matched_as_a_whole(model: Model) -> None:
    for seed in range(20):
        text = model.generate("x = ", regex=r"(foo|bär)[0-9]{3}", temperature=2.0, seed=seed)
        assert re.fullmatch(r"(foo|bär)[0-9]{3}", text)


def test_an_answer_ends_when_nothing_can_follow_and_says_when_it_is_cut_off(model: Model) -> None:
    stream = model.stream("x = ", lark='start: "yes" | "no"')
    assert "".join(stream) in ("yes", "no") and stream.answer.finish_reason == "end"
    cut = model.stream("x = ", regex="a{40}", max_tokens=3)
    assert set("".join(cut)) == {"a"} and cut.answer.finish_reason == "length"


def test_answers_of_several_threads_keep_to_their_own_grammars(model: Model) -> None:
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        found[number] = model.generate("x = ", regex=f"({number}|{number}z){{4}}", temperature=1.0, seed=number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(re.fullmatch(f"({number}|{number}z){{4}}", text) for number, text in found.items()) and len(found) == 6


def test_what_is_free_is_as_without_a_grammar(model: Model) -> None:
    assert model.generate("def f(", regex=r"(?s:.*)", max_tokens=12) == model.generate("def f(", max_tokens=12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regex": "("}, r"regex cannot be used: .*unclosed group"),
        ({"lark": "x y z"}, "lark cannot be used: .*Expected token"),
        ({"json_schema": {"type": "nonsense"}}, "json_schema cannot be used: Invalid type: nonsense"),
        ({"json_schema": "[1"}, "json_schema cannot be used: Expecting"),
        ({"json_schema": 5}, "json_schema cannot be used: an object expected, found 5"),
        ({"regex": 5}, "regex must be a text, not 5"),
        ({"regex": "a", "lark": "b"}, "regex and lark cannot be combined"),
    ],
)
def test_a_grammar_that_does_not_parse_is_an_error(model: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        model.generate("x", **options)
    assert "\n" not in str(refused.value)


def test_what_the_vocabulary_cannot_write_is_an_error(model: Model) -> None:
    constraint = Grammar("regex", "ab", model.tokenizer.to_str(), model.config.vocabulary_size, model.ends).constraint()
    with pytest.raises(ModelError, match="cannot be kept to the grammar"):
        constraint.accept(int(model.encode("z", begin=False)[-1]))
        constraint.masked(np.zeros(model.config.vocabulary_size, np.float32))
    with pytest.raises(GGQError, match="no grammar can be kept with this tokenizer"):
        Grammar("regex", "ab", "{}", 10, ())


def test_the_command_line(path: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    common = ("run", path, "-p", "x = ", "--interpreter", "numpy", "-n", "60")
    for given in (schema, json.dumps(SCHEMA)):
        done = run_ggq(*common, "--schema", given)
        assert done.returncode == 0, done.stderr
        assert set(json.loads(done.stdout)) == {"name", "n"}
    grammar = tmp_path / "g.lark"
    grammar.write_text('start: "yes"')
    assert run_ggq(*common, "--lark", grammar).stdout == "yes\n"
    assert run_ggq(*common, "--regex", "[ab]{2}").stdout.strip() in ("aa", "ab", "ba", "bb")
    for arguments in (("--regex", "("), ("--schema", tmp_path / "no.json"), ("--lark", tmp_path)):
        refused = run_ggq(*common, *arguments)
        assert refused.returncode == 2 and refused.stdout == "" and len(refused.stderr.splitlines()) <= 2
