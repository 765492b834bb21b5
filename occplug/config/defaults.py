"""Every key a config may have, with its default: torchreid's own tree, then ours in sections of their own.

torchreid keeps its default config in a script that its package does not contain, so its 68 keys are stated here; a
yaml file written for torchreid's `scripts/main.py` loads unchanged. `method` and `augment` are filled from the
`defaults` of the chosen method and of the registered transforms. `CHOICES` and `RANGES` say what values may be, as
methods and transforms do for their own keys (:mod:`occplug.config.ranges`).
"""

from collections.abc import Callable
from typing import Any

from occplug.config.ranges import ABOVE_0, AT_LEAST_0, AT_LEAST_1, BELOW_1, SHARE, Range
from occplug.registry import BACKBONES, SAMPLERS, TRANSFORMS, names
from occplug.utils.body_parts import SCHEMES

__all__ = [
    "BACKBONE_FACTS",
    "CHOICES",
    "CORE",
    "DEFAULT_MODEL",
    "IDENTITY_SAMPLERS",
    "MADE_FOR",
    "NULLABLE",
    "OBSOLETE",
    "RANGES",
    "RENAMED_KEYS",
]

DEFAULT_MODEL = "resnet50"
MOST_PIXELS = 1024  # a side; crops of people have 256 to 384

_TORCHREID_TRAIN: dict = {
    "optim": "adam",
    "lr": 3e-4,
    "weight_decay": 5e-4,
    "max_epoch": 60,
    "start_epoch": 0,
    "batch_size": 32,
    "fixbase_epoch": 0,
    "open_layers": ["classifier"],
    "staged_lr": False,
    "new_layers": ["classifier"],
    "base_lr_mult": 0.1,
    "lr_scheduler": "single_step",
    "stepsize": [20],
    "gamma": 0.1,
    "print_freq": 20,
    "seed": 1,
}

TORCHREID: dict[str, Any] = {
    "model": {"name": DEFAULT_MODEL, "pretrained": True, "load_weights": "", "resume": ""},
    "data": {
        "type": "image",
        "root": "reid-data",  # folder that holds the data sets
        "sources": ["market1501"],
        "targets": ["market1501"],
        "workers": 4,  # processes that read images
        "split_id": 0,  # which split, where a data set has several or is split by chance (folder:, csv:)
        "height": 256,  # pixels
        "width": 128,
        "combineall": False,  # train on query and gallery too
        "transforms": ["random_flip"],  # names; order is kept within a level
        "k_tfm": 1,  # augmented copies of each image
        "norm_mean": [0.485, 0.456, 0.406],  # of pixels in [0, 1]
        "norm_std": [0.229, 0.224, 0.225],
        "save_dir": "log",  # folder of the run
        "load_train_targets": False,
    },
    "market1501": {"use_500k_distractors": False},
    "cuhk03": {"labeled_images": False, "classic_split": False, "use_metric_cuhk03": False},
    "sampler": {
        "train_sampler": "RandomSampler",
        "train_sampler_t": "RandomSampler",
        "num_instances": 4,  # images of each identity in a batch
        "num_cams": 1,
        "num_datasets": 1,
    },
    "video": {"seq_len": 15, "sample_method": "evenly", "pooling_method": "avg"},
    "train": _TORCHREID_TRAIN,
    "sgd": {"momentum": 0.9, "dampening": 0.0, "nesterov": False},
    "rmsprop": {"alpha": 0.99},
    "adam": {"beta1": 0.9, "beta2": 0.999},
    "loss": {
        "name": "softmax",
        "softmax": {"label_smooth": True},
        "triplet": {"margin": 0.3, "weight_t": 1.0, "weight_x": 0.0},
    },
    "test": {
        "batch_size": 100,
        "dist_metric": "euclidean",
        "normalize_feature": False,
        "ranks": [1, 5, 10, 20],
        "evaluate": False,
        "eval_freq": -1,  # epochs between tests; -1: after the last epoch only
        "start_eval": 0,
        "rerank": False,
        "visrank": False,
        "visrank_topk": 10,
    },
    "use_gpu": True,  # where there is one
}

