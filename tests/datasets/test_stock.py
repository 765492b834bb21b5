"""torchreid's Market-1501, DukeMTMC-reID and MSMT17 under our rules."""

import pytest

from occplug.datasets.stock import MSMT17, DukeMTMCreID, Market1501
from occplug.errors import DataError
from occplug.torchreid_host import stock_dataset
from tests.datasets.trees import market_tree, put, told

MARKET = ["market1501/Market-1501-v15.09.15", "market1501", "Market-1501-v15.09.15", "Market-1501", "Market1501"]
DUKE = ["dukemtmc-reid/DukeMTMC-reID", "dukemtmcreid/DukeMTMC-reID", "dukemtmcreid", "DukeMTMC-reID"]


@pytest.mark.parametrize(("cls", "folder"), [(Market1501, f) for f in MARKET] + [(DukeMTMCreID, f) for f in DUKE])
def test_layouts_and_sorted_labels(tmp_path, cls, folder):
    market_tree(tmp_path / folder, train=(8, 1, 33), test=(2, 5))
    data = cls(str(tmp_path), verbose=False)
    assert data.dataset_dir == str(tmp_path / folder)
    assert data.pids == [1, 8, 33] and [pid for _, pid, *_ in data.train] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("cls", [Market1501, DukeMTMCreID])
def test_same_images_as_torchreids_class(tmp_path, cls):
    home = {"market1501": MARKET[0], "dukemtmcreid": DUKE[0]}[cls.name]
    market_tree(tmp_path / home, train=range(20, 40), test=range(1, 8))
    if cls is Market1501:
        put(tmp_path / home / "bounding_box_test", "-1_c1s1_000001_00.jpg", "0000_c1s1_000001_00.jpg")
    ours, stock = cls(str(tmp_path), verbose=False), stock_dataset(cls.name)(str(tmp_path), verbose=False)
    for split in ("train", "query", "gallery"):
        ours_of, stock_of = ({(path, camid) for path, _, camid, _ in getattr(data, split)} for data in (ours, stock))
        assert ours_of == stock_of
    assert sorted(ours.query) == sorted(stock.query) and sorted(ours.gallery) == sorted(stock.gallery)


@pytest.mark.parametrize("cls", [Market1501, DukeMTMCreID, MSMT17])
def test_nothing_is_downloaded_unasked(tmp_path, cls, monkeypatch):
    monkeypatch.setattr("urllib.request.urlretrieve", lambda *_: pytest.fail("a download"))
    with pytest.raises(DataError, match=f"^{cls.name}: {tmp_path} holds no folder {cls.folders[0]} or .*, but nothing"):
        cls(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["market1501_500k", "use_500k_distractors"])
def test_the_500k_distractors(tmp_path, option):
    home = tmp_path / "market1501"
    market_tree(home)
    with pytest.raises(DataError, match=f"^market1501: {home}/images is missing; unpack the 500,000 distractors into"):
        Market1501(str(tmp_path), **{option: True})
    put(home / "images", "0000_c1s1_000001_00.jpg", "-1_c1s1_000002_00.jpg")
    gallery = Market1501(str(tmp_path), **{option: True}).gallery
    assert told(gallery)[-1] == ("0000_c1s1_000001_00.jpg", 0, 0) and len(gallery) == 5
    assert len(Market1501(str(tmp_path)).gallery) == 4


# ---- MSMT17

LINES = {  # torchreid's example names; test identities are numbered from 0 again
    "list_train.txt": ("train", ["0000/0000_000_01_0303morning_0015_0.jpg 0", "0003/0003_001_14_0303noon_01_1.jpg 3"]),
    "list_val.txt": ("train", ["0001/0001_000_02_0303noon_0015_0.jpg 1", "0000/0000_046_12_0303noon_0006_2_ex.jpg 0"]),
    "list_query.txt": ("test", ["0000/0000_000_15_0113morning_0015_0.jpg 0"]),
    "list_gallery.txt": ("test", ["0000/0000_001_01_0114noon_0007_0.jpg 0", "0001/0001_002_02_0114noon_0007_0.jpg 1"]),
}
VERSIONS = [
    ("msmt17/MSMT17_V1", "train", "test"),
    ("MSMT17_V1", "train", "test"),
    ("MSMT17", "train", "test"),
    ("msmt17/MSMT17_V2", "mask_train_v2", "mask_test_v2"),
    ("MSMT17_V2", "mask_train_v2", "mask_test_v2"),
    ("MSMT17/MSMT17_V2", "mask_train_V2", "mask_test_V2"),
]


