"""Weights that the repository has and an installed package has not: where they are looked for, and what is said."""

import functools
import http.server
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from occplug.errors import CheckpointError
from occplug.utils.files import file_sha256
from occplug.zoo import Checkpoint, Index, read_index
from occplug.zoo.fetching import CACHE_VARIABLE, cached_file, fetch


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An index beside which one of two files lies, as in a wheel, and the other file elsewhere."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    package, elsewhere = tmp_path / "site/occplug/zoo", tmp_path / "elsewhere"
    (package / "checkpoints").mkdir(parents=True)
    elsewhere.mkdir()
    model = next(iter(read_index().entries.values()))
    entries = {}
    for name, folder in (("a/b/here", package / "checkpoints"), ("a/b/away", elsewhere)):
        file = folder / f"{name[4:]}.safetensors"
        file.write_bytes(name.encode())
        size, digest = file.stat().st_size, file_sha256(file)
        point = Checkpoint("occplug", file=f"checkpoints/{file.name}", sha256=digest, size=size, seed=1)
        entries[name] = replace(model, name=name, checkpoint=point)
    return Index(package / "index.yaml", {}, entries), elsewhere / "away.safetensors"


def test_a_file_of_the_package(installed):
    index, _ = installed
    assert fetch(index, index.entries["a/b/here"]) == index.file.parent / "checkpoints/here.safetensors"


def test_a_missing_file_says_where_it_is(installed):
    index, _ = installed
    entry = index.entries["a/b/away"]
    with pytest.raises(CheckpointError) as caught:
        fetch(index, entry)
    for part in ("zoo://a/b/away", "which brings those of zoo://a/b/here", "occplug/zoo/checkpoints/away.safetensors",
                 str(cached_file(entry)), f"--config-file {entry.config}"):  # fmt: skip
        assert part in str(caught.value)


def test_a_copy_in_the_cache_or_a_checkout_is_taken(installed, tmp_path):
    index, file = installed
    entry = index.entries["a/b/away"]
    checkout = tmp_path / "occplug/zoo/checkpoints/away.safetensors"
    for place in (cached_file(entry), checkout):
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
        assert fetch(index, entry).samefile(place)
        place.write_bytes(b"a/b/aw\0y")
        with pytest.raises(CheckpointError, match=r"its sha256 is [0-9a-f]+, expected"):
            fetch(index, entry)
        place.unlink()


def test_a_file_with_an_address_is_fetched(installed):
    index, file = installed
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(file.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{file.name}"
        entry = index.entries["a/b/away"]
        entry = replace(entry, checkpoint=replace(entry.checkpoint, url=url))
        assert Path(fetch(index, entry, progress=False)).read_bytes() == file.read_bytes()
        server.shutdown()
    assert fetch(index, entry).samefile(cached_file(entry))  # from the cache, without the server
