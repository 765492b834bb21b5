"""Table files: every override is valid for every config it may meet, published figures are the papers', mistakes."""

import re
from pathlib import Path

import pytest

from occplug.config import load_config
from occplug.config.files import parse_yaml, read_settings
from occplug.errors import ConfigError
from occplug.evaluation import MASK_PLACES
from occplug.experiments.ablating import plan_rows
from occplug.experiments.ablations import RowNotAvailable, find_tables, load_tables, settings_of
from occplug.registry import BACKBONES, METHODS, TRANSFORMS, names
from tests.config.test_configs import ROWS

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted((CONFIGS / "ablations").glob("*.yaml"))


def configs_of(method):
    """Configs of `method` on CLIP's towers, by their text: its model may not be registered yet."""
    files = [file for file in sorted(CONFIGS.glob("*.yaml")) if not re.search(r"_(personvit|solider|mini)_", file.stem)]
    return [file for file in files if [s.value for s in read_settings(file) if s.key == "model.name"][-1:] == [method]]


CASES = [(file, table) for file in FILES for table in parse_yaml(file)["tables"]]


@pytest.mark.parametrize(("file", "name"), CASES, ids=[f"{file.stem}-{name}" for file, name in CASES])
def test_every_override_is_valid_for_every_config(file, name):
    table = load_tables(file)[name]
    if file.stem not in names(METHODS):
        pytest.skip(f"the method {file.stem} is not registered")
    assert (configs := configs_of(file.stem))
    reached = set()
    for config in configs:
        for row in table.rows.values():
            try:
                start, settings = settings_of(row, config, [])
            except RowNotAvailable:
                continue
            missing = [part for part in parts_of(settings) if part not in registered()]
            if missing:
                pytest.skip(f"not registered: {', '.join(missing)}")
            load_config(start, settings)
            reached.add(row.name)
    assert reached == set(table.rows)


def parts_of(settings):
    """Transforms and backbones that `settings` name."""
    chosen = {s.key: s.value for s in settings}
    return [*chosen.get("data.transforms", []), *([chosen["backbone.name"]] if "backbone.name" in chosen else [])]


