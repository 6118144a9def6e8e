"""The pre-training model: its three losses, its negatives, its fusion encoder, and what is left of it afterwards."""

import itertools
import json
import logging
import math
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForPreTraining

from modeling_ivt import IVTConfig, IVTForPreTraining, IVTModel, product_itc_loss
from modeling_ivt.pretraining_ivt import NEGATIVE_FLOOR, draw_negatives, find_positives, fingerprint_texts

Batch = dict[str, torch.Tensor]
HEADS = ("fusion_layers.", "itm_head.", "mlm_head.", "log_temperature")


GOLDEN_LOSSES = [0.7040189, 0.6467096, 3.7990174, 5.1497459]
GOLDEN_LOGITS = [0.1849629, -0.2003184, 0.2092585, -0.1949417]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Where other processes keep the cores busy, threads that wait for each other make tiny models slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model(tiny_config: IVTConfig) -> IVTForPreTraining:
    """Two fusion blocks of two heads each, so that no size is that of the encoder."""
    tiny_config.num_fusion_layers, tiny_config.fusion_attention_heads, tiny_config.itc_temperature = 2, 2, 0.5
    return IVTForPreTraining(tiny_config).eval()


@pytest.fixture
def batch(tiny_batch: Batch) -> Batch:
    """Three pairs of different people; of the first two, two and one words are to be predicted."""
    masked, labels = tiny_batch["input_ids"].clone(), torch.full((3, 9), -100)
    for row, column in ((0, 2), (0, 3), (1, 1)):
        labels[row, column] = masked[row, column]
        masked[row, column] = 4
    return tiny_batch | {"person_ids": torch.arange(3), "masked_input_ids": masked, "mlm_labels": labels}


# ITC


@pytest.mark.parametrize("temperature", [0.07, 2.0])
def test_itc_is_a_naive_loop_over_products(temperature: float) -> None:
    images, texts = torch.randn(3, 8, dtype=torch.float64), torch.randn(4, 8, dtype=torch.float64)
    matches = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]], dtype=torch.bool)

    def one_way(rows: torch.Tensor, columns: torch.Tensor, matches: torch.Tensor) -> float:
        losses = []
        for row, wanted in zip(rows, matches.tolist(), strict=True):
            exponentials = [math.exp(float(row @ column) / temperature) for column in columns]
            p = [value / sum(exponentials) for value in exponentials]
            losses.append(-sum(math.log(p[j]) for j, is_match in enumerate(wanted) if is_match) / sum(wanted))
        return sum(losses) / len(losses)

    expected = (one_way(images, texts, matches) + one_way(texts, images, matches.T)) / 2
    assert product_itc_loss(images, texts, matches, temperature).item() == pytest.approx(expected)


def test_itc_of_equal_embeddings_is_the_mean_log_of_their_numbers() -> None:
    loss = product_itc_loss(torch.ones(3, 4), torch.ones(5, 4), torch.ones(3, 5, dtype=torch.bool))
    assert loss.item() == pytest.approx((math.log(3) + math.log(5)) / 2)


