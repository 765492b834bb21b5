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


# ---------------------------------------------------------------- masked distance


def masked_distances(quick: bool) -> Comparison:
    """DPM's test distance against its official loop over queries, each with the whole gallery masked anew."""
    queries, gallery = (100, 4000) if quick else (2210, 17661)
    theirs = measured(_masked_distances, "loop", queries, gallery)
    ours = measured(_masked_distances, "occplug", queries, gallery, repeats=3)
    plain = measured(_masked_distances, "cosine", queries, gallery, repeats=3)
    difference = np.abs(theirs.output - ours.output).max()
    return Comparison(
        f"masked_distance: {queries:,} x {gallery:,} of 768, the query's mask on the gallery",
        "a loop over queries, as the official code",
        theirs,
        ours,
        f"largest difference {difference:.1e} rad; the plain cosine distance takes {plain.cpu:.3g} CPU s",
    )


def _masked_distances(whose: str, queries: int, gallery: int) -> Callable:
    draw = torch.Generator().manual_seed(0)
    query, mask = torch.randn(queries, 768, generator=draw), torch.rand(queries, 768, generator=draw)
    gallery = torch.randn(gallery, 768, generator=draw)
    if whose == "loop":
        return lambda: _masked_loop(query, mask, gallery).numpy()
    from occplug.evaluation import cosine_distance, masked_distance

    if whose == "cosine":
        return lambda: float(cosine_distance(query, gallery).sum())
    return lambda: masked_distance(query, mask, gallery).numpy()


def _masked_loop(query: torch.Tensor, mask: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    query, gallery = F.normalize(query), F.normalize(gallery)
    rows = [F.normalize(m * gallery) @ q for q, m in zip(query, mask)]
    return torch.stack(rows).clamp(-1 + 1e-5, 1 - 1e-5).acos()


# ---------------------------------------------------------------- DPM++ step


def dpmpp_step(quick: bool) -> Comparison:
    """A step of DPM++'s last stage with transferred patches against the same step on ID and triplet loss alone."""
    backbone, batch = ("clip_vit_tiny", 16) if quick else ("clip_vit_b16", 16)
    theirs = measured(_training_step, "plain", backbone, batch)
    ours = measured(_training_step, "dpmpp", backbone, batch)
    return Comparison(
        f"dpmpp_step: one step of the stage train, {backbone} (random weights), overlapping patches, batch {batch}",
        "without masks, head diversity and patch transfer",
        theirs,
        ours,
        "the ratio is what mask generator and frozen saliency net cost",
    )


def _training_step(whose: str, backbone: str, batch: int) -> Callable:
    from occplug.config import default_config
    from occplug.method import build_method, parameter_groups

    torch.manual_seed(0)
    options = ["backbone.weights", "none", "method.prompts", False]
    if backbone == "clip_vit_tiny":
        levels = [1, 2, 5, 6]
        options += ["backbone.stride", 6, "method.mask_levels", levels, "method.saliency.levels", levels]
    else:
        options += ["backbone.stride", 12]
    if whose == "plain":
        options += ["method.mask", "none", "method.hem", False, "method.spt", False]
    cfg = default_config("dpmpp", backbone, options)
    method = build_method(cfg, 702, 8)
    stage = method.stages()[-1]
    groups = parameter_groups(method, stage.groups)
    optimizer = stage.optimizer([{key: group[key] for key in ("params", "lr", "weight_decay")} for group in groups])
    pids = torch.arange(batch) // 4
    images = torch.randn(batch, 3, cfg.data.height, cfg.data.width)
    inputs = {"img": images, "pid": pids, "camid": torch.zeros_like(pids), "epoch": 1}

    def step() -> float:
        losses = stage.losses(dict(inputs))
        loss = sum(stage.weights[name] * value for name, value in losses.items())
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


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


BENCHMARKS: dict[str, Callable[[bool], Comparison]] = {
    "ranking": ranking,
    "reranking": reranking,
    "masked_distance": masked_distances,
    "dpmpp_step": dpmpp_step,
    "stage1": stage1,
    "loading": loading,
}
