"""Every key a config may have, with its default: torchreid's own tree, then ours in sections of their own.

torchreid keeps its default config in a script that its package does not contain, so its 68 keys are stated here; a
yaml file written for torchreid's `scripts/main.py` loads unchanged. `method` and `augment` are filled from the
`defaults` of the chosen method and of the registered transforms.
"""

__all__ = ["CORE", "DEFAULT_MODEL", "MADE_FOR", "OBSOLETE"]

DEFAULT_MODEL = "resnet50"

TORCHREID = {
    "model": {"name": DEFAULT_MODEL, "pretrained": True, "load_weights": "", "resume": ""},
    "data": {
        "type": "image",
        "root": "reid-data",  # folder that holds the data sets
        "sources": ["market1501"],
        "targets": ["market1501"],
        "workers": 4,  # processes that read images
        "split_id": 0,
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
    "train": {
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
    },
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
    "mixing": {"held_out": 0.0},  # share of the training persons left out of training, to choose mixing weights on
    "method": {},  # METHODS[model.name].defaults
    "augment": {},  # transform name -> its defaults
    "backbone": {
        "name": "clip_vit_b16",
        "weights": "openai",  # openai, timm (vit_b16), embedded (clip_vit_tiny), none, or a file
        "stride": 16,  # pixels between patches; smaller than the patch: overlapping patches
        "sie_camera": False,  # camera embedding on the class token
        "sie_coefficient": 1.0,
        # what a backbone alone has, in a section of its name; `clip` names the CLIP tower of a hybrid
        "wgff": {
            "clip": "clip_vit_b16",
            "lsnet": "lsnet_t",
            "weights": "none",  # file of a released LSNet; embedded (lsnet_mini); none: random, with a warning
            # [layer, source]: gate after that layer of the CLIP tower, guided by stage 1 to 4 of LSNet or `fused`, all
            # four; empty: a ViT's layers 1 and 2 by `fused`, a ResNet's layers 1 to 4 by the stage of that number
            "points": [],
            "mode": "gate",  # gate: multiply by 1 + w (2 sigmoid(u) - 1); add: add w u
            "lsnet_bn": "train",  # eval: LSNet's batch norms keep their stored statistics
            "lr": 3.5e-4,  # of the gates
            "lsnet_lr": 3.5e-5,
        },
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
        "scheme": "five_v",  # grouping of the channels into parts
        "interp": "bicubic",  # of mask files to the image's size
        "missing": "error",  # background: an image without a mask trains as background alone
        "cache": "",  # folder for one memory-mapped file per data set; empty: the files are read each time
        "noise": "none",  # eroded, shifted or swapped, on rendered masks and stripes
        "noise_strength": 0.05,  # eroded, shifted: in image heights; swapped: share of the parts
    },
    "amp": {"dtype": "fp32"},  # fp16 or bf16 on a GPU; a CPU always computes in fp32
    "eval": {"flip": False, "rerank_k1": 20, "rerank_k2": 6, "rerank_lambda": 0.3},
    "run": {
        "deterministic": False,
        "threads": 0,  # 0: torch's choice
        "clip_grad_norm": 0.0,  # 0: off
        "resume": False,
        "save_every": 1,  # epochs between resumable states
    },
}

CORE = {**TORCHREID, **OURS}

# Keys that torchreid's published yaml files still carry and its code no longer reads.
OBSOLETE = frozenset({"test.visactmap"})

# What `default_config` sets with a backbone: the image size, patch stride, initial weights and pixel constants it was
# made for (CLIP-ReID's constants for the ViTs, ImageNet's for RN50; neither is CLIP's own). A hybrid has those of the
# CLIP tower that is its default.
MADE_FOR = {
    "clip_vit_b16": {"data.norm_mean": [0.5] * 3, "data.norm_std": [0.5] * 3},
    "wgff": {"data.norm_mean": [0.5] * 3, "data.norm_std": [0.5] * 3},
    "clip_rn50": {},
    "vit_b16": {
        "data.norm_mean": [0.5] * 3,
        "data.norm_std": [0.5] * 3,
        "backbone.weights": "timm",
        "backbone.sie_coefficient": 3.0,
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