@pytest.mark.parametrize("shape", [(0, 2), (2, 0), (2, 3)])
def test_itc_refuses_empty_sides_and_foreign_matches(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{shape[0]} images and {shape[1]} texts came with matches of shape"):
        product_itc_loss(torch.ones(shape[0], 4), torch.ones(shape[1], 4), torch.ones(2, 2, dtype=torch.bool))


def test_temperature_begins_as_configured_is_learned_and_stays_above_its_least(
    model: IVTForPreTraining, batch: Batch
) -> None:
    assert model.temperature.item() == pytest.approx(0.5)
    output = model(**batch, return_loss=True)
    gradient = torch.autograd.grad(output.itc_loss, model.log_temperature)[0]
    tau = torch.tensor(0.5, requires_grad=True)
    product_itc_loss(output.image_embeds, output.text_embeds, torch.eye(3, dtype=torch.bool), tau).backward()
    torch.testing.assert_close(gradient, tau.grad[None] * 0.5)  # d tau / d log tau = tau
    with torch.no_grad():
        model.log_temperature.fill_(-100.0)
    assert model.temperature.item() == pytest.approx(0.01)


def test_products_are_not_rounded_under_autocast() -> None:
    images, texts = 10 * torch.randn(4, 32), 10 * torch.randn(4, 32)
    matches = torch.eye(4, dtype=torch.bool)
    expected = product_itc_loss(images, texts, matches)
    with torch.autocast("cpu", torch.bfloat16):
        assert product_itc_loss(images, texts, matches) == expected


# positives and negatives


def test_positives_are_pairs_people_pictures_and_captions() -> None:
    ids = torch.tensor([[2, 7, 8, 0], [2, 9, 0, 0], [2, 7, 8, 3], [2, 7, 8, 0]])
    mask = (ids > 0).long()
    expected = torch.eye(4, dtype=torch.bool)
    expected[0, 3] = expected[3, 0] = True  # one caption
    assert torch.equal(find_positives(None, ids, mask), expected)
    expected[1, 2] = expected[2, 1] = True  # one person
    assert torch.equal(find_positives(torch.tensor([4, 5, 5, 6]), ids, mask), expected)


def test_fingerprints_tell_texts_apart_and_not_their_padding() -> None:
    texts = [list(words) for length in (1, 2, 3) for words in itertools.product(range(1, 6), repeat=length)]
    short = torch.tensor([words + [0] * (3 - len(words)) for words in texts])
    left = torch.tensor([[0] * (5 - len(words)) + words for words in texts])
    prints = fingerprint_texts(short, (short > 0).long())
    assert len(set(prints.tolist())) == len(texts)
    assert torch.equal(fingerprint_texts(left, (left > 0).long()), prints)


def test_negatives_are_never_positives_and_drawn_in_proportion() -> None:
    scores = torch.tensor([[9.0, 1.0, 0.0, -30.0], [0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 2.0, 3.0]])
    positives = torch.eye(4, dtype=torch.bool)
    positives[1, 0] = True
    positives[3] = True  # all of them
    draws = draw_negatives(scores.repeat(20_000, 1), positives.repeat(20_000, 1)).view(-1, 4)
    assert (draws[:, 3] == -1).all()
    for row in range(3):
        shares = torch.bincount(draws[:, row], minlength=4) / len(draws)
        weights = (scores[row].softmax(0) + NEGATIVE_FLOOR) * ~positives[row]
        assert not shares[positives[row]].any()
        torch.testing.assert_close(shares, weights / weights.sum(), atol=0.015, rtol=0.0)
    assert (draws[:, 0] == 3).any()  # however unlike it is


# ITM


def test_itm_of_equal_logits_is_log_2(model: IVTForPreTraining, batch: Batch) -> None:
    nn.init.zeros_(model.itm_head.weight)
    assert model(**batch, return_loss=True).itm_loss.item() == pytest.approx(math.log(2))


@torch.no_grad()
def test_itm_is_a_loop_over_pairs_and_their_negatives(model: IVTForPreTraining, batch: Batch) -> None:
    ids, mask, pixels = batch["input_ids"], batch["attention_mask"], batch["pixel_values"]
    texts = model.get_text_features(ids, mask).last_hidden_state
    images = model.get_image_features(pixels).last_hidden_state
    positives = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=torch.bool)  # one negative, or none
    terms = [(0, 0, 1), (1, 1, 1), (2, 2, 1), (1, 0, 0), (0, 1, 0), (0, 1, 0), (1, 0, 0)]  # text, image, match
    expected = []
    for text, image, is_match in terms:
        length = int(mask[text].sum())
        fused = model.fuse(texts[text : text + 1, :length], images[image : image + 1])
        expected.append(-model.itm_head(fused[0, 0]).log_softmax(0)[is_match])
    torch.testing.assert_close(model.get_itm_loss(texts, images, mask, positives), torch.stack(expected).mean())


def test_gradient_of_itm_is_the_same_every_time_on_several_threads(model: IVTForPreTraining) -> None:
    torch.set_num_threads(2)
    texts, images = torch.randn(24, 40, 32), torch.randn(24, 40, 32)
    mask, positives = torch.ones(24, 40, dtype=torch.long), torch.eye(24, dtype=torch.bool)

    def gradient() -> torch.Tensor:
        torch.manual_seed(0)
        states = texts.clone().requires_grad_()
        model.get_itm_loss(states, images, mask, positives).backward()
        return states.grad

    expected = gradient()
    assert all(torch.equal(gradient(), expected) for _ in range(10))


def test_batch_without_negatives_has_a_loss_of_matches_alone(model: IVTForPreTraining, batch: Batch) -> None:
    output = model(**batch | {"person_ids": torch.zeros(3, dtype=torch.long)}, return_loss=True)
    expected = nn.functional.cross_entropy(output.matching_logits, torch.ones(3, dtype=torch.long))
    torch.testing.assert_close(output.itm_loss, expected)


# MLM


