"""Conversions that are stopped: nothing half under the final name, no traceback, and a resume gives the same bytes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import pytest

from ggq.convert.convert import convert
from ggq.convert.options import MOST_WORKERS
from ggq.errors import ConvertError, GGQError, UsageError
from ggq.format import Writer
from tests.kit.checkpoints import edit_json, tiny
from tests.kit.support import ROOT

SLOW = """
import os, signal, sys
from ggq.convert.write import pipeline
from ggq.cli.main import main
real, moment, sent, left = pipeline._write, sys.argv[1], getattr(signal, sys.argv[2]), int(sys.argv[3])
def write(writer, job, *others):
    global left
    left -= 1
    if left == 0 and moment == "before":
        os.kill(os.getpid(), sent)
    if left == 0 and moment == "between":  # in the middle of the tensor's segments
        append = writer._append
        def broken(buffer):
            append(buffer)
            os.kill(os.getpid(), sent)
        writer._append = broken
    real(writer, job, *others)
    if left == 0 and moment == "after":
        writer._journal.flush()
        os.kill(os.getpid(), sent)
pipeline._write = write
if moment == "finish":
    finish = pipeline.Writer.finish
    def die(self):
        os.replace = lambda *paths: os.kill(os.getpid(), sent)
        return finish(self)
    pipeline.Writer.finish = die
