"""Weight files are refused if one byte of their content is another, or if they are larger inside than outside."""

import pickle
import random
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from occplug.embedding import Embedding
from occplug.engine import load_checkpoint, save_checkpoint
from occplug.errors import CheckpointError, DataError
from occplug.torchreid_host import load_stock_checkpoint
from occplug.utils import integrity
from occplug.utils.integrity import check_archive, check_tensors, checksum, is_intact, save_checked
from occplug.utils.tensors import read_tensors
from occplug.zoo.weights import read_test_weights, save_small

STATE = {"a.weight": torch.arange(600.0).reshape(20, 30), "a.bias": torch.arange(20.0), "n": torch.tensor(3)}


def whole(value):
    return {name: each.clone() for name, each in value.items()}


READERS = {
    "ours": (lambda f: save_checkpoint({"state_dict": STATE}, f), lambda f: load_checkpoint(f)["state_dict"]),
    "torchreid's": (lambda f: torch.save({"state_dict": STATE}, f), lambda f: load_stock_checkpoint(f)["state_dict"]),
    "official": (lambda f: torch.save(STATE, f), lambda f: read_tensors(f)[0]),
    "small": (lambda f: save_small(f, STATE, 4, 2, config="a: 1\n"), lambda f: read_test_weights(f).state),
    "embeddings": (
        lambda f: Embedding(STATE["a.weight"]).save(f),
        lambda f: {"a.weight": Embedding.load(f).vector},
    ),
}


@pytest.mark.parametrize("kind", READERS)
def test_no_changed_byte_gives_other_numbers(tmp_path, kind):
    save, read = READERS[kind]
    path, draw = tmp_path / ("a.safetensors" if kind in ("small", "embeddings") else "a.pth"), random.Random(0)
    save(path)
    content, expected, refused = path.read_bytes(), read(path), 0
    for _ in range(60):
        data = bytearray(content)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            found = read(path)
        except (CheckpointError, DataError) as error:
            assert str(path) in str(error)
            refused += 1
        else:  # between the records, where nothing is
            assert all(torch.equal(found[name], expected[name]) for name in expected), kind
    assert refused > 30


def test_the_message_says_what_does_not_hold(tmp_path):
    path = tmp_path / "a.pth"
    torch.save(STATE, path)
    data = bytearray(path.read_bytes())
    data[data.find(STATE["a.bias"].numpy().tobytes()) + 5] ^= 16
    path.write_bytes(data)
    told = rf"{path}: it is damaged, its checksums do not hold \(Bad CRC-32 for file 'a/data/0'\); fetch or make it"
    with pytest.raises(CheckpointError, match=told):
        check_archive(path)


def bomb(path, name="data/0", kilobytes=400_000):
    """An archive like torch's with one packed record of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/constants.pkl" if name == "jit" else "a/version", "3")
        with archive.open("a/data/0", "w") as record:
            for _ in range(kilobytes // 1000):
                record.write(bytes(1000 << 10))
    return path


@pytest.mark.parametrize("name", ["data/0", "jit"])
def test_a_small_file_that_unpacks_to_much_is_refused_with_the_numbers(tmp_path, name):
    path = bomb(tmp_path / "a.pth", name)
    assert path.stat().st_size < 3 << 20
    for read in (load_checkpoint, load_stock_checkpoint, read_tensors, read_test_weights):
        with pytest.raises(CheckpointError, match=r"its [\d,]+ bytes unpack to 409,600,\d+, more than the limit"):
            read(path)


@pytest.mark.parametrize(
    "value, told",
    [
        (
            torch.zeros(1).expand(10**6, 10**6),
            r"w claims to be \[1000000, 1000000\], 4,000,000,000,000 bytes",
        ),
        (torch.empty(3, device="meta"), r"w claims to be \[3\], 12 bytes, and has 0"),
    ],
)
def test_content_that_is_larger_than_the_file_is_refused(tmp_path, value, told):
    with pytest.raises(CheckpointError, match=f"a.pth: refused: {told}"):
        check_tensors({"w": value}, "a.pth")
    check_tensors({"w": torch.zeros(4)[1:3], "t": {"u": [torch.zeros(2, 2).T]}}, "a.pth")


def test_content_that_holds_itself_many_times_is_refused(monkeypatch):
    monkeypatch.setattr(integrity, "VALUES", 20_000)
    laughs = [0]
    for _ in range(40):
        laughs = [laughs, laughs]
    laughs[0].append(laughs)
    for value in (laughs, [list(range(1000))] * 30):
        with pytest.raises(CheckpointError, match="a.pth: refused: it holds more than 20,000 values"):
            check_tensors({"pids": value}, "a.pth")


@pytest.mark.parametrize("size, told", [(-5, "-5"), (10**9, "1000000000"), ("x", "x")])
def test_impossible_numbers_of_classes_are_refused_before_a_model_is_built(tmp_path, size, told):
    path = tmp_path / "a.safetensors"
    save_small(path, STATE, size, 2, config="a: 1\n")
    message = "'num_classes' is not a whole number from 0 to 500,000" if told != "x" else "its header is damaged"
    with pytest.raises(CheckpointError, match=message):
        read_test_weights(path)
    if told != "x":
        save_checkpoint({"state_dict": STATE, "source": "x", "num_classes": size, "num_cameras": 1}, tmp_path / "a.pth")
        with pytest.raises(CheckpointError, match=message):
            read_test_weights(tmp_path / "a.pth")


def test_checksums_know_names_shapes_types_and_texts(tmp_path):
    digits = checksum(STATE, {"a": "b"})
    assert digits == checksum(dict(reversed(STATE.items())), {"a": "b"}) and len(digits) == 8
    others = [
        {**STATE, "n": STATE["n"].int()},
        {**STATE, "a.weight": STATE["a.weight"].reshape(30, 20)},
        {("m" if name == "n" else name): value for name, value in STATE.items()},
    ]
    assert len({digits, checksum(STATE, {"a": "c"}), *(checksum(other, {"a": "b"}) for other in others)}) == 5
    save_checked(STATE, tmp_path / "a", {"x": "y"})
    save_file(STATE, tmp_path / "b", {"x": "y"})
    assert is_intact(STATE, {"x": "y"})  # of an earlier version


def test_a_damaged_mask_cache_is_made_again(tmp_path, caplog):
    from occplug.masks.cache import MaskCache
    from occplug.masks.files import MaskFile
    from tests.masks.test_files import maps, save

    files = [save(tmp_path / f"{n}.npy", maps(n)) for n in range(3)]
    masks = [MaskFile(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    cache = tmp_path / "c.safetensors"
    expected = [MaskCache(cache, masks, progress=False)[n] for n in range(3)]
    content, draw = cache.read_bytes(), random.Random(0)
    for _ in range(30):
        data = bytearray(content)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        cache.write_bytes(data)
        again = MaskCache(cache, masks, progress=False)
        assert all(torch.equal(again[n], expected[n]) for n in range(3))
