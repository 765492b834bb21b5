"""`occplug benchmark`: speed and memory against the alternative, measured in the same run.

A benchmark is a function from `quick` to a :class:`Comparison`, entered in BENCHMARKS. Both sides run on one thread,
one after the other, each in a new process.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib.metadata
import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tabulate import tabulate

from occplug.cli.markdown import replace_marked
from occplug.cli.measuring import Figures, free_memory, machine, measured
from occplug.errors import ConfigError

__all__ = ["BENCHMARKS", "Comparison", "main", "table"]

HEADS = ("", "CPU s", "wall s", "memory MiB")


@dataclass
class Comparison:
    """One table: `theirs` against `ours`.

    Args:
        title: what was done, with sizes.
        alternative: what `theirs` is.
        theirs, ours: figures; memory is beside the inputs.
        note: how far the results agree.
    """

    title: str
    alternative: str
    theirs: Figures
    ours: Figures
    note: str


def main(argv: list[str]) -> None:
    """Parse `argv`, measure and print one table per benchmark."""
    parser = argparse.ArgumentParser("occplug benchmark", description="Speed and memory, as ratios to the alternative.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--readme", metavar="FILE", type=Path, help="also put the tables between the marks in FILE")
    parser.add_argument("--quick", action="store_true", help="smaller inputs: all in about a minute")
    args = parser.parse_args(argv)
    for name in args.names:
        _check(name)
    parts = [machine()]
    print(parts[0], flush=True)
    for name in args.names or BENCHMARKS:
        parts.append(table(BENCHMARKS[name](args.quick)))
        print(f"\n{parts[-1]}", flush=True)
    if args.readme:
        replace_marked(args.readme, "benchmark", "\n\n".join(parts))


def _check(name: str) -> None:
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name, BENCHMARKS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(f"no benchmark is called {name!r}{hint}; there are: {', '.join(BENCHMARKS)}")


def table(result: Comparison) -> str:
    """`result` as Markdown: a title, three rows, a note."""
    sides = [(result.alternative, result.theirs), ("occplug", result.ours)]
    rows = [[name, f"{f.cpu:.3g}", f"{f.wall:.3g}", f"{f.memory:,.0f}"] for name, f in sides]
    pairs = [(getattr(result.theirs, key), getattr(result.ours, key)) for key in ("cpu", "wall", "memory")]
    rows.append(["ratio", *(f"x{a / b:.3g}" if b else "-" for a, b in pairs)])
    lines = tabulate(rows, HEADS, tablefmt="github", disable_numparse=True, colalign=("left", *["right"] * 3))
    return f"{result.title}\n\n{lines}\n\n{result.note}"


def _torchreid() -> str:
    return f"torchreid {importlib.metadata.version('torchreid')}"


# ---------------------------------------------------------------- ranking


def ranking(quick: bool) -> Comparison:
    """CMC and mAP of a distance matrix of Occluded-Duke's size against torchreid's Python code."""
    queries, gallery = (600, 6000) if quick else (2210, 17661)
    theirs = measured(_ranking, "torchreid", queries, gallery)
    ours = measured(_ranking, "occplug", queries, gallery, repeats=5)
    return Comparison(
        f"ranking: CMC and mAP of {queries:,} x {gallery:,} distances",
        f"{_torchreid()}, Python",
        theirs,
        ours,
        f"mAP {theirs.output[1]:.8f} and {ours.output[1]:.8f}; "
        f"CMC {'equal' if np.array_equal(theirs.output[0], ours.output[0]) else 'NOT equal'}",
    )


def _ranking(whose: str, queries: int, gallery: int) -> Callable:
    rng = np.random.default_rng(0)
    pids, cameras = ([rng.integers(0, n, size) for size in (queries, gallery)] for n in (gallery // 16, 8))
    distances = rng.random((queries, gallery), dtype=np.float32)
    if whose == "occplug":
        from occplug.evaluation import evaluate_rank

        return lambda: evaluate_rank(distances, *pids, *cameras)
    from occplug import torchreid_bridge as bridge

    rank = bridge.sub("metrics.rank").evaluate_rank
    return lambda: rank(distances, *pids, *cameras, use_cython=False)


# ---------------------------------------------------------------- re-ranking


def reranking(quick: bool) -> Comparison:
    """k-reciprocal re-ranking at Occluded-Duke's size against torchreid's; that needs 9 GiB, else it runs smaller."""
    queries, gallery = (700, 5300) if quick or free_memory() < 10_000 else (2210, 17661)
    theirs = measured(_reranking, "torchreid", queries, gallery)
    ours = measured(_reranking, "occplug", queries, gallery)
    difference = np.abs(theirs.output - ours.output).max()
    return Comparison(
        f"reranking: k1 = 20, k2 = 6, lambda = 0.3, {queries:,} x {gallery:,}",
        _torchreid(),
        theirs,
        ours,
        f"largest difference {difference:.1e}",
    )


def _reranking(whose: str, queries: int, gallery: int) -> Callable:
    inputs = _clustered_distances(queries, gallery)
    if whose == "occplug":
        from occplug.evaluation import re_ranking

        return lambda: re_ranking(*inputs)
    from occplug import torchreid_bridge as bridge

    return lambda: bridge.sub("utils.rerank").re_ranking(*inputs)


def _clustered_distances(queries: int, gallery: int) -> list[np.ndarray]:
    """Euclidean distances q_g, q_q, g_g of unit vectors in clusters of 16."""
    torch.manual_seed(0)
    centres = torch.randn(gallery // 16, 64)
    vectors = centres[torch.randint(len(centres), (queries + gallery,))] + 0.8 * torch.randn(queries + gallery, 64)
    query, gallery = F.normalize(vectors).split([queries, gallery])
    pairs = ((query, gallery), (query, query), (gallery, gallery))
    return [(a @ b.T).mul_(-2).add_(2).clamp_(min=0).sqrt_().numpy() for a, b in pairs]


# ---------------------------------------------------------------- part distance


def part_distances(quick: bool) -> Comparison:
    """ProFD's visibility-weighted distance of six parts (the global one too) against all distances of all parts."""
    queries, gallery = (300, 3000) if quick or free_memory() < 6_000 else (2210, 17661)
    theirs = measured(_part_distances, "naive", queries, gallery)
    ours = measured(_part_distances, "occplug", queries, gallery)
    difference = np.abs(theirs.output - ours.output).max()
    return Comparison(
        f"part_distance: Euclidean, weighted by visibility, {queries:,} x {gallery:,}, 6 parts of 512",
        "all parts at once, P x Q x G",
        theirs,
        ours,
        f"largest difference {difference:.1e}",
    )


