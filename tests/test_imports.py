"""Imports point one way, and numba is imported where it computes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.support import DEMO, ROOT, run_python

ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "threads": set(),
    "format": {"errors", "threads"},
    "quant": {"errors", "format"},
    "tape": {"errors", "format", "quant"},
    "models": {"errors", "format", "quant", "tape"},
    "engine": {"errors", "format", "quant", "tape"},
    "text": {"errors"},
    "gguf": {"errors", "format", "quant", "models", "text"},
    "adapters": {"errors", "format", "quant", "tape", "models", "convert.source"},
    "generate": {"notebook", "errors", "format", "quant", "tape", "models", "engine", "text", "gguf", "adapters"},
    "convert": {
        "notebook",
        "errors",
        "threads",
        "format",
        "quant",
        "tape",
        "models",
        "engine",
        "text",
        "generate",
        "gguf",
    },
    "evaluate": {"notebook", "errors", "format", "quant", "tape", "models", "engine", "text", "generate"},
    "export": {"errors", "format", "quant", "models", "convert", "evaluate", "gguf"},
    "serve": {"errors", "format", "models", "engine", "text", "generate", "adapters"},
    "train": {"errors", "format", "quant", "tape", "models", "text", "generate", "convert", "evaluate", "export"},
    "notebook": set(),
    "comparison": {"errors", "format", "models", "convert", "evaluate"},
    "cli": {
        "comparison",
        "errors",
        "format",
        "quant",
        "tape",
        "models",
        "engine",
        "text",
        "generate",
        "convert",
        "evaluate",
    }
    | {"comparison", "export", "serve", "threads", "train"},
}
"""What each part of ggq may import besides itself."""

HEAVY = (
    "numba",
    "llvmlite",
    "tokenizers",
    "jinja2",
    "safetensors",
    "huggingface_hub",
    "rich",
    "ggq_kernels",
    "starlette",
    "uvicorn",
)
"""Packages that a quick command never loads."""


def sources(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imports(path: Path, *, package: str) -> Iterator[tuple[str, bool]]:
    """Absolute names of the modules and names that a file imports, and whether it does so when it is loaded."""
    tree = ast.parse(path.read_text())
    late: set[int] = set()
    for node in ast.walk(tree):
        test = getattr(node, "test", None)
        typing_only = isinstance(node, ast.If) and isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or typing_only:
            late.update(id(child) for child in ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in late
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module or ""]))
            for alias in node.names:
                yield f"{module}.{alias.name}", id(node) not in late


def part_of(path: Path) -> str:
    """The part of ggq that a file belongs to: "format", "errors" ..."""
    return path.relative_to(ROOT / "ggq").with_suffix("").parts[0]


def package_of(path: Path, base: Path) -> str:
    return ".".join(path.relative_to(base).parent.parts)


GGQ = [path for path in sources(ROOT / "ggq") if part_of(path) in ALLOWED]


@pytest.mark.parametrize("path", GGQ, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    allowed = ALLOWED[part] | {part}
    for name, _ in imports(path, package=package_of(path, ROOT)):
        if name.split(".")[0] != "ggq" or name == "ggq":  # the version is said in ggq/__init__.py
            continue
        inside = name.removeprefix("ggq.")
        assert any(f"{inside}.".startswith(f"{prefix}.") for prefix in allowed), f"{name} may not be imported here"


@pytest.mark.parametrize("path", sources(ROOT / "ggq"), ids=lambda path: str(path.relative_to(ROOT)))
def test_ggq_reaches_numba_only_through_the_kernels_and_late(path: Path) -> None:
    for name, early in imports(path, package=package_of(path, ROOT)):
        assert name.split(".")[0] not in ("numba", "llvmlite"), "numba belongs in ggq_kernels"
        assert not (early and name.split(".")[0] == "ggq_kernels"), "import ggq_kernels in the function that computes"


@pytest.mark.parametrize(
    "path", sources(ROOT / "kernels" / "ggq_kernels"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_the_kernels_stand_alone(path: Path) -> None:
    for name, _ in imports(path, package=package_of(path, ROOT / "kernels")):
        assert name.split(".")[0] != "ggq"


def test_the_check_sees_what_it_forbids(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        "import numba\nfrom . import a\nfrom ..tape.program import b\ndef f():\n    from ggq_kernels import c\n"
    )
    found = dict(imports(module, package="ggq.models"))
    assert found == {"numba": True, "ggq.models.a": True, "ggq.tape.program.b": True, "ggq_kernels.c": False}


def test_parts_are_all_ruled() -> None:
    """A new folder or module of ggq must get its place in ALLOWED."""
    assert {part_of(path) for path in sources(ROOT / "ggq")} - set(ALLOWED) == {"__init__", "__main__"}


@pytest.mark.parametrize(
    "statement",
    [
        "import ggq; ggq.GGQError; ggq.__version__",
        "import ggq; ggq.open",
        *(
            f"from ggq.cli.main import main; main(['{name}', '--help'])"
            for name in ("inspect", "verify", "edit", "repack")
        ),
        f"from ggq.cli.main import main; main(['inspect', {str(DEMO / 'config.json')!r}])",
    ],
)
def test_quick_things_load_nothing_heavy(statement: str) -> None:
    report = f"import sys; print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    result = run_python("-c", f"{statement}\n{report}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "LOADED []"
