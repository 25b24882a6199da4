"""`ggq convert` has the kernels compiled that its result will need."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ggq
from ggq.cli.main import main
from ggq.convert import behind
from ggq.convert.convert import prepare
from ggq.convert.options import Options
from ggq.convert.plan.plan import Plan
from ggq_kernels.code import precompiled, store, together
from ggq_kernels.run import calls
from tests.kit.support import DEMO, run_python


class Linked(Exception):
    """Ends a load where kernels would be compiled."""


def planned(scheme: str, **options: Any) -> Plan:
    return prepare(DEMO, None, Options(scheme=scheme, **options))[0]


@pytest.mark.parametrize("scheme", ["q4-g32", "q3m-g64-s6", "c4-g32", "q8-row", "ternary-g64", "q4-g16", "bf16", "f32"])
def test_what_is_foreseen_is_what_a_load_asks_for(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, out = planned(scheme), tmp_path / "demo.ggq"
    foreseen = behind.needed(plan.program, {tensor.role: (tensor.scheme, tensor.shape) for tensor in plan.tensors})
    asked: list[str] = []

    def link(tape: object, kernels: calls.Kernels) -> None:
        asked.extend(calls.keys_of(kernels))
        raise Linked

    ggq.convert(DEMO, out, scheme=scheme)
    monkeypatch.setattr(calls, "link", link)
    with pytest.raises(Linked):
        ggq.load(out)
    assert set(foreseen) == set(asked) and len(set(asked)) > 8


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What processes are told, instead of being started."""
    found: list[Any] = []

    monkeypatch.setattr(behind, "start", lambda need: found.append(pickle.load(need)))
    monkeypatch.setattr(store, "CAN_CLAIM", True)
    monkeypatch.setenv(behind.OFF, "1")
    return found


def test_the_command_starts_it_and_python_does_not(started: list[Any], tmp_path: Path) -> None:
    ggq.convert(DEMO, tmp_path / "a.ggq", scheme="q4-g32")
    assert started == []
    assert main(["convert", str(DEMO), str(tmp_path / "b.ggq"), "--scheme", "q4-g32", "--dry-run"]) == 0
    assert started == []
    assert main(["convert", str(DEMO), str(tmp_path / "b.ggq"), "--scheme", "q4-g32"]) == 0
    ((program, tensors),) = started
    assert "linear.linear_q4_int8" in behind.needed(program, tensors)


@pytest.mark.parametrize("why", ["off", "wheel", "no locks"])
def test_nothing_is_started_where_it_is_of_no_use(
    started: list[Any], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "off":
        monkeypatch.setenv(behind.OFF, "0")
    elif why == "wheel":
        monkeypatch.setattr(precompiled, "folder", lambda: tmp_path)
    else:
        monkeypatch.setattr(store, "CAN_CLAIM", False)
    behind.compile_behind(planned("q4-g32"))
    assert started == []


def test_what_somebody_else_compiles_is_left_to_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(store, "own_folder", lambda: tmp_path)
    compiled: list[str] = []
    monkeypatch.setattr(together, "_compile", compiled.append)
    (tmp_path / "norm.rms_norm.kernel").touch()
    with store.claim("rope.rope_half") as claimed:
        assert claimed
        together.compile_behind(["norm.rms_norm", "rope.rope_half", "gather.select", "linear.linear_q4_int8"])
        with store.claim("gather.select") as free:  # no claim is left
            assert free
    assert compiled == ["linear.linear_q4_int8", "gather.select"]


@pytest.mark.skipif(not hasattr(os, "nice"), reason="processes have no priority here")
def test_the_process_compiles_what_is_missing(tmp_path: Path) -> None:
    """In a folder where all but one small kernel are said to be there."""
    plan = planned("q4-g32")
    need = plan.program, {tensor.role: (tensor.scheme, tensor.shape) for tensor in plan.tensors}
    code = "from ggq_kernels.code import store; store.own_folder()"
    assert run_python("-c", code, NUMBA_CACHE_DIR=str(tmp_path)).returncode == 0
    (folder,) = tmp_path.iterdir()
    for key in set(behind.needed(*need)) - {"gather.select"}:
        (folder / f"{key}.kernel").touch()
    code = f"import os; del os.nice\n{behind.WORK.format(path=sys.path)}"  # at usual priority: the test waits for it
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], input=pickle.dumps(need), env=environment, check=True)
    assert (folder / "gather.select.kernel").stat().st_size > 100 and not list(folder.glob("*.lock"))
