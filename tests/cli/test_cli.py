"""The frame of the command line: help, exit statuses, failures in one or two lines."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ggq.cli import main as frame
from ggq.cli.commands import repack
from ggq.cli.main import COMMANDS, main
from ggq.errors import GGQError
from tests.kit.small_models import write_demo
from tests.kit.support import run_ggq, run_python

Capture = pytest.CaptureFixture[str]


def fail_with(monkeypatch: pytest.MonkeyPatch, problem: BaseException) -> int:
    """Run a command whose work fails with `problem`."""

    def fails(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr(repack, "repack_file", fails)
    return main(["repack", "a.ggq", "b.ggq"])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_has_an_example(command: frame.Command, capsys: Capture) -> None:
    assert main([command.name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"Usage: ggq {command.name}" in out
    example = out[out.index("Example:") :]
    assert f"      ggq {command.name}" in example.splitlines()[1]


def test_every_command_is_listed(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert command.help in out
        assert f"\n  {command.name} " in out


def test_every_module_of_the_commands_is_registered() -> None:
    """A module of a folder that has a function of its own name is a command."""
    folder = Path(frame.__file__).parent
    modules = {
        ".".join(path.relative_to(folder.parents[1]).with_suffix("").parts)
        for path in folder.glob("*/*.py")
        if f"def {path.stem}(" in path.read_text()
    }
    assert modules == {command.module for command in COMMANDS}


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "ggq 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspec"], "No such command 'inspec'. Did you mean 'inspect'?"),
        (["inspect"], "Missing argument"),
        (["inspect", "a.ggq", "--wrong"], "No such option"),
        (["bench", "a.ggq", "--prompt", "0"], "--prompt"),
        (["bench", "a.ggq", "--prompt", "many"], "--prompt"),
    ],
)
def test_usage_errors(arguments: list[str], message: str, capsys: Capture) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    command = f"ggq {arguments[0]}" if arguments[0] != "inspec" else "ggq"
    first, second = captured.err.splitlines()
    assert first.startswith(f"error: {command}: ") and second == f"`{command} --help` tells how it is used"


def test_nothing_asked_shows_the_commands(capsys: Capture) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert "inspect" in captured.out + captured.err


@pytest.mark.parametrize(
    ("problem", "status", "text"),
    [
        (
            GGQError("2 found, 1 allowed", path="m.ggq", where="key", fix="do this"),
            2,
            "error: m.ggq: key: 2 found, 1 allowed\ndo this\n",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "out.ggq"), 2, "error: out.ggq: No space left on device\n"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 2, "error: x: Permission denied\n"),
        (OSError("odd"), 2, "error: odd\n"),
        (MemoryError(), 2, "error: not enough memory\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (GGQError("name \x1b[31mred\u202e"), 2, "error: name \\x1b[31mred\\u202e\n"),
        (
            ZeroDivisionError("odd\nand more"),
            2,
            "error: unexpected ZeroDivisionError: odd\nplease report it with what GGQ_DEBUG=1 shows\n",
        ),
    ],
)
def test_failures_are_a_line_and_a_status(
    problem: BaseException, status: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert fail_with(monkeypatch, problem) == status
    captured = capsys.readouterr()
    assert captured.err == text
    assert captured.out == ""


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("GGQ_DEBUG", "1")
    assert fail_with(monkeypatch, GGQError("odd")) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("error: odd\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_behind_standard_output(tmp_path: Path) -> None:
    for option, unbuffered in (("--version", ""), ("--version", "1"), ("--help", "")):  # at the end, or at once
        command = [sys.executable, "-m", "ggq", option]
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        with open("/dev/full", "w") as full:
            result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
        assert result.returncode == 2
        assert result.stderr == "error: standard output: No space left on device\n"


def test_a_closed_standard_output_is_no_error(tmp_path: Path) -> None:
    path = write_demo(tmp_path / "demo.ggq")
    command = f"exec {sys.executable} -m ggq inspect {path} >&-"
    result = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_an_interrupt_while_arguments_are_read(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def interrupted(wanted: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(frame, "_version", interrupted)
    assert main(["--version"]) == 130
    assert capsys.readouterr().err.split() in ([], ["interrupted"])  # typer may end without a word


INTERRUPT_IMPORT_OF = """
import runpy, sys
class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:  # within an `exec` of text, as most classes of a slow import are made
            exec("import signal; signal.raise_signal(signal.SIGINT)")
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(
    "module, arguments, told",
    [
        ("ggq.cli.main", ["inspect", "a.ggq"], ""),
        ("typer", ["--help"], ""),
        ("ggq.cli.output", ["inspect", "a.ggq"], ""),
        ("ggq.format.native.reader", ["inspect", "a.ggq"], ""),  # by the command's own module
        ("ggq.convert.convert", ["convert", "folder", "a.ggq"], "interrupted\n"),  # by the command when it runs
    ],
)
def test_an_interrupt_while_modules_are_imported(module: str, arguments: list[str], told: str) -> None:
    code = f"{INTERRUPT_IMPORT_OF.format(module=module)}runpy.run_module('ggq', run_name='__main__')"
    result = run_python("-c", code, *arguments)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", told)


