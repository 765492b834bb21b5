"""Every file of configs/: it loads, says what it is, states its whole recipe, and builds at full size."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from occplug.config import default_config, load_config, save_config
from occplug.config.files import flatten
from occplug.errors import ConfigError
from occplug.method import build_method
from occplug.transforms import build_pipeline

FOLDER = Path(__file__).parents[2] / "configs"
FILES = sorted(FOLDER.glob("*.yaml"))
STEMS = [file.stem for file in FILES]

# mAP / Rank-1 as CLIP-ReID's authors published them
PUBLISHED = """
                          msmt17       market       duke         occduke
clip_reid_rn50_baseline   60.7 / 82.1  88.1 / 94.7  79.3 / 88.6  47.4 / 54.2
clip_reid_rn50            63.0 / 84.4  89.8 / 95.7  80.7 / 90.0  53.5 / 61.0
clip_reid_baseline        66.1 / 84.4  86.4 / 93.3  80.0 / 88.8  53.5 / 60.8
clip_reid                 73.4 / 88.7  89.6 / 95.5  82.5 / 90.0  59.5 / 67.1
clip_reid_sie_olp         75.8 / 89.7  90.5 / 95.4  83.1 / 90.8  60.3 / 67.2
"""
# ... and ProFD's (tables 1 and 2)
PROFD = {
    "profd_occduke": "62.8 / 70.8",
    "profd_occreid": "88.5 / 91.1",
    "profd_pduke": "83.7 / 91.7",
    "profd_market": "90.0 / 95.1",
    "profd_duke": "83.2 / 91.7",
    "profd_s12_occduke": "63.1 / 70.6",
    "profd_s12_occreid": "90.3 / 92.3",
    "profd_s12_pduke": "84.7 / 92.8",
}
# ... and what is known of DPL-ReID's
DPL = {
    "dpl_reid_occduke": "67.2 / -",
    "dpl_reid_occreid": "- / 94.9",
    "dpl_reid_pduke": "- / 94.5",
    "dpl_reid_occmarket": "- / 86.6",
}
# ... and torchreid's of its osnet_x1_0
OSNET = {"osnet_x1_0_market": "82.6 / 94.2", "osnet_x1_0_duke": "70.2 / 87.0", "osnet_x1_0_msmt17": "43.8 / 74.9"}
# ... and what DPM++'s tables I and II print, DPM and DPM-SPT among it
DPM_FIGURES = """
          occduke      occreid      market       duke
dpm       61.8 / 71.4  79.7 / 85.5  89.7 / 95.5  82.6 / 91.0
dpm_spt   63.0 / 74.7  81.1 / 87.8  89.4 / 95.5  82.4 / 91.1
dpmpp     67.2 / 76.9  91.8 / 95.4  91.2 / 96.1  83.9 / 91.4
"""


def _rows(text):
    sets, *lines = (re.split(r"\s{2,}", line.strip()) for line in text.strip().splitlines())
    return {f"{recipe}_{data}": figure for recipe, *figures in lines for data, figure in zip(sets, figures)}


ROWS = _rows(PUBLISHED) | PROFD | DPL | OSNET | _rows(DPM_FIGURES)

# as AG-ReID's authors published them, with SIE and overlapping patches where nothing else is said
AG_REID = {
    "ag_reid_sie_olp_occduke": "63.2 / 70.4",
    "ag_reid_sie_olp_occreid": "87.6 / 90.1",
    "ag_reid_sie_olp_pduke": "84.5 / 91.8",
    "ag_reid_sie_olp_msmt17": "76.7 / 90.1",
    "ag_reid_sie_olp_market": "90.8 / 95.8",
    "ag_reid_sie_olp_duke": "83.3 / 91.0",
    "ag_reid_rn50_occduke": "55.1 / 63.7",
}
ROWS |= AG_REID

# ... and what is published for the plain human-centric backbones, by their authors; SOLIDER on Occluded-Duke by others
HUMAN = """
                       occduke      market       msmt17
