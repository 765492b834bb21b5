"""What our engines share on top of torchreid's `Engine`: evaluation, checkpoints, progress and a run's bookkeeping."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from occplug.backbones.licences import licences_of_run
from occplug.config import resolved_yaml
from occplug.data.cameras import camera_input
from occplug.distributed import check_agreement, current_ranks
from occplug.embedding import Embedding
from occplug.engine.checkpoint import not_finite
from occplug.engine.loggers import stage_writer
from occplug.engine.losses import LossReader
from occplug.engine.progress import Progress
from occplug.engine.randomness import random_states
from occplug.engine.saving import Saver
from occplug.engine.speeding import compiled
from occplug.errors import OutputError, TrainingError
from occplug.evaluation import (
    Lister,
    RankedLists,
    Ranker,
    evaluate_embeddings,
    extract,
    rank_distances,
    ranked_lists,
    rerank_embeddings,
)
from occplug.evaluation.cuhk03 import evaluate_cuhk03
from occplug.method import Method
from occplug.torchreid_host import visualize_ranked_results
from occplug.utils.files import plain_name

__all__ = ["RunMixin", "StageRecord"]

log = logging.getLogger(__name__)
_CURE = "Lower the learning rate, switch amp.dtype to fp32 or bf16, or set run.clip_grad_norm"


@dataclass
class StageRecord:
    """One trained stage, as `metrics.json` lists it."""

    name: str
    epochs: int
    seconds: float


class _ToLog:
    """A file-like object that turns what torchreid prints into debug lines of the log."""

    def write(self, text: str) -> int:
        if text.strip():
            log.debug(text.rstrip())
        return len(text)

    def flush(self) -> None:
        """Nothing is buffered."""


class _NoWriter:
    """In place of a writer on ranks that write nothing."""

    def add_scalar(self, *args) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class RunMixin:
    """Mixed into torchreid engines; `run`, `train`, `test` and `save_model` stay torchreid's with additions.

    An engine that mixes this in sets, before `run`, `model` (what torchreid trains) and, by `setup_run`, `cfg`,
    `method` (what is tested), `folder` (of the run), `device` and `limit` (batches per epoch in dry runs, or None).
    `stage_name`, `stage_index` and `trained_epochs` (of earlier stages) say where it is.
    """

    model: Any
    datamanager: Any
    optimizer: Any
    scheduler: Any
    max_epoch: int
    batch_idx: int
    train_loader: Any
    run: Callable[..., None]

    def setup_run(self, cfg, method: Method, folder: Path, device: torch.device, limit: int | None = None) -> None:
        """Set the bookkeeping's initial state."""
        self.method = method
        self.cfg, self.folder, self.device, self.limit = cfg, Path(folder), device, limit
        self.ranks = current_ranks()
        self.stage_name, self.stage_index, self.trained_epochs = "train", 0, 0
        self.evaluates = True
        self.records: list[StageRecord] = []
        self.changes: list[dict] = []  # of the config, at each resume: stage, epoch and the keys with both values
        self.embedded: dict[str, str] | None = None  # the package's files it started from; None: not known
        self.images: dict[str, str] | None = None  # marks of its images (`occplug.data.recognition`); None: not known
        licences = [] if method.is_stock or not method.backbones else licences_of_run(cfg)
        self.licence = ", ".join(licence.name for licence in licences)  # of the initial weights
        self.results: dict = {}  # target -> RankResult
        self.query_paths: dict[str, list[str]] = {}  # target -> files, in the order of the result's queries
        self.listed: dict[str, RankedLists] = {}  # target -> what is kept of its ranked galleries, on rank 0
        self.camera_rows = dict(getattr(self.datamanager, "camera_rows", {}))  # of the sources; a test's are the file's
        self.seconds = 0.0  # spent in the current stage, over all sessions of the run
        self.reader, self.saver = LossReader(), Saver()

    # ------------------------------------------------------------------ what a run looks like

    def embed(self, images: Tensor, camids: Tensor | None) -> Embedding:
        """Test-time embedding of `images` [B, 3, H, W], cameras `camids` [B] where known: `Method.embed`."""
        return self.method.embed(images, camids)

    def distance(self, query: Embedding, gallery: Embedding) -> Tensor:
        """Distances [Q, G], smaller is closer: `Method.distance`."""
        return self.method.distance(query, gallery)

    def embed_for(self, target: str) -> Callable[[Tensor, Tensor], Embedding]:
        """`embed` of images of the data set `target`, whose cameras are numbered within it."""
        rows = camera_input(self.cfg, target, self.camera_rows)
        return lambda images, camids: self.embed(images, rows(camids))

    def extracted(self, loader, target: str, title: str) -> tuple[Embedding, np.ndarray, np.ndarray, list[str]]:
        """What :func:`occplug.evaluation.extract` gives of `loader`, embedded as `eval.flip` and `eval.amp` say.

        Args:
            target: the images' data set; empty for training images, whose cameras are rows already.
            title: before the progress bar.
        """
        embed = self.embed_for(target) if target else self.embed
        how: dict[str, Any] = {"flip": self.cfg.eval.flip, "amp": self.cfg.eval.amp}
        return extract(embed, loader, self.device, title=title, **how)

    def matcher(self, query: Embedding, gallery: Embedding) -> Tensor:
        """The older name of `distance`; removed in the next version."""
        return self.distance(query, gallery)

    @property
    def squared_distance(self) -> bool:
        """`Method.squared_distance`, of `distance`."""
        return self.method.squared_distance

    def run_stage(self, epochs: int, start_epoch: int = 0) -> None:
        """Train `epochs` epochs through torchreid's `run`, from `start_epoch` on; then its test and checkpoint."""
        self.epoch = start_epoch - 1  # what `run` saves if no epoch is left to train
        # a logged run per stage, or steps of different stages would share an axis; rank 0 writes it
        self.writer = stage_writer(self.folder, self.stage_name, self.cfg) if self.ranks.is_main else _NoWriter()
        with contextlib.redirect_stdout(_ToLog()):
            self.run(
                save_dir=str(self.folder / "tensorboard" / self.stage_name),
                max_epoch=epochs,
                start_epoch=start_epoch,
                print_freq=2**62,  # the progress bar and the log show what torchreid would print
                fixbase_epoch=self.cfg.train.fixbase_epoch,
                open_layers=self.cfg.train.open_layers,
                start_eval=self.cfg.test.start_eval,
                eval_freq=self.cfg.test.eval_freq,
                **self.test_options(),
            )
        self.records.append(StageRecord(self.stage_name, epochs, round(self.seconds, 3)))

    def planned(self) -> dict[str, int]:
        """Stage name -> epochs, in the order in which stages run."""
        raise TypeError(f"{type(self).__name__} does not state its stages")

    def test_options(self) -> dict:
        """How the config wants to be tested, as torchreid's `run` and `test` take it."""
        t = self.cfg.test
        return {
            "dist_metric": t.dist_metric,
            "normalize_feature": t.normalize_feature,
            "ranks": t.ranks,
            "rerank": t.rerank,
            "use_metric_cuhk03": self.cfg.cuhk03.use_metric_cuhk03,
        }

    def train(self, *args, **kwargs) -> None:
        """One epoch: torchreid's loop under a progress bar, then the resumable state."""
        start = time.perf_counter()
        set_epoch = getattr(self.datamanager, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(self.trained_epochs + self.epoch)
        loader = self.train_loader
        title = f"{self.stage_name} {self.epoch + 1}/{self.max_epoch}"
        left_after = self.max_epoch - self.epoch - 1
        self.train_loader = self.progress = Progress(loader, title, self.limit, self.ranks.is_main, left_after)
        self.sums: dict[str, float] = {}
        self.reader = LossReader(self.overlaps)
        try:
            super().train(*args, **kwargs)  # type: ignore[misc]  # of the engine this is mixed into
            self.reader.begin()  # the last step's
        finally:
            self.train_loader, self.reader = loader, LossReader()
        self.after_epoch()
        spent = time.perf_counter() - start
        self.seconds += spent
        left = spent * left_after
        means = "  ".join(f"{name} {value / len(self.progress):.4f}" for name, value in self.sums.items())
        log.info("%s: %s  (%.1f s, about %.0f s left in this stage)", title, means, spent, left)
        if (self.epoch + 1) % self.cfg.run.save_every == 0:
            self.save_state(self.epoch + 1, waits=False)

    @property
    def overlaps(self) -> bool:
        """Whether this process and the device work side by side: where that is a GPU. Then losses of an epoch are read
        one step late, and batches finished on the device."""
        return self.device.type == "cuda"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Around the stages of a run."""
        deferring = getattr(self.datamanager, "deferring", contextlib.nullcontext)
        with self.saver.joined(), deferring(self.overlaps), compiled(self.model, self.cfg.run.compile):
            yield

    def after_epoch(self) -> None:
        """What is done between an epoch's last step and its resumable state: here ranks check that they still agree.

        Raises:
            TrainingError: their weights or random numbers differ.
        """
        if self.ranks.world > 1:
            for buffer in self.model.buffers():  # sums on a GPU may differ in the last digit
                self.ranks.from_main_(buffer)
            check_agreement(self.ranks, self.model)

    def check_finite(self, values: dict[str, float], batch: dict) -> None:
        """Raise TrainingError if a loss is not finite; names the values and the image files of the batch.

        Args:
            batch: its files, `impath`, and where it is not the current one, its number `batch_idx`.
        """
        bad = {name: value for name, value in values.items() if not math.isfinite(value)}
        if bad:
            files = [str(path) for path in batch.get("impath", [])]
            named = f" Images of the batch: {', '.join(files)}" if files else ""
            raise TrainingError(
                f"{self.stage_name}, epoch {self.epoch + 1}, batch {batch.get('batch_idx', self.batch_idx) + 1}: "
                f"{', '.join(f'{n} is {v}' for n, v in bad.items())}. {_CURE}; {self._last_good()}.{named}"
            )

    def note_losses(self, values: dict[str, float], batch: dict) -> None:
        """Show `values` beside the bar. Raises TrainingError as `check_finite`."""
        self.check_finite(values, batch)
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.progress.show(values)

    # ------------------------------------------------------------------ checkpoints

    def state(self, epoch: int, rank1: float) -> dict:
        """Everything a resumed run needs, after `epoch` epochs of the current stage."""
        return {
            "stage": self.stage_name,
            "stage_index": self.stage_index,
            "epoch": epoch,
            "rank1": float(rank1),
            "seconds": self.seconds,
            "records": [asdict(record) for record in self.records],
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else {},
            "random": random_states(),
            "config": resolved_yaml(self.cfg),
            "changes": self.changes,
            "pids": list(self.datamanager.pids),
            "cameras": list(self.datamanager.cameras),
            "camera_rows": {name: list(rows) for name, rows in self.camera_rows.items()},
            "data": self.datamanager.summary(),
            "licence": self.licence,
            **({} if self.embedded is None else {"embedded": self.embedded}),
            **({} if self.images is None else {"images": self.images}),
        }

    def save_state(self, epoch: int, rank1: float = float("nan"), waits: bool = True) -> None:
        """Write the newest resumable state, `checkpoints/last.pth`.

        Args:
            waits: until it is written; else the next epoch can begin, and what failed is raised with the next file.

        Raises:
            TrainingError: a tensor of it is not finite.
            OutputError: it cannot be written.
        """
        if self.ranks.is_main:
            self._save_resumable(self.state(epoch, rank1), waits)

    def _save_resumable(self, state: dict, waits: bool = True) -> None:
        """Write `state` over the last good one, unless it is not finite."""
        path = self.folder / "checkpoints" / "last.pth"
        trained = {name for name, _ in self.model.named_parameters()}
        bad = not_finite(state, trained)
        if bad:
            listed = f"{', '.join(bad[:5])}{', ...' if len(bad) > 5 else ''}"
            raise TrainingError(
                f"{self.stage_name}, after {state['epoch']} epochs: {len(bad)} tensors are not finite ({listed}), so "
                f"nothing is saved; {_CURE}; {self._last_good()}"
            )
        self.saver.save(state, path, waits)

    def _last_good(self) -> str:
        path = self.folder / "checkpoints" / "last.pth"
        with contextlib.suppress(OutputError):
            self.saver.join()
        if not path.exists():
            return "no state is saved yet"
        return f"the last good state is {path}, and --resume goes on from it with the changed config"

    def save_model(self, epoch: int, rank1: float, save_dir: str = "", is_best: bool = False) -> None:
        """At the end of a stage, write `checkpoints/<stage>.pth` beside the resumable state (which holds more)."""
        if not self.ranks.is_main:
            return
        state = self.state(epoch + 1, rank1)
        checkpoints = self.folder / "checkpoints"
        self._save_resumable(state)
        if epoch + 1 == self.max_epoch:
            training_only = {"optimizer", "scheduler", "random", "scaler"}
            kept = {key: value for key, value in state.items() if key not in training_only}
            self.saver.save(kept, checkpoints / f"{self.stage_name}.pth")

    # ------------------------------------------------------------------ evaluation

    def test(self, *args, **kwargs) -> float:
        """torchreid's test over all targets; stages before the last have nothing to test and give nan."""
        self.saver.join()  # before processes are forked that read images
        if not self.evaluates:
            return float("nan")
        with contextlib.redirect_stdout(_ToLog()):
            return super().test(*args, **kwargs)  # type: ignore[misc]  # of the engine this is mixed into

    @torch.no_grad()
    def _evaluate(
        self,
        dataset_name="",
        query_loader=None,
        gallery_loader=None,
        dist_metric="euclidean",
        normalize_feature=False,
        visrank=False,
        visrank_topk=10,
        save_dir="",
        use_metric_cuhk03=False,
        ranks=(1, 5, 10, 20),
        rerank=False,
    ) -> tuple[float, float]:
        """Embeddings of query and gallery -> Rank-1 and mAP, kept in `self.results[dataset_name]`.

        torchreid's signature. Blockwise unless the whole distance matrix is needed (pictures, cuhk03).
        """
        query, q_pids, q_camids, paths = self.extracted(query_loader, dataset_name, f"{dataset_name} query")
        gallery, g_pids, g_camids, g_paths = self.extracted(gallery_loader, dataset_name, f"{dataset_name} gallery")
        ids = (q_pids, g_pids, q_camids, g_camids)
        draws = (save_dir, visrank_topk) if visrank else None

        def compared():
            lister = Lister(*ids) if self.cfg.run.page else None
            found = self._compare(dataset_name, query, gallery, ids, use_metric_cuhk03, rerank, draws, lister)
            if lister is not None:
                self.listed[dataset_name] = self._listed(dataset_name, lister, query, gallery, (paths, g_paths))
            return found

        result = self.ranks.from_main(compared)
        self.results[dataset_name], self.query_paths[dataset_name] = result, paths
        log.info("%s: %s", dataset_name, result)
        return float(result.cmc[0]), float(result.mAP)

    def _compare(
        self, name: str, query: Embedding, gallery: Embedding, ids: tuple, cuhk03: bool, rerank: bool, draws, lister
    ):
        """The result of `query` and `gallery` with `ids`; `draws` is the folder and length of ranked lists, or None.

        Args:
            lister: is given all distances; None for nobody.
        """
        if draws or cuhk03:
            blocks = self._reranked(query, gallery) if rerank else [self.distance(query, gallery).numpy()]
            distances = np.concatenate(list(blocks))
            if lister is not None:
                lister.add(distances)
            if draws:
                self._draw_ranks(name, distances, *draws)
            return evaluate_cuhk03(distances, *ids) if cuhk03 else rank_distances(distances, *ids)
        if rerank:
            ranker = Ranker(*ids)
            for block in self._reranked(query, gallery):
                ranker.add(block)
                if lister is not None:
                    lister.add(block)
            return ranker.result()
        distance = self.distance if lister is None else lister.watching(self.distance)
        return evaluate_embeddings(distance, query, gallery, *ids)

    def _listed(self, name: str, lister: Lister, query: Embedding, gallery: Embedding, paths: tuple) -> RankedLists:
        """What is kept of the ranked galleries of the data set `name`."""
        annotation = getattr(getattr(self.datamanager, "sets", {}).get(name), "annotation", None)
        occlusion = None if annotation is None else [annotation(path)["occlusion_ratio"] for path in paths[0]]
        return ranked_lists(
            lister, query, gallery, paths, self.method.named_distance(), self.method.part_names, occlusion
        )

    def _reranked(self, query: Embedding, gallery: Embedding):
        """Blocks [b, G] of re-ranked distances, as `eval.rerank_*` says."""
        k = self.cfg.eval
        return rerank_embeddings(
            self.distance, query, gallery, self.squared_distance, k.rerank_k1, k.rerank_k2, k.rerank_lambda
        )

    def _draw_ranks(self, name: str, distances, save_dir: str, topk: int) -> None:
        data = self.datamanager
        target = str(Path(save_dir or self.folder) / f"visrank_{plain_name(name)}")
        visualize_ranked_results(
            distances,
            data.fetch_test_loaders(name),
            data.data_type,
            data.width,
            data.height,
            save_dir=target,
            topk=topk,
        )
        log.info("ranked galleries are drawn in %s", target)
