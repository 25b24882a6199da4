"""A whole training of the demo: what is written, resumed, refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.errors import GGQError, UnsupportedError, UsageError
from ggq.format import open_reader
from ggq.quant.stored import decoded
from tests.kit.checkpoints import tiny
from tests.kit.support import DEMO

torch = pytest.importorskip("torch", reason="needs PyTorch: the extra ggq[train]")

import ggq.train.session as session  # noqa: E402
from ggq.cli.main import main  # noqa: E402
from ggq.train.build import student_of  # noqa: E402
from ggq.train.loop import Loop, Pace, Phase, Progress, Stopped, rate_at  # noqa: E402
from ggq.train.losses import divergence, mixed_loss, text_loss  # noqa: E402
from ggq.train.texts.sampled import sampled  # noqa: E402

TEXT = DEMO / "valid.txt"
QUICK: dict[str, Any] = {"scheme": "q2-g64", "text": [TEXT], "context": 32, "batch": 2, "threads": 1}


def run(out: Path, **options: Any) -> session.Trained:
    return session.run(DEMO, out, **{**QUICK, **options})


@pytest.mark.parametrize(
    "options",
    [
        {"method": "lsq", "steps": 3},
        {"method": "qat", "steps": 3, "bf16": True, "checkpointing": True},
        {"method": "blockwise", "layer_steps": 2, "steps": 2},
        {"method": "qat", "scheme": "ternary-g64", "grid": "threshold", "steps": 2},
        {"method": "lsq", "scheme": "binary-g64", "embedding": "q4z-g64", "steps": 2, "distill": 1.0},
        {"method": "lsq", "scheme": "q2m-g64-s6", "rank": 4, "steps": 2},
        {"method": "lsq", "scheme": "nf4-g64", "activations": "static", "steps": 2},
        {"method": "lsq", "scheme": "q4z-g32", "activations": "token", "steps": 2},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_the_file_is_what_the_last_pass_computed_with(
    options: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit; the checkpoint converts to the same file; the engine's perplexity is the module's."""
    kept: dict[str, np.ndarray] = {}
    inner = session.outcomes_of

    def watched(planned: Any, student: Any) -> Any:
        with torch.no_grad():
            kept.update({role: student.weight(role)().numpy().copy() for role in student.roles})
        return inner(planned, student)

    monkeypatch.setattr(session, "outcomes_of", watched)
    trained = run(tmp_path / "out.ggq", **options, out_checkpoint=tmp_path / "kept")
    assert trained.after != trained.before and trained.report.path == tmp_path / "out.ggq"
    with open_reader(tmp_path / "out.ggq") as reader:
        for entry in reader.tensors.values():
            assert np.array_equal(decoded(reader, entry), kept[str(entry.attributes["role"])]), entry.name
        forms = {entry.attributes.get("activations") for entry in reader.tensors.values() if len(entry.shape) > 1}
    assert forms == {{"static": "static", "token": "token"}.get(options.get("activations", ""))}
    again = {key: options[key] for key in ("embedding",) if key in options}
    scheme = {"nf4-g64": "c4-g64"}.get(options.get("scheme", "q2-g64"), options.get("scheme", "q2-g64"))
    ggq.convert(tmp_path / "kept", tmp_path / "again.ggq", scheme=scheme, **again)
    assert (tmp_path / "again.ggq").read_bytes() == (tmp_path / "out.ggq").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.ggq", "kept", "out.ggq"]


@pytest.mark.parametrize("method", ["lsq", "qat", "blockwise"])
def test_an_interrupted_training_goes_on_to_the_same_weights(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"method": method, "steps": 6, "layer_steps": 3, "distill": 0.5, "save_every": 2}
    whole = run(tmp_path / "a.ggq", **options)
    for number, stop in enumerate([5, 3] if method == "blockwise" else [5]):
        monkeypatch.setattr(session, "Pace", lambda *args, stop=stop: Pace(*args, stop_after=stop))
        with pytest.raises(Stopped, match=f"stopped after {stop} steps"):
            run(tmp_path / "b.ggq", **options, resume=number > 0)
        assert not (tmp_path / "b.ggq").exists()
    monkeypatch.setattr(session, "Pace", Pace)
    second = run(tmp_path / "b.ggq", **options, resume=True)
    assert second.report.digest == whole.report.digest and second.steps < whole.steps
    assert not (tmp_path / "b.ggq.training").exists()


