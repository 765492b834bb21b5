"""Rendered chunks, the batches drawn from them, and gradients over processes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from occplug.datasets.synthocc import ATTRIBUTES, CATEGORIES, GROUPS, persona
from pretraining import parallel, pool
from pretraining.pool import Pool, labels_of, render_chunks, shares_of
from pretraining.render import OCCLUDERS, Scene, caption_of, render
from pretraining.texts import CLAUSES, VALUES

SCENE = Scene(seed=500, cameras=3, severity=1.0, occluded=0.5)


@pytest.fixture
def chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "CHUNK", 8)
    render_chunks(tmp_path, [0, 1, 2, 3], SCENE)
    return tmp_path


def test_images_depend_on_their_key_alone():
    image = render(SCENE, 7, 1).image
    assert np.array_equal(image, render(SCENE, 7, 1).image)
    assert not np.array_equal(image, render(SCENE, 7, 0).image)
    nobody = render(SCENE._replace(person=False), 7, 1).image
    assert nobody.shape == (128, 64, 3) and not np.array_equal(nobody, image)


def test_chunks_are_whole_and_not_rendered_twice(chunks):
    files = sorted(chunks.iterdir())
    assert [f.name for f in files] == [f"{k}_{i:05d}.npy" for k in ("images", "occlusions") for i in range(4)]
    images, occlusions = np.load(files[1]), np.load(files[5])
    view = render(SCENE, 5, 1)
    assert images.shape == (8, 128, 64, 3) and np.array_equal(images[3], view.image)
    assert occlusions.shape == (8, 9) and OCCLUDERS[int(occlusions[3, 0])] == (view.category or "none")
    assert occlusions[3, 1:] == pytest.approx([view.visibility[g] for g in GROUPS["eight"]])
    before = files[1].stat().st_mtime_ns
    render_chunks(chunks, [1], SCENE)
    assert files[1].stat().st_mtime_ns == before


def test_processes_draw_from_disjoint_chunks_and_batches_hold_no_look_alikes(chunks):
    first, second = Pool(chunks, 4, SCENE, 0, 2), Pool(chunks, 4, SCENE, 1, 2)
    assert (first.refresh(), second.refresh()) == (2, 2)
    assert not set(first.images) & set(second.images)
    images, captions, labels = first.batch(4, np.random.default_rng(0))
    groups = set()
    for image, top in zip(images, labels["top_color"], strict=True):
        pid = next(p for p in range(16) for k in range(2) if np.array_equal(render(SCENE, p, k).image, image))
        assert persona(500, pid, 2).top_color == ATTRIBUTES["top_color"][top]
        groups.add(pid // 2)
    assert len(groups) == 4 and len(captions) == 4


def test_labels_hide_the_hair_colour_under_a_hat_and_shares_skip_it():
    people = [persona(500, pid, 2) for pid in range(60)]
    labels = labels_of(people, ["none"] * 30 + ["car"] * 30)
    for person, hair, hat in zip(people, labels["hair_color"], labels["hat"], strict=True):
        assert (hair == -100) == (person.hat != "none" or person.hair == "bald")
        assert ATTRIBUTES["hat"][hat] == person.hat
    shares = shares_of(labels)
    assert all(share.sum() == pytest.approx(1) for share in shares.values())
    assert len(shares["hair_color"]) == len(ATTRIBUTES["hair_color"])
    assert shares["occluder"][:2].tolist() == [0.5, 0.5] and len(shares["occluder"]) == 1 + len(CATEGORIES)


def test_labels_leave_out_what_is_hidden():
    people = [persona(500, pid, 2) for pid in range(2)]
    whole = dict.fromkeys(GROUPS["eight"], 1.0)
    legless = whole | dict.fromkeys(("left_leg", "right_leg"), 0.1)
    labels = labels_of(people, ["box", "none"], [legless, whole])
    hidden = {name for name, label in labels.items() if label[0] == -100 and name != "hair_color"}
    assert hidden == {name for name, clause in CLAUSES.items() if clause == "bottom"} == {"bottom_color", "bottom_type"}
    assert all(label[1] >= 0 for name, label in labels.items() if name != "hair_color")
    assert VALUES["occluder"][labels["occluder"][0]] == "box"


def test_all_labels_of_a_chunk_are_those_of_its_batches(chunks):
    pool = Pool(chunks, 4, SCENE)
    assert pool.exists(3) and not pool.exists(4)
    labels = pool.labels([1, 2])
    views = [render(SCENE, *divmod(i, 2)) for i in range(8, 24)]
    assert [OCCLUDERS[i] for i in labels["occluder"]] == [view.category or "none" for view in views]


def test_captions_without_draw_are_the_benchmarks_own():
    person = persona(500, 3, 2)
    assert caption_of(person).startswith("a photo of a") and len({caption_of(person) for _ in range(5)}) == 1
    assert len({caption_of(person, np.random.default_rng(i)) for i in range(30)}) > 5


def test_captions_name_the_occluder_or_an_object_and_leave_out_what_it_hides():
    person = persona(500, 3, 2)
    visibility = dict.fromkeys(GROUPS["eight"], 1.0) | dict.fromkeys(("left_foot", "right_foot"), 0.0)
    texts = [caption_of(person, np.random.default_rng(i), "umbrella", visibility) for i in range(300)]
    named = [sum(f"occluded by {what}" in text for text in texts) for what in ("an umbrella", "an object")]
    assert named[0] > 3 * named[1] > 60 and sum(named) < 300
    assert any(text.startswith("a photo of a person occluded by an umbrella") for text in texts)
    shuffled = [text for text in texts if ", and " not in text]
    assert shuffled and not any("shoes" in text for text in shuffled)
    assert not any("occluded" in caption_of(person, np.random.default_rng(i)) for i in range(50))


def contrast_gradient(rank: int, world: int, folder) -> None:
    """Gradient of a contrastive loss whose batch is shared by `world` processes; the first one writes it down."""
    torch.manual_seed(0)
    layer, x, target = torch.nn.Linear(6, 5).double(), torch.randn(8, 6).double(), torch.randn(8, 5).double()
    parallel.join(rank, world, folder / f"meeting{world}")
    mine = x.chunk(world)[rank]
    features = parallel.all_gather(F.normalize(layer(mine), dim=1))
    order = torch.arange(8)
    loss = F.cross_entropy(7 * features @ target.T, order) + F.cross_entropy(features @ features.T, order)
    loss.backward()
    parallel.sum_gradients(list(layer.parameters()))
    total = parallel.broadcast([float(rank)])
    parallel.leave()
    if rank == 0:
        assert total == [0.0]
        torch.save(layer.weight.grad, folder / f"gradient{world}.pt")


def test_two_processes_have_the_gradient_of_one(tmp_path):
    contrast_gradient(0, 1, tmp_path)
    other = parallel.spawn(contrast_gradient, 1, 2, tmp_path)
    contrast_gradient(0, 2, tmp_path)
    other.join(timeout=60)
    assert other.exitcode == 0
    one, two = torch.load(tmp_path / "gradient1.pt"), torch.load(tmp_path / "gradient2.pt")
    torch.testing.assert_close(one, two, atol=1e-12, rtol=0)