baseline_personvit     72.2 / 79.8  95.0 / 97.6  80.8 / 92.0
baseline_personvit_s   65.2 / 73.2  92.9 / 96.8  74.3 / 89.2
baseline_solider       61.9 / 71.2  93.9 / 96.9  77.1 / 90.7
"""
ROWS |= _rows(HUMAN)
ROWS |= {"baseline_solider_s_market": "93.3 / 96.6", "baseline_solider_s_msmt17": "76.9 / 90.8"}
ROWS |= {"baseline_solider_t_market": "91.6 / 96.1", "baseline_solider_t_msmt17": "67.4 / 85.9"}
OF_OTHERS = [stem for stem in STEMS if re.search(r"_(personvit|solider|mini)_", stem)]  # on towers without texts
OF_CLIP = [stem for stem in STEMS if stem not in OF_OTHERS]

# training identities and cameras, by the last word of the file name
TRAINING = {
    "occduke": (702, 8),
    "occreid": (751, 6),  # Market-1501
    "pduke": (665, 2),
    "market": (751, 6),
    "duke": (702, 8),
    "msmt17": (1041, 15),
    "occmarket": (751, 6),  # identities of Market-1501; the set has at most those
    "synthocc": (150, 6),
}


@pytest.fixture(scope="module")
def configs():
    return {file.stem: load_config(file) for file in FILES}


def test_every_published_row_and_every_data_set_has_a_config():
    recipes = {line.split()[0] for line in PUBLISHED.strip().splitlines()[1:]}
    expected = {f"{recipe}_{data}" for recipe in recipes for data in TRAINING if data not in ("synthocc", "occmarket")}
    expected |= {"clip_reid_synthocc", "clip_reid_baseline_synthocc", "osnet_x0_25_synthocc"}
    expected |= {f"ag_reid_{data}" for data in TRAINING if data != "occmarket"} | set(AG_REID)
    assert set(STEMS) >= expected and set(STEMS) >= set(ROWS)


@pytest.mark.parametrize("file", FILES, ids=STEMS)
def test_the_header_says_how_to_run_it_and_what_to_expect(file):
    header = [line for line in file.read_text().splitlines() if line.startswith("# ")]
    assert f"# Run: python tools/train.py --config-file configs/{file.name} --root data" in header
    figures = re.search(
        r"^# Published mAP / Rank-1: (not published|(?:\d+\.\d|-) / (?:\d+\.\d|-))", "\n".join(header), re.M
    )
    assert figures and figures[1] == ROWS.get(file.stem, "not published")
    assert file.stem not in ROWS or any(line.startswith("# Source: ") for line in header)
    assert any(re.match(r"# (Not measured|Measured) here", line) for line in header)


@pytest.mark.parametrize("stem", STEMS)
def test_it_saves_to_its_own_folder_and_reloads_equal(configs, stem, tmp_path):
    cfg = configs[stem]
    assert cfg.data.save_dir == f"log/{stem}"
    save_config(cfg, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == cfg


def test_no_two_configs_are_the_same_run(configs):
    def run(cfg):
        return {key: value for key, value in flatten(cfg) if key != "data.save_dir"}

    twins = [(a, b) for a in configs for b in configs if a < b and run(configs[a]) == run(configs[b])]
    assert twins == []


VIT, RN50 = [0.5, 0.5, 0.5], [0.485, 0.456, 0.406]
# backbone, prompts, pixel mean, stage 1's epochs; stage 2's epochs, lr, weight decay, warm-up factor, steps, ID weight
RECIPES = {
    "clip_reid": ("clip_vit_b16", True, VIT, 120, 60, 5e-6, 1e-4, 0.1, [30, 50], 0.25),
    "clip_reid_sie_olp": ("clip_vit_b16", True, VIT, 120, 60, 5e-6, 1e-4, 0.1, [30, 50], 0.25),
    "clip_reid_rn50": ("clip_rn50", True, RN50, 60, 120, 3.5e-4, 5e-4, 0.01, [40, 70], 1.0),
    "clip_reid_baseline": ("clip_vit_b16", False, VIT, 120, 60, 5e-6, 1e-4, 0.1, [30, 50], 1.0),
    "clip_reid_rn50_baseline": ("clip_rn50", False, RN50, 60, 120, 3.5e-4, 5e-4, 0.01, [40, 70], 1.0),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipes_are_the_official_ones(configs, recipe):
    for stem, cfg in configs.items():
        if stem.rsplit("_", 1)[0] == recipe and not stem.endswith("synthocc"):
            s1, s2 = cfg.method.stage1, cfg.method.stage2
            stage2 = (s2.epochs, s2.lr, s2.weight_decay, s2.warmup_factor, s2.steps, s2.weights.loss_id)
            got = (cfg.backbone.name, cfg.method.prompts, cfg.data.norm_mean, s1.epochs, *stage2)
            assert got == RECIPES[recipe], stem
            is_sie = recipe == "clip_reid_sie_olp"
            assert (cfg.backbone.sie_camera, cfg.backbone.stride) == ((True, 12) if is_sie else (False, 16)), stem
            assert (cfg.data.height, cfg.data.width, cfg.train.batch_size, cfg.train.seed) == (256, 128, 64, 1234), stem


# backbone, stage 1's epochs; stage 2's epochs, lr, weight decay, warm-up factor, steps, ID weight
AG_RECIPES = {
    "ag_reid": ("clip_vit_b16", 120, 60, 5e-6, 1e-4, 0.1, [30, 50], 0.25),
    "ag_reid_sie_olp": ("clip_vit_b16", 120, 60, 5e-6, 1e-4, 0.1, [30, 50], 0.25),
    "ag_reid_rn50": ("clip_rn50", 60, 120, 3.5e-4, 5e-4, 0.01, [40, 70], 1.0),
}


@pytest.mark.parametrize("recipe", AG_RECIPES)
def test_the_recipes_of_ag_reid_are_the_papers(configs, recipe):
    """Section 4.1.2, and CLIP-ReID's where it is silent (specification, section 6)."""
    found = {s: c for s, c in configs.items() if s.rsplit("_", 1)[0] == recipe and not s.endswith("synthocc")}
    for stem, cfg in found.items():
        s1, s2 = cfg.method.stage1, cfg.method.stage2
        stage2 = (s2.epochs, s2.lr, s2.weight_decay, s2.warmup_factor, s2.steps, s2.weights.loss_id)
        assert (cfg.backbone.name, s1.epochs, *stage2) == AG_RECIPES[recipe], stem
        assert (cfg.train.batch_size, s1.batch_size, s1.lr, s1.warmup_lr) == (32, 32, 3.5e-4, 1e-6), stem
        assert (s1.weights.loss_attr, s2.weights.loss_attr, cfg.method.template) == (1.0, 0.01, "attribute_d"), stem
        is_occluded = stem.endswith(("occduke", "occreid", "pduke"))
        assert cfg.method.noise_mask.method == ("otsu" if is_occluded else "none"), stem
        is_sie = recipe == "ag_reid_sie_olp"
        assert (cfg.backbone.sie_camera, cfg.backbone.stride) == ((True, 12) if is_sie else (False, 16)), stem
        assert cfg.method.test_cameras == (stem != "ag_reid_sie_olp_occreid"), stem
    assert found


