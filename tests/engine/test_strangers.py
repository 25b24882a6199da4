"""A file that changes or shrinks while a model runs from it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import ggq
from ggq.cli.main import main
from ggq.convert.convert import convert
from ggq.engine.numba_executor import NumbaExecutor
from ggq.errors import FormatError
from ggq.format import open_reader
from ggq.format.native import edit
from ggq.quant import tensors
from tests.kit.small_models import CONFIGS, checkpoint, write_ggq
from tests.kit.support import DEMO, ROOT

Capture = pytest.CaptureFixture[str]
SHORTER = r"the file has become shorter since it was opened \(C-2\)"
ON_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux's records are known")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The demo model as a file."""
    convert(DEMO, tmp_path / "m.ggq", scheme="q4-g32")
    return tmp_path / "m.ggq"


def test_a_file_cut_short_between_two_passes_is_told_and_no_text_follows(path: Path) -> None:
    with ggq.load(path) as model:
        assert model.logits([1, 2, 3]).shape[0] == 3
        os.truncate(path, 4096)
        with pytest.raises(FormatError, match=SHORTER):
            model.logits([1, 2, 3])
        with pytest.raises(FormatError, match="has become shorter"):
            model.generate([1, 2, 3], max_tokens=3)


@pytest.mark.parametrize("how", ["zeros", "another"])
def test_a_file_that_is_as_long_as_before_and_another_is_told(path: Path, how: str) -> None:
    """Cut short and made longer again, or copied over: its size says nothing."""
    data = path.read_bytes()
    other = path.with_name("other.ggq")
    convert(DEMO, other, scheme="q4z-g32")
    with ggq.load(path) as model:
        model.logits([1, 2, 3])
        with path.open("r+b") as file:
            file.truncate(0)
            if how == "another":
                file.write(other.read_bytes())
            file.truncate(max(len(data), file.tell()))
        with pytest.raises(
            FormatError, match=r"index: the file has changed since it was opened \(C-15\)\nopen it again"
        ):
            model.logits([1, 2, 3])


def test_an_edit_while_a_model_runs_changes_nothing(path: Path) -> None:
    with ggq.load(path) as model:
        right = model.logits([1, 2, 3])
        edit.edit_metadata(path, {"general.name": "x" * 5000})
        path.chmod(0o600)
        assert (model.logits([1, 2, 3]) == right).all()
    with ggq.load(path) as model:
        assert (model.logits([1, 2, 3]) == right).all()


