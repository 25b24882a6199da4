"""What a Python user meets: names, help, what objects say of themselves, pickling, types."""

from __future__ import annotations

import dataclasses
import inspect
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import ggq
from ggq.format.scheme_names import SCHEMES, parse_scheme
from ggq.serve.settings import Options, Settings
from tests.kit.small_models import write_demo
from tests.kit.support import DEMO, ROOT, run_python

FUNCTIONS = ("compare", "convert", "evaluate", "inspect", "load", "open", "verify")
SERVING = ("AsyncModel", "GGQError", "asgi", "serve")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("python") / "demo.ggq", "q4-g32")


def test_completion_shows_what_there_is_and_nothing_else() -> None:
    result = run_python("-c", "import ggq; print(*[n for n in dir(ggq) if not n.startswith('__')])")
    assert sorted(result.stdout.split()) == sorted((*SERVING, *FUNCTIONS))
    assert set(FUNCTIONS) < set(ggq.__all__)


@pytest.mark.parametrize("name", [*FUNCTIONS, "serve", "asgi"])
def test_help_shows_every_keyword_with_its_default(name: str) -> None:
    function = getattr(ggq, name)
    assert function.__doc__ and "Args:" in function.__doc__
    parameters = inspect.signature(function).parameters.values()
    assert not [each for each in parameters if each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    for each in parameters:
        assert each.name in function.__doc__, each.name


def test_what_a_server_may_be_told_is_what_its_settings_are() -> None:
    given = {
        name: each for name, each in inspect.signature(ggq.serve).parameters.items() if each.kind == each.KEYWORD_ONLY
    }
    fields = {each.name: each.type for each in dataclasses.fields(Settings) if each.name != "models"}
    assert {name: str(kind) for name, kind in Options.__annotations__.items()} == {
        name: f"ForwardRef({kind!r}, module='ggq.serve.settings')" for name, kind in fields.items()
    }
    assert given.keys() == {"host", "port", *fields} and given["share"].default == 0.5
    keywords = inspect.signature(ggq.load).parameters.keys()
    assert inspect.signature(ggq.AsyncModel.load).parameters.keys() == keywords


def test_objects_say_what_they_are(demo: Path) -> None:
    with ggq.open(demo) as file:
        assert repr(file) == f"<File {demo}: 918656 numbers in 38 tensors, 4.50 bits per weight>"
        table = file._repr_html_()
        assert table.count("<tr>") == 1 + 38 and "<td>q4-g32</td>" in table
    with ggq.load(demo, interpreter="numpy") as model:
        assert repr(model) == f"<Model {demo}: LlamaForCausalLM, context 512>"
    assert repr(model).endswith(", closed>")
    for name in SCHEMES:
        assert repr(parse_scheme(name)) == f"Scheme({name})"


def test_tables_of_notebooks_escape_what_comes_from_files(tmp_path: Path) -> None:
    from ggq.notebook import MOST_ROWS, table

    text = table("<b>", ("a", "b"), [("<script>", 1)] * (MOST_ROWS + 5))
    assert "<script>" not in text and "<caption>&lt;b&gt;</caption>" in text and "and 5 more" in text
    report = ggq.convert(DEMO, tmp_path / "demo.ggq", scheme="q4-g32")
    assert report._repr_html_().count("<td>q4-g32</td>") == 28


def test_a_model_is_pickled_by_its_path(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo.parent)
    with ggq.load("demo.ggq", interpreter="numpy", activations="float32") as model:
        data = pickle.dumps(model)
        expected = model.generate("import os", max_tokens=4, temperature=0)
    assert len(data) < 1000
    monkeypatch.chdir(tmp_path)
    with pickle.loads(data) as again:
        assert again.options == model.options
        assert again.generate("import os", max_tokens=4, temperature=0) == expected
    with ggq.open(demo) as file, pickle.loads(pickle.dumps(file)) as other:
        assert list(other.tensors) == list(file.tensors)


def test_inspect_verify_and_compare(demo: Path, tmp_path: Path) -> None:
    found = ggq.inspect(demo)
    assert found["file_bytes"] == demo.stat().st_size and len(found["tensors"]) == 38
    assert "tensors" not in ggq.inspect(demo, tensors=False)
    assert ggq.verify(demo) == []
    data = bytearray(demo.read_bytes())
    data[99_999] ^= 1
    broken = tmp_path / "broken.ggq"
    broken.write_bytes(data)
    (problem,) = ggq.verify(broken)
    assert problem.tensor
    comparison = ggq.compare(demo, "demo:")
    assert 0.05 < comparison.matrices.relative_rmse < 0.15
    assert ggq.compare(demo, demo).matrices.relative_rmse == 0


STRICT = """
import asyncio
from starlette.applications import Starlette

import ggq

report = ggq.convert("demo:", "x.ggq", scheme="q4-g32", force=True)
digest: str = report.digest
bits: float = report.bits_per_weight
with ggq.load("x.ggq", threads=1) as model:
    text: str = model.generate("import os", max_tokens=4, temperature=0.0)
    for piece in model.stream("import os", max_tokens=4):
        print(piece)
    logits = model.logits([1, 2, 3])
    print(logits.shape, text)
with ggq.open("x.ggq") as file:
    print(file.metadata["model.layers"], list(file.tensors))
found: dict[str, object] = ggq.inspect("x.ggq")
for problem in ggq.verify("x.ggq"):
    print(problem.tensor, problem.text)
error: float = ggq.compare("x.ggq", "demo:").matrices.relative_rmse
scored = ggq.evaluate("x.ggq", "some text", context=64)


async def talk() -> str:
    async with await ggq.AsyncModel.load("x.ggq", threads=1) as served:
        async for piece in await served.stream("import os", max_tokens=4):
            print(piece)
        return await served.generate("import os", max_tokens=4)


print(asyncio.run(talk()))
application: Starlette = ggq.asgi({"demo": "x.ggq"}, share=0.5, keys=["secret"])
ggq.serve(["x.ggq"], port=0, most_running=4)
try:
    ggq.load("nowhere.ggq")
except ggq.GGQError as refused:
    print(refused.problem, refused.fix)
"""


def test_a_strict_type_check_accepts_every_public_function(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    called = {name for name in ggq.__all__ if f"ggq.{name}(" in STRICT or f"ggq.{name}.load(" in STRICT}
    assert called == {*FUNCTIONS, *SERVING} - {"GGQError"} and "except ggq.GGQError" in STRICT
    program = tmp_path / "program.py"
    wrong = ('wrong: int = ggq.convert("a", "b")\n', 'ggq.serve("a", prot=1)\n')
    for code, expected in ((STRICT, 0), (STRICT + "".join(wrong), len(wrong))):
        program.write_text(code)
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", "--follow-imports", "silent", "program.py"],
            cwd=tmp_path,
            env={**os.environ, "MYPYPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])},
            capture_output=True,
            text=True,
        )
        errors = [line for line in done.stdout.splitlines() if "error:" in line]
        assert (done.returncode, len(errors)) == (min(expected, 1), expected), done.stdout + done.stderr
