"""Outputs are complete or absent."""

import errno
import os
import time

import pytest

from tersor.errors import OutputError
from tersor.files import atomic_file, atomic_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_only_when_complete(tmp_path):
    with atomic_file(tmp_path / "a") as file:
        file.write(b"hello")
        file.flush()
        assert "a" not in names(tmp_path)
    assert (tmp_path / "a").read_bytes() == b"hello"
    assert names(tmp_path) == ["a"]


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "a") as file:
            file.write(b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing_and_keeps_what_was_there(tmp_path, error):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(type(error)), atomic_file(tmp_path / "a", force=True) as file:
        file.write(b"new")
        raise error
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_existing_outputs_are_refused_without_force(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(OutputError, match="exists already; pass --force"), atomic_file(tmp_path / "a"):
        pass
    with atomic_file(tmp_path / "a", force=True) as file:
        file.write(b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_full_disk_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="disk is full"), atomic_file(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_really_full_device_is_noticed(tmp_path):
    import torch
    from safetensors.torch import save_file

    from tersor.cli import main

    save_file({"w": torch.randn(64, 64)}, tmp_path / "m.safetensors")
    assert main(["compress", str(tmp_path / "m.safetensors"), "-o", "/dev/full/x.tsr"]) == 5


def test_an_error_of_reading_is_not_taken_for_one_of_writing(tmp_path):
    with pytest.raises(PermissionError), atomic_file(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "Permission denied", "some input")
    assert names(tmp_path) == []


def test_a_missing_folder_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="does not exist"), atomic_file(tmp_path / "no" / "a"):
        pass


def test_stale_temporaries_are_removed_and_fresh_ones_kept(tmp_path):
    stale = tmp_path / "a.tersor-tmp-old"
    fresh = tmp_path / "a.tersor-tmp-new"
    other = tmp_path / "b.tersor-tmp-old"
    for path in (stale, fresh, other):
        path.write_bytes(b"x")
    past = time.time() - 2 * 24 * 3600
    os.utime(stale, (past, past))
    os.utime(other, (past, past))
    with atomic_file(tmp_path / "a") as file:
        file.write(b"x")
    assert names(tmp_path) == ["a", "a.tersor-tmp-new", "b.tersor-tmp-old"]


def test_folders_are_replaced_as_a_whole(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").write_bytes(b"1")
    with pytest.raises(OutputError, match="exists already"), atomic_folder(target):
        pass
    with pytest.raises(ValueError, match="x"), atomic_folder(target, force=True) as folder:
        (folder / "new").write_bytes(b"2")
        raise ValueError("x")
    assert names(target) == ["old"]
    with atomic_folder(target, force=True) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "new").write_bytes(b"2")
    assert names(target) == ["sub"]
    assert names(tmp_path) == ["folder"]