def _part_distances(whose: str, queries: int, gallery: int) -> Callable:
    query, gallery = _part_embeddings(queries, 1), _part_embeddings(gallery, 2)
    if whose == "occplug":
        from occplug.evaluation import part_distance

        return lambda: part_distance(*query, *gallery).numpy()
    return lambda: _naive_part_distance(query, gallery).numpy()


def _part_embeddings(count: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Unit global and part vectors, and the visibility of five parts."""
    draw = torch.Generator().manual_seed(seed)
    whole, parts = torch.randn(count, 512, generator=draw), torch.randn(count, 5, 512, generator=draw)
    visibility = (torch.rand(count, 5, generator=draw) / 0.1).softmax(1)
    return F.normalize(whole), F.normalize(parts, dim=2), visibility


def _naive_part_distance(query: tuple, gallery: tuple) -> torch.Tensor:
    """The formula as it is written: arrays of all parts' distances and weights."""
    sides = []
    for whole, parts, visibility in (query, gallery):
        seen = torch.cat([torch.ones(len(whole), 1), visibility * (visibility >= 0.1)], dim=1)
        sides.append((torch.cat([whole[:, None], parts], dim=1).transpose(0, 1), seen.T))
    (q, q_seen), (g, g_seen) = sides
    distances = (2 - 2 * q @ g.mT).clamp(min=0).sqrt()  # [P, Q, G]
    weights = q_seen[:, :, None] * g_seen[:, None, :]
    return (weights * distances).sum(0) / weights.sum(0)


# ---------------------------------------------------------------- stage 1


def stage1(quick: bool) -> Comparison:
    """One prompt-learning step through CLIP's text tower: up to the end-of-text token against all 77 positions."""
    batch = 8 if quick else 64
    theirs = measured(_prompt_step, 77, batch)
    ours = measured(_prompt_step, None, batch)
    difference = abs(theirs.output - ours.output) / abs(theirs.output)
    return Comparison(
        f"stage1: one step of prompt learning, text tower of CLIP ViT-B/16 (random weights), batch {batch}",
        "77 tokens, as the official code",
        theirs,
        ours,
        f"relative difference of the loss {difference:.1e}",
    )


def _prompt_step(length: int | None, batch: int) -> Callable:
    """`length` None: as long as the template."""
    from occplug.backbones import architecture, build_text_tower
    from occplug.losses import SupCon
    from occplug.prompts import IdentityPrompts

    torch.manual_seed(0)
    text = build_text_tower(architecture("clip_vit_b16")).requires_grad_(False)
    prompts = IdentityPrompts(text.width, 702, "A photo of a {4} person.")
    labels = torch.randint(702, (batch,))
    images = F.normalize(torch.randn(batch, text.text_projection.shape[1]))
    contrast, optimizer = SupCon(), torch.optim.Adam(prompts.parameters())

    def step() -> float:
        tokens = prompts(labels)  # [B, L, W]
        if length is not None:
            tokens = F.pad(tokens, (0, 0, 0, length - tokens.shape[1]))
        features = text(tokens, prompts.eot)
        loss = contrast(images, features, labels, labels) + contrast(features, images, labels, labels)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


# ---------------------------------------------------------------- loading

TRAIN_TRANSFORMS = ("random_flip", "random_crop", "random_erase")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def loading(quick: bool) -> Comparison:
    """Training images from file to normalised batch against torchreid's, both without worker processes."""
    count = 256 if quick else 1024
    with tempfile.TemporaryDirectory() as folder:
        paths = _write_images(Path(folder), min(count, 128))
        paths = [paths[i % len(paths)] for i in range(count)]
        theirs = measured(_loading, "torchreid", paths, repeats=2)
        ours = measured(_loading, "occplug", paths, repeats=2)
    return Comparison(
        f"loading: {count:,} JPEGs to batches of 64 of 256x128; {', '.join(TRAIN_TRANSFORMS)}",
        _torchreid(),
        theirs,
        ours,
        f"{count / theirs.cpu:,.0f} and {count / ours.cpu:,.0f} images per CPU second",
    )


def _write_images(folder: Path, count: int) -> list[str]:
    """Smooth random JPEGs of quality 90, about 260 x 110 pixels."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (32, 14, 3), dtype=np.uint8))
        size = int(rng.integers(90, 130)), int(rng.integers(230, 290))
        paths.append(str(folder / f"{i}.jpg"))
        small.resize(size, Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def _loading(whose: str, paths: list[str]) -> Callable:
    batches = [paths[i : i + 64] for i in range(0, len(paths), 64)]
    load = _our_batch() if whose == "occplug" else _torchreid_batch()
    return lambda: float(sum(load(batch).mean() for batch in batches))


def _our_batch() -> Callable:
    from occplug.imagefile import read_image
    from occplug.transforms import build_pipeline

    pipeline = build_pipeline(list(TRAIN_TRANSFORMS), 256, 128, MEAN, STD)
    return lambda paths: pipeline.per_batch(torch.stack([pipeline.per_image(read_image(path)) for path in paths]))


def _torchreid_batch() -> Callable:
    from occplug import torchreid_bridge as bridge

    read_image = bridge.sub("utils.tools").read_image
    with contextlib.redirect_stdout(io.StringIO()):
        transform, _ = bridge.sub("data.transforms").build_transforms(
            256, 128, transforms=list(TRAIN_TRANSFORMS), norm_mean=list(MEAN), norm_std=list(STD)
        )
    return lambda paths: torch.stack([transform(read_image(path)) for path in paths])


# ---------------------------------------------------------------- hybrid backbone


def wgff(quick: bool) -> Comparison:
    """A training step of CLIP ViT-B/16 with LSNet-T and its gates, and its forward pass, against CLIP alone."""
    batch = 4 if quick else 8
    plain, hybrid = [
        [measured(_image_step, name, trains, batch, repeats=2 if quick else 3) for trains in (True, False)]
        for name in ("clip_vit_b16", "wgff")
    ]
    training, forward = [(a.cpu, b.cpu) for a, b in zip(plain, hybrid)]
    difference = np.abs(plain[1].output - hybrid[1].output).max()
    return Comparison(
        f"wgff: one training step of ViT-B/16 with LSNet-T at 256x128 (random weights), batch {batch}",
        "ViT-B/16 alone",
        plain[0],
        hybrid[0],
        f"cost of the hybrid: x{training[1] / training[0]:.3g} in training, x{forward[1] / forward[0]:.3g} in the "
        f"forward pass ({forward[0]:.3g} and {forward[1]:.3g} CPU s); features differ by {difference:.1e} at first",
    )


def _image_step(name: str, trains: bool, batch: int) -> Callable:
    """A training step whose output is its loss, or a forward pass whose output is the projected feature."""
    from occplug.registry import BACKBONES, build

    torch.manual_seed(0)
    tower = build(BACKBONES, name, image_size=(256, 128)).train(trains)
    images = torch.randn(batch, 3, 256, 128, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(tower.parameters(), lr=5e-6)

    def step() -> float:
        optimizer.zero_grad()
        seen = tower(images)
        loss = sum(feature.square().mean() for feature in (seen.last, seen.feature, seen.projected))
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    @torch.no_grad()
    def forward() -> np.ndarray:
        return tower(images).projected.numpy()

    return step if trains else forward


def ska(quick: bool) -> Comparison:
    """LSNet's small-kernel aggregation, forward and backward, against `F.unfold`."""
    batch = 16 if quick else 64
    theirs = measured(_aggregation, "unfold", batch, repeats=5)
    ours = measured(_aggregation, "occplug", batch, repeats=5)
    difference = max(np.abs(a - b).max() for a, b in zip(theirs.output, ours.output))
    return Comparison(
        f"ska: small-kernel aggregation of 128 channels on a 16x8 map with its gradients, batch {batch}, 10 times",
        "torch, F.unfold",
        theirs,
        ours,
        f"largest difference of output and gradients {difference:.1e}",
    )


def _aggregation(whose: str, batch: int) -> Callable:
    from occplug.backbones.ska import small_kernel_aggregation

    torch.manual_seed(0)
    x, kernels = (
        torch.randn(batch, 128, 16, 8, requires_grad=True),
        torch.randn(batch, 16, 9, 16, 8, requires_grad=True),
    )
    upstream = torch.randn(batch, 128, 16, 8)

    def unfolded(x, kernels):
        columns = F.unfold(x, 3, padding=1).view(batch, 8, 16, 9, 16, 8)
        return (columns * kernels[:, None]).sum(3).flatten(1, 2)

    aggregate = small_kernel_aggregation if whose == "occplug" else unfolded

    def work() -> list[np.ndarray]:
        for _ in range(10):
            out = aggregate(x, kernels)
            grads = torch.autograd.grad(out, [x, kernels], upstream)
        return [t.detach().numpy() for t in (out, *grads)]


# ---------------------------------------------------------------- augmentation

AUGMENTATIONS = ("random_erase_pixel", "oamn", "oia", "rwoa")


def augment(quick: bool) -> Comparison:
    """Loading with RWOA on every image against plain loading; the note has the other augmentations."""
    count = 128 if quick else 512
    with tempfile.TemporaryDirectory() as folder:
        paths = _write_images(Path(folder), min(count, 128))
        paths = [paths[i % len(paths)] for i in range(count)]
        plain, *others = (measured(_augmenting, name, paths, repeats=2) for name in (None, *AUGMENTATIONS))
    shares = [f"{name} x{other.cpu / plain.cpu:.2f}" for name, other in zip(AUGMENTATIONS, others)]
    each = 1e3 * (others[-1].cpu - plain.cpu) / count
    return Comparison(
        f"augment: {count:,} JPEGs to batches of 64 of 256x128, flip and pad-crop, with rwoa on every image",
        "without an occluder",
        plain,
        others[-1],
        f"CPU time against plain loading, every image occluded: {', '.join(shares)}; rwoa takes {each:.2f} ms an image",
    )


def _augmenting(name: str | None, paths: list[str]) -> Callable:
    """`name` None: flip and pad-crop alone."""
    from occplug.imagefile import read_image
    from occplug.transforms import build_pipeline

    names = ["random_flip", "pad_crop", *([name] if name else [])]
    pipeline = build_pipeline(names, 256, 128, MEAN, STD, {name: {"prob": 1.0}} if name else {})
    pipeline.bind([(path,) for path in paths], read_image)

    def work() -> float:
        rows = ([pipeline.per_image(read_image(p)) for p in paths[i : i + 64]] for i in range(0, len(paths), 64))
        return float(sum(pipeline.per_batch(torch.stack(row)).mean() for row in rows))

    return work


BENCHMARKS: dict[str, Callable[[bool], Comparison]] = {
    "ranking": ranking,
    "reranking": reranking,
    "part_distance": part_distances,
    "stage1": stage1,
    "loading": loading,
    "wgff": wgff,
    "ska": ska,
    "augment": augment,
}
