"""A notebook shows tables and progress, run cell by cell as Jupyter does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.kit.support import DEMO, ROOT

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

CELLS = [
    "import ggq",
    f"report = ggq.convert({str(DEMO)!r}, 'demo.ggq', scheme='q4-g32')",
    "report",
    "file = ggq.open('demo.ggq')\nfile",
    f"text = open({str(DEMO / 'valid.txt')!r}).read()[:6000]\n"
    "found = ggq.evaluate('demo.ggq', text, context=64, windows=2, interpreter='numpy')",
    # A load where some small kernels of the model are not there.
    "import os, shutil, tempfile\n"
    "from ggq_kernels.code import store\n"
    "ggq.load('demo.ggq').close()  # so that all others are\n"
    "known = store.own_folder()\n"
    "folder = __import__('pathlib').Path(tempfile.mkdtemp()) / known.name\n"
    "shutil.copytree(known, folder, ignore=shutil.ignore_patterns('gather.select.kernel', 'rope.rope_half.kernel'))\n"
    "store.own_folder = lambda: folder\n"
    "from ggq_kernels.code.ready import module\n"
    "module('gather').select._address = module('rope').rope_half._address = 0\n"
    "ggq.load('demo.ggq')",
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """What each cell shows."""
    folder: Path = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "kernels")]))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3")
        client.execute(cwd=str(folder))
    return [cell.outputs for cell in notebook.cells]


def texts(cell: list[Any]) -> str:
    """Everything that a cell shows, in one string."""
    found = [output.get("text", "") for output in cell]
    found += [value for output in cell for value in output.get("data", {}).values() if isinstance(value, str)]
    return "\n".join(found)


def test_progress_is_shown_while_something_takes_long(outputs: list[list[Any]]) -> None:
    assert "converting" in texts(outputs[1])
    assert "scoring" in texts(outputs[4])
    assert "compiling kernels, once" in texts(outputs[5]) and "2/2" in texts(outputs[5])


def test_results_are_tables(outputs: list[list[Any]]) -> None:
    for cell in outputs[2:4]:
        (shown,) = (output["data"]["text/html"] for output in cell if "text/html" in output.get("data", {}))
        assert "<table>" in shown and shown.count("<td>q4-g32</td>") == 28