sys.exit(main(["convert", *sys.argv[4:]]))
"""
"""Converts, and sends itself a signal at a chosen moment around a chosen tensor."""


def run(moment: str, sent: str, tensor: int, arguments: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return subprocess.run(
        [sys.executable, "-c", SLOW, moment, sent, str(tensor), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tiny(tmp_path / "m")


@pytest.fixture
def whole(tmp_path: Path, source: Path) -> bytes:
    """The bytes of an undisturbed conversion."""
    convert(source, tmp_path / "whole.ggq", scheme="q3z-g32")
    return (tmp_path / "whole.ggq").read_bytes()


MOMENTS = [("before", 1), ("after", 1), ("between", 7), ("before", 12), ("after", 19), ("finish", 0)]


@pytest.mark.parametrize("moment, tensor", MOMENTS)
def test_killed_and_resumed(tmp_path: Path, source: Path, whole: bytes, moment: str, tensor: int) -> None:
    out = tmp_path / "out.ggq"
    arguments = [source, out, "--scheme", "q3z-g32", "--workers", "2"]
    killed = run(moment, "SIGKILL", tensor, arguments)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists() and (tmp_path / "out.ggq.partial").exists()
    report = convert(source, out, scheme="q3z-g32", workers=1, resume=True)
    assert out.read_bytes() == whole
    if moment == "after":
        assert report.resumed == tensor
    assert {path.name for path in tmp_path.iterdir()} == {"m", "out.ggq", "whole.ggq"}


def test_killed_again_and_again(tmp_path: Path, source: Path, whole: bytes) -> None:
    out = tmp_path / "out.ggq"
    for tensor in (3, 5, 2):
        killed = run("after", "SIGKILL", tensor, [source, out, "--scheme", "q3z-g32", "--resume"])
        assert killed.returncode == -signal.SIGKILL
    report = convert(source, out, scheme="q3z-g32", resume=True)
    assert report.resumed == 10 and out.read_bytes() == whole
    assert {tensor.name for tensor in report.tensors} and all(t.relative_rmse >= 0 for t in report.tensors)


@pytest.mark.parametrize("moment, tensor", [("before", 1), ("between", 4), ("after", 9), ("finish", 0)])
def test_ctrl_c_says_one_line_and_keeps_what_is_done(
    tmp_path: Path, source: Path, whole: bytes, moment: str, tensor: int
) -> None:
    out = tmp_path / "out.ggq"
    arguments = [source, out, "--scheme", "q3z-g32", "--workers", "2"]
    stopped = run(moment, "SIGINT", tensor, arguments)
    assert stopped.returncode == 130, stopped.stderr
    assert stopped.stdout == "" and not out.exists()
    kept = (moment, tensor) != ("before", 1)
    hint = f"; the same command with --resume goes on from {out}.partial" if kept else ""
    assert stopped.stderr == f"interrupted{hint}\n"
    assert (tmp_path / "out.ggq.partial").exists() is kept
    convert(source, out, scheme="q3z-g32", resume=True)
    assert out.read_bytes() == whole


def test_an_unfinished_file_without_resume_is_begun_anew(tmp_path: Path, source: Path, whole: bytes) -> None:
    out = tmp_path / "out.ggq"
    assert run("after", "SIGKILL", 5, [source, out, "--scheme", "q8-g32"]).returncode == -signal.SIGKILL
    report = convert(source, out, scheme="q3z-g32")
    assert report.resumed == 0 and out.read_bytes() == whole


def test_resume_with_nothing_to_resume_begins(tmp_path: Path, source: Path, whole: bytes) -> None:
    assert convert(source, tmp_path / "out.ggq", scheme="q3z-g32", resume=True).resumed == 0
    assert (tmp_path / "out.ggq").read_bytes() == whole


def test_resume_refuses_another_input_or_other_options(tmp_path: Path, source: Path, whole: bytes) -> None:
    out = tmp_path / "out.ggq"
    assert run("after", "SIGKILL", 5, [source, out, "--scheme", "q3z-g32"]).returncode == -signal.SIGKILL
    message = "the unfinished file was begun from other inputs or with other options"
    for options in ({"scheme": "q3-g32"}, {"embedding": "f16"}, {"keep": ["up=f16"]}):
        with pytest.raises(ConvertError, match=message):
            convert(source, out, **{"scheme": "q3z-g32", "resume": True, **options})  # type: ignore[arg-type]
    weights = source / "model.safetensors"
    state = weights.stat()
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns + 1))  # the same size, but written to
    with pytest.raises(ConvertError, match=message):
        convert(source, out, scheme="q3z-g32", resume=True)
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    settings = (source / "generation_config.json").read_bytes()
    edit_json(source / "generation_config.json", temperature=0.5)
    with pytest.raises(ConvertError, match=message):
        convert(source, out, scheme="q3z-g32", resume=True)
    (source / "generation_config.json").write_bytes(settings)
    assert convert(source, out, scheme="q3z-g32", resume=True, workers=3).resumed == 5
    assert out.read_bytes() == whole


def test_a_full_disk_is_one_error_and_can_be_resumed(
    tmp_path: Path, source: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.ggq"
    append = Writer._append
    room = 15_000

    def full(self: Writer, buffer: object) -> tuple[int, int, bytes]:
        if self._end + memoryview(buffer).nbytes > room:  # type: ignore[call-overload]
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return append(self, buffer)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "_append", full)
        with pytest.raises(GGQError, match="cannot write: No space left on device\nfree some space .* --resume"):
            convert(source, out, scheme="q3z-g32")
    assert not out.exists()
    assert convert(source, out, scheme="q3z-g32", resume=True).resumed > 0
    assert out.read_bytes() == whole


LIMITED = """
import resource, signal, sys
from ggq.cli.main import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (12000, 12000))
sys.exit(main(["convert", *sys.argv[1:]]))
"""


def test_a_file_size_limit_of_the_system_is_one_error(tmp_path: Path, source: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(source), str(tmp_path / "out.ggq")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and "File too large" in done.stderr
    assert not (tmp_path / "out.ggq").exists()


def test_too_little_disk_is_refused_before_the_first_tensor(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: os.terminal_size((0, 0)) and type("U", (), {"free": 1000})())
    with pytest.raises(ConvertError, match=r"the disk has 1000 bytes free, \d+ are needed\nfree \d+ bytes"):
        convert(source, tmp_path / "out.ggq")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_places_that_cannot_take_the_result(tmp_path: Path, source: Path) -> None:
    existing = tmp_path / "old.ggq"
    existing.write_bytes(b"old")
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    (tmp_path / "link").symlink_to(source)
    cases: list[tuple[Path, type[GGQError], str]] = [
        (existing, UsageError, "the file exists already\nchoose another name or give --force"),
        (tmp_path, UsageError, "found a folder"),
        (tmp_path / "no" / "out.ggq", UsageError, "there is no folder"),
        (existing / "out.ggq", UsageError, "there is no folder"),
        (source / "out.bin", ConvertError, "the result would lie inside its own input"),
        (source / "model.safetensors", ConvertError, "the result would lie inside its own input"),
        (tmp_path / "link" / "sub" / "out.bin", ConvertError, "the result would lie inside its own input"),
    ]
    for out, kind, message in cases:
        with pytest.raises(kind, match=message):
            convert(source, out)
    hard = tmp_path / "hard.ggq"
    os.link(source / "model.safetensors", hard)
    with pytest.raises(ConvertError, match="the result would lie inside its own input"):
        convert(source, hard, force=True)
    assert existing.read_bytes() == b"old"
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before


def test_force_replaces_an_old_file_only_when_the_new_one_is_whole(tmp_path: Path, source: Path, whole: bytes) -> None:
    out = tmp_path / "out.ggq"
    out.write_bytes(b"old")
    killed = run("after", "SIGKILL", 9, [source, out, "--scheme", "q3z-g32", "--force"])
    assert killed.returncode == -signal.SIGKILL and out.read_bytes() == b"old"
    convert(source, out, scheme="q3z-g32", resume=True, force=True)
    assert out.read_bytes() == whole


@pytest.mark.parametrize("workers", [0, -1, 5000])
def test_numbers_of_workers_that_make_no_sense(tmp_path: Path, source: Path, workers: int) -> None:
    with pytest.raises(UsageError, match=f"workers must be 1 to {MOST_WORKERS}, not {workers}"):
        convert(source, tmp_path / "out.ggq", workers=workers)


@pytest.mark.parametrize("clean", ["os.unlink", "sync_folder"])
def test_killed_between_its_name_and_the_end_it_is_done(tmp_path: Path, source: Path, whole: bytes, clean: str) -> None:
    out = tmp_path / "out.ggq"
    code = (
        "import os, sys, signal\n"
        "from ggq.format.native import writer\n"
        "def die(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        f"{'os.unlink' if clean == 'os.unlink' else 'writer.sync_folder'} = die\n"
        "from ggq.cli.main import main\n"
        "main(['convert', *sys.argv[1:]])\n"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    command = [sys.executable, "-c", code, str(source), str(out), "--scheme", "q3z-g32"]
    assert subprocess.run(command, env={**os.environ, "PYTHONPATH": path}).returncode == -signal.SIGKILL
    assert out.read_bytes() == whole and (tmp_path / "out.ggq.journal").exists()
    with pytest.raises(UsageError, match="the file exists already"):
        convert(source, out, scheme="q3z-g32")
    with pytest.raises(ConvertError, match="begun from other inputs or with other options"):
        convert(source, out, scheme="q8-g32", resume=True)
    report = convert(source, out, scheme="q3z-g32", resume=True)
    assert report.resumed == len(report.tensors) and report.megabytes_per_second == 0
    assert out.read_bytes() == whole and not (tmp_path / "out.ggq.journal").exists()
    with pytest.raises(UsageError, match="the file exists already"):
        convert(source, out, scheme="q3z-g32", resume=True)


def test_a_finished_file_that_was_changed_is_not_taken_for_done(tmp_path: Path, source: Path, whole: bytes) -> None:
    out = tmp_path / "out.ggq"
    assert run("finish", "SIGKILL", 0, [source, out, "--scheme", "q3z-g32"]).returncode == -signal.SIGKILL
    os.rename(f"{out}.partial", out)
    data = bytearray(whole)
    data[200] ^= 1
    out.write_bytes(data)
    with pytest.raises(UsageError, match="the file exists already"):
        convert(source, out, scheme="q3z-g32", resume=True)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "x"},
        {"attributes": {}},
        {"attributes": {"role": "output.weight"}},
        {"attributes": {"role": "embedding.weight", "source_dtype": 3}},
    ],
)
def test_tensors_of_another_plan_are_refused(tmp_path: Path, source: Path, change: dict[str, object]) -> None:
    out = tmp_path / "out.ggq"
    assert run("after", "SIGKILL", 2, [source, out, "--scheme", "q3z-g32"]).returncode == -signal.SIGKILL
    journal = tmp_path / "out.ggq.journal"
    lines = journal.read_bytes().splitlines()
    text = json.dumps({**json.loads(lines[1][9:]), **change}).encode()
    journal.write_bytes(b"\n".join([lines[0], b"%08x %s" % (crc32(text), text), *lines[2:]]) + b"\n")
    with pytest.raises(UsageError, match="this conversion would not have written\nrun it without --resume"):
        convert(source, out, scheme="q3z-g32", resume=True)
    assert not out.exists()