OURS = {
    "custom_imports": [],  # modules, or .py files (relative to the config file), that register a user's own parts
    "ensemble": {"held_out": 0.0},  # share of the identities left out of training, to choose an ensemble's weights on
    "method": {},  # METHODS[model.name].defaults
    "augment": {},  # transform name -> its defaults
    "backbone": {
        "name": "clip_vit_b16",
        # openai, open_clip:TAG (clip_vit_b16, clip_vit_l14, eva02_clip_b16), timm (vit_b16, timm:NAME), embedded (the
        # small ones), embedded_even (clip_vit_tiny, image and text features of one norm), none, or a file
        "weights": "openai",
        "activation": "",  # quick_gelu or gelu, of a CLIP ViT's file that does not tell; tags and OpenAI's files do
        "stride": 16,  # pixels between patches; smaller than the patch: overlapping patches
        "sie_camera": False,  # camera embedding: a CLIP's on the class token, that of other ViTs on all tokens
        "sie_coefficient": 1.0,  # of the camera embedding, as published; CLIP-ReID's own file has 3.0 as its default
        "drop_path": None,  # of a ViT or Swin without text: stochastic depth at the last block; null: the method's
        "semantic_weight": 0.2,  # of SOLIDER's Swin: 0 appearance, 1 semantics; no weight file tells
        # what a backbone alone has, in a section of its name; `clip` names the CLIP tower of a hybrid
        "wgff": {
            "clip": "clip_vit_b16",
            "lsnet": "lsnet_t",
            "weights": "none",  # released (downloaded), embedded (lsnet_mini), a file; none: random, with a warning
            # [layer, source]: gate after that layer of the CLIP tower, guided by stage 1 to 4 of LSNet or `fused`, all
            # four; empty: a ViT's layers 1 and 2 by `fused`, a ResNet's layers 1 to 4 by the stage of that number
            "points": [],
            "mode": "gate",  # gate: multiply by 1 + w (2 sigmoid(u) - 1); add: add w u
            "lsnet_bn": "train",  # eval: LSNet's batch norms keep their stored statistics
            "lr": 3.5e-4,  # of the gates
            "lsnet_lr": 3.5e-5,
        },
    },
    "prompts": {  # texts for a backbone that has none of its own
        "source": "clip",  # clip: learnt beside a CLIP in a stage of their own, then fixed; joint: beside the backbone
        "clip": "clip_vit_b16",  # whose texts they are
        "weights": "openai",  # of that CLIP, as backbone.weights
        "activation": "",  # as backbone.activation
        "temperature": 0.07,  # of cosines between images and texts
    },
    "input": {"train_interpolation": "bicubic", "test_interpolation": "bilinear"},
    "synthocc": {
        "size": "small",
        "seed": 1,
        "severity": 0.6,  # of the cameras' photometric differences
        "group_size": 2,  # look-alikes per group; 1: none
        "ratio": [0.2, 0.6],  # occluded share of a query person's pixels
        "heldout_occluders": [],  # categories that only queries show
    },
    "masks": {  # part masks, for methods that ask for them
        "source": "files",  # files, synthocc (its rendered masks), stripes, none
        "root": "",  # folder in place of <data set>/masks
        "directory": "pifpaf_maskrcnn_filtering",  # folder of the files below it
        "scheme": "five_v",  # grouping of the channels into parts; ProFD sets it by method.parts
        "interp": "bicubic",  # of mask files to the image's size
        "missing": "error",  # background: an image without a mask trains as background alone
        "cache": "",  # folder for one memory-mapped file per data set; empty: the files are read each time
        "noise": "none",  # eroded, shifted or swapped, on rendered masks and stripes
        "noise_strength": 0.05,  # eroded, shifted: in image heights; swapped: share of the parts
    },
    "amp": {"dtype": "fp32"},  # fp16 or bf16 on a GPU; a CPU always computes in fp32
    "eval": {
        "flip": False,
        "amp": "none",  # bf16 or fp16: embeddings computed in half precision, which are other numbers
        "rerank_k1": 20,
        "rerank_k2": 6,
        "rerank_lambda": 0.3,
    },
    "data": {
        **TORCHREID["data"],
        "pattern": "",  # finds pid, camid and split in the paths of folder:DIR
        "cache": "none",  # decoded and resized images: memory (for this run) or a folder (for all runs)
        "resize": "pil",  # tensor: torchvision's, faster, and off by a few levels of 255
    },
    "train": {
        **_TORCHREID_TRAIN,
        "micro_batch": 0,  # most images whose intermediate values are in memory at once; 0: the batch
    },
    "run": {
        "deterministic": False,
        "threads": 0,  # 0: torch's choice
        "clip_grad_norm": 0.0,  # 0: off
        "resume": False,
        "save_every": 1,  # epochs between resumable states
        "logger": "tensorboard",  # tensorboard, csv, wandb, mlflow, trackio, none; several with commas
        "page": True,  # leave report.html, a page about the run, and the ranked lists it shows
        "compile": False,  # torch.compile for image towers: minutes at first, then faster; the same up to rounding
        "fused": False,  # fused optimisers (adam, adamw, sgd): faster on GPUs, with fp16 without a wait; up to rounding
    },
}

