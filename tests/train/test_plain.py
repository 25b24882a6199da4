"""What training needs besides PyTorch: grids to begin from, texts, the checkpoint that is saved, the refusal."""

from __future__ import annotations

import ast
import re
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest

import ggq
import ggq.train
from ggq.cli.main import main
from ggq.convert.convert import plan
from ggq.convert.declare import declared
from ggq.convert.options import RunOptions
from ggq.convert.plan.taken import GRIDS
from ggq.convert.source.tokens import Tokens
from ggq.errors import ConvertError, UsageError
from ggq.format import open_reader
from ggq.format.scheme_names import parse_scheme
from ggq.models.names import Plus, Rows, Tensor, Times, Transposed
from ggq.quant.reference import by_groups, decode
from ggq.quant.stored import decoded
from ggq.train.exact import exact, through_source
from ggq.train.options import TrainOptions
from ggq.train.quantize.start import near_codes, quantized_by, ternary_threshold, wished_by, wishes_of
from ggq.train.save import Outcome, segments_from, write_file
from ggq.train.texts.windows import batch_of, hold_out, pack
from tests.kit.checkpoints import tiny
from tests.kit.support import DEMO, ROOT, run_python

SCHEMES = (
    "q2-g64 q3-g32 q4-g32 q8-g64 q2z-g64 q3z-row q8z-g64 q2m-g64 q4m-g32 q2-g32-s6 q4m-g32-s6 c4-g64 c2-g32-s6 "
    "ternary-g64 ternary-row binary-g64"
).split()

RANDOM = np.random.default_rng(3)
WEIGHTS = RANDOM.normal(size=(40, 200)).astype(np.float32) * np.float32(0.05)


def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr("ggq.train.extra.find_spec", missing)


def test_the_refusal_without_the_extra_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    without_torch(monkeypatch)
    assert main(["train", str(DEMO), str(tmp_path / "o.ggq"), "--scheme", "q2-g64", "--text", "t"]) == 2
    said = capsys.readouterr().err
    assert said == 'error: training needs PyTorch, which is not installed; pip install "ggq[train]" brings it\n'
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match=r"ggq\[train\]"):
        _ = ggq.train.run
    assert run_python("-c", "import ggq; ggq.train").returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'walk'"):
        _ = ggq.train.walk  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "statement", ["import ggq, ggq.train", "from ggq.cli.main import main; main(['train', '--help'])", "ggq.convert"]
)
def test_nothing_imports_torch_before_it_trains(statement: str) -> None:
    result = run_python("-c", f"import sys, ggq\n{statement}\nprint('torch' in sys.modules)")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "False"


def test_every_option_is_explained() -> None:
    for each in declared(TrainOptions):
        assert each.help.endswith("."), each.name
    with pytest.raises(UsageError, match="method must be qat, lsq or blockwise, not 'ptq'"):
        TrainOptions(method="ptq")


@pytest.mark.parametrize("name", SCHEMES)
def test_a_wish_of_what_is_stored_is_stored_again(name: str) -> None:
    """Steps that a scheme can store come back: the training begins where the method ended."""
    scheme = parse_scheme(name)
    method = "ternary" if name == "ternary-row" else "mse"
    matrix, wished = quantized_by(WEIGHTS, scheme, method), wished_by(WEIGHTS, scheme, method)
    grid = wished.grid()
    again = grid.nearest_matrix(by_groups(WEIGHTS, scheme), WEIGHTS.shape[1])
    if scheme.subscale:  # a super-group's scale may be halved and its sub-scales doubled
        assert np.abs(decode(again) - WEIGHTS).mean() < 1.02 * np.abs(decode(matrix) - WEIGHTS).mean()
    else:
        assert np.array_equal(decode(again), decode(matrix))


@pytest.mark.parametrize("name", [name for name in SCHEMES if "-s6" not in name])
def test_weights_near_codes_have_these_codes(name: str) -> None:
    """Also where a method rounded the other way; those that had them already stay as they are."""
    scheme = parse_scheme(name)
    matrix = quantized_by(WEIGHTS, scheme, None)
    other = quantized_by(WEIGHTS + RANDOM.normal(size=WEIGHTS.shape).astype("f4") * np.float32(0.03), scheme, None)
    for start in (matrix, other):
        moved = near_codes(WEIGHTS, start)
        again = wishes_of(start).grid().nearest(by_groups(moved, scheme).reshape(40, -1))
        assert np.array_equal(again[:, :200], start.codes[:, :200])
        assert np.abs(moved - decode(start)).max() <= np.abs(WEIGHTS - decode(start)).max()
    assert not np.array_equal(matrix.codes, other.codes)