def test_states_of_other_trainings_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="nothing to resume"):
        run(tmp_path / "a.ggq", method="lsq", steps=2, resume=True)
    monkeypatch.setattr(session, "Pace", lambda *args: Pace(*args, stop_after=1))
    with pytest.raises(Stopped):
        run(tmp_path / "a.ggq", method="lsq", steps=2)
    with pytest.raises(UsageError, match="another source, text or other options"):
        run(tmp_path / "a.ggq", method="lsq", steps=3, resume=True)
    with pytest.raises(UsageError, match="a training was interrupted here"):
        run(tmp_path / "a.ggq", method="lsq", steps=2)
    (tmp_path / "a.ggq.training").write_bytes(b"nothing of the kind")
    with pytest.raises(UsageError, match="no state of a training"):
        run(tmp_path / "a.ggq", method="lsq", steps=2, resume=True)


def test_steps_begin_where_a_file_of_another_method_ended(tmp_path: Path) -> None:
    ggq.convert(DEMO, tmp_path / "start.ggq", scheme="q2-g64", method="hqq")
    plain = run(tmp_path / "a.ggq", method="lsq", steps=1)
    begun = run(tmp_path / "b.ggq", method="lsq", steps=1, start=tmp_path / "start.ggq")
    assert begun.before != plain.before
    with pytest.raises(UsageError, match="no matrix of scheme q3-g64"):
        run(tmp_path / "c.ggq", scheme="q3-g64", method="lsq", start=tmp_path / "start.ggq")


def test_weights_begin_near_the_codes_of_a_file_where_steps_follow_them_too(tmp_path: Path) -> None:
    text: dict[str, Any] = {"calibration": TEXT, "calibration_context": 64, "calibration_tokens": 4096}
    ggq.convert(DEMO, tmp_path / "start.ggq", scheme="q2-g64", method="gptq", **text)
    plain = run(tmp_path / "a.ggq", method="qat", steps=1)
    learned = run(tmp_path / "l.ggq", method="lsq", steps=1, start=tmp_path / "start.ggq")
    begun = run(tmp_path / "b.ggq", method="qat", steps=1, start=tmp_path / "start.ggq")
    assert begun.before == pytest.approx(learned.before, rel=1e-6) and begun.before < plain.before
    assert begun.after == pytest.approx(begun.before, rel=0.1)  # the grid was fitted again before the step


def test_texts_that_the_model_writes_are_trained_on_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = list[tuple[str, int]]()
    options = {"method": "lsq", "steps": 2, "sample": 5}
    whole = run(tmp_path / "a.ggq", **options, progress=lambda each: told.append((each.phase, each.step)))
    plain = run(tmp_path / "p.ggq", method="lsq", steps=2)
    assert whole.tokens == 5 * 32 != plain.tokens and ("sample", 5) in told
    monkeypatch.setattr(session, "Pace", lambda *args: Pace(*args, stop_after=1))
    with pytest.raises(Stopped):
        run(tmp_path / "b.ggq", **options)
    monkeypatch.undo()
    assert (tmp_path / "b.ggq.sampled").exists()
    monkeypatch.setattr(session, "sampled", lambda *_: pytest.fail("written already"))
    again = run(tmp_path / "b.ggq", **options, resume=True)
    assert again.report.digest == whole.report.digest and not (tmp_path / "b.ggq.sampled").exists()