@pytest.mark.parametrize("stem", [s for s in STEMS if s.endswith("_sie_olp_occreid")])
def test_the_cameras_of_occluded_reid_take_no_rows_of_market1501s(configs, stem):
    assert configs[stem].backbone.sie_camera and not configs[stem].method.test_cameras


# ---------------------------------------------------------------------- full size


def expected_parameters(cfg, num_classes: int, num_cameras: int) -> int:
    """Counted by hand from the sizes of OpenAI's towers (149,620,737 and 102,007,137 with the token table)."""
    height, width, stride = cfg.data.height, cfg.data.width, cfg.backbone.stride
    if cfg.backbone.name == "clip_rn50":
        feature, embed, text_width, text = 2048, 1024, 512, 38_393_344
        image = 38_316_896 + (height // 16 * (width // 16) + 1 - 50) * 2048
    elif cfg.backbone.name == "clip_vit_b16":
        feature, embed, text_width, text = 768, 512, 512, 38_131_200
        tokens = ((height - 16) // stride + 1) * ((width - 16) // stride + 1) + 1
        image = 86_192_640 + (tokens - 197) * 768
    else:
        feature, embed, text_width, text = 128, 96, 128, 617_216
        tokens = ((height - 8) // stride + 1) * ((width - 8) // stride + 1) + 1
        image = 1_243_648 + (tokens - 129) * 128
    cameras = num_cameras * feature if cfg.backbone.sie_camera else 0
    necks = (feature + embed) * (2 + num_classes)  # weight and bias of the batch norm, rows of the classifier
    if cfg.model.name == "ag_reid":
        tokens, width = 10, cfg.method.attributes.width  # attribute_d; four attention layers and two maps around them
        encoder = 4 * (4 * width**2 + 4 * width) + (embed + 1 + tokens) * width + (width + 1) * text_width
        return image + cameras + necks + text + num_classes * tokens * text_width + encoder
    prompts = text + num_classes * 4 * text_width if cfg.method.prompts else 0
    # a second tower (here of the same stride), its neck, and a weight for each channel of four blocks
    saliency = image + feature * (2 + num_classes) + 4 * feature + 1 if cfg.method.spt else 0
    return image + cameras + necks + prompts + saliency


@pytest.mark.parametrize("stem", [stem for stem in OF_CLIP if stem.startswith(("clip_reid", "ag_reid"))])
def test_it_builds_at_full_size(configs, stem):
    cfg = configs[stem]
    classes, cameras = TRAINING[stem.rsplit("_", 1)[1]]
    with torch.device("meta"):
        method = build_method(cfg, classes, cameras, pretrained=False)
    assert sum(parameter.numel() for parameter in method.parameters()) == expected_parameters(cfg, classes, cameras)
    wanted = {"stage1": cfg.method.get("prompts", True), "saliency": cfg.method.spt, "stage2": True}
    assert [stage.name for stage in method.stages()] == [name for name, is_wanted in wanted.items() if is_wanted]


PROFD_STEMS = [stem for stem in OF_CLIP if stem.startswith("profd")]


@pytest.mark.parametrize("stem", PROFD_STEMS)
def test_profd_follows_the_official_recipe(configs, stem):
    cfg, data = configs[stem], stem.rsplit("_", 1)[1]
    if data == "synthocc":
        return
    o = cfg.method.train
    assert cfg.backbone.stride == (12 if "_s12" in stem else 16)
    assert (o.epochs, o.optimizer, o.warmup_epochs, o.steps) == (60, "adamw", 10, [30, 50])
    assert (o.lr, o.weight_decay) == ((4e-5, 5e-4) if data == "occduke" else (5e-5, 1e-4))
    assert ("random_flip" in cfg.data.transforms, "color_jitter" in cfg.data.transforms) == (
        data != "occduke",
        data == "occreid",
    )
    assert cfg.amp.dtype == "fp32"


@pytest.mark.parametrize("stem", [s for s in PROFD_STEMS if s.endswith(("occduke", "synthocc"))])
def test_profd_builds_at_full_size(configs, stem):
    cfg = configs[stem]
    classes, cameras = TRAINING[stem.rsplit("_", 1)[1]]
    with torch.device("meta"):
        method = build_method(cfg, classes, cameras, pretrained=False)
    tiny = cfg.backbone.name == "clip_vit_tiny"
    d, patch, width, text, word = (96, 8, 128, 617_216, 128) if tiny else (512, 16, 768, 38_131_200, 512)
    tokens = ((cfg.data.height - patch) // cfg.backbone.stride + 1) * (
        (cfg.data.width - patch) // cfg.backbone.stride + 1
    ) + 1
    image = 1_243_648 + (tokens - 129) * width if tiny else 86_192_640 + (tokens - 197) * width
    layer = 4 * (4 * d * d + 4 * d) + d * d + d + 8 * d + 8 * d * d + 5 * d
    decoder = 2 * layer + 3 * (d * d + d) + 8 * d
    necks = 6 * d * (2 + classes)
    heads = 5 * (d + 1)
    expected = image + text + d + 6 * 16 * word + decoder + necks + heads
    assert sum(parameter.numel() for parameter in method.parameters()) == expected


def test_the_soft_margin_is_null(configs):
    assert load_config(FOLDER / "clip_reid_occduke.yaml", ["method.stage2.margin", "null"]).method.stage2.margin is None


# ---------------------------------------------------------------------- DPM and DPM++

DPM_STEMS = [stem for stem in OF_CLIP if stem.startswith("dpm")]


def test_dpm_configs_exist_for_every_published_figure_and_synthocc():
    data_sets = ("occduke", "occreid", "market", "duke", "synthocc")
    published = {f"{recipe}_{data}" for recipe in ("dpm", "dpm_spt", "dpmpp") for data in data_sets}
    assert set(DPM_STEMS) == published | {f"{m}_{data}" for m in ("dpm", "dpmpp") for data in ("pduke", "msmt17")}


@pytest.mark.parametrize("stem", [stem for stem in DPM_STEMS if not stem.endswith("synthocc")])
def test_dpm_configs_have_the_recipe_of_the_specification(configs, stem):
    cfg, data, is_clip = configs[stem], stem.rsplit("_", 1)[1], stem.startswith("dpmpp")
    m, t = cfg.method, cfg.method.train
    occluded = data in ("occduke", "pduke")
    assert cfg.backbone.stride == (11 if occluded and not is_clip else 12)
    # on P-DukeMTMC cameras are occluded and whole body: an embedding would give the answer away
    assert (cfg.backbone.sie_camera, cfg.backbone.sie_coefficient) == (data != "pduke", 1.0 if is_clip else 3.0)
    assert (t.scale, t.angular_margin) == (30.0, 0.5 if occluded else 0.3)
    assert t.weights.loss_hem == (0.01 if data == "occreid" else 0.1)
    assert ("color_jitter" in cfg.data.transforms) == (data == "occreid")
    assert m.mask_levels == m.saliency.levels == [2, 4, 10, 12] and m.spt == (stem != f"dpm_{data}")
    if is_clip:
        assert (m.semantic.epochs, t.epochs, t.steps, t.lr, t.module_lr) == (100, 60, [20, 40], 5e-6, 3.5e-4)
        assert (t.weights.loss_id, t.weights.loss_mask, t.weights.loss_coarse, t.margin) == (1.0, 1.0, 1.0, 0.3)
    else:
        assert (t.epochs, t.optimizer, t.lr, t.alternating) == (
            50 if data in ("market", "occreid") else 150,
            "sgd",
            0.008,
            True,
        )
        assert (t.weights.loss_id, t.weights.loss_mask, t.margin, m.saliency.epochs) == (0.5, 0.5, None, 120)


@pytest.mark.parametrize("stem", DPM_STEMS)
def test_dpm_builds_at_full_size(configs, stem):
    """Parameters by hand: towers, 58.4 M of mask convolutions with their linear layer, prototypes, saliency net."""
    cfg = configs[stem]
    classes, cameras = TRAINING[stem.rsplit("_", 1)[1]]
    with torch.device("meta"):
        method = build_method(cfg, classes, cameras, pretrained=False)
    tiny, is_clip = stem.endswith("synthocc"), stem.startswith("dpmpp")
    width, patch = (128, 8) if tiny else (768, 16)

    def tower(stride):
        tokens = 1 + ((cfg.data.height - patch) // stride + 1) * ((cfg.data.width - patch) // stride + 1)
        if tiny:
            return 1_243_648 + (tokens - 129) * width
        return (86_192_640 if is_clip else 85_798_656) + (tokens - 197) * width

    conv = lambda into, out: (9 * into + 1) * out + 2 * out  # noqa: E731
    masks = conv(4 * width, 2 * width) + conv(2 * width, width) + conv(width, width) + width * width + width
    expected = tower(cfg.backbone.stride) + masks + width * (2 + classes)
    expected += cameras * width if cfg.backbone.sie_camera else 0
    expected += tower(patch) + 4 * width + 1 + width * (2 + classes) if cfg.method.spt else 0
    if is_clip:
        expected += 617_216 + classes * 4 * 128 if tiny else 38_131_200 + classes * 4 * 512
    assert sum(parameter.numel() for parameter in method.parameters()) == expected
    names = (["semantic"] if is_clip else []) + (["saliency"] if cfg.method.spt else []) + ["train"]
    assert [stage.name for stage in method.stages()] == names


def test_an_imagenet_tower_has_weights_of_its_own():
    with pytest.raises(ConfigError, match="backbone.weights is 'openai', which vit_b16 does not have"):
        load_config(FOLDER / "clip_reid_market.yaml", ["backbone.name", "vit_b16"])


# ---------------------------------------------------------------------- human-centric backbones

# tower, image height, drop path's section, base rate, warm-up's start and cosine's end
TOWERS = {
    "personvit": ("vit_b16", 256, 4e-4, 4e-6, 8e-7),
    "personvit_s": ("vit_s16", 256, 4e-4, 4e-6, 8e-7),
    "solider": ("solider_swin_b", 384, 2e-4, 2e-6, 4e-7),
    "solider_s": ("solider_swin_s", 384, 2e-4, 2e-6, 4e-7),
    "solider_t": ("solider_swin_t", 384, 8e-4, 8e-6, 1.6e-6),
}
OFFICIAL = [stem for stem in OF_OTHERS if not stem.endswith("synthocc")]


def test_every_recipe_on_a_human_centric_backbone_is_there_for_four_data_sets():
    recipes = [f"baseline_{tower}" for tower in TOWERS]
    recipes += ["dpm_personvit", "dpmpp_personvit", "profd_personvit", "clip_reid_solider", "dpl_reid_solider"]
    assert set(OFFICIAL) == {f"{r}_{data}" for r in recipes for data in ("occduke", "occreid", "market", "msmt17")}


@pytest.mark.parametrize("stem", OFFICIAL)
def test_rates_and_drop_path_are_those_of_the_official_fine_tunings(configs, stem):
    cfg = configs[stem]
    name, height, lr, start, end = TOWERS[re.search(r"(personvit|solider)(_[st](?=_))?", stem)[0]]
    o = cfg.method.stage2 if "stage2" in cfg.method else cfg.method.train
    assert (cfg.backbone.name, cfg.data.height, cfg.data.width, cfg.backbone.stride) == (name, height, 128, 16)
    warmup = 5 if stem == "baseline_personvit_market" else 20
    assert (o.epochs, o.optimizer, o.lr, o.weight_decay, o.bias_lr_factor) == (120, "sgd", lr, 1e-4, 2.0)
    assert (o.warmup_epochs, o.warmup_lr, o.min_lr, o.rate_lag, o.margin) == (warmup, start, end, 1, None)
    assert o.get("schedule", "cosine") == "cosine" and cfg.train.batch_size == 64 and cfg.train.seed == 1234
    assert (cfg.method.get("drop_path") or cfg.backbone.drop_path) == 0.1 and not cfg.backbone.sie_camera
    assert cfg.data.norm_mean == VIT and cfg.backbone.semantic_weight == 0.2
    if stem.startswith("baseline"):
        assert (o.weights.loss_id, o.weights.loss_tri, o.label_smoothing, cfg.method.neck) == (1, 1, 0.0, "before")
        assert (cfg.method.mask, cfg.method.hem, cfg.method.spt) == ("none", False, False)


@pytest.mark.parametrize("stem", [stem for stem in OF_OTHERS if stem.endswith(("occduke", "synthocc"))])
def test_those_on_other_towers_build_at_full_size(configs, stem):
    cfg = configs[stem]
    classes, cameras = TRAINING[stem.rsplit("_", 1)[1]]
    with torch.device("meta"):
        method = build_method(cfg, classes, cameras, pretrained=False)
    assert method.stages()[-1].epochs == (6 if stem.endswith("synthocc") else 120)


JITTERED = [file for file in FILES if "color_jitter" in load_config(file).data.transforms]


def share_without_black(names, cfg, pictures=60):
    """Share of flat grey pictures on which the transforms before the batch leave no black pixel."""
    pipeline = build_pipeline(
        names, 64, 32, cfg.data.norm_mean, cfg.data.norm_std, {"color_jitter": cfg.augment.color_jitter}
    )
    grey = Image.new("RGB", (32, 64), (128, 128, 128))
    torch.manual_seed(3)
    return sum(not (pipeline.per_image(grey) == 0).all(0).any() for _ in range(pictures)) / pictures


def test_jittered_configs_are_those_for_occluded_reid():
    stems = [file.stem for file in JITTERED]
    assert stems == [s for s in STEMS if re.match(r"(dpm|dpm_spt|dpmpp|profd|profd_s12)_occreid$", s)]


@pytest.mark.parametrize("file", [f for f in JITTERED if f.stem.startswith("dpm")], ids=lambda file: file.stem)
def test_dpm_jitters_colours_before_it_pads_so_that_borders_stay_black(file):
    """DPM's official code jitters right after the resize; jittered black would turn grey with the contrast."""
    cfg = load_config(file)
    names = cfg.data.transforms
    assert names[0] == "color_jitter" and names.index("pad_crop") > 0
    shifted = [name for name in names if name != "random_erase_pixel"]
    assert share_without_black(shifted, cfg) < 0.1  # a crop that was not shifted has no border
    late = ["random_flip", "pad_crop", "color_jitter"]
    assert share_without_black(late, cfg) > 0.3  # the test would see it


@pytest.mark.parametrize("file", [f for f in JITTERED if f.stem.startswith("profd")], ids=lambda file: file.stem)
def test_profd_jitters_colours_after_it_has_padded(file):
    names = load_config(file).data.transforms
    assert names.index("color_jitter") > names.index("pad_crop")


@pytest.mark.parametrize(
    ("method", "key", "message"),
    [
        ("clip_reid", "data.height", "it must be from 1 to 1024"),
        ("dpm", "data.width", "it must be from 1 to 1024"),
        ("clip_reid", "augment.pad_crop.padding", "it must be from 0 to 1024"),
        ("clip_reid", "augment.random_erase_pixel.attempts", "it must be from 1 to 10000"),
        ("clip_reid", "augment.rwoa.attempts", "it must be from 1 to 10000"),
        ("dpl_reid", "method.stage1.occ_views", "it must be from 1 to 1000"),
        ("profd", "method.decoder_layers", "it must be from 1 to 64"),
        ("profd", "method.context_tokens", "it must be from 1 to 64"),
    ],
)
def test_sizes_are_bounded_before_memory_is_taken(method, key, message):
    with pytest.raises(ConfigError, match=f"{key} is 1000000000; {message}"):
        default_config(method, None, [key, 10**9])