def test_a_codebook_that_is_given_is_kept() -> None:
    scheme, book = parse_scheme("c2-g32-s6"), np.array([-60, -11, 13, 50], np.int8)
    for method in ("mse", "kmeans"):
        found = quantized_by(WEIGHTS, scheme, method, codebook=book).codebook
        assert found is not None and np.array_equal(found, book)


def test_threshold_and_step_of_ternary_weights() -> None:
    """Of 1, 2, 3, 10 and twelve zeros: the mean magnitude is 1, so the threshold 0.7 and the step the mean of four."""
    group = np.zeros((1, 1, 16), np.float32)
    group[0, 0, :4] = 1, -2, 3, -10
    threshold, step = ternary_threshold(group)
    assert threshold == pytest.approx(0.7) and step == pytest.approx(4)
    threshold, step = ternary_threshold(np.zeros((2, 3, 16), np.float32))
    assert not threshold.any() and not step.any()


def test_texts_are_packed_and_held_out(tmp_path: Path) -> None:
    texts = [tmp_path / "a.txt", tmp_path / "b.txt"]
    texts[0].write_text("def f(x):\n    return x\n" * 20)
    texts[1].write_text("class A:\n    pass\n" * 20)
    tokenizer = (DEMO / "tokenizer.json").read_bytes()
    plain = pack(texts, tokenizer, Tokens(None, (), False), 32)
    begun = pack(texts, tokenizer, Tokens(0, (0,), True), 32)
    assert plain.dtype == np.int32 and plain.shape[1] == begun.shape[1] == 32
    assert (begun[:, 0] == 0).all() and (begun[:, 1:] == 0).sum() == 1  # between the texts
    together = np.concatenate([row[1:] for row in begun])
    together = together[together != 0]
    assert np.array_equal(together[: plain.size][: len(together)], plain.reshape(-1)[: len(together)])
    train, held = hold_out(plain)
    assert len(held) == 1 and np.array_equal(np.concatenate([train, held]), plain)
    with pytest.raises(UsageError, match="fewer than one window of 5000"):
        pack(texts, tokenizer, Tokens(None, (), False), 5000)
    with pytest.raises(UsageError, match="one to train on and one to score are needed"):
        hold_out(plain[:1])


def test_an_epoch_has_every_window_once_in_an_order_of_its_own() -> None:
    windows = np.arange(10, dtype=np.int32)[:, None]
    epochs = [[int(w) for step in range(e * 5, e * 5 + 5) for w in batch_of(windows, step, 2, 7)[:, 0]] for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10)) and epochs[0] != epochs[1]
    assert not np.array_equal(batch_of(windows, 0, 10, 7), batch_of(windows, 0, 10, 8))


def test_which_expressions_a_checkpoint_holds_exactly() -> None:
    plain = Tensor("w")
    assert exact(plain) and exact(Transposed(Rows(plain, 0, 4))) and exact(Plus(plain))
    assert not exact(Times(plain, ((4, 0.3),)))
    numbers = np.array([1.1, 0.7, 1e-9], np.float32)
    settled = through_source(Plus(plain), numbers, lambda name: (3,))
    assert settled[2] == 0 and np.array_equal(through_source(Plus(plain), settled, lambda name: (3,)), settled)
    assert np.array_equal(through_source(plain, numbers, lambda name: (3,)), numbers)


@pytest.mark.parametrize("name", SCHEMES)
def test_codes_of_several_matrices_are_decoded_as_their_rows(name: str) -> None:
    scheme = parse_scheme(name)
    matrix = quantized_by(WEIGHTS, scheme, None)
    segments = segments_from(scheme, (2, 20, 200), matrix)
    from ggq.quant import decode_tensor

    assert np.array_equal(decode_tensor(scheme, (2, 20, 200), segments).reshape(40, 200), decode(matrix))


def saved(folder: Path, scheme: str, out: Path, kept: Path | None) -> dict[str, np.ndarray]:
    """Write what a training would have made of a checkpoint: here every matrix a little larger, then rounded."""
    planned = plan(folder, scheme=scheme)
    outcomes, numbers = {}, {}
    for tensor in planned.tensors:
        rows = int(np.prod(tensor.shape[:-1]))
        weights = tensor.expression.rows(planned.checkpoint, 0, rows) * np.float32(1.01)
        if tensor.scheme.kind == "float":
            outcome = Outcome(weights.reshape(tensor.shape))
        else:
            matrix = quantized_by(weights, tensor.scheme, None)
            outcome = Outcome(decode(matrix).reshape(tensor.shape), matrix)
        outcomes[tensor.role], numbers[tensor.name] = outcome, outcome.numbers
    write_file(planned, outcomes, out, planned.recipe, RunOptions(), kept)
    return numbers


