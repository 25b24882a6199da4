"""Recipe files: read, refused, and printed back."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggq.cli.main import main
from ggq.convert.convert import convert, plan
from ggq.convert.options import PlanOptions
from ggq.convert.plan.choices import read_choices
from ggq.convert.plan.recipe import make_recipe
from ggq.convert.plan.recipe_file import LARGEST_RECIPE, read_recipe, recipe_text
from ggq.errors import ConvertError, FormatError, GGQError, UsageError
from ggq.format import open_reader
from ggq.models.family import TensorSpec
from ggq.models.names import Tensor
from ggq.quant import scheme_name
from tests.kit.checkpoints import tiny

EMBEDDING = TensorSpec("embedding.weight", (320, 64), Tensor("model.embed_tokens.weight"))
UP = TensorSpec("layers.0.mlp.up.weight", (172, 64), Tensor("model.layers.0.mlp.up_proj.weight"))
DOWN = TensorSpec("layers.0.mlp.down.weight", (64, 172), Tensor("model.layers.0.mlp.down_proj.weight"))
NORM = TensorSpec("norm.weight", (64,), Tensor("model.norm.weight"))

WHOLE = """
scheme = "q4-g32"       # of the layers
embedding = "q6z-g64"
embedding_method = "zero-point"
rules = [
    { match = 'layers\\.0\\..*down', scheme = "q8-row" },
    { match = "proj", scheme = "q3z-g32", method = "zero-point" },
    { match = "down", scheme = "f16" },
]
"""


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "recipe.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_recipe_file_says_what_each_matrix_gets(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, WHOLE))
    found = {
        spec.name: (scheme_name(scheme), method and method.name)
        for spec in (EMBEDDING, UP, DOWN, NORM)
        for scheme, method in [recipe.choose(spec)]
    }
    assert found == {
        EMBEDDING.name: ("q6z-g64", "zero-point"),
        UP.name: ("q3z-g32", "zero-point"),
        DOWN.name: ("q8-row", "absmax"),
        NORM.name: ("f32", None),
    }


def test_only_the_scheme_is_needed_and_the_rest_is_as_with_the_options(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, "scheme = 'q3-g64'"))
    assert recipe == make_recipe("q3-g64")


def test_rules_may_be_written_as_tables(tmp_path: Path) -> None:
    text = 'scheme = "q4-g32"\n[[rules]]\nmatch = "down"\nscheme = "q8-g32"\n[[rules]]\nmatch = "o"\nscheme = "f16"\n'
    assert [rule.pattern.pattern for rule in read_recipe(written(tmp_path, text)).rules] == ["down", "o"]


def test_keep_comes_before_the_rules_of_the_file(tmp_path: Path) -> None:
    recipe = read_choices(PlanOptions(recipe=written(tmp_path, WHOLE), keep=["down=q2-g32"])).recipe
    assert scheme_name(recipe.choose(DOWN)[0]) == "q2-g32"
    assert scheme_name(recipe.choose(UP)[0]) == "q3z-g32"


@pytest.mark.parametrize(
    "text, kind, message",
    [
        ('scheme = "q4-g32"\nrules = [\n', FormatError, r"recipe.toml: not TOML: .*\(at (line 3|end of document)"),
        ('scheme = "q4-g32"\nscheme = "q5-g32"\n#', FormatError, r"not TOML: .*\(at line 2"),
        (b'scheme = "q4-g32"\n# \xff', FormatError, "recipe.toml: not UTF-8: byte 20"),
        ("scheme = " + "9" * 5000, FormatError, "recipe.toml: a number must have fewer than 400 digits"),
        ("scheme = 1" + "_1" * 5000, FormatError, "recipe.toml: a number must have fewer than 400 digits"),
        ("a" + ".a" * 100_000 + " = 1", FormatError, "recipe.toml: a key must not have more than 16 dots"),
        ("'a'" + ".'a'" * 100_000 + " = 1", FormatError, "recipe.toml: a key must not have more than 16 dots"),
        ("scheme = " + "[" * 100_000, FormatError, "recipe.toml: not TOML: nested too deeply"),
        (b"#" * (LARGEST_RECIPE + 1), FormatError, f"a recipe must not be larger than {LARGEST_RECIPE} bytes"),
        ("", UsageError, "recipe.toml: the key 'scheme' is missing"),
        ('scheme = "q4-g32"\nbits = 4', UsageError, "unknown key 'bits'; the keys are scheme, method, embedding, "),
        ("scheme = 4", UsageError, "recipe.toml: scheme: must be a string, not 4"),
        ('scheme = "q7-g32"', UsageError, "recipe.toml: scheme: scheme 'q7-g32' has 7 bits"),
        ('scheme = "q4-g32"\nembedding = ""', UsageError, "embedding: must be a string, not ''"),
        ('scheme = "q4-g32"\nmethod = "best"', ConvertError, "recipe.toml: unknown method 'best'"),
        ('scheme = "f16"\nmethod = "absmax"', UsageError, "method absmax has nothing to do: f16 stores floats"),
        ('scheme = "q4-g32"\nrules = 3', UsageError, "recipe.toml: rules: must be an array of up to 4096 tables"),
        ('scheme = "q4-g32"\nrules = [3]', UsageError, "recipe.toml: rule 1: must be a table, not 3"),
        ('scheme = "q4-g32"\nrules = [{ match = "a" }]', UsageError, "rule 1: the key 'scheme' is missing"),
        (
            'scheme = "q4-g32"\nrules = [{ match = "a", scheme = "f16" }, { match = "b", scheme = "f16", bits = 3 }]',
            UsageError,
            "recipe.toml: rule 2: unknown key 'bits'; the keys are match, scheme, method",
        ),
        (
            'scheme = "q4-g32"\nrules = [{ match = "(", scheme = "f16" }]',
            UsageError,
            r"rule 1 \('\('\): not a regular expression: missing \)",
        ),
        (
            'scheme = "q4-g32"\nrules = [{ match = "a", scheme = "int4" }]',
            UsageError,
            "recipe.toml: rule 1: scheme: unknown scheme 'int4'",
        ),
        (
            'scheme = "q4-g32"\nrules = [{ match = "a", scheme = "q4z-g32", method = "absmax" }]',
            ConvertError,
            r"recipe.toml: rule 1 \('a'\): method absmax cannot fill scheme q4z-g32",
        ),
        (
            'scheme = "q4-g32"\nrules = [{ match = "a", scheme = "f16", method = "absmax" }]',
            UsageError,
            r"rule 1 \('a'\): method absmax has nothing to do: f16 stores floats",
        ),
    ],
)
def test_a_broken_recipe_is_refused_and_the_place_named(
    tmp_path: Path, text: str | bytes, kind: type[GGQError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        read_recipe(written(tmp_path, text))


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "recipe.toml")
    with pytest.raises(UsageError, match="a text file expected, found a FIFO"):
        read_recipe(tmp_path / "recipe.toml")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path, problem in (
        (tmp_path, "a text file expected, found a directory"),
        (tmp_path / "none.toml", "cannot (open|read): No such file"),
    ):
        with pytest.raises(GGQError, match=f"^{re.escape(str(path))}: {problem}"):
            read_recipe(path)


def test_a_rule_that_matches_nothing_is_refused_with_its_file_and_number(tmp_path: Path) -> None:
    path = written(tmp_path, 'scheme = "q4-g32"\nrules = [{ match = "gates", scheme = "f16" }]')
    with pytest.raises(UsageError, match=r"recipe.toml: rule 1 \('gates'\): no tensor's name matches"):
        plan(tiny(tmp_path / "m"), recipe=path)


@pytest.mark.parametrize("option", ["scheme", "method", "embedding"])
def test_a_recipe_file_excludes_the_short_forms(tmp_path: Path, option: str) -> None:
    with pytest.raises(UsageError, match=f"--recipe and --{option} cannot be combined"):
        read_choices(PlanOptions(recipe=tmp_path / "r.toml", **{option: "absmax"}))


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(re.escape))
def test_any_pattern_survives_being_printed(tmp_path_factory: pytest.TempPathFactory, pattern: str) -> None:
    recipe = make_recipe("q4-g32", keep=[f"{pattern}=q8-g32"])
    back = read_recipe(written(tmp_path_factory.getbasetemp(), recipe_text(recipe)))
    assert back.rules[0].pattern.pattern == pattern


def test_inspect_prints_a_recipe_that_makes_the_same_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, first, second = tiny(tmp_path / "m"), tmp_path / "a.ggq", tmp_path / "b.ggq"
    convert(source, first, scheme="q3-g32", keep=[r"layers\.1\..*down=q8-row", "up=f16"])
    assert main(["inspect", str(first), "--recipe"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[:5] == [
        'scheme = "q3-g32"',
        'method = "absmax"',
        'embedding = "q6-g32"',
        'embedding_method = "absmax"',
        "rules = [",
    ]
    convert(source, second, recipe=written(tmp_path, text))
    with open_reader(first) as a, open_reader(second) as b:
        assert a.digest == b.digest


def test_a_scheme_may_say_its_method(tmp_path: Path) -> None:
    text = 'scheme = "nf4-g64"\nrules = [{ match = "down", scheme = "q6-g32" }, { match = "up", scheme = "nf4-g32" }]\n'
    recipe = read_recipe(written(tmp_path, text))
    found = [
        (scheme_name(scheme), method and method.name)
        for spec in (EMBEDDING, UP, DOWN)
        for scheme, method in [recipe.choose(spec)]
    ]
    assert found == [("q6-g64", "absmax"), ("c4-g32", "nf4"), ("q6-g32", "absmax")]
    assert recipe_text(read_recipe(written(tmp_path, recipe_text(recipe)))) == recipe_text(recipe)
    with pytest.raises(UsageError, match="scheme nf4-g64 is filled by method nf4, not by mse"):
        read_recipe(written(tmp_path, 'scheme = "nf4-g64"\nmethod = "mse"\n'))


def test_a_recipe_file_says_how_inputs_are_rounded(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, 'scheme = "q8-row"\nmethod = "smoothquant"\nactivations = "static"\n'))
    assert recipe.activations == "static"
    assert read_recipe(written(tmp_path, recipe_text(recipe))).activations == "static"
    with pytest.raises(UsageError, match=r"recipe\.toml: activations must be group, token or static, not 'some'"):
        read_recipe(written(tmp_path, 'scheme = "q8-row"\nactivations = "some"\n'))


def test_regular_expressions_together_have_a_limit(tmp_path: Path) -> None:
    """Each is allowed, and thousands of them took half a minute and half a gigabyte."""
    path = tmp_path / "recipe.toml"
    rule = '{ match = "[a-z]{1,50}", scheme = "q6-g32" },\n'
    path.write_text('scheme = "q4-g32"\nrules = [\n' + rule * 4000 + "]\n")
    start = time.perf_counter()
    problem = r"recipe.toml: rule 2001: the regular expressions up to this one need more than 200000 states"
    with pytest.raises(UsageError, match=problem):
        read_recipe(path)
    assert time.perf_counter() - start < 10  # two seconds, on a machine that does nothing else
    path.write_text('scheme = "q4-g32"\nrules = [\n' + rule * 4097 + "]\n")
    with pytest.raises(UsageError, match="must be an array of up to 4096 tables"):
        read_recipe(path)
