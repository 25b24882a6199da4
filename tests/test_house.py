"""The size of rooms: folders that can be looked over, functions that can be read at once."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.kit.support import ROOT

MODULES, LINES = 15, 60
FOLDERS = [ROOT / "ggq", ROOT / "kernels" / "ggq_kernels"]


def test_no_folder_has_more_modules_than_one_can_look_over() -> None:
    folders = {path.parent for folder in FOLDERS for path in folder.rglob("*.py")}
    counts = {folder.relative_to(ROOT).as_posix(): len(list(folder.glob("*.py"))) for folder in folders}
    assert {folder: count for folder, count in counts.items() if count > MODULES} == {}


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body behind its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    last = body[-1].end_lineno if body else None
    return 0 if last is None else last - body[0].lineno + 1


def test_no_function_is_longer_than_a_page() -> None:
    long: list[tuple[str, str, int]] = []
    for path in (path for folder in [*FOLDERS, ROOT / "tools"] for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and code_lines(node) > LINES:
                long.append((path.relative_to(ROOT).as_posix(), node.name, code_lines(node)))
    assert long == []


def test_the_check_counts_code_and_not_words(tmp_path: Path) -> None:
    source = 'def f():\n    """One.\n\n    Two.\n    """\n    a = 1\n    return a\n'
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef) and code_lines(function) == 2
