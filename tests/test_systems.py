"""What only POSIX has is asked for where it is there: stand-ins for Windows and macOS, which nobody has tried.

Modules and functions that they lack are taken away, names of open files cannot be changed, and `sys.platform` says so.
Kernels are those of this machine.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

import ggq
from ggq.cli.main import main
from ggq.errors import GGQError
from ggq.format import paths, unfinished
from tests.kit.small_models import write_demo
from tests.kit.support import run_python

BEGIN = """
import json, os, sys
import ctypes, multiprocessing, numpy, subprocess, tempfile  # as they are on this system
import platformdirs, safetensors.numpy, tokenizers, typer
import huggingface_hub, jinja2.sandbox, llguidance, llvmlite.binding, numba
from ggq_kernels.code import key
here = key.key()
key.key = lambda: here  # the kernels of this machine
"""
LACKS = {
    "win32": (
        ("fcntl", "resource", "termios", "readline", "pwd", "grp"),
        (
            *("sched_getaffinity", "sysconf", "geteuid", "getuid", "nice", "pread", "pwrite", "fork"),
            *("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "fchmod", "mkfifo", "killpg", "setsid"),
            *("fdatasync", "register_at_fork"),
        ),
    ),
    "darwin": (("readline",), ("sched_getaffinity", "fdatasync", "sched_setaffinity")),
}
"""Modules, and names of `os`, that are not there."""
PROGRAM = """
modules, names, platform, work, given = json.loads(sys.argv[1])
for name in modules:
    sys.modules[name] = None
for name in names:
    if hasattr(os, name):
        delattr(os, name)
sys.platform = platform
if platform == "win32":
    CDLL = ctypes.CDLL

    def opened(name, *options, **more):
        if name is None:
            raise TypeError("argument of type 'NoneType' is not iterable")  # as there
        return CDLL(None if name == "msvcrt" else name, *options, **more)

    ctypes.CDLL = opened
os.chdir(work)
import ggq
from ggq.cli.main import main
commands = [
    ["convert", "demo:", "demo.ggq", "--scheme", "q4-g32"],
    ["convert", "demo:", "demo.ggq", "--scheme", "q4-g32", "--force"],
    ["inspect", "demo.ggq"],
    ["verify", "demo.ggq"],
    ["run", given, "import os", "-n", "6", "--greedy"],
    ["run", given, "import os", "-n", "6", "--greedy", "--interpreter", "numpy"],
    ["edit", "demo.ggq", "general.name=other"],
    ["repack", "demo.ggq", "again.ggq"],
    ["eval", given, "--text", "text.txt", "--context", "16", "--windows", "2", "--save-logits", "saved.logits"],
    ["export", "demo.ggq", "folder"],
]
status = [main(command) for command in commands]
status += [main(["run", "nowhere.ggq", "x"])]
from ggq_kernels.run.cores import physical_cores
print(json.dumps([status, physical_cores() > 0, ggq.load(given).generate("import os", max_tokens=6, temperature=0)]))
"""


@pytest.mark.parametrize("platform", LACKS)
def test_everything_works_without_what_the_system_lacks(tmp_path: Path, platform: str) -> None:
    given = write_demo(tmp_path / "given.ggq", "q4-g32")
    with ggq.load(given) as model:
        expected = model.generate("import os", max_tokens=6, temperature=0)
    (tmp_path / "text.txt").write_text("def read(self):\n    return self.file.read()\n" * 30)
    modules, names = LACKS[platform]
    program = json.dumps([modules, names, platform, str(tmp_path), str(given)])
    done = run_python("-c", BEGIN + PROGRAM, program)
    assert done.returncode == 0, done.stderr
    status, cores, text = json.loads(done.stdout.splitlines()[-1])
    assert status == [0] * 10 + [2] and cores and text == expected, done.stderr
    assert "Traceback" not in done.stderr and "unexpected" not in done.stderr


@pytest.fixture
def names_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, a name of a file that this process has open cannot be changed, taken or removed."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("which files are open is not told here")
    replace, unlink = os.replace, os.unlink

    def is_open(path: object) -> bool:
        found = []
        for number in os.listdir("/proc/self/fd"):
            try:
                found.append(os.readlink(f"/proc/self/fd/{number}"))
            except OSError:
                continue
        return os.path.realpath(str(path)) in found

    def refusing(path: object) -> None:
        if is_open(path):
            raise PermissionError(errno.EACCES, "The process cannot access the file", str(path))

    def replace_closed(source: str, target: str) -> None:
        refusing(source)
        refusing(target)
        replace(source, target)

    def unlink_closed(path: str) -> None:
        refusing(path)
        unlink(path)

    monkeypatch.setattr(os, "replace", replace_closed)
    monkeypatch.setattr(os, "unlink", unlink_closed)


def test_the_stand_in_refuses_what_windows_refuses(names_kept: None, tmp_path: Path) -> None:
    """Without being told, a file would be renamed while it is open."""
    with pytest.raises(GGQError, match="cannot write: The process cannot access"):
        write_demo(tmp_path / "a.ggq")


def test_files_are_closed_before_they_get_their_names(
    names_kept: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "NAMES_KEPT", True)
    out = write_demo(tmp_path / "a.ggq")
    assert main(["convert", "demo:", str(out), "--scheme", "q4-g32", "--force"]) == 0
    assert ggq.verify(out) == []
    with unfinished.replacing(tmp_path / "b", b"mark") as file:
        file.write(b"mark and more")
    (tmp_path / "c.partial").write_bytes(b"somebody's")
    with unfinished.replacing(tmp_path / "c", b"mark", force=True) as file:
        file.write(b"mark")
    with pytest.raises(ZeroDivisionError), unfinished.replacing(tmp_path / "d", b"mark") as file:
        file.write(b"mark")
        raise ZeroDivisionError
    assert {path.name for path in tmp_path.iterdir()} == {"a.ggq", "b", "c"}


def test_a_file_that_somebody_has_open_is_kept_and_told(
    names_kept: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paths, "NAMES_KEPT", True)
    out = write_demo(tmp_path / "a.ggq", "q8-g32")
    before = out.read_bytes()
    with ggq.open(out):
        assert main(["convert", "demo:", str(out), "--scheme", "q4-g32", "--force"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "close whatever has the file open"
    assert out.read_bytes() == before
    assert main(["convert", "demo:", str(out), "--scheme", "q4-g32", "--force"]) == 0