CORE: dict[str, Any] = {**TORCHREID, **OURS}

# backbone -> (patch size in pixels: smallest image and largest stride, the named initial weights it has)
BACKBONE_FACTS = {
    "clip_vit_b16": (16, "openai"),
    "clip_vit_l14": (14, "openai"),
    "clip_rn50": (16, "openai"),
    "eva02_clip_b16": (16, "none"),
    "clip_vit_tiny": (8, "embedded"),
    "vit_b16": (16, "timm"),
    "vit_s16": (16, "none"),
    "vit_mini": (8, "embedded"),
    "solider_swin_mini": (16, "embedded"),
    **dict.fromkeys(("solider_swin_t", "solider_swin_s", "solider_swin_b"), (16, "none")),
}
NULLABLE = ("backbone.drop_path",)  # keys of the core that may be null

STOCK_TRANSFORMS = ["random_flip", "random_crop", "random_patch", "color_jitter", "random_erase"]
IDENTITY_SAMPLERS = ["identity", "RandomIdentitySampler"]
STOCK_SAMPLERS = [
    "RandomSampler",
    "SequentialSampler",
    IDENTITY_SAMPLERS[1],
    "RandomDomainSampler",
    "RandomDatasetSampler",
]


def _transforms() -> list[str]:
    return sorted({*names(TRANSFORMS), *STOCK_TRANSFORMS})


def _samplers() -> list[str]:
    return [*names(SAMPLERS), *STOCK_SAMPLERS]


CHOICES: dict[str, list[str] | Callable[[], list[str]]] = {
    "backbone.activation": ["", "quick_gelu", "gelu"],
    "prompts.activation": ["", "quick_gelu", "gelu"],
    "amp.dtype": ["fp32", "fp16", "bf16"],
    "backbone.name": lambda: names(BACKBONES),
    "backbone.wgff.clip": lambda: [name for name in BACKBONE_FACTS if name.startswith("clip_")],
    "backbone.wgff.lsnet": ["lsnet_t", "lsnet_s", "lsnet_b", "lsnet_mini"],
    "backbone.wgff.lsnet_bn": ["train", "eval"],
    "backbone.wgff.mode": ["gate", "add"],
    "data.resize": ["pil", "tensor"],
    "eval.amp": ["none", "bf16", "fp16"],
    "data.transforms": _transforms,
    "data.type": ["image", "video"],
    "input.test_interpolation": ["nearest", "bilinear", "bicubic"],
    "input.train_interpolation": ["nearest", "bilinear", "bicubic"],
    "loss.name": ["softmax", "triplet"],
    "masks.interp": ["nearest", "bilinear", "bicubic"],
    "masks.missing": ["error", "background"],
    "masks.noise": ["none", "eroded", "shifted", "swapped"],
    "masks.scheme": list(SCHEMES),
    "masks.source": ["files", "synthocc", "stripes", "none"],
    "prompts.source": ["clip", "joint"],
    "prompts.clip": lambda: [name for name in BACKBONE_FACTS if name.startswith("clip_vit_")],
    "sampler.train_sampler": _samplers,
    "sampler.train_sampler_t": _samplers,
    "synthocc.size": ["tiny", "small", "tune", "medium"],
    "test.dist_metric": ["euclidean", "cosine"],
    "train.lr_scheduler": ["single_step", "multi_step", "cosine"],
    "train.optim": ["adam", "amsgrad", "sgd", "rmsprop", "radam"],
    "video.pooling_method": ["avg", "max"],
    "video.sample_method": ["evenly", "random", "all"],
}

