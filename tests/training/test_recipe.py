"""What a run is told: recipe files, the command line, and mistakes in either."""

import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from ivt.training.arguments import parse_arguments
from ivt.training.initialization import build_model
from ivt.training.recipe import Recipe, RunPaths
from modeling_ivt import IVTConfig

ROOT = Path(__file__).parents[2]
RECIPE_FILES = sorted([*(ROOT / "ivt/recipes").glob("*.yaml"), *(ROOT / "ivt/recipes/reference").glob("*.yaml")])
NUMBERS = (int, float, int | None, float | None)
PRETRAIN = {"stage": "pretrain", "levels": ["sentence"], "num_views": 1, "cmpm_weight": 0.0, "itc_weight": 1.0}


def test_command_line_wins_over_recipe_file(tmp_path):
    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text("learning_rate: 1e-3\nlevels: [sentence]\nmodel:\n  hidden_size: 64\n  patch_stride: 8\n")
    arguments = ["--config", str(recipe_file), "--learning_rate", "0.5", "--model.hidden_size", "96", "--seed", "7"]
    paths, recipe, model_fields = parse_arguments(arguments)
    assert (recipe.learning_rate, recipe.levels, recipe.seed) == (0.5, ["sentence"], 7)
    assert model_fields == {"hidden_size": 96, "patch_stride": 8}
    assert paths == RunPaths()


@pytest.mark.parametrize(
    "misspelt, nearest",
    [
        ("learning_rat", "learning_rate"),
        ("model.hiden_size", "model.hidden_size"),
        ("hidden_size", "model.hidden_size"),  # of the model, and written among the recipe's
        ("test_at_the_end", "test_at_end"),
        ("dryrun", "dry_run"),
    ],
)
def test_misspelt_field_names_the_nearest(tmp_path, misspelt, nearest):
    with pytest.raises(ValueError, match=f"no field '{misspelt}'; the nearest is '{nearest}"):
        parse_arguments([f"--{misspelt}", "1"])
    recipe_file = tmp_path / "recipe.yaml"
    group, _, name = misspelt.rpartition(".")
    recipe_file.write_text(f"{group}:\n  {name}: 1\n" if group else f"{name}: 1\n")
    with pytest.raises(ValueError, match=f"the nearest is '{nearest}"):
        parse_arguments(["--config", str(recipe_file)])


