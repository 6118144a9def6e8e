"""What a run is told: recipe files, the command line, and mistakes in either."""

from pathlib import Path

import pytest

from modeling_ivt import IVTConfig
from training.recipe import Recipe, RunPaths, parse_arguments

ROOT = Path(__file__).parents[2]


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


def test_run_may_be_told_what_is_reported_where(tmp_path):
    paths = parse_arguments(["--report_to", "tensorboard, wandb", "--seeds", "3", "--dry_run", "--test_at_end", "no"])
    assert paths[0].trackers == ["tensorboard", "wandb"]
    assert (paths[0].seeds, paths[0].dry_run, paths[1].test_at_end) == (3, True, False)
    with pytest.raises(ValueError, match="report_to is 'tensorbord', expected one of .*did you mean 'tensorboard'"):
        RunPaths(report_to="wandb,tensorbord")
    with pytest.raises(ValueError, match="seeds is 0"):
        RunPaths(seeds=0)


@pytest.mark.parametrize("recipe_file", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_of_the_repository_are_valid(recipe_file):
    _, recipe, model_fields = parse_arguments(["--config", str(recipe_file)])
    IVTConfig(**model_fields)
    assert recipe.corpus.replace("-", "_") == recipe_file.stem or recipe.corpus == "synthetic"


@pytest.mark.parametrize(
    "name, stride, batch_size", [("cuhk_pedes", 12, 28), ("icfg_pedes", 12, 28), ("rstpreid", 16, 48)]
)
def test_corpus_recipes_have_the_settings_of_the_paper(name, stride, batch_size):
    _, recipe, model_fields = parse_arguments(["--config", str(ROOT / f"recipes/{name}.yaml")])
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


def test_numbers_with_exponent_reach_the_model():
    assert parse_arguments(["--model.bmm_ratio", "1e-1"])[2] == {"bmm_ratio": 0.1}


@pytest.mark.parametrize(
    "content, message", [(None, "there is no recipe"), ("- 3", "is no recipe"), ("model: 3", "is no recipe")]
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
    ],
)
def test_recipe_that_cannot_work_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)
