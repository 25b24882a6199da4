"""Of two sources that say the same, the one that docs/sources.md names wins: S-18, S-19 and S-20."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ggq
from ggq.convert.convert import plan
from ggq.errors import UnsupportedError
from tests.kit.checkpoints import edit_json, tiny
from tests.kit.support import ROOT

MESSAGE = [{"role": "user", "content": "hello"}]


def rendered(folder: Path) -> str:
    out = folder.parent / "m.ggq"
    ggq.convert(folder, out, scheme="f32", force=True)
    with ggq.load(out, interpreter="numpy") as model:
        return model.chat_template.render(MESSAGE)


def test_s_18_the_template_in_a_file_of_its_own_wins(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "m")
    edit_json(folder / "tokenizer_config.json", chat_template="config: {{ messages[0].content }}")
    assert rendered(folder) == "config: hello"
    edit_json(
        folder / "tokenizer_config.json",
        chat_template=[{"name": "default", "template": "listed: {{ messages[0].content }}"}],
    )
    assert rendered(folder) == "listed: hello"
    (folder / "chat_template.jinja").write_text("file: {{ messages[0].content }}")
    assert rendered(folder) == "file: hello"


@pytest.mark.parametrize("said", [True, False])
def test_s_19_tokenizer_json_wins_over_what_its_config_says(tmp_path: Path, said: bool) -> None:
    folder = tiny(tmp_path / "m")
    edit_json(folder / "tokenizer_config.json", add_prefix_space=said, legacy=not said)
    out = tmp_path / "m.ggq"
    ggq.convert(folder, out, scheme="f32")
    with ggq.load(out, interpreter="numpy") as model:
        assert model.encode("def f", begin=False) == model.tokenizer.encode("def f", add_special_tokens=False).ids
        assert model.reader.assets["tokenizer.json"].read() == (folder / "tokenizer.json").read_bytes()


def test_s_20_keys_that_nobody_reads_are_named_and_those_that_matter_refused(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "m")
    edit_json(folder / "config.json", sliding_window=64, unsloth_version="2026.1")
    assert set(plan(folder, scheme="q4-g32").unread_keys) == {"sliding_window", "unsloth_version"}
    edit_json(folder / "config.json", pretraining_tp=1)
    plan(folder, scheme="q4-g32")
    edit_json(folder / "config.json", hidden_act="xielu")
    with pytest.raises(UnsupportedError, match="hidden_act"):
        plan(folder, scheme="q4-g32")


def test_every_rule_is_cited_by_a_test() -> None:
    rules = set(re.findall(r"^\| (S-\d+) ", (ROOT / "docs" / "sources.md").read_text(), re.MULTILINE))
    tests = " ".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    ranges = {f"S-{i}" for a, b in re.findall(r"S-(\d+) to S-(\d+)", tests) for i in range(int(a), int(b) + 1)}
    assert len(rules) > 20 and not rules - ranges - set(re.findall(r"S-\d+", tests))
