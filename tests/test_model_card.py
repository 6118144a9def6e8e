"""The template of the Hub page: valid metadata, every gap filled by what publishing passes, code that runs."""

import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from jinja2 import Environment, StrictUndefined, UndefinedError
from PIL import Image

TEMPLATE = (Path(__file__).parents[1] / "model_card.md").read_text()
FILLED = {
    "model_name": "IVT",
    "repo_id": "org/ivt-cuhk",
    "results": "| R@1 |",
    "training": "how it was trained",
    "limits": "what it cannot do",
}


def render(**values: str) -> str:
    return Environment(undefined=StrictUndefined).from_string(TEMPLATE).render(**values)


def test_filled_card_has_metadata_that_the_hub_reads():
    data = ModelCard(render(**FILLED)).data
    assert (data.license, data.library_name, data.language) == ("apache-2.0", "transformers", "en")
    assert data.pipeline_tag == "zero-shot-image-classification" and "custom_code" in data.tags


@pytest.mark.parametrize("name", FILLED)
def test_card_needs_each_value(name):
    with pytest.raises(UndefinedError, match=name):
        render(**{key: value for key, value in FILLED.items() if key != name})


def test_code_of_the_card_ranks_crops(converted):
    code = re.search(r"```python\n(.*?)```", render(**(FILLED | {"repo_id": str(converted[0])})), re.DOTALL)[1]
    names = {"crops": [Image.effect_noise((30, 80), sigma) for sigma in (10, 60, 120)]}
    exec(compile(code.replace(", trust_remote_code=True", ""), "model_card.md", "exec"), names)
    assert sorted(names["best_first"].tolist()) == [0, 1, 2]
    assert torch.equal(names["scores"].sort(descending=True).values, names["scores"][names["best_first"]])