def cut_behind_the_check(monkeypatch: pytest.MonkeyPatch, path: Path, passes: int, restore: bytes = b"") -> None:
    """Have the file cut short once the given number of passes is over and the next one has begun, and, with `restore`,
    have those bytes again before that pass ends."""
    run, left = NumbaExecutor._forward, [passes]

    def forward(self: NumbaExecutor, runs: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            os.truncate(path, 4096)
        result = run(self, runs)  # type: ignore[arg-type]
        if restore and left[0] < 0:
            path.write_bytes(restore)
        return result

    monkeypatch.setattr(NumbaExecutor, "_forward", forward)


@ON_LINUX
def test_a_file_cut_short_in_the_middle_of_a_pass_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ggq.load(path) as model:
        whole = model.generate([1, 2, 3], max_tokens=8)
        cut_behind_the_check(monkeypatch, path, 3)
        found = []
        with pytest.raises(FormatError, match=SHORTER):
            found.extend(model.stream([1, 2, 3], max_tokens=8))
        assert whole.startswith("".join(found))
        with pytest.raises(FormatError, match=SHORTER):
            model.logits([1, 2, 3])


@ON_LINUX
def test_a_file_that_is_whole_again_after_the_pass_is_told_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The map has zeros in place of pages by then, so the model must be loaded again."""
    data = path.read_bytes()
    with ggq.load(path) as model, ggq.load(path) as other:
        right = model.logits([1, 2, 3])
        cut_behind_the_check(monkeypatch, path, 0, restore=data)
        lost = "pages of the file were gone when they were read: it was cut short, or its disk fails"
        with pytest.raises(FormatError, match=rf"{lost}\nload the model again once the file is whole"):
            model.logits([1, 2, 3])
        monkeypatch.undo()
        with pytest.raises(FormatError, match=lost):
            model.logits([1, 2, 3])
        assert (other.logits([1, 2, 3]) == right).all()  # a map of its own, of a file that is whole
    with ggq.load(path) as model:
        assert (model.logits([1, 2, 3]) == right).all()


@ON_LINUX
@pytest.mark.parametrize("size", [4096, 0, 300_000])
def test_a_command_whose_file_is_cut_short_ends_with_a_line(path: Path, size: int) -> None:
    """Wherever it is then: it says the truth to the end of a pass, and after that nothing but what happened."""
    command = [sys.executable, "-m", "ggq", "run", str(path), "-p", "import os", "--greedy", "-n"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "PYTHONUNBUFFERED": "1"}
    right = subprocess.run([*command, "500"], env=environment, capture_output=True, timeout=120).stdout
    process = subprocess.Popen(
        [*command, "500"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    assert process.stdout is not None
    begun = process.stdout.read(20)
    os.truncate(path, size)
    rest, told = process.communicate(timeout=120)
    assert right.rstrip().startswith((begun + rest).rstrip())
    problem = told.decode().strip().splitlines()[-1]
    if process.returncode == 0:  # it was faster than this test
        assert begun + rest == right
    else:
        assert process.returncode == 2 and "the file has become shorter" in problem


def cut_once(monkeypatch: pytest.MonkeyPatch, place: object, name: str, path: Path) -> None:
    """Have the file cut short when a function is called for the first time, before it reads what it was given."""
    function: Callable[..., object] = getattr(place, name)

    def called(*args: object, **options: object) -> object:
        if path.stat().st_size > 4096:
            os.truncate(path, 4096)
        return function(*args, **options)

    monkeypatch.setattr(place, name, called)


@pytest.mark.parametrize(
    ("arguments", "place", "name"),
    [
        (["compare", "FILE", str(DEMO)], tensors, "unpack_rows"),
        (["repack", "FILE", "OUT"], edit, "digest_of"),
        (["run", "FILE", "-p", "a", "-n", "2", "--interpreter", "numpy"], tensors, "unpack_rows"),
    ],
)
def test_commands_without_kernels_end_with_a_line(
    path: Path, arguments: list[str], place: object, name: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """They read copies of what they decode, so no page goes while they do."""
    cut_once(monkeypatch, place, name, path)
    out = path.with_name("out.ggq")
    given = [{"FILE": str(path), "OUT": str(out)}.get(each, each) for each in arguments]
    assert main(given) == 2
    captured = capsys.readouterr()
    assert "the file has become shorter since it was opened (C-2)" in captured.err and not out.exists()


def test_verify_says_where_a_file_ends(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    from ggq.generate import verification

    cut_once(monkeypatch, verification, "check_segments", path)
    assert main(["verify", str(path)]) == 1
    assert "the file has become shorter since it was opened (C-2)" in capsys.readouterr().out


def test_what_is_copied_stays(path: Path) -> None:
    with open_reader(path) as reader:
        name, entry = next(iter(reader.tensors.items()))
        for role in entry.segments:
            copy, view = reader.read_segment(name, role), reader.segment(name, role)
            assert (copy == view).all() and not copy.flags.writeable
            del view
        os.truncate(path, 4096)
        assert copy.any()
        with pytest.raises(FormatError, match=SHORTER):
            reader.read_segment(name, role)


@pytest.mark.parametrize("scheme", ["q4-g32+order", "c3-row+order"])
def test_what_kernels_index_by_is_not_read_from_a_file_that_changes(tmp_path: Path, scheme: str) -> None:
    """Orders of columns and codebooks are copied when they are checked; an order past the end read other memory."""
    config = CONFIGS["grouped"]
    path = write_ggq(tmp_path / "m.ggq", config, checkpoint(config), scheme)
    data = bytearray(path.read_bytes())
    with open_reader(path) as reader:
        entries = [entry.segments for entry in reader.tensors.values()]
    places = [parts[role] for parts in entries for role in ("input_order", "codebook") if role in parts]
    assert places
    with ggq.load(path) as model:
        right = model.logits([1, 2, 3])
        with path.open("r+b") as file:
            for place in places:
                file.seek(place.offset)
                file.write(b"\xff" * place.length)
        assert (model.logits([1, 2, 3]) == right).all()
    assert path.read_bytes() != data