def msmt(folder, train="train", test="test", newline="\n"):
    for name, (side, lines) in LINES.items():
        images = train if side == "train" else test
        put(folder / images, *(line.split()[0] for line in lines))
        (folder / name).write_text(newline.join(lines) + newline, newline="")
    return folder


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(("folder", "train", "test"), VERSIONS)
def test_msmt17_takes_train_and_val_lists_for_training(tmp_path, folder, train, test, newline):
    msmt(tmp_path / folder, train, test, newline)
    data = MSMT17(str(tmp_path), verbose=False)
    assert data.pids == [0, 1, 3] and data.cameras == list(range(1, 15))
    assert [(pid, camid) for _, pid, camid, _ in data.train] == [(0, 0), (2, 13), (1, 1), (0, 11)]
    assert [(pid, camid) for _, pid, camid, _ in data.query + data.gallery] == [(0, 14), (0, 0), (1, 1)]


def test_msmt17_has_the_images_of_torchreids_class_with_combined_lists(tmp_path):
    msmt(tmp_path / "msmt17/MSMT17_V1")
    ours, stock = MSMT17(str(tmp_path)), stock_dataset("msmt17")(str(tmp_path))
    assert [item for item in ours.train if item[0] in {i[0] for i in stock.train}] != stock.train  # pid 3 -> label 2
    assert {item[0] for item in stock.train} < {item[0] for item in ours.train}
    assert (ours.query, ours.gallery) == (stock.query, stock.gallery)


def test_msmt17_combineall_keeps_the_two_numberings_apart(tmp_path):
    msmt(tmp_path / "MSMT17_V1")
    data = MSMT17(str(tmp_path), combineall=True)
    assert data.num_train_pids == 5 and data.pids == [0, 1, 3, 0, 1]
    assert [pid for _, pid, *_ in data.train] == [0, 2, 1, 0, 3, 3, 4]


def broken(tmp_path):
    with pytest.raises(DataError) as caught:
        MSMT17(str(tmp_path))
    return str(caught.value)


def test_msmt17_mistakes(tmp_path):
    home = msmt(tmp_path / "MSMT17_V1")
    image = home / "test/0001/0001_002_02_0114noon_0007_0.jpg"
    image.unlink()
    assert broken(tmp_path) == (
        f"msmt17: {home}/list_gallery.txt lists {image}, which is missing; unpack the data set again"
    )
    (home / "list_query.txt").write_text("\n")
    assert broken(tmp_path) == f"msmt17: {home}/list_query.txt lists no images; unpack the data set again"
    (home / "list_query.txt").write_text("\n0000/a.jpg zero\n")
    assert broken(tmp_path) == (
        f"msmt17: line 2 of {home}/list_query.txt is '0000/a.jpg zero', not a path and a person number"
    )
    (home / "list_query.txt").unlink()
    assert broken(tmp_path) == (
        f"msmt17: {home}/list_query.txt is missing; it comes with the data set, beside the images' folders"
    )


@pytest.mark.parametrize("form", ["crlf", "mark", "backslash", "all"])
def test_lists_written_on_windows_are_read(tmp_path, form):
    home = msmt(tmp_path / "MSMT17_V1")
    expected = told(MSMT17(root=str(tmp_path), verbose=False).train)
    for name in LINES:
        text = (home / name).read_text()
        text = text.replace("/", "\\") if form in ("backslash", "all") else text
        data = text.replace("\n", "\r\n").encode() if form in ("crlf", "all") else text.encode()
        (home / name).write_bytes(b"\xef\xbb\xbf" + data if form in ("mark", "all") else data)
    assert told(MSMT17(root=str(tmp_path), verbose=False).train) == expected
