"""Files and folders are written whole or not at all, and every failure is one kind of error."""

import errno

import pytest
import torch
from safetensors.torch import save_file

from occplug.errors import OutputError
from occplug.utils.files import write_atomically


def test_a_file_and_a_folder_appear_whole(tmp_path):
    write_atomically(tmp_path / "a/b.txt", lambda temporary: temporary.write_text("new"))
    (tmp_path / "c").mkdir()  # an empty folder is replaced

    def write(temporary):
        temporary.mkdir()
        (temporary / "one.txt").write_text("1")

    write_atomically(tmp_path / "c", write)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["a/b.txt", "c/one.txt"]


def _half_and_full(temporary):
    temporary.write_text("half")
    raise OSError(errno.ENOSPC, "No space left on device")


def _folder_and_full(temporary):
    temporary.mkdir()
    _half_and_full(temporary / "one.txt")


def _torch_cannot(temporary):
    torch.save({"a": 1}, temporary / "missing/folder.pth")


def _safetensors_cannot(temporary):
    save_file({"a": torch.zeros(1)}, temporary / "missing/folder.safetensors")


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (_half_and_full, "no space left on the disk"),
        (_folder_and_full, "no space left on the disk"),
        (_torch_cannot, "."),
        (_safetensors_cannot, "."),
    ],
)
def test_what_fails_leaves_nothing_and_says_why(tmp_path, write, reason):
    with pytest.raises(OutputError, match=f"x could not be written: .*{reason}.*nothing was left behind"):
        write_atomically(tmp_path / "x", write)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file/x", "full"])
def test_something_in_the_way_is_named(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/kept").write_text("kept")

    def write(temporary):
        temporary.mkdir()

    with pytest.raises(OutputError, match=f"{name} could not be written"):
        write_atomically(tmp_path / name, write)
    assert (tmp_path / "full/kept").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]


def test_an_error_of_the_writer_passes_through(tmp_path):
    def write(temporary):
        temporary.write_text("half")
        raise ValueError("the writer's own")

    with pytest.raises(ValueError, match="the writer's own"):
        write_atomically(tmp_path / "x", write)
    assert list(tmp_path.iterdir()) == []