@pytest.mark.parametrize("name", [*SCHEMES, "nothing kept"])
def test_the_file_holds_what_was_computed_with_and_the_checkpoint_gives_it_again(name: str, tmp_path: Path) -> None:
    """Bit for bit, and the second conversion the same file."""
    folder, kept = tiny(tmp_path / "m"), None if name == "nothing kept" else tmp_path / "kept"
    scheme = "q2-g64" if name == "nothing kept" else name
    numbers = saved(folder, scheme, tmp_path / "out.ggq", kept)
    with open_reader(tmp_path / "out.ggq") as reader:
        assert reader.metadata["quantization.method"] == "trained"
        assert {entry.attributes["method"] for entry in reader.tensors.values() if len(entry.shape) > 1} == {"trained"}
        for tensor, entry in reader.tensors.items():
            assert np.array_equal(decoded(reader, entry), numbers[tensor]), tensor
    if kept is None:
        assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "out.ggq"]
        return
    ggq.convert(kept, tmp_path / "again.ggq", scheme=scheme)
    assert (tmp_path / "again.ggq").read_bytes() == (tmp_path / "out.ggq").read_bytes()
    assert b'"float32"' in (kept / "config.json").read_bytes()


def test_codes_are_left_where_a_method_is_named_or_a_scheme_is_another(tmp_path: Path) -> None:
    saved(tiny(tmp_path / "m"), "q2-g64", tmp_path / "out.ggq", tmp_path / "kept")
    named = ggq.convert(tmp_path / "kept", tmp_path / "a.ggq", scheme="q2-g64", method="mse")
    other = ggq.convert(tmp_path / "kept", tmp_path / "b.ggq", scheme="q3-g64", embedding="q6-g64")
    assert {t.method for t in named.tensors} == {"mse", ""}
    assert {t.method for t in other.tensors} == {"absmax", "trained", ""}  # the embedding's scheme is the same
    assert f"{GRIDS} has codes of another scheme for 14 matrices" in "".join(other.notes)


def test_weights_that_were_changed_after_the_training_are_refused(tmp_path: Path) -> None:
    saved(tiny(tmp_path / "m"), "q2-g64", tmp_path / "out.ggq", tmp_path / "kept")
    place = tmp_path / "kept" / "model.safetensors"
    data = bytearray(place.read_bytes())
    data[8 + int.from_bytes(data[:8], "little")] ^= 1  # of the embedding, which comes first
    place.write_bytes(data)
    with pytest.raises(ConvertError, match="they were changed after the training"):
        ggq.convert(tmp_path / "kept", tmp_path / "again.ggq", scheme="q2-g64")
    assert not (tmp_path / "again.ggq").exists()
    ggq.convert(tmp_path / "kept", tmp_path / "again.ggq", scheme="q2-g64", method="absmax")


def test_codes_that_stand_for_other_numbers_are_not_written(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "m")
    planned = plan(folder, scheme="q2-g64")
    outcomes = {}
    for tensor in planned.tensors:
        weights = tensor.expression.rows(planned.checkpoint, 0, int(np.prod(tensor.shape[:-1])))
        matrix = None if tensor.scheme.kind == "float" else quantized_by(weights, tensor.scheme, None)
        outcomes[tensor.role] = Outcome(weights.reshape(tensor.shape), matrix)  # not what the codes stand for
    with pytest.raises(ConvertError, match="the codes do not stand for the numbers that were trained"):
        write_file(planned, outcomes, tmp_path / "out.ggq", planned.recipe, RunOptions(), tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_pytorch_has_every_function_that_operations_call() -> None:
    """Read from the sources, so that it is known where PyTorch is not installed."""
    called = {"asarray"}
    for path in (ROOT / "ggq" / "tape").rglob("*.py"):
        called |= set(re.findall(r"\bxp\.([a-z]\w*)\(", path.read_text()))
    tree = ast.parse((ROOT / "ggq" / "train" / "namespace.py").read_text())
    known = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    known |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert called - known == {"asarray"}  # behind a question for `erf`, which PyTorch has