def test_misspelt_field_of_a_file_is_an_error_whatever_its_value(tmp_path):
    for line in ("cached_chunks:", "3: 4", "config: other.yaml", "model: {hiden_size: null}"):
        (tmp_path / "recipe.yaml").write_text(f"{line}\n")
        with pytest.raises(ValueError, match="there is no field .*; the nearest is '"):
            parse_arguments(["--config", str(tmp_path / "recipe.yaml")])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--batch_size", "8.5"], "argument --batch_size.*: invalid int value: '8.5'; --help"),
        (["--test_at_end", "maybe"], "argument --test_at_end.*: .*got maybe"),
        (["--seed"], "argument --seed: expected one argument; --help"),
        (["--levels"], "argument --levels: expected at least one argument; --help"),
    ],
)
def test_value_of_another_kind_names_its_field(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(arguments)


def test_words_that_yaml_takes_for_truth_values_are_as_on_the_command_line(tmp_path):
    (tmp_path / "recipe.yaml").write_text("mixed_precision: no\ntest_at_end: no\nflip_words: true\nmax_steps: null\n")
    recipe = parse_arguments(["--config", str(tmp_path / "recipe.yaml")])[1]
    assert (recipe.mixed_precision, recipe.test_at_end, recipe.flip_words, recipe.max_steps) == (
        "no",
        False,
        True,
        None,
    )


def test_help_tells_every_field_and_its_default(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in (*Recipe.__dataclass_fields__, *RunPaths.__dataclass_fields__):
        assert f"--{name} " in text, name
    config = IVTConfig()
    for name in IVTConfig.__annotations__.keys() - {"model_type"}:
        assert f"--model.{name} VALUE (default: {getattr(config, name)})" in text, name


def test_run_may_be_told_what_is_reported_where(tmp_path):
    paths = parse_arguments(["--report_to", "tensorboard, wandb", "--seeds", "3", "--dry_run", "--test_at_end", "no"])
    assert paths[0].trackers == ["tensorboard", "wandb"]
    assert (paths[0].seeds, paths[0].dry_run, paths[1].test_at_end) == (3, True, False)
    with pytest.raises(ValueError, match="report_to is 'tensorbord', expected one of .*did you mean 'tensorboard'"):
        RunPaths(report_to="wandb,tensorbord")
    with pytest.raises(ValueError, match="seeds is 0"):
        RunPaths(seeds=0)


@pytest.mark.parametrize("recipe_file", RECIPE_FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recipes_of_the_repository_are_valid(recipe_file):
    _, recipe, model_fields = parse_arguments(["--config", str(recipe_file)])
    IVTConfig(**model_fields)
    named = recipe.corpus.replace("-", "_") if recipe.stage == "finetune" else "pretrain"
    assert named == recipe_file.stem or recipe.corpus == "synthetic"


@pytest.mark.parametrize(
    "name, stride, batch_size", [("cuhk_pedes", 12, 28), ("icfg_pedes", 12, 28), ("rstpreid", 16, 48)]
)
def test_corpus_recipes_have_the_settings_of_the_paper(name, stride, batch_size):
    _, recipe, model_fields = parse_arguments(["--config", str(ROOT / f"ivt/recipes/{name}.yaml")])
    config = IVTConfig(**model_fields)
    assert (config.patch_stride, config.patch_size, tuple(config.image_size)) == (stride, 16, (384, 128))
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (768, 12, 12)
    assert (config.intermediate_size, config.bmm_ratio, config.drop_path_rate) == (3072, 0.2, 0.1)
    assert (recipe.optimizer, recipe.learning_rate, recipe.bias_lr_factor) == ("sgd", 0.005, 2)
    assert (recipe.momentum, recipe.weight_decay, recipe.min_lr_ratio) == (0.9, 1e-4, 0.002)
    assert (recipe.warmup_epochs, recipe.epochs, recipe.batch_size) == (5, 120, batch_size)
    assert (recipe.mixed_precision, recipe.levels, recipe.num_views) == ("fp16", ["sentence", "phrase", "word"], 3)
    assert recipe.init.startswith("vit=timm/vit_base_patch16_224") and recipe.init.endswith("bert-base-uncased")
    assert (recipe.flip, recipe.erase, recipe.crop_pad) == (0.5, 0.5, 10)
    assert (recipe.cmpm_weight, recipe.itc_weight) == (1, 0)


@pytest.mark.parametrize("name", ["cuhk_pedes", "icfg_pedes", "rstpreid"])
def test_reference_recipes_have_the_practice_of_the_authors(name):
    _, recipe, model_fields = parse_arguments(["--config", f"reference/{name}"])
    config = IVTConfig(**model_fields)
    rstp = name == "rstpreid"
    assert (config.patch_stride, recipe.batch_size) == ((16, 48) if rstp else (12, 28))
    assert (recipe.pairs_per_person, recipe.drop_incomplete, recipe.gather) == (4, True, "none")
    assert (recipe.schedule, recipe.warmup_epochs, recipe.learning_rate) == ("reference", 5, 0.005)
    assert recipe.epochs == (120 if name == "cuhk_pedes" else 121)
    assert (recipe.end_token, recipe.max_text_tokens, recipe.test_resample) == (False, 512, "bilinear")
    assert (recipe.phrases, recipe.erasing) == ("longest", "noise")
    assert recipe.words == ("subset" if name == "cuhk_pedes" else "clause")
    assert recipe.train_split == ("train+val" if name == "icfg_pedes" else "train")
    assert recipe.max_caption_words == (90 if rstp else None)
    assert "orig_in21k_ft_in1k" in recipe.init and recipe.protocol == "reference"


def test_pretraining_recipe_has_the_settings_of_the_paper():
    _, recipe, model_fields = parse_arguments(["--config", "pretrain"])
    assert (recipe.stage, recipe.levels, recipe.num_views, recipe.batch_size) == ("pretrain", ["sentence"], 1, 48)
    assert (recipe.itc_weight, recipe.itm_weight, recipe.mlm_weight, recipe.cmpm_weight) == (1, 1, 1, 0)
    config = IVTConfig(**model_fields)
    assert (config.num_fusion_layers, config.num_fusion_heads, config.itc_temperature) == (6, 12, 0.07)
    assert (config.hidden_size, tuple(config.image_size)) == (768, (384, 128))
    assert (recipe.optimizer, recipe.learning_rate, recipe.momentum) == ("sgd", 0.005, 0.9)


def test_unknown_recipe_names_the_packaged_ones():
    with pytest.raises(ValueError, match="cuhk_pedes, demo, .*reference/cuhk_pedes"):
        parse_arguments(["--config", "reference/market"])


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"schedule": "reference", "max_steps": 5}, "schedule is reference, which counts epochs"),
        ({"schedule": "reference", "max_minutes": 5.0}, "pass epochs, not max_steps or max_minutes"),
        ({"drop_incomplete": True}, "drop_incomplete is about groups of pairs_per_person"),
        ({"stage": "pretrain"}, "itc_weight, itm_weight, mlm_weight are all 0"),
        ({"stage": "pretrain", "itc_weight": 1.0}, "cmpm_weight is 1.0, but stage pretrain has only itc_weight, "),
        ({"mlm_weight": 1.0}, "mlm_weight is 1.0, but stage finetune has only cmpm_weight, "),
        (PRETRAIN | {"num_views": 3}, "num_views is 3, stage pretrain takes pairs of one view and one whole caption"),
        (PRETRAIN | {"levels": ["sentence", "word"]}, "pass levels sentence and num_views 1"),
        (PRETRAIN | {"cached_chunk": 4}, "cached_chunk needs losses that are computed from embeddings alone"),
        ({"token_weight": 1.0, "end_token": False}, "token_weight counts the tokens between"),
        ({"streaming": True, "corpus": "shards", "max_caption_words": 9}, "max_caption_words needs all pairs"),
        ({"streaming": True, "corpus": "shards", "train_split": "train+val"}, "streaming reads the shards of train"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**fields)


@pytest.mark.parametrize("recipe_file", sorted((ROOT / "ivt/recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_packaged_recipes_are_found_by_name_wherever_a_run_starts(recipe_file, tmp_path, monkeypatch):
    by_path = parse_arguments(["--config", str(recipe_file)])
    monkeypatch.chdir(tmp_path)
    (tmp_path / recipe_file.stem).mkdir()  # a folder of that name is no recipe
    assert parse_arguments(["--config", recipe_file.stem]) == by_path
    (tmp_path / recipe_file.stem).rmdir()
    (tmp_path / recipe_file.stem).write_text("seed: 5")  # a file of that name is
    assert parse_arguments(["--config", recipe_file.stem])[1] == Recipe(seed=5)


def test_tokenizer_beside_a_recipe_is_found_wherever_a_run_starts(tmp_path, monkeypatch):
    packaged = ROOT / "ivt/recipes/tokenizer-synthetic"
    shutil.copytree(packaged, tmp_path / "mine" / "words")
    (tmp_path / "mine" / "recipe.yaml").write_text("tokenizer: words\nmax_text_tokens: 20\nmodel: {hidden_size: 48}\n")
    monkeypatch.chdir(tmp_path)
    expected = AutoTokenizer.from_pretrained(packaged).get_vocab()
    for config in ("mine/recipe.yaml", str(tmp_path / "mine/recipe.yaml"), "demo"):
        _, recipe, fields = parse_arguments(["--config", config])
        model_fields = fields | {"hidden_size": 48, "num_hidden_layers": 1, "intermediate_size": 48}
        tokenizer = build_model(recipe, model_fields)[1].tokenizer
        assert tokenizer.get_vocab() == expected and tokenizer.model_max_length == recipe.max_text_tokens
    assert recipe.tokenizer == "tokenizer-synthetic"  # in a run's record no folder of this machine


def test_numbers_with_exponent_reach_the_model():
    assert parse_arguments(["--model.bmm_ratio", "1e-1"])[2] == {"bmm_ratio": 0.1}


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "there is no recipe .*recipe.yaml; pass a yaml file or one of cuhk_pedes, demo, icfg_pedes"),
        ("- 3", "is no recipe"),
        ("model: 3", "is no recipe"),
        ("batch_size: [3", "recipe.yaml is no yaml file: while parsing"),
    ],
)
def test_recipe_files_that_are_none(tmp_path, content, message):
    if content:
        (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        parse_arguments(["--config", str(tmp_path / "recipe.yaml")])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"optimizer": "adam"}, "expected one of .sgd., .adamw.; did you mean .adamw."),
        ({"cmpm_weight": 0.0}, "there is no loss"),
        ({"gather": "some"}, "gather is .some., expected one of .all., .none."),
        ({"cached_chunk": 0}, "cached_chunk is 0"),
        ({"pairs_per_person": 3}, r"must divide batch_size .28."),
        ({"pairs_per_person": 4, "group_by_length": True}, "group_by_length must be off"),
        ({"drop_phrases": 1.5}, "drop_phrases is 1.5"),
        ({"sdm_temperature": 0.0}, "sdm_temperature is 0.0"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"keep_checkpoints": 0}, "keep_checkpoints is 0"),
        ({"protocol": "referense"}, "did you mean 'reference'"),
        ({"mixed_precision": "bf-16"}, "did you mean 'bf16'"),
        (
            {"corpus": "rstpreid", "streaming": True},
            "reads shards, corpus is 'rstpreid'.*ivt corpus shard rstpreid FOLDER",
        ),
        ({"corpus": "shards", "streaming": True, "cache_images": True}, "cache_images needs all pairs in memory"),
        ({"corpus": "cuhk"}, "did you mean 'cuhk-pedes'"),
        ({"on_bad_image": "ignore"}, "expected one of 'error', 'skip'"),
        ({"levels": ["sentence", "prase"]}, "levels is 'prase'.*did you mean 'phrase'"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0; it must be at least 1"),
        ({"max_steps": -4}, "max_steps is -4"),
        ({"num_views": 0}, "num_views is 0"),
        ({"num_workers": -1}, "num_workers is -1; it must be at least 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"max_text_tokens": 2}, "max_text_tokens is 2; it must be at least 3"),
        ({"max_minutes": 0.0}, "max_minutes is 0.0; it must be positive"),
        ({"min_lr_ratio": 2.0}, "min_lr_ratio is 2.0; it must be between 0 and 1"),
    ],
)
def test_recipe_that_cannot_work_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)


def test_every_number_of_a_recipe_has_a_least_value():
    numbers = [name for name, field in Recipe.__dataclass_fields__.items() if field.type in NUMBERS]
    assert len(numbers) > 30
    for name in numbers:
        with pytest.raises(ValueError, match=f"^{name} is -1"):
            Recipe(**{name: -1})
