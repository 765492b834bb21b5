"""The pretraining loop: image-caption contrast plus attribute losses that start it off."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor, nn

from occplug.backbones.quick_gelu import use_quick_gelu
from occplug.backbones.tiny import ARCHITECTURE, TABLE, initial_table
from occplug.errors import CheckpointError
from pretraining import parallel
from pretraining.texts import PHRASES, VALUES, RowTokenizer, prompts

__all__ = ["Trainer", "TrainingPlan", "encode_text", "to_pixels"]

log = logging.getLogger(__name__)
COUNTERS = ("samples", "steps", "seconds", "cpu_seconds")
GRID = tuple(side // ARCHITECTURE["vision_cfg"]["patch_size"] for side in ARCHITECTURE["vision_cfg"]["image_size"])


@dataclass(frozen=True)
class TrainingPlan:
    """Numbers of the recipe (synthocc pretraining, world 500)."""

    samples: int
    minutes: float = math.inf
    batch: int = 128  # over all processes
    lr: float = 1.2e-3
    weight_decay: float = 0.05
    warmup: int = 60  # steps
    attributes: float = 4.0  # weight of each of the two attribute losses
    seed: int = 0


class BlockDropout(nn.Module):
    """Keeps `keep` of the four tokens of every 2x2 block of the grid, drawn for each image.

    Random patch dropping (FLIP, arXiv 2212.00794) made even: no body part goes unseen, and a step with one token of
    four costs a quarter. keep = 4 is the identity.
    """

    def __init__(self):
        super().__init__()
        self.keep = 4
        h, w = GRID
        blocks = torch.arange(h * w).view(h // 2, 2, w // 2, 2).permute(0, 2, 1, 3).reshape(-1, 4)
        self.register_buffer("blocks", blocks, persistent=False)  # [h*w/4, 4] token numbers

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, 1+h*w, C] -> [B, 1+h*w*keep/4, C]; the class token stays."""
        if self.keep == 4 or not self.training:
            return tokens
        count, blocks = len(tokens), len(self.blocks)
        order = torch.rand(count, blocks, 4).argsort(dim=2)[..., : self.keep]
        kept = self.blocks.expand(count, -1, -1).gather(2, order).flatten(1)  # [B, h*w*keep/4]
        patches = tokens[:, 1:].gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))
        return torch.cat([tokens[:, :1], patches], dim=1)


def build_model(token_ids: Tensor) -> CLIP:
    """open_clip's model with just the vocabulary's rows, which start as the noise the loader would draw."""
    text = dict(ARCHITECTURE["text_cfg"], vocab_size=len(token_ids))
    model = CLIP(**dict(ARCHITECTURE, text_cfg=text))
    model.token_embedding.weight.data.copy_(initial_table()[token_ids])
    use_quick_gelu([*model.visual.transformer.resblocks, *model.transformer.resblocks])
    model.visual.patch_dropout = BlockDropout()
    return model


def encode_text(model: CLIP, rows: Tensor, ends: Tensor, chunks: int = 1, normalize: bool = True) -> Tensor:
    """[n, E] text features, of unit norm unless `normalize` is False.

    open_clip's tower runs at the texts' own length (exact, since attention is causal). Texts are sorted by length and
    run in `chunks` parts, so that short ones are not padded to the longest.
    """
    order = ends.argsort()
    features = []
    for part in order.chunk(chunks):
        length = int(ends[part].max()) + 1
        x = model.token_embedding(rows[part, :length]) + model.positional_embedding[:length]
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
        features.append(x[torch.arange(len(part)), ends[part]] @ model.text_projection)
    features = torch.cat(features)[order.argsort()]
    return F.normalize(features, dim=1) if normalize else features


