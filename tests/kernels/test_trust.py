"""Compiled code is only loaded from where nobody else can have put it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from ggq_kernels.code import store, trust
from ggq_kernels.code.trust import make_folder, read_own, untrusted

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "a" / "cache" / "kernels"
    make_folder(folder)
    return folder


def test_folders_are_made_for_their_user_alone(cache: Path) -> None:
    old = os.umask(0)
    try:
        make_folder(cache / "b" / "c")
    finally:
        os.umask(old)
    for folder in (cache, cache.parent, cache / "b", cache / "b" / "c"):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert untrusted(cache) == ""


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702])
def test_a_parent_that_others_may_write_to(cache: Path, mode: int) -> None:
    cache.parent.chmod(mode)
    assert untrusted(cache) == f"others may write to {cache.parent}"


def test_a_sticky_parent_is_good_enough_and_a_sticky_cache_is_not(cache: Path) -> None:
    cache.parent.chmod(0o1777)
    assert untrusted(cache) == ""
    cache.chmod(0o1777)
    assert untrusted(cache) == f"others may write to {cache}"


def test_links_on_the_way_are_followed_and_what_lies_behind_them_looked_at(cache: Path, tmp_path: Path) -> None:
    other = tmp_path / "open"
    (other / "kernels").mkdir(parents=True, mode=0o700)
    cache.rmdir()
    cache.symlink_to("../../open/kernels")
    assert untrusted(cache) == ""
    other.chmod(0o777)
    assert untrusted(cache) == f"others may write to {other}"


def test_a_circle_of_links(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert untrusted(tmp_path / "loop" / "kernels").endswith("loop: too many links")


def test_another_users_folder_and_link(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only the administrator gives files away")
    os.chown(cache.parent, 12345, 12345)
    assert untrusted(cache) == f"{cache.parent} belongs to another user"
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    os.lchown(link, 12345, 12345)
    assert untrusted(link / "a") == f"{link} is another user's link"
    (tmp_path / "file").touch()
    os.chown(tmp_path / "file", 12345, 12345)
    assert read_own(tmp_path / "file") == b""


def test_what_is_no_regular_file_of_the_user_is_not_read(cache: Path) -> None:
    good = cache / "good"
    good.write_bytes(b"code")
    good.chmod(0o600)
    assert read_own(good) == b"code"
    (cache / "link").symlink_to(good)
    os.mkfifo(cache / "fifo")
    (cache / "folder").mkdir()
    for name in ("link", "fifo", "folder", "missing"):
        assert read_own(cache / name) == b""
    good.chmod(0o620)
    assert read_own(good) == b""


def test_a_fifo_that_takes_a_files_place_does_not_hang(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "file").touch(mode=0o600)
    os.mkfifo(cache / "fifo")
    status = os.lstat(cache / "file")
    monkeypatch.setattr(trust.os, "lstat", lambda _: status)
    done: list[bytes] = []
    thread = threading.Thread(target=lambda: done.append(read_own(cache / "fifo")), daemon=True)
    thread.start()
    thread.join(10)
    assert done == [b""]


def test_nothing_is_saved_or_loaded_where_others_may_write(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "own_folder", lambda: cache)
    for value, there in (("", True), ("others may write", False)):
        monkeypatch.setattr(store, "distrust", lambda value=value: value)
        store.write(f"name{there}", {"a": 1}, b"code")
        assert (cache / f"name{there}").exists() is there
        assert (store.read("nameTrue") is not None) is there
    (cache / "k.kernel").touch()
    assert not store.is_saved("k")
