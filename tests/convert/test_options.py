"""Options are declared once: signatures, help, checks and the command line are made of the record's fields."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import pytest
import typer
from typer.main import get_command

import ggq
from ggq.cli.commands.convert import convert as command
from ggq.cli.options import command_options, command_type
from ggq.convert.convert import plan
from ggq.convert.declare import Record, declared, option, takes_options
from ggq.convert.options import Options, PlanOptions
from ggq.errors import UsageError
from tests.kit.support import DEMO, ROOT


@dataclass(frozen=True, kw_only=True)
class Small(Record):
    """A record of these tests."""

    sugar: int | None = option(None, "Spoons of sugar.", "SPOONS", least=1, most=3)
    milk: bool = option(False, "With milk.")


@dataclass(frozen=True, kw_only=True)
class More(Small):
    """The same with options more, which nothing but the next lines knows."""

    kind: str = option("green", "Which tea; it may be black, too.", "KIND", words=("green", "black", "white"))
    leaves: Sequence[str] | None = option(None, "Name of a leaf.", "LEAF")
    pot: str | os.PathLike[str] | None = option(None, "The pot.", "POT")
    heat: float | None = option(None, "Degrees.", "T", above=0)
    done: Callable[[str], None] | None = option(None, "Called at last.", python_only=True)


def brew_function(record: type) -> Any:
    @takes_options(record)
    def brew(water: str, options: Any) -> Any:
        """Make tea.

        Args:
            water: Where from.
            {options}

        Returns:
            Tea.
        """
        return water, options

    return brew


def brew_command(record: type) -> Any:
    @command_options(record)
    def brew(water: Annotated[str, typer.Argument()] = "tap", *, quiet: bool = False, **options: Any) -> None:
        """Make tea."""
        print(water, quiet, record(**options))

    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(brew)
    return get_command(app)


def help_of(made: Any) -> str:
    return " ".join(made.get_help(made.make_context("brew", [], resilient_parsing=True)).split())


def test_a_field_more_is_an_option_more_everywhere() -> None:
    for record, names in ((Small, ["sugar", "milk"]), (More, [*"sugar milk kind leaves pot heat done".split()])):
        brew = brew_function(record)
        parameters = inspect.signature(brew).parameters
        assert list(parameters) == ["water", *names]
        hints = get_type_hints(record)
        for name in names:
            each = parameters[name]
            assert each.kind is inspect.Parameter.KEYWORD_ONLY and each.annotation == hints[name]
            assert each.default == getattr(record(), name)
        assert brew("tap", sugar=2, milk=True) == ("tap", record(sugar=2, milk=True))
        assert brew(water="tap") == ("tap", record())
        text = help_of(brew_command(record))
        for each in declared(record):
            assert f"    {each.name}: {each.help}" in brew.__doc__
            assert (f"--{each.name}" in text and each.help in text) is not each.python_only
            assert each.metavar is None or f"--{each.name} {each.metavar}" in text
    assert "Name of a leaf. May be repeated." in text and "done" not in text


def test_the_command_line_reads_what_the_record_says(capsys: pytest.CaptureFixture[str]) -> None:
    made = brew_command(More)
    arguments = ["well", "--sugar", "3", "--leaves", "a", "--leaves", "b", "--pot", "p", "--heat", "95.5", "--milk"]
    made.main([*arguments, "--quiet"], standalone_mode=False)
    expected = More(sugar=3, leaves=["a", "b"], pot=Path("p"), heat=95.5, milk=True)
    assert capsys.readouterr().out == f"well True {expected}\n"
    assert command_type(str | int | None) == str | None


@pytest.mark.parametrize(
    "values, message",
    [
        ({"sugar": 0}, "sugar must be 1 to 3, not 0"),
        ({"sugar": 4}, "sugar must be 1 to 3, not 4"),
        ({"sugar": "2"}, "sugar must be 1 to 3, not '2'"),
        ({"sugar": True}, "sugar must be 1 to 3, not True"),
        ({"sugar": 1.0}, "sugar must be 1 to 3, not 1.0"),
        ({"kind": "red"}, "kind must be green, black or white, not 'red'"),
        ({"heat": 0}, "heat must be a number above 0, not 0"),
        ({"heat": float("inf")}, "heat must be a number above 0, not inf"),
        ({"heat": float("nan")}, "heat must be a number above 0, not nan"),
        ({"heat": "hot"}, "heat must be a number above 0, not 'hot'"),
        ({"cup": 1}, "there is no option 'cup'; there are sugar, milk, kind, leaves, pot, heat, done"),
    ],
)
def test_what_an_option_does_not_allow_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        brew_function(More)("tap", **values)


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        More().sugar = 2  # type: ignore[misc]
    assert More(sugar=2, kind="green").given() == ["sugar"]


def test_a_positional_argument_too_many_is_a_mistake() -> None:
    with pytest.raises(TypeError, match=r"brew\(\) takes 1 positional arguments but 2 were given"):
        brew_function(Small)("tap", 3)


def test_convert_shows_every_option_with_its_default_type_and_help() -> None:
    parameters = inspect.signature(ggq.convert).parameters
    assert list(parameters) == ["source", "out", *(each.name for each in fields(Options))]
    assert list(inspect.signature(plan).parameters) == ["source", *(each.name for each in fields(PlanOptions))]
    assert not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    document = " ".join(ggq.convert.__doc__.split())
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(command)
    made = get_command(app)
    shown = {each.name: each for each in made.params}
    text = help_of(made)
    for each in declared(Options):
        parameter = parameters[each.name]
        assert (parameter.default, parameter.annotation) == (each.default, each.type), each.name
        assert f"{each.name}: {each.help}" in document
        assert (each.name in shown) is not each.python_only
        if not each.python_only:
            assert f"--{each.name.replace('_', '-')}" in shown[each.name].opts
            assert each.help in text and shown[each.name].metavar == each.metavar
            assert (each.metavar is None) == (each.type is bool)  # flags take no value
    assert set(shown) == {each.name for each in declared(Options) if not each.python_only} | {
        "source",
        "out",
        "dry_run",
        "as_json",
        *("fits", "type", "imatrix"),
    }
    assert any(each.name == "workers" and (each.least, each.most) == (1, 1024) for each in declared(Options))


def test_a_caller_who_misspells_an_option_is_told_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no option 'bits'; there are scheme, method, .*, progress"):
        ggq.convert(DEMO, tmp_path / "m.ggq", bits=4)
    with pytest.raises(UsageError, match="there is no option 'workers'; there are scheme, method, .*, report"):
        plan(DEMO, workers=4)
    assert not list(tmp_path.iterdir())


TYPED = """
import ggq
reveal_type(ggq.convert("a", "b", scheme="q4-g32", workers=3, keep=["a=f16"]))
ggq.convert("a", "b", workers="3")
ggq.convert("a", "b", bits=4)
"""


def test_a_type_checker_sees_every_option(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    (tmp_path / "typed.py").write_text(TYPED)
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), str(tmp_path / "typed.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [line.split("typed.py:")[1] for line in found.stdout.splitlines() if "typed.py:" in line]
    assert 'Revealed type is "ggq.convert.write.report.Report"' in lines[0]
    assert lines[1].startswith('4: error: Argument "workers" to "convert" has incompatible type "str"')
    assert lines[2].startswith('5: error: Unexpected keyword argument "bits" for "convert"')