def registered():
    return {*names(TRANSFORMS), *names(BACKBONES), "random_flip"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_two_rows_of_a_table_are_the_same(file):
    for table in load_tables(file).values():
        kinds = [(str(sorted(row.overrides.items(), key=str)), row.config) for row in table.rows.values()]
        assert len(set(kinds)) == len(kinds), table.name
        assert len({row.title for row in table.rows.values()}) == len(kinds), table.name


RECIPES = {"baseline": "clip_reid_baseline", "clip_reid": "clip_reid", "sie_olp": "clip_reid_sie_olp",
           "vit_baseline": "clip_reid_baseline", "vit": "clip_reid", "rn50": "clip_reid_rn50",
           "rn50_baseline": "clip_reid_rn50_baseline"}  # fmt: skip


@pytest.mark.parametrize("recipe", ["clip_reid", "clip_reid_rn50"])
@pytest.mark.parametrize("data", ["occduke", "market", "duke", "msmt17", "occreid", "pduke"])
@pytest.mark.parametrize("table", ["prompts", "backbone"])
def test_published_figures_stand_beside_the_config_they_belong_to(table, recipe, data):
    """A row that ends as the same recipe as a config shows that config's published figures, and no other ever."""
    given = CONFIGS / f"{recipe}_{data}.yaml"
    for row in load_tables(CONFIGS / "ablations/clip_reid.yaml")[table].rows.values():
        try:
            found = settings_of(row, given, [])
        except RowNotAvailable:
            assert row.name == "sie_olp" and ("rn50" in recipe or data == "occreid")
            continue
        cfg = load_config(found[0], found[1])
        shown = [str(cell.figures) for cell in row.published if [cell.target] == cfg.data.targets and cell.fits(cfg)]
        name = RECIPES[row.name]
        if table == "prompts" and "rn50" in recipe:
            name = name.replace("clip_reid", "clip_reid_rn50", 1)
        assert shown == ([ROWS[f"{name}_{data}"]] if f"{name}_{data}" in ROWS else []), row.name


def test_rows_for_other_configs_say_why_not():
    tables = load_tables(CONFIGS / "ablations/clip_reid.yaml")
    given = CONFIGS / "clip_reid_synthocc.yaml"
    with pytest.raises(RowNotAvailable, match="made for other configs: .*backbone.name is 'clip_vit_tiny'"):
        settings_of(tables["prompts"].rows["sie_olp"], given, [])
    with pytest.raises(RowNotAvailable, match="clip_reid_rn50_synthocc.yaml does not exist"):
        settings_of(tables["backbone"].rows["rn50"], given, [])


def test_dpl_reid_has_the_tables_of_its_spec():
    tables = load_tables(CONFIGS / "ablations/dpl_reid.yaml")
    assert list(tables) == [
        "components", "augmentation", "templates", "tokens", "ratio", "fusion", "text_weight", "readings", "backbone"
    ]  # fmt: skip
    texts = {
        name: [row.overrides.get(f"method.stage2.weights.loss_i2t_{kind}", 1.0) for kind in ("full", "occ")]
        for name, row in tables["text_weight"].rows.items()
    }
    assert texts == {"full_1": [1, 1], "full_2": [2, 1], "dual_half": [0.5, 0.5], "dual_1": [1, 1]}
    components = {name: row.overrides for name, row in tables["components"].rows.items()}
    switches = {(o["method.prompts"], o["data.transforms"][-1], o["backbone.name"]) for o in components.values()}
    assert len(switches) == 8  # base, three single ones, three pairs, all
    assert {o.get("method.stage1.occluder") for o in components.values() if o["method.prompts"] == "dual"} == {
        "random_erase_pixel", "rwoa"}  # fmt: skip
    texts = {name: row.overrides["method.template_occ"] for name, row in tables["tokens"].rows.items()}
    counts = {name: tuple(len(re.findall(rf"\b{token}\b", text)) for token in "XY") for name, text in texts.items()}
    assert counts == {"m4_n4": (4, 4), "m2": (2, 4), "m6": (6, 4), "m8": (8, 4),
                      "n0": (4, 0), "n1": (4, 1), "n2": (4, 2), "n8": (4, 8)}  # fmt: skip
    ratios = [row.overrides["augment.rwoa.prob"] for row in tables["ratio"].rows.values()]
    assert ratios == [0, 0.1, 0.3, 0.5, 0.7, 0.9]


# mAP, Rank-1, -5 and -10 on Occluded-Duke in tables 4 to 6 of AG-ReID's paper
AG_REID = """
components  baseline     60.0 67.8 80.1 85.2
components  at           62.4 69.7 81.7 86.2
components  ap           62.2 69.2 81.9 86.3
components  full         63.2 70.4 82.4 86.4
template    default      62.2 69.2 81.9 86.3
template    longer       62.0 69.9 82.1 86.2
template    random       62.1 69.5 81.6 86.1
template    attribute_a  62.6 69.8 82.4 86.2
template    attribute_b  63.0 70.5 82.0 86.5
template    attribute_c  62.8 69.9 82.6 86.1
template    attribute_d  63.2 70.4 82.4 86.4
threshold   p50          61.9 69.9 82.7 86.0
threshold   p75          62.5 70.6 82.5 86.3
threshold   p90          62.8 70.5 82.3 86.0
threshold   otsu         63.2 70.4 82.4 86.4
"""


def shown_by(row, given):
    """The published figures beside `row` over the config `given`, and that row's config."""
    file, settings = settings_of(row, given, [])
    cfg = load_config(file, settings)
    cells = [cell.figures for cell in row.published if [cell.target] == cfg.data.targets and cell.fits(cfg)]
    return [[cell.figures[key] for key in ("mAP", "rank1", "rank5", "rank10")] for cell in cells], cfg


def test_ag_reid_has_the_tables_of_its_paper():
    tables = load_tables(CONFIGS / "ablations/ag_reid.yaml")
    given = CONFIGS / "ag_reid_sie_olp_occduke.yaml"
    expected = {(line.split()[0], line.split()[1]): line.split()[2:] for line in AG_REID.strip().splitlines()}
    rows = {(name, row): tables[name].rows[row] for name in ("components", "template", "threshold")
            for row in tables[name].rows}  # fmt: skip
    assert rows.keys() - expected.keys() == {("threshold", "none")}
    for key, row in rows.items():
        figures, cfg = shown_by(row, given)
        assert figures == ([[float(figure) for figure in expected[key]]] if key in expected else []), key
        switches = (cfg.method.template, cfg.method.attributes.enabled, cfg.method.noise_mask.method)
        assert switches == {"components": {"baseline": ("default", False, "otsu"), "at": ("attribute_d", False, "otsu"),
                                           "ap": ("default", True, "otsu"), "full": ("attribute_d", True, "otsu")},
                            "template": {key[1]: (key[1], True, "otsu")},
                            "threshold": {key[1]: ("attribute_d", True, key[1])}}[key[0]][key[1]]  # fmt: skip


def test_profd_has_the_tables_of_its_paper():
    tables = load_tables(CONFIGS / "ablations/profd.yaml")
    assert list(tables) == ["decoder", "banks", "losses", "momentum", "masks", "visibility", "readings"]
    given = CONFIGS / "profd_occduke.yaml"
    table3 = {"wap": [62.4, 70.1], "sea": [62.6, 70.3], "spa": [62.8, 70.5], "hybrid": [62.8, 70.8], "mask": None}
    for name, row in tables["decoder"].rows.items():
        figures, cfg = shown_by(row, given)
        assert cfg.method.decoder == name
        assert [cell[:2] for cell in figures] == ([table3[name]] if table3[name] else [])
        s12 = [cell[:2] for cell in shown_by(row, CONFIGS / "profd_s12_occduke.yaml")[0]]
        assert s12 == ([[63.1, 70.6]] if name == "hybrid" else [])  # table 1; table 3 is of stride 16
    assert [row.overrides["method.bank"] for row in tables["banks"].rows.values()] == ["none", "global", "part", "both"]
    weights = {name: shown_by(row, given)[1].method.train.weights for name, row in tables["losses"].rows.items()}
    on = {name: [bool(w[f"loss_{term}"]) for term in ("align", "div", "attn")] for name, w in weights.items()}
    assert on == {"none": [False, False, True], "none_official": [False, False, False], "align": [True, False, True],
                  "div": [False, True, True], "both": [True, True, True], "no_attn": [False, True, False]}  # fmt: skip
    for row in [*tables["masks"].rows.values(), *tables["visibility"].rows.values()]:
        trained = {k: v for k, v in row.overrides.items() if k not in ("method.test_visibility", "method.vis_floor")}
        of = tables["masks" if row.name.endswith(("_all", "_even")) else "visibility"].rows.get(row.tests, row)
        assert trained.items() <= of.overrides.items()  # a row that only tests may not claim another training
    assert sum(row.tests is not None for row in tables["masks"].rows.values()) == 6
    momenta = [(o["method.m_g"], o["method.m_p"]) for o in (r.overrides for r in tables["momentum"].rows.values())]
    others = (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
    assert momenta == [(0.2, 0.2), *((m, 0.2) for m in others), *((0.2, m) for m in others)]


AG_CONFIGS = sorted(file.stem for file in CONFIGS.glob("ag_reid*.yaml"))


@pytest.mark.parametrize("stem", AG_CONFIGS)
def test_the_complete_ag_reid_shows_its_configs_figures_and_the_base_clip_reids(stem):
    rows = load_tables(CONFIGS / "ablations/ag_reid.yaml")["components"].rows
    for row, key in (("full", stem), ("baseline", stem.replace("ag_reid", "clip_reid"))):
        figures, _ = shown_by(rows[row], CONFIGS / f"{stem}.yaml")
        if key == "clip_reid_sie_olp_occduke":
            assert figures == [[60.0, 67.8, 80.1, 85.2]]  # the paper's own; CLIP-ReID's is 60.3 / 67.2
        elif stem not in ROWS:
            assert figures == []  # published with SIE and OLP alone
        else:
            assert [f"{mAP} / {rank1}" for mAP, rank1, *_ in figures] == ([ROWS[key]] if key in ROWS else []), row


# Rank-1, Rank-5, Rank-10 and mAP of DPM++'s tables III (CLIP, then ViT) to VII, in the order of their rows
DPMPP = {
    "components": """71.2 82.9 87.9 63.2  71.1 84.2 88.2 63.4  73.3 86.7 90.1 65.2  75.2 87.0 90.5 65.9
                     74.0 85.7 89.5 65.9  74.3 85.5 89.5 66.2  74.3 85.7 89.6 66.4  76.9 88.2 90.7 67.2""",
    "masking": """73.9 86.2 89.4 66.3  74.3 85.7 89.6 66.4  73.9 85.9 89.1 66.0
                  73.7 85.9 89.7 66.4  73.8 85.4 89.1 66.3  73.8 85.4 89.1 66.3""",
    "mask_weight": "73.1 85.1 89.5 65.4  73.1 85.3 89.0 66.1  74.3 85.7 89.6 66.4  74.2 85.3 89.3 66.2",
    "diversity_weight": "73.7 85.6 89.4 65.8  73.7 85.0 89.0 66.2  74.3 85.7 89.6 66.4  73.1 85.7 89.0 65.9",
    "prototypes": "75.7 87.3 90.4 66.1  76.9 88.2 90.7 67.2  76.2 88.0 91.1 67.2",
    "random_erasing": "71.2 82.9 87.9 63.1  75.0 86.8 90.0 63.6  75.2 87.0 90.5 65.9",
}
DPM = """60.7 77.0 82.5 53.0  65.3 80.4 85.4 55.8  66.6 81.6 86.7 56.5  68.6 82.8 87.5 57.4
         70.1 82.8 86.9 59.9  71.0 82.9 87.2 61.0  71.4 83.7 87.4 61.8  74.7 86.0 89.8 63.0"""


@pytest.mark.parametrize(("method", "name", "told"), [("dpmpp", *item) for item in DPMPP.items()]
                         + [("dpm", "components", DPM)])  # fmt: skip
def test_dpms_published_figures_are_the_papers(method, name, told):
    table = load_tables(CONFIGS / f"ablations/{method}.yaml")[name]
    given = CONFIGS / f"{method}_occduke.yaml"
    if method == "dpm":
        cells = [
            c for row in table.rows.values() for c in row.published if c.target == "occluded_duke"
        ]  # of two recipes
        found = [[cell.figures.figures[key] for key in ("rank1", "rank5", "rank10", "mAP")] for cell in cells]
    else:
        found = [[*figures[1:], figures[0]] for row in table.rows.values() for figures in shown_by(row, given)[0]]
    assert sum(found, []) == [float(figure) for figure in told.split()]


# What the rows of DPM++'s and DPM's tables switch, over what the method's config has
TRANSFER = {"spt": True, "mask": "none", "hem": False}
COMPONENTS = {
    "baseline": {"spt": False, "mask": "none", "hem": False},
    "spt": TRANSFER | {"select": "random"},
    "spt_oiou": TRANSFER | {"roll": False},
    "spt_oiou_mr": TRANSFER,
    "dpm": {"spt": False, "levels": [-1], "hem": False},
    "dpm_hmg": {"spt": False, "hem": False},
    "dpm_hmg_hem": {"spt": False},
    "full": {"spt": True},
    "again": {"spt": True},
}
SWITCHES = {
    ("dpm", "components"): COMPONENTS,
    ("dpmpp", "components"): COMPONENTS,
    ("dpmpp", "masking"): {place: {"spt": False, "mask": place} for place in MASK_PLACES},
    ("dpmpp", "mask_weight"): {f"m{n}": {"spt": False, "lambda1": n / 100} for n in (0, 50, 100, 150)},
    ("dpmpp", "diversity_weight"): {f"h{n:02}".replace("h00", "h0"): {"spt": False, "lambda2": n / 100}
                                    for n in (0, 5, 10, 20)},
    ("dpmpp", "prototypes"): {"none": {"spt": True, "mask": "none"}, "visual": {"spt": True},
                              "text": {"spt": True, "prototypes": "text"}},
    ("dpmpp", "random_erasing"): {"erasing": COMPONENTS["baseline"], "spt": TRANSFER | {"erasing": 0.0},
                                  "both": TRANSFER},
    ("dpmpp", "oiou"): {f"o{n}": TRANSFER | {"alpha1": n / 100} for n in (50, 60, 70, 80, 90)},
    ("dpmpp", "ranks"): {f"r{n}": TRANSFER | {"alpha2": n / 100} for n in (5, 10, 20, 30)},
}  # fmt: skip


def switched(cfg):
    o = cfg.method
    found = {"spt": o.spt, "mask": o.mask, "levels": list(o.mask_levels), "hem": o.hem, "select": o.transfer.select,
             "roll": o.transfer.roll, "alpha1": o.transfer.alpha1, "alpha2": o.transfer.alpha2,
             "lambda1": o.train.weights.loss_mask, "lambda2": o.train.weights.loss_hem,
             "erasing": cfg.augment.random_erase_pixel.prob}  # fmt: skip
    return found | ({"prototypes": o.prototypes} if "prototypes" in o else {})


@pytest.mark.parametrize(("method", "name"), SWITCHES)
def test_dpms_rows_are_what_the_papers_tables_switch(method, name):
    given = CONFIGS / f"{method}_occduke.yaml"
    common = {"mask": "proto_pre", "levels": [2, 4, 10, 12], "hem": True, "select": "oiou", "roll": True, "alpha1": 0.7,
              "alpha2": 0.1, "lambda1": 1.0 if method == "dpmpp" else 0.5, "lambda2": 0.1, "erasing": 0.5}  # fmt: skip
    common |= {"prototypes": "visual"} if method == "dpmpp" else {}
    found = {row.name: switched(load_config(*settings_of(row, given, [])))
             for row in load_tables(CONFIGS / f"ablations/{method}.yaml")[name].rows.values()}  # fmt: skip
    assert found == {row: common | changes for row, changes in SWITCHES[method, name].items()}


COMPLETE = [  # config's stem up to the data set, table, row that is the config itself
    ("dpl_reid", "components", "all"), ("profd", "decoder", "hybrid"), ("dpm_spt", "components", "full"),
    ("dpm", "components", "dpm_hmg_hem"), ("dpmpp", "components", "full"),
]  # fmt: skip


@pytest.mark.parametrize(
    "stem",
    sorted(  # a Swin has no head diversity, and WGFF is around CLIP's towers alone
        file.stem for file in CONFIGS.glob("[dp]*.yaml") if not re.search(r"_(solider|swin_mini)_", file.stem)
    ),
)
def test_the_complete_method_shows_its_configs_figures(stem):
    recipe, table, row = next(case for case in COMPLETE if stem.startswith(f"{case[0]}_"))
    method = "dpm" if recipe == "dpm_spt" else recipe
    rows = load_tables(CONFIGS / f"ablations/{method}.yaml")[table].rows
    assert rows[row].published is not None
    figures, _ = shown_by(rows[row], CONFIGS / f"{stem}.yaml")
    told = [" / ".join("-" if value is None else str(value) for value in each[:2]) for each in figures]
    assert told == ([ROWS[stem]] if stem in ROWS else [])


def test_dpms_figures_stand_beside_their_own_recipe_alone():
    table, given = load_tables(CONFIGS / "ablations/dpm.yaml")["components"], CONFIGS / "dpm_occduke.yaml"
    recipe = ["backbone.stride", 16, "backbone.sie_camera", False, "method.train.epochs", 120]
    for options, expected in (([], ["dpm", "dpm_hmg", "dpm_hmg_hem", "full"]),
                              (recipe, ["baseline", "spt", "spt_oiou", "spt_oiou_mr"])):  # fmt: skip
        cfg = load_config(given, options)
        published = [row for row in table.rows.values() if row.published]
        assert [row.name for row in published if row.published[0].fits(cfg)] == expected


# ---------------------------------------------------------------- the file's own mistakes

GOOD = """
method: clip_reid
tables:
  one:
    title: One
    source: nowhere
    baseline: a
    rows:
      a: {}
      b: {set: {method.prompts: False, backbone.stride: "${data.workers}"}}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tables.yaml"
    path.write_text(GOOD)
    return path


def test_a_reference_takes_the_configs_value(file):
    row = load_tables(file)["one"].rows["b"]
    _, settings = settings_of(row, CONFIGS / "clip_reid_synthocc.yaml", ["data.workers", "8"])
    assert {s.key: s.value for s in settings} == {"method.prompts": False, "backbone.stride": 8}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    source: nowhere\n", "", "tables.yaml, table one: source is missing"),
        ("source: nowhere", "sauce: nowhere", "tables.yaml, table one: source is missing"),
        ("baseline: a", "baseline: c", "tables.yaml, table one: baseline is 'c', expected one of its rows: a, b"),
        ("a: {}", "a.1: {}", "row a.1: a row's name is a word of small letters"),
        (
            "a: {}",
            "a: {sets: {}}",
            "row a: there is no key 'sets'; there are: title, set, config, where, tests, after, published",
        ),
        ("a: {}", "a: {tests: c}", "row a: tests is 'c', expected a row with weights: b"),
        (
            "a: {}",
            "a: {after: a, set: {k: '${run}/x'}}",
            "row a: after is 'a', expected a row that trains every stage: b",
        ),
        ("a: {}", "a: {after: two.c, set: {k: '${run}/x'}}", "row a: after is 'two.c', but the tables are: one"),
        (
            "a: {}",
            "a: {after: one.a, set: {k: '${run}/x'}}",
            "row a: after is 'one.a', expected a row of one that trains every stage: b",
        ),
        ("a: {}", "a: {after: b}", "row a: after is 'b', but set names no ${run}"),
        ("a: {}", "a: {set: {k: '${run}/x'}}", "row a: set names ${run}, but after says no row"),
        ("a: {}", "a: {tests: b, after: b}", "row a: a row that tests 'b' trains nothing, so it has no after"),
        ("a: {}", "a: {set: 3}", "row a: set is 3, which is not of the expected kind"),
        ("a: {}", "a: {where: {train.seed: 1}}", "row a: where train.seed is 1, expected a list"),
        (
            "a: {}",
            "a: {published: [{target: t, mAP: 0.5, source: s}]}",
            "row a, published: rank1 is missing",
        ),
        (
            "a: {}",
            "a: {published: [{target: t, mAP: 590, rank1: null, source: s}]}",
            "row a, published: figures are per cent",
        ),
        ("method: clip_reid", "", "tables.yaml: method is missing"),
    ],
)
def test_mistakes_in_a_table_file_are_named(file, old, new, message):
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_tables(file)


def test_a_reference_to_nothing_is_named(file):
    file.write_text(GOOD.replace("data.workers", "data.wurkers"))
    with pytest.raises(ConfigError, match=r"row b: \$\{data.wurkers\} refers to a key that the config does not have"):
        settings_of(load_tables(file)["one"].rows["b"], CONFIGS / "clip_reid_synthocc.yaml", [])


def test_an_unknown_override_names_table_and_row(file):
    file.write_text(GOOD.replace("method.prompts", "method.promts"))
    given = CONFIGS / "clip_reid_synthocc.yaml"
    row = load_tables(file)["one"].rows["b"]
    with pytest.raises(
        ConfigError, match="tables.yaml, table one, row b: there is no key 'method.promts'; the nearest"
    ):
        load_config(given, settings_of(row, given, ["data.workers", "8"])[1])


def test_tables_of_another_method_are_refused(file):
    given = CONFIGS / "osnet_x0_25_synthocc.yaml"
    with pytest.raises(ConfigError, match="holds the tables of clip_reid, but .*osnet_x0_25_synthocc.yaml is a config"):
        find_tables(given, "osnet_x0_25", file)
    with pytest.raises(ConfigError, match="osnet_x0_25.yaml: there is no such file of tables for osnet_x0_25"):
        find_tables(given, "osnet_x0_25")


TABLES = [
    (method, name)
    for method in sorted(f.stem for f in FILES)
    for name in load_tables(CONFIGS / f"ablations/{method}.yaml")
]


@pytest.mark.parametrize("data", ["synthocc", "occduke"])
@pytest.mark.parametrize(("method", "name"), TABLES)
def test_every_row_can_be_built(method, name, data, tmp_path):
    """Parts of a method refuse options that its config lets pass, e.g. a point of fusion where no layer is."""
    given = CONFIGS / f"{method}_{data}.yaml"
    table = find_tables(given, method)[name]
    try:
        planned, left_out = plan_rows(table, None, given, ["train.seed", 1], 1, tmp_path / "config" / name)
    except ConfigError as error:
        assert str(error) == f"no row of table {name} can be trained from {given}"
        # of configs with a camera embedding, on Occluded-REID; of the tiny CLIP alone
        of_the_tiny_clip = data == "occduke" and name in ("norms", "length")
        assert of_the_tiny_clip or name == "cameras" or data == "synthocc"
    else:
        assert planned.keys() | left_out.keys() == table.rows.keys()