def test_an_ignored_interrupt_stays_ignored() -> None:
    """As in a shell's background jobs."""
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    code += f"{INTERRUPT_IMPORT_OF.format(module='ggq.cli.main')}runpy.run_module('ggq', run_name='__main__')"
    result = run_python("-c", code, "--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, "ggq 0.1.0\n", "")


def test_kernels_that_cannot_be_kept_are_told_of(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("no folder")
    code = (
        "import ggq_kernels.code.store as store\n"
        "from ggq.cli import compiling; from ggq.cli.main import main\n"
        "import ggq_kernels\n"
        "ggq_kernels.warmup = lambda: store.listeners[0]('linear')\n"
        "print(main(['warmup']))\n"
        "store.listeners.clear()\n"
        "compiling.announce_compiling.cache_clear()\n"
        "compiling.announce_compiling()\n"
        "store.listeners[0]('linear')\n"
    )
    result = run_python("-c", code, NUMBA_CACHE_DIR=str(tmp_path / "file"))
    fix = "set NUMBA_CACHE_DIR to a folder that can be written to"
    lines = result.stderr.splitlines()
    assert result.stdout == "2\n" and len(lines) == 4
    assert lines[0].startswith(f"error: {tmp_path / 'file'}{os.sep}kernels-") and lines[1] == fix
    assert lines[0].endswith(": compiled kernels cannot be kept there")
    assert lines[2].startswith("compiling kernels for ") and lines[2].endswith(", not to be kept:")
    assert lines[3].endswith(f" cannot be written to; {fix}")


def test_a_full_cache_folder_is_told_of(tmp_path: Path) -> None:
    code = (
        "import ggq_kernels, ggq_kernels.code.store as store\n"
        "from ggq.cli import compiling; from ggq.cli.main import main\n"
        "def compile_two():\n"
        "    store.listeners[-1]('linear')\n"
        "    store.write_failures.append('No space left on device')\n"
        "    store.listeners[-1]('norm')\n"
        "compiling.announce_compiling()\n"
        "compile_two()\n"
        "store.listeners.clear(), store.write_failures.clear()\n"
        "def warmup():\n"
        "    store.write_failures.append('No space left on device')  # at the last kernel\n"
        "ggq_kernels.warmup = warmup\n"
        "print(main(['warmup']))\n"
    )
    result = run_python("-c", code, NUMBA_CACHE_DIR=str(tmp_path))
    folder = f"{tmp_path}{os.sep}kernels-"
    fix = "free some space there, or set NUMBA_CACHE_DIR to another folder"
    lines = result.stderr.splitlines()
    assert result.stdout == "2\n" and len(lines) == 4
    assert lines[0].startswith("compiling kernels for ") and lines[0].endswith(
        "once for this version and processor ..."
    )
    assert lines[1].startswith(folder) and lines[1].endswith(f": they cannot be kept: No space left on device; {fix}")
    assert lines[2].startswith(f"error: {folder}") and lines[3] == fix
    assert lines[2].endswith(": compiled kernels cannot be kept there: No space left on device")


def test_nobody_reads(tmp_path: Path) -> None:
    """`ggq inspect FILE | head -1` ends quietly."""
    path = write_demo(tmp_path / "demo.ggq")
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "ggq", "inspect", str(path), "--tensors"]
    result = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert result.returncode == 141
    assert result.stderr == ""


def test_module_and_missing_file() -> None:
    result = run_ggq("inspect", "not there.ggq")
    assert result.returncode == 2
    assert result.stdout == ""
    assert "not there.ggq" in result.stderr
    assert len(result.stderr.splitlines()) <= 2


def test_terminals_without_unicode(tmp_path: Path) -> None:
    path = write_demo(tmp_path / "demo.ggq")
    assert main(["edit", str(path), "general.name=日本"]) == 0
    result = run_ggq("inspect", path, "--metadata", "general.name", PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "\\u65e5\\u672c\n"
