"""Bytes of files that are mapped, and of those that cannot be."""

from __future__ import annotations

import io
import os
import threading

import pytest

from tersor.container.source import Source
from tersor.errors import CorruptFileError, InputError


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "bytes"
    path.write_bytes(bytes(range(256)) * 40)
    return path


def test_every_kind_of_file_gives_the_same_bytes(path):
    data = path.read_bytes()
    for file in (path, str(path), path.open("rb"), path.open("rb", buffering=0), io.BytesIO(data)):
        source = Source(file)
        assert source.size == len(data)
        assert source.read(300, 1000) == data[300:1300]
        assert source.read(len(data), 0) == b""
        with pytest.raises(CorruptFileError, match="truncated"):
            source.read(len(data) - 1, 2)
        source.close()


def test_views_outlive_the_source(path):
    source = Source(path)
    view = source.read(10, 20)
    source.close()
    assert bytes(view) == bytes(range(10, 30))


def test_empty_files_are_not_mapped(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    source = Source(tmp_path / "empty")
    assert source.size == 0
    assert source.read(0, 0) == b""


def test_what_cannot_be_read_at_random_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Source(tmp_path / "missing")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.open("wb").close(), daemon=True)
    writer.start()
    with pytest.raises(InputError, match=r"pipe: cannot be read at random .*; copy it to a file"):
        Source(pipe)
    writer.join(5)
