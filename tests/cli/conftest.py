"""What the tests of the commands share."""

import pytest

from occplug.datasets.synthocc import build


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A root folder with SynthOcc tiny in it."""
    root = tmp_path_factory.mktemp("data")
    build(root, "tiny", workers=1, progress=False)
    return root