def test_windows_that_the_model_writes() -> None:
    given = np.arange(4 * 24, dtype=np.int32).reshape(4, 24) % 200 + 100
    found = sampled(DEMO, given, 20, 3, 1)
    assert found.shape == (20, 24) and found.dtype == np.int32 and found.min() >= 0
    beginnings = {tuple(row[:12]) for row in given}
    assert sum(tuple(row[:12]) in beginnings for row in found) >= 1
    assert np.array_equal(found, sampled(DEMO, given, 20, 3, 1))
    assert not np.array_equal(found, sampled(DEMO, given, 20, 4, 1))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"text": None}, "a text to train on is missing"),
        ({"scheme": None}, "a scheme to train for is missing"),
        ({"scheme": "bf16"}, "stores floats: there is nothing to train"),
        ({"scheme": "q2-g60"}, "groups of 60 columns"),
        ({"distill": 1.5}, "distill must be above 0 and at most 1"),
        ({"context": 4096}, "context must be 2 to"),
        ({"keep": ["down_proj=nf4-g64"]}, "--keep names a method"),
        ({"text": ["no-such-file.txt"]}, "no-such-file.txt"),
        ({"scheme": "q4-g32+scale"}, "only schemes without can be trained"),
    ],
)
def test_what_cannot_be_trained_is_refused(options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(GGQError, match=message):
        run(tmp_path / "a.ggq", **options)
    assert list(tmp_path.iterdir()) == []


def test_places_that_are_taken_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.ggq").write_text("mine")
    with pytest.raises(GGQError, match="exists"):
        run(tmp_path / "a.ggq", method="lsq", steps=1)
    (tmp_path / "kept").mkdir()
    with pytest.raises(UsageError, match="it exists already"):
        run(tmp_path / "b.ggq", method="lsq", steps=1, out_checkpoint=tmp_path / "kept")
    (tmp_path / "some.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(UsageError, match="a GGUF file is quantized already"):
        session.run(tmp_path / "some.gguf", tmp_path / "c.ggq", **QUICK)


def test_models_without_logits_or_tokenizer_are_refused(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "m")
    (folder / "tokenizer.json").unlink(missing_ok=True)
    with pytest.raises(UsageError, match=r"the checkpoint has no tokenizer.json"):
        session.run(folder, tmp_path / "out.ggq", **{**QUICK, "scheme": "q2-row"})
    vectors: Any = SimpleNamespace(program=SimpleNamespace(outputs={"vector": None}), tensors=())
    with pytest.raises(UnsupportedError, match="the model makes vectors of texts and gives no logits"):
        student_of(vectors, True)


def test_the_command_trains_and_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--scheme", "q2-g64", "--text", str(TEXT), "--context", "32", "--batch", "2", "--threads", "1"]
    out = tmp_path / "out.ggq"
    assert main(["train", str(DEMO), str(out), *arguments, "--method", "lsq", "--steps", "2", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["report"]["digest"] and "lsq: step 2 of 2, loss" in said.err
    assert main(["train", str(DEMO), str(out), *arguments]) == 2
    assert "exists" in capsys.readouterr().err


class _Line(torch.nn.Module):
    """A number that is to become 3."""

    def __init__(self) -> None:
        super().__init__()
        self.x = torch.nn.Parameter(torch.zeros(1))


def test_a_training_stops_where_nothing_becomes_better_and_keeps_the_best() -> None:
    line, told = _Line(), list[Progress]()
    phase = Phase(
        "line",
        200,
        [{"params": [line.x], "lr": 0.5}],
        lambda step: (line.x - 9).square().sum(),
        score=lambda: float((line.x.detach() - 3).abs()),
    )
    Loop(line, Pace(score_every=1, patience=3, tell=told.append)).run([lambda: phase])
    best = min(progress.perplexity for progress in told)
    assert len(told) < 200 and float((line.x.detach() - 3).abs()) == best


def test_a_loss_that_is_not_finite_is_refused() -> None:
    line = _Line()
    phase = Phase("line", 2, [{"params": [line.x], "lr": 0.5}], lambda step: (line.x * float("nan")).sum())
    with pytest.raises(UsageError, match="the loss is nan in step 0 of line"):
        Loop(line, Pace()).run([lambda: phase])


def test_rates_rise_and_fall_along_a_cosine() -> None:
    rates = [rate_at(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == rates[4] == 1.0
    assert rates[52] == pytest.approx(0.51, abs=0.02) and rates[99] < 0.03
    assert all(a >= b for a, b in zip(rates[5:], rates[6:]))


def test_losses_are_those_of_their_formulas() -> None:
    random = torch.Generator().manual_seed(1)
    logits, wanted = (torch.randn(2, 5, 7, generator=random) for _ in range(2))
    tokens = torch.randint(0, 7, (2, 5), generator=random)
    logits.requires_grad_()
    p, q = (each.softmax(-1) for each in (wanted, logits))
    formula = (p * (p / q).log()).sum(-1).mean()
    kl, ce = float(formula.detach()), float(-q[:, :-1].gather(-1, tokens[:, 1:, None]).log().mean().detach())
    (slope,), (wanted_slope,) = (
        torch.autograd.grad(3 * each, logits) for each in (divergence(logits, wanted), formula)
    )
    torch.testing.assert_close(slope, wanted_slope, rtol=1e-4, atol=1e-7)
    assert float(divergence(logits, wanted).detach()) == pytest.approx(kl, rel=1e-5)
    assert float(text_loss(logits, tokens).detach()) == pytest.approx(ce, rel=1e-5)
    assert float(mixed_loss(logits, tokens, wanted, 0.25).detach()) == pytest.approx(0.25 * kl + 0.75 * ce, rel=1e-5)


def test_gemmas_norms_come_back_bit_for_bit(tmp_path: Path) -> None:
    """A norm that the checkpoint stores less 1 is trained to numbers that the checkpoint can hold."""
    from tests.kit.family_models import write_checkpoint

    source = write_checkpoint(tmp_path / "gemma", "gemma2", 4096)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).write_bytes((DEMO / name).read_bytes())
    out, kept = tmp_path / "out.ggq", tmp_path / "kept"
    session.run(source, out, **{**QUICK, "rate": 0.01}, method="lsq", steps=2, out_checkpoint=kept)
    ggq.convert(kept, tmp_path / "again.ggq", scheme="q2-g64")
    assert (tmp_path / "again.ggq").read_bytes() == out.read_bytes()
