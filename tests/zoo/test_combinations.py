"""The table of methods and backbones in the docs, and a look at some of its cells."""

from pathlib import Path

import pytest

from occplug.zoo.combinations import BACKBONES_SHOWN, ROWS, combinations, refusal

PAGE = Path(__file__).parents[2] / "docs" / "backbones.md"


def test_the_page_has_the_table_of_today():
    assert f"<!-- combinations -->\n{combinations()}\n<!-- end -->" in PAGE.read_text()


@pytest.mark.parametrize(
    "label, heading, told",
    [
        ("DPM with head diversity (`method.hem`)", "SOLIDER Swin", "method.hem"),
        ("DPM with head diversity (`method.hem`)", "timm Eva (DINOv3)", "method.hem"),
        ("the same, learnt along (`prompts.source: joint`)", "CLIP ViT", "texts of its own"),
        ("patch transfer (`method.spt`)", "other timm", "method.spt"),
        ("DPM++'s masks and texts", "SOLIDER Swin", ""),
        ("ProFD's parts", "ViT (ImageNet, PersonViT, TransReID-SSL)", ""),
    ],
)
def test_cells(label, heading, told):
    method, options = ROWS[label]
    found = refusal(method, BACKBONES_SHOWN[heading], options)
    assert told in found and bool(found) == bool(told)