RANGES = {
    "data.split_id": AT_LEAST_0,
    "data.workers": (0, 1024),  # processes; more than any machine starts
    "data.height": (1, MOST_PIXELS),
    "data.width": (1, MOST_PIXELS),
    "data.k_tfm": AT_LEAST_1,
    "data.norm_std": ABOVE_0,
    "sampler.num_instances": AT_LEAST_1,
    "sampler.num_cams": AT_LEAST_1,
    "sampler.num_datasets": AT_LEAST_1,
    "video.seq_len": AT_LEAST_1,
    "train.lr": ABOVE_0,
    "train.weight_decay": AT_LEAST_0,
    "train.max_epoch": AT_LEAST_0,
    "train.start_epoch": AT_LEAST_0,
    "train.batch_size": Range(2, text="at least 2, since batch norm takes its statistics over the batch"),
    "train.fixbase_epoch": AT_LEAST_0,
    "train.base_lr_mult": AT_LEAST_0,
    "train.stepsize": AT_LEAST_0,
    "train.gamma": SHARE,
    "train.seed": (0, 2**32 - 1),
    "sgd.momentum": SHARE,
    "rmsprop.alpha": SHARE,
    "adam": BELOW_1,
    "loss.triplet": AT_LEAST_0,
    "test.batch_size": AT_LEAST_1,
    "test.ranks": (1, 50),
    "test.start_eval": AT_LEAST_0,
    "test.visrank_topk": AT_LEAST_1,
    "prompts.temperature": ABOVE_0,
    "backbone.drop_path": SHARE,
    "backbone.semantic_weight": SHARE,
    "backbone.wgff.lr": ABOVE_0,
    "backbone.wgff.lsnet_lr": AT_LEAST_0,
    "synthocc.seed": AT_LEAST_0,
    "synthocc.severity": AT_LEAST_0,
    "synthocc.group_size": AT_LEAST_1,
    "synthocc.ratio": SHARE,
    "masks.noise_strength": SHARE,
    "eval.rerank_k1": AT_LEAST_1,
    "eval.rerank_k2": AT_LEAST_1,
    "eval.rerank_lambda": SHARE,
    "ensemble.held_out": SHARE,
    "run.threads": (0, 1024),
    "run.clip_grad_norm": AT_LEAST_0,
    "train.micro_batch": AT_LEAST_0,
    "run.save_every": AT_LEAST_1,
}

# Keys that torchreid's published yaml files still carry and its code no longer reads.
OBSOLETE = frozenset({"test.visactmap"})

# Keys and sections of version 0.1 -> what they are now; files and command lines may use them for one version.
RENAMED_KEYS = {"mixing": "ensemble"}

# What `default_config` sets with a backbone: the image size, patch stride, initial weights and pixel constants it was
# made for (CLIP-ReID's constants for the ViTs, ImageNet's for RN50; neither is CLIP's own). A hybrid has those of the
# CLIP tower that is its default.
MADE_FOR: dict[str, dict[str, Any]] = {
    "clip_vit_b16": {"data.norm_mean": [0.5] * 3, "data.norm_std": [0.5] * 3},
    "wgff": {"data.norm_mean": [0.5] * 3, "data.norm_std": [0.5] * 3},
    "clip_rn50": {},
    "clip_vit_l14": {"data.norm_mean": [0.5] * 3, "data.norm_std": [0.5] * 3, "backbone.stride": 14},
    "eva02_clip_b16": {
        "data.norm_mean": [0.4815, 0.4578, 0.4082],
        "data.norm_std": [0.2686, 0.2613, 0.2758],
        "backbone.weights": "open_clip:merged2b_s8b_b131k",
    },
    "vit_b16": {
        "data.norm_mean": [0.5] * 3,
        "data.norm_std": [0.5] * 3,
        "backbone.weights": "timm",
        "backbone.sie_coefficient": 3.0,
    },
    **dict.fromkeys(
        ("vit_s16", "solider_swin_t", "solider_swin_s", "solider_swin_b"),
        {"data.norm_mean": [0.5] * 3, "data.norm_std": [0.5] * 3, "backbone.weights": "none"},
    ),
    **{
        name: {
            "data.norm_mean": [0.5] * 3,
            "data.norm_std": [0.5] * 3,
            "data.height": 128,
            "data.width": 64,
            "backbone.stride": stride,
            "backbone.weights": "embedded",
            "prompts.clip": "clip_vit_tiny",
            "prompts.weights": "embedded",
        }
        for name, stride in (("vit_mini", 8), ("solider_swin_mini", 16))
    },
    "clip_vit_tiny": {
        "data.norm_mean": [0.5] * 3,
        "data.norm_std": [0.5] * 3,
        "data.height": 128,
        "data.width": 64,
        "backbone.stride": 8,
        "backbone.weights": "embedded",
    },
}
