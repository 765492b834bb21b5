"""Miniature data sets on disk."""

from functools import cache
from pathlib import Path

from PIL import Image


@cache
def picture(ending: str) -> bytes:
    import io

    stream = io.BytesIO()
    Image.new("RGB", (8, 16), (90, 60, 30)).save(stream, {".jpg": "JPEG", ".tif": "TIFF", ".png": "PNG"}[ending])
    return stream.getvalue()


def put(folder: Path, *names: str) -> None:
    """Write one small image per name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(path.suffix))


def market_tree(folder: Path, train=(7, 3), test=(1, 2), name="{:04d}_c{}s1_000151_01.jpg", cameras=(1, 2)) -> None:
    """The three folders of Market-1501, one image per person and camera; queries from the first camera."""
    put(folder / "bounding_box_train", *(name.format(pid, camera) for pid in train for camera in cameras))
    put(folder / "query", *(name.format(pid, cameras[0]) for pid in test))
    put(folder / "bounding_box_test", *(name.format(pid, camera) for pid in test for camera in cameras))


def told(items) -> list[tuple[str, int, int]]:
    """(file name, pid, camid) of items."""
    return [(Path(path).name, pid, camid) for path, pid, camid, *_ in items]
