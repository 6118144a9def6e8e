"""What must hold on a GPU as on the CPU; without one these tests are skipped."""

from pathlib import Path

import pytest
import torch

from ivt import DEFAULT_MODEL, embed_images, embed_texts
from ivt.corpora import load_synthetic
from ivt.retrieval.checkpoints import load_checkpoint
from ivt.retrieval.models import find_version, load_model
from modeling_ivt import IVTModel

if not torch.accelerator.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

DEVICE = torch.accelerator.current_accelerator()
BUNDLED = find_version(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[list, list[str]]:
    rows = load_synthetic("test", tmp_path_factory.mktemp("corpus"), num_people=20, images_per_person=2, num_proc=1)
    return list(rows["image"]), [captions[0] for captions in rows["captions"]]


def test_golden_outputs_are_those_of_the_cpu(converted: tuple[Path, str], golden: dict[str, torch.Tensor]) -> None:
    model = load_checkpoint(str(converted[0])).to(DEVICE).eval()
    with torch.inference_mode():
        images = model.get_image_features(golden["pixel_values"].to(DEVICE)).pooler_output.cpu()
    torch.testing.assert_close(images, golden["image_last_hidden_state"][:, 0], atol=1e-4, rtol=1e-3)


def test_the_default_is_half_precision_and_near_float32(people: tuple[list, list[str]]) -> None:
    model, processor = load_model(BUNDLED)
    exact = load_checkpoint(BUNDLED.name, dtype=torch.float32).eval()
    assert model.device.type == DEVICE.type and model.dtype == torch.bfloat16 and exact.dtype == torch.float32
    for embed, items in zip((embed_images, embed_texts), people, strict=True):
        found, expected = (embed(network, processor, items, progress=False) for network in (model, exact))
        assert (found * expected).sum(dim=1).min() > 0.9995


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_gradients_are_those_of_the_cpu(tiny_config, tiny_batch, attention: str) -> None:
    torch.manual_seed(0)
    tiny_config._attn_implementation = attention
    model = IVTModel(tiny_config)
    gradients = []
    for device in ("cpu", DEVICE):
        model.zero_grad()
        batch = {name: tensor.to(device) for name, tensor in tiny_batch.items()}
        model.to(device).train()(**batch, return_loss=True).loss.backward()
        gradients.append({name: weight.grad.cpu() for name, weight in model.named_parameters()})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, atol=1e-4, rtol=1e-3, msg=name)