@torch.no_grad()
def test_mlm_is_a_loop_over_hidden_words(model: IVTForPreTraining, batch: Batch) -> None:
    images, expected = model.get_image_features(batch["pixel_values"]).last_hidden_state, []
    for row, columns in ((0, (2, 3)), (1, (1,))):
        length = int(batch["attention_mask"][row].sum())
        texts = model.get_text_features(batch["masked_input_ids"][row : row + 1, :length]).last_hidden_state
        fused = model.fuse(texts, images[row : row + 1])[0]
        for column in columns:
            head = model.mlm_head
            state = head.layernorm(nn.functional.gelu(head.dense(fused[column])))
            scores = model.text_embeddings.word_embeddings.weight @ state + head.decoder.bias
            expected.append(-scores.log_softmax(0)[batch["mlm_labels"][row, column]])
    found = model(**batch, return_loss=True).mlm_loss
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_mlm_of_equal_scores_is_log_of_the_vocabulary_and_of_nothing_0(model: IVTForPreTraining, batch: Batch) -> None:
    for parameter in model.mlm_head.layernorm.parameters():
        nn.init.zeros_(parameter)
    nn.init.zeros_(model.mlm_head.decoder.bias)
    assert model(**batch, return_loss=True).mlm_loss.item() == pytest.approx(math.log(50), rel=1e-5)
    batch["mlm_labels"].fill_(-100)
    assert model(**batch, return_loss=True).mlm_loss.item() == 0


# the fusion encoder


@torch.no_grad()
def test_padding_on_either_side_changes_nothing_of_what_is_fused(model: IVTForPreTraining) -> None:
    texts, images = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    expected = model.fuse(texts, images)
    for before, after in ((0, 3), (3, 0), (2, 1)):
        padded = torch.cat([torch.randn(2, before, 32), texts, torch.randn(2, after, 32)], dim=1)
        mask = torch.ones(2, 8, dtype=torch.long)
        mask[:, :before] = mask[:, before + 5 :] = 0
        found = model.fuse(padded, images, mask)[:, before : before + 5]
        torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_cross_attention_is_a_naive_loop_over_heads_and_tokens(model: IVTForPreTraining) -> None:
    attention = model.fusion_layers[0].cross_attention
    texts, images = torch.randn(1, 3, 32), torch.randn(1, 4, 32)
    query, key, value = attention.query(texts)[0], attention.key(images)[0], attention.value(images)[0]
    context = torch.empty(3, 32)
    for head in (slice(0, 16), slice(16, 32)):
        for i in range(3):
            weights = torch.stack([query[i, head] @ key[j, head] / 4 for j in range(4)]).softmax(0)
            context[i, head] = sum(weights[j] * value[j, head] for j in range(4))
    expected = attention.layernorm(texts + attention.output(context))
    torch.testing.assert_close(attention(texts, images, None), expected)


@torch.no_grad()
def test_every_image_token_is_seen(model: IVTForPreTraining) -> None:
    texts, images = torch.randn(1, 3, 32), torch.randn(1, 4, 32)
    fused = model.fuse(texts, images)
    for token in range(4):
        changed = images.clone()
        changed[0, token] += 1
        assert not torch.allclose(model.fuse(texts, changed), fused, atol=1e-3)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