def to_pixels(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> float [B, 3, H, W] in [-1, 1], mean and std .5 as CLIP-ReID."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def augment(images: Tensor, draw: torch.Generator) -> Tensor:
    """`to_pixels` with flips, a gain U(.8, 1.2) and a shift."""
    x = to_pixels(images) + 1.0
    flip = torch.rand(len(x), generator=draw) < 0.5
    x[flip] = x[flip].flip(3)
    shift = torch.randint(-4, 5, (2,), generator=draw).tolist()
    x = F.pad(x, (4, 4, 4, 4), mode="replicate")[..., 4 + shift[0] : 132 + shift[0], 4 + shift[1] : 68 + shift[1]]
    return x * (0.8 + 0.4 * torch.rand(len(x), 1, 1, 1, generator=draw)) - 1.0


class Trainer:
    """Model, optimiser and counters; `state_dict` and `load_state_dict` carry all of it over an interruption.

    Args:
        token_ids: the vocabulary whose rows are trained and stored.
        plan: numbers of the recipe.
        shares: per attribute of PHRASES the share of the people with each value.
        rank, world: this process among all of them.
    """

    def __init__(self, token_ids: Tensor, plan: TrainingPlan, shares: dict[str, Tensor], rank: int = 0, world: int = 1):
        torch.manual_seed(plan.seed)
        self.plan, self.token_ids, self.rank, self.world = plan, token_ids, rank, world
        self.tokenize = RowTokenizer(token_ids)
        self.log_shares = {name: value.clamp_min(1e-3).log() for name, value in shares.items()}
        self.model = build_model(token_ids)
        self.heads = nn.ModuleDict({n: nn.Linear(ARCHITECTURE["embed_dim"], len(VALUES[n])) for n in PHRASES})
        self.scale = nn.Parameter(torch.tensor(math.log(10.0)))  # of the attribute prompts' cosines
        named = [*self.model.named_parameters(), *self.heads.named_parameters(prefix="heads"), ("scale", self.scale)]
        decay = [p for n, p in named if p.ndim >= 2 and "embedding" not in n]
        others = [p for n, p in named if p.ndim < 2 or "embedding" in n]
        self.parameters = decay + others
        groups = [{"params": decay, "weight_decay": plan.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=plan.lr, betas=(0.9, 0.98), eps=1e-6)
        self.samples, self.steps, self.seconds, self.cpu_seconds = 0, 0, 0.0, 0.0

    @property
    def progress(self) -> float:
        """Part of the plan that is done, in [0, 1]: samples or time, whichever is further."""
        return min(1.0, max(self.samples / self.plan.samples, self.seconds / 60 / self.plan.minutes))

    def _schedule(self) -> None:
        p = self.progress
        # straight down, not a cosine: the whole images of the last part still need a step size to learn from
        lr = self.plan.lr * min(1.0, (self.steps + 1) / self.plan.warmup) * max(1 - p, 0.01)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.model.visual.patch_dropout.keep = 1 if p < 0.6 else 2 if p < 0.9 else 4

    def step(self, images: Tensor, captions: list[str], labels: dict[str, Tensor]) -> dict[str, float]:
        """One update from this process's share of the batch.

        Args:
            images: uint8 [b, H, W, 3], b = batch / processes.
            captions: b sentences, one per image.
            labels: per attribute of PHRASES int64 [b], -100 where it cannot be told.
        Returns: the losses by name.
        """
        start, cpu = time.monotonic(), time.process_time()
        self.model.train()
        self._schedule()
        draw = np.random.default_rng([self.plan.seed, self.steps, self.rank])
        pixels = augment(images, torch.Generator().manual_seed(int(draw.integers(1 << 31))))
        features = self.model.visual(pixels)
        unit = F.normalize(features, dim=1)
        losses = {"clip": self._contrast(unit, captions), **self._attribute_losses(features, unit, labels, draw)}
        (losses["clip"] + self.plan.attributes / self.world * (losses["heads"] + losses["prompts"])).backward()
        self._update()
        self.steps, self.samples = self.steps + 1, self.samples + len(images) * self.world
        self.cpu_seconds += (time.process_time() - cpu) * self.world
        self.seconds = parallel.broadcast([self.seconds + time.monotonic() - start])[0]
        return {name: value.item() for name, value in losses.items()}

    def _update(self) -> None:
        parallel.sum_gradients(self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.model.logit_scale.data.clamp_(max=math.log(100.0))

    def _contrast(self, unit: Tensor, captions: list[str]) -> Tensor:
        text = encode_text(self.model, *self.tokenize(captions), chunks=4)
        image, text = parallel.all_gather(unit), parallel.all_gather(text)
        logits = self.model.logit_scale.exp() * image @ text.T  # [B, B]
        target = torch.arange(len(logits))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    def _attribute_losses(self, features: Tensor, unit: Tensor, labels: dict[str, Tensor], draw) -> dict[str, Tensor]:
        names = list(PHRASES)
        groups = [prompts(name, draw) for name in names]
        text = encode_text(self.model, *self.tokenize([line for lines in groups for line in lines]))
        text = dict(zip(names, text.split([len(lines) for lines in groups]), strict=True))
        # logit adjustment (arXiv 2007.07314): the shares go in here, so that similarities need not encode them
        heads = [F.cross_entropy(self.heads[n](features) + self.log_shares[n], labels[n]) for n in names]
        by_text = [F.cross_entropy(self.scale.exp() * unit @ text[n].T + self.log_shares[n], labels[n]) for n in names]
        return {"heads": torch.stack(heads).mean(), "prompts": torch.stack(by_text).mean()}

    def start_from(self, state: dict[str, Tensor]) -> None:
        """Take over the weights of an earlier file (`tiny.load`) as initial ones; the optimiser starts afresh."""
        table = state[TABLE][self.token_ids]
        self.model.load_state_dict({**state, TABLE: table})

    def state_dict(self) -> dict:
        """Everything a resumed run needs."""
        return {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "scale": self.scale.data,
            "optimizer": self.optimizer.state_dict(),
            "token_ids": self.token_ids,
            "counters": {name: getattr(self, name) for name in COUNTERS},
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue from what `state_dict` returned.

        Raises:
            CheckpointError: it was trained on another vocabulary.
        """
        if not torch.equal(state["token_ids"], self.token_ids):
            raise CheckpointError("the checkpoint to resume from has another vocabulary; start without --resume")
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.scale.data.copy_(state["scale"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in COUNTERS:
            setattr(self, name, state["counters"][name])
