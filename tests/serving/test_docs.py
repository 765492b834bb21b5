"""The code of docs/own_crops.md runs."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "own_crops.md"


def test_the_page_of_own_crops_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) >= 5
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert len(names["built"]) == 8 and names["hits"].ids.shape == (2, 3)