@torch.no_grad()
def test_sdpa_is_eager(model: IVTForPreTraining, batch: Batch, dtype: torch.dtype, tolerance: float) -> None:
    fused = []
    texts, images = torch.randn(3, 9, 32, dtype=dtype), torch.randn(3, 7, 32, dtype=dtype)
    for implementation in ("sdpa", "eager"):
        model.to(dtype).set_attn_implementation(implementation)
        fused.append(model.fuse(texts, images, batch["attention_mask"])[batch["attention_mask"].bool()])
    torch.testing.assert_close(*fused, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_values_of_fixed_weights_stay_what_they_are(tiny_config: IVTConfig) -> None:
    """Weights and inputs are sines, so no library's random numbers have a part in them."""
    tiny_config.num_fusion_layers, tiny_config.itc_temperature = 2, 0.02
    model = IVTForPreTraining(tiny_config).eval()
    for number, parameter in enumerate(model.parameters()):
        if parameter is model.log_temperature:
            continue
        values = torch.arange(parameter.numel(), dtype=torch.float64) ** 2 * 0.7 + number
        parameter.copy_(0.3 * values.sin().view_as(parameter))
    ids = (torch.arange(18) * 7 % 45 + 5).view(2, 9)
    labels = torch.full((2, 9), -100)
    labels[:, 3] = ids[:, 3]
    pixels = (torch.arange(2 * 3 * 48 * 24, dtype=torch.float64) ** 2 * 0.3).sin().float().view(2, 3, 48, 24)
    output = model(ids, pixels, masked_input_ids=ids.roll(1, 1), mlm_labels=labels, return_loss=True)
    found = [output[name].item() for name in ("itc_loss", "itm_loss", "mlm_loss", "loss")]
    assert found == pytest.approx(GOLDEN_LOSSES, rel=1e-4)
    assert output.matching_logits.flatten().tolist() == pytest.approx(GOLDEN_LOGITS, abs=1e-5)


# training


@pytest.mark.parametrize(
    "loss, untouched",
    [
        ("itc_loss", ("fusion_layers.", "itm_head.", "mlm_head.")),
        ("itm_loss", ("mlm_head.", "log_temperature")),
        ("mlm_loss", ("itm_head.", "log_temperature")),
        ("loss", ()),
    ],
)
def test_each_loss_reaches_the_parameters_it_depends_on(
    model: IVTForPreTraining, batch: Batch, loss: str, untouched: tuple[str, ...]
) -> None:
    model.train()(**batch, return_loss=True)[loss].backward()
    for name, parameter in model.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        # a bias of keys moves all scores of a query alike, and the softmax does not see it
        expected = not name.startswith(untouched) if untouched else True
        if not name.endswith("key.bias"):
            assert reached == expected, name


def test_training_lowers_all_three_losses(tiny_config: IVTConfig, batch: Batch) -> None:
    tiny_config.num_fusion_layers, tiny_config.initializer_range = 1, 0.05
    model = IVTForPreTraining(tiny_config).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(150):
        output = model(**batch, return_loss=True)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append([output[name].item() for name in ("itc_loss", "itm_loss", "mlm_loss")])
    assert all(last < first / 2 for first, last in zip(losses[0], losses[-1], strict=True)), (losses[0], losses[-1])


def test_no_token_is_hidden_but_by_masked_language_modeling(tiny_config: IVTConfig, batch: Batch) -> None:
    tiny_config.bmm_ratio = 0.9
    model = IVTForPreTraining(tiny_config).train()
    for _ in range(5):
        assert model.get_image_features(batch["pixel_values"]).last_hidden_state.shape[1] == 22


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(model: IVTForPreTraining, batch: Batch, reentrant: bool) -> None:
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        model.train().zero_grad()
        torch.manual_seed(1)  # of the negatives
        model(**batch, return_loss=True).loss.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


# inputs


def test_inputs_that_are_no_pairs_are_refused(model: IVTForPreTraining, batch: Batch) -> None:
    with pytest.raises(ValueError, match="got 0 pixel_values and 3 input_ids, expected as many of both"):
        model(batch["input_ids"])
    with pytest.raises(ValueError, match="got 2 pixel_values and 3 input_ids"):
        model(batch["input_ids"], batch["pixel_values"][:2])
    with pytest.raises(ValueError, match="belong together; pass both or none"):
        model(batch["input_ids"], batch["pixel_values"], masked_input_ids=batch["input_ids"])


@torch.no_grad()
def test_without_hidden_words_there_are_two_losses(model: IVTForPreTraining, batch: Batch) -> None:
    output = model(batch["input_ids"], batch["pixel_values"], batch["attention_mask"], return_loss=True)
    assert output.mlm_loss is None
    torch.testing.assert_close(output.loss, output.itc_loss + output.itm_loss)
    assert model(batch["input_ids"], batch["pixel_values"]).loss is None


# saving and loading


def test_saved_model_is_the_same_and_words_are_saved_once(model: IVTForPreTraining, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert type(again) is IVTForPreTraining
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert again.mlm_head.decoder.weight is again.text_embeddings.word_embeddings.weight
    index = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert index["AutoModelForPreTraining"] == "pretraining_ivt.IVTForPreTraining"
    assert index["AutoModel"] == "modeling_ivt.IVTModel"


@torch.no_grad()
def test_encoder_alone_is_loaded_and_what_is_left_out_is_named(
    model: IVTForPreTraining, batch: Batch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model.save_pretrained(tmp_path)
    transformers_logger = logging.getLogger("transformers")
    transformers_logger.addHandler(caplog.handler)
    encoder, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    transformers_logger.removeHandler(caplog.handler)
    assert type(encoder) is IVTModel and not info["missing_keys"]
    heads = {name for name in model.state_dict() if name.startswith(HEADS)} - {"mlm_head.decoder.weight"}
    assert set(info["unexpected_keys"]) == heads
    assert all(name in caplog.text for name in ("fusion_layers.{0, 1}.cross_attention", "itm_head", "log_temperature"))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    assert torch.equal(encoder(**inputs).text_embeds, model(**inputs).text_embeds)
    assert torch.equal(encoder(**inputs).image_embeds, model(**inputs).image_embeds)


def test_encoder_saved_again_does_not_speak_of_code_that_is_not_there(
    model: IVTForPreTraining, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path / "whole")
    AutoModel.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "encoder")
    entries = json.loads((tmp_path / "encoder/config.json").read_text())["auto_map"]
    assert {f"{entry.split('.')[0]}.py" for entry in entries.values()} <= {
        path.name for path in (tmp_path / "encoder").iterdir()
    }


def test_plain_checkpoint_gives_its_encoder_and_heads_that_are_drawn(tiny_model: IVTModel, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path)
    loaded = IVTForPreTraining.from_pretrained(tmp_path)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in tiny_model.state_dict().items())
    assert all(parameter.isfinite().all() for parameter in loaded.parameters())
    assert loaded.temperature.item() == pytest.approx(0.07)


REMOTE = """
import sys
from transformers import AutoModel, AutoModelForPreTraining
whole = AutoModelForPreTraining.from_pretrained(sys.argv[1], trust_remote_code=True)
encoder = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
whole.save_pretrained(sys.argv[2])
again = AutoModelForPreTraining.from_pretrained(sys.argv[2], trust_remote_code=True)
same = all(again.state_dict()[name].equal(tensor) for name, tensor in whole.state_dict().items())
module = type(whole).__module__.split(".")[0]
print(module, type(whole).__name__, type(encoder).__name__, same, "modeling_ivt" in sys.modules)
"""


def test_transformers_alone_loads_both_with_remote_code(
    model: IVTForPreTraining, run_python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path / "model")
    done = run_python("-c", REMOTE, tmp_path / "model", tmp_path / "again", cwd=tmp_path)
    assert done.stdout.split() == ["transformers_modules", "IVTForPreTraining", "IVTModel", "True", "False"], (
        done.stderr
    )
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {path.name for path in (tmp_path / "again").iterdir()} == names > {"pretraining_ivt.py", "modeling_ivt.py"}


# embeddings of other sizes, the meta device


@torch.no_grad()
def test_more_words_are_predicted_and_known_ones_left_alone(model: IVTForPreTraining, batch: Batch) -> None:
    states = torch.randn(4, 32)
    before = model.mlm_head(states)
    model.resize_token_embeddings(57)
    assert model.mlm_head.decoder.weight is model.text_embeddings.word_embeddings.weight
    found = model.mlm_head(states)
    assert found.shape == (4, 57) and torch.equal(found[:, :50], before)
    batch["mlm_labels"][0, 2] = 56
    assert model(**batch, return_loss=True).loss.isfinite()


def test_every_weight_is_initialised_after_the_meta_device(model: IVTForPreTraining) -> None:
    with torch.device("meta"):
        other = IVTForPreTraining(model.config)
    assert all(tensor.is_meta for tensor in other.state_dict().values())
    other.to_empty(device="cpu")
    for module in other.modules():
        module._is_hf_initialized = False
        for parameter in module.parameters(recurse=False):
            parameter.data.fill_(float("nan"))
            parameter._is_hf_initialized = False
    other.initialize_weights()
    for name, parameter in other.named_parameters():
        assert parameter.isfinite().all(), name


# outputs


@torch.no_grad()
def test_outputs_are_the_same_as_tuple_and_by_name(model: IVTForPreTraining, batch: Batch) -> None:
    inputs = {name: batch[name] for name in ("input_ids", "pixel_values", "attention_mask")}
    named = model(**inputs, output_hidden_states=True)
    assert len(named.image_model_output.hidden_states) == len(named.text_model_output.hidden_states) == 3
    values = model(**inputs, return_dict=False)
    expected = model(**inputs).to_tuple()
    assert len(values) == len(expected) == 7
    for value, wanted in zip(values, expected, strict=True):
        assert torch.equal(value, wanted) if isinstance(value, torch.Tensor) else torch.equal(value[0], wanted[0])


@torch.no_grad()
def test_a_pair_does_not_see_the_others_of_its_batch(model: IVTForPreTraining, batch: Batch) -> None:
    names = ("input_ids", "pixel_values", "attention_mask")
    together = model(**{name: batch[name] for name in names}).matching_logits
    for i in range(3):
        alone = model(**{name: batch[name][i : i + 1] for name in names}).matching_logits
        torch.testing.assert_close(alone[0], together[i])


@torch.no_grad()
def test_weights_load_in_the_precision_asked_for_and_from_shards(model: IVTForPreTraining, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = IVTForPreTraining.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.bfloat16}
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor.bfloat16()), name
