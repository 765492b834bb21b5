"""The colour histogram baseline."""

import numpy as np
import pytest
from PIL import Image

from occplug.evaluation import color_histogram


def striped(*colours):
    """An image of one horizontal stripe per colour, 8 rows each."""
    return np.repeat(np.uint8([[c] * 4 for c in colours]), 8, axis=0)


RED, BLUE, GREY = (200, 20, 20), (20, 20, 200), (120, 120, 120)


def test_one_colour_is_one_cell_per_stripe():
    vector = color_histogram(striped(*[RED] * 6))
    assert vector.shape == (6 * 128,) and vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1)
    assert np.count_nonzero(vector) == 6 and vector.max() == pytest.approx(6**-0.5)


def test_only_stripes_that_differ_add_to_the_distance():
    one, other = striped(*[RED] * 6), striped(*[RED] * 4, *[BLUE] * 2)
    distance = np.square(color_histogram(one) - color_histogram(other)).sum()
    assert distance == pytest.approx(2 * 2 / 6)


def test_where_a_colour_is_matters_between_stripes_only():
    image = striped(RED, GREY, BLUE, GREY, RED, GREY)
    mirrored = image[:, ::-1]
    assert np.array_equal(color_histogram(image), color_histogram(mirrored))
    assert not np.array_equal(color_histogram(image), color_histogram(image[::-1]))


def test_only_the_middle_of_the_width_counts():
    image = striped(*[RED] * 6).repeat(5, axis=1)  # 20 wide
    other = image.copy()
    other[:, :5] = other[:, 15:] = BLUE
    assert np.array_equal(color_histogram(image), color_histogram(other))
    other[:, 5] = BLUE
    assert not np.array_equal(color_histogram(image), color_histogram(other))
    assert not np.array_equal(color_histogram(image, margin=0), color_histogram(other, margin=0))


def test_grey_world_undoes_a_colour_cast():
    rng = np.random.default_rng(0)
    image = rng.integers(20, 120, (60, 20, 3), dtype=np.uint8)
    cast = (image * [1.6, 1.0, 0.7]).round().astype(np.uint8)

    def distance(**options):
        return np.square(color_histogram(image, **options) - color_histogram(cast, **options)).sum()

    assert distance(grey_world=True) < 0.2 * distance()


def test_a_black_image_and_a_pil_image():
    assert np.isfinite(color_histogram(np.zeros((6, 3, 3), np.uint8), grey_world=True)).all()
    image = striped(*[RED, BLUE] * 3)
    assert np.array_equal(color_histogram(Image.fromarray(image)), color_histogram(image))


@pytest.mark.parametrize("image", [np.zeros((6, 4, 3)), np.zeros((6, 4), np.uint8), np.zeros((5, 4, 3), np.uint8)])
def test_wrong_images_are_named(image):
    with pytest.raises(ValueError, match=r"image is \[H, W, 3\] uint8 with H at least 6, got \["):
        color_histogram(image)
