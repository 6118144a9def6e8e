"""First weights from other models: what is taken over computes what it computed there, and nothing is left unsaid."""

import functools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import set_seed
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    BertTokenizer,
    DeiTConfig,
    DeiTModel,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTModel,
)

from ivt.training.arguments import parse_arguments
from ivt.training.initialization import assemble, build_model
from ivt.training.recipe import MODEL_SIZES, Recipe
from ivt.training.sources import read_bert, read_vit
from modeling_ivt import IVTConfig, IVTForPreTraining, IVTModel
from modeling_ivt.modeling_ivt import resize_grid

VOCABULARY = 60
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 3}
# 4 rows x 2 columns of overlapping patches, two of the three blocks, 20 of the 30 text positions
FIELDS = {
    "image_size": [26, 14],
    "patch_size": 8,
    "patch_stride": 6,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "max_position_embeddings": 20,
    "hidden_dropout_prob": 0.0,
    "bmm_ratio": 0.0,
}
Transform = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


def randomised(model: nn.Module) -> nn.Module:
    """Every weight drawn, so that no two pieces are alike and no bias is zero."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def tiny_vit(kind: type = ViTModel, **fields: Any) -> nn.Module:
    """A ViT of 3 x 5 patches (rows x columns) of 8 pixels."""
    config_class = DeiTConfig if kind is DeiTModel else ViTConfig
    return randomised(kind(config_class(**(SIZES | {"image_size": [24, 40], "patch_size": 8} | fields))))


def tiny_bert(kind: type = BertModel, **fields: Any) -> nn.Module:
    sizes = {"vocab_size": VOCABULARY, "max_position_embeddings": 30}
    return randomised(kind(BertConfig(**(SIZES | sizes | fields))))


def timm_tensors(vit: ViTModel) -> dict[str, torch.Tensor]:
    """The weights of a ViT as timm's VisionTransformer names them, and a head."""
    tensors = {
        "cls_token": vit.embeddings.cls_token,
        "pos_embed": vit.embeddings.position_embeddings,
        "patch_embed.proj.weight": vit.embeddings.patch_embeddings.projection.weight,
        "patch_embed.proj.bias": vit.embeddings.patch_embeddings.projection.bias,
        "head.weight": torch.randn(5, 32),
        "head.bias": torch.randn(5),
    }
    for i, layer in enumerate(vit.layers):
        attention = layer.attention
        modules = {"norm1": layer.layernorm_before, "norm2": layer.layernorm_after, "attn.proj": attention.o_proj}
        modules |= {"mlp.fc1": layer.mlp.fc1, "mlp.fc2": layer.mlp.fc2}
        for kind in ("weight", "bias"):
            for name, module in modules.items():
                tensors[f"blocks.{i}.{name}.{kind}"] = getattr(module, kind)
            parts = [getattr(module, kind) for module in (attention.q_proj, attention.k_proj, attention.v_proj)]
            tensors[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(parts)
    tensors |= {"norm.weight": vit.layernorm.weight, "norm.bias": vit.layernorm.bias}
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def save_as_timm(vit: ViTModel, folder: Path) -> str:
    folder.mkdir()
    save_file(timm_tensors(vit), folder / "model.safetensors")
    config = {"architecture": "vit_tiny", "model_args": {"num_heads": 4}}
    config["pretrained_cfg"] = {"input_size": [3, 24, 40], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def saved(model: nn.Module, folder: Path) -> str:
    model.save_pretrained(folder)
    return str(folder)


def edit(folder: str, change: Transform) -> str:
    path = Path(folder) / "model.safetensors"
    save_file(change(load_file(path)), path)
    return folder


def start_from(vit: str, bert: str, **fields: Any) -> tuple[IVTModel, list[str]]:
    config = IVTConfig(**({"vocab_size": VOCABULARY} | FIELDS | fields))
    model, lines = assemble(read_vit(vit), read_bert(bert), config)
    return model.eval(), lines


@pytest.fixture
def bert(tmp_path: Path) -> BertModel:
    model = tiny_bert()
    model.save_pretrained(tmp_path / "bert")
    return model


# ---- what is taken over computes the same


@pytest.mark.parametrize("form", ["model", "classifier", "masked", "timm"])
@torch.no_grad()
def test_patches_and_positions_are_those_of_the_vit(tmp_path, bert, form):
    kinds = {"classifier": ViTForImageClassification, "masked": ViTForMaskedImageModeling}
    source = tiny_vit(kinds.get(form, ViTModel))
    vit = getattr(source, "vit", source)
    name = save_as_timm(vit, tmp_path / "vit") if form == "timm" else saved(source, tmp_path / "vit")
    model, _ = start_from(name, str(tmp_path / "bert"), image_size=[24, 40], patch_stride=8)
    pixels = torch.randn(2, 3, 24, 40)
    embeddings = model.image_embeddings
    torch.testing.assert_close(embeddings(pixels) - embeddings.type_embeddings, vit.embeddings(pixels))


@torch.no_grad()
def test_another_grid_has_the_vits_patches_and_its_positions_resized(tmp_path, bert):
    vit = tiny_vit()
    model, lines = start_from(saved(vit, tmp_path / "vit"), str(tmp_path / "bert"))
    assert "positions 3 x 5 resized to 4 x 2" in lines[0]
    positions = vit.embeddings.position_embeddings[0, 1:].view(3, 5, 32)
    expected = torch.empty(4, 2, 32)
    for row in range(4):  # bilinear, by hand: where the centre of a new cell lies in the old grid
        for column in range(2):
            y, x = (row + 0.5) * 3 / 4 - 0.5, (column + 0.5) * 5 / 2 - 0.5
            y, x = min(max(y, 0.0), 2.0), min(max(x, 0.0), 4.0)
            top, left = min(int(y), 1), min(int(x), 3)
            corners = positions[top : top + 2, left : left + 2]
            rows = torch.tensor([1 - (y - top), y - top])
            columns = torch.tensor([1 - (x - left), x - left])
            expected[row, column] = torch.einsum("i,j,ijd->d", rows, columns, corners)
    found = model.image_embeddings.position_embeddings[0]
    torch.testing.assert_close(found[1:].view(4, 2, 32), expected)
    assert torch.equal(found[0], vit.embeddings.position_embeddings[0, 0])
    pixels = torch.randn(1, 3, 26, 14)
    projection = vit.embeddings.patch_embeddings.projection
    second_row = projection(pixels[:, :, 6:14, :8]).flatten()  # the patch of row 1, column 0
    torch.testing.assert_close(model.image_embeddings.patch_embeddings(pixels)[0, 1 * 2 + 0], second_row)


@torch.no_grad()
def test_whole_vit_without_text_gives_the_same_hidden_states(tmp_path, bert):
    vit = tiny_vit(layer_norm_eps=1e-6)
    sizes = {"image_size": [24, 40], "patch_stride": 8, "num_hidden_layers": 3}
    model, _ = start_from(saved(vit, tmp_path / "vit"), str(tmp_path / "bert"), **sizes)
    model.image_embeddings.type_embeddings.zero_()
    pixels = torch.randn(2, 3, 24, 40)
    found = model.get_image_features(pixels).last_hidden_state
    torch.testing.assert_close(found, vit(pixels).last_hidden_state, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM])
@torch.no_grad()
def test_words_and_text_feed_forward_are_those_of_bert(tmp_path, kind):
    source = tiny_bert(kind)
    bert = getattr(source, "bert", source)
    model, _ = start_from(saved(tiny_vit(), tmp_path / "vit"), saved(source, tmp_path / "bert"))
    ids = torch.randint(0, VOCABULARY, (2, 20))
    torch.testing.assert_close(model.text_embeddings(ids), bert.embeddings(ids))
    states = torch.randn(2, 5, 32)
    for block, layer in zip(model.layers, bert.encoder.layer, strict=False):
        expected = layer.output.dense(layer.intermediate(states))  # without the residual and the norm behind it
        torch.testing.assert_close(block.feed_forward["text"](states), expected)


@pytest.mark.parametrize("form", ["transformers", "timm"])
@torch.no_grad()
def test_attention_norms_and_image_feed_forward_are_those_of_the_vit(tmp_path, bert, form):
    vit = tiny_vit()
    name = save_as_timm(vit, tmp_path / "vit") if form == "timm" else saved(vit, tmp_path / "vit")
    model, _ = start_from(name, str(tmp_path / "bert"))
    states = torch.randn(2, 7, 32)
    for block, layer in zip(model.layers, vit.layers, strict=False):
        torch.testing.assert_close(block.attention(states, None)[0], layer.attention(states)[0])
        torch.testing.assert_close(block.layernorm_before(states), layer.layernorm_before(states))
        torch.testing.assert_close(block.layernorm_after(states), layer.layernorm_after(states))
        torch.testing.assert_close(block.feed_forward["image"](states), layer.mlp(states))
    assert torch.equal(model.layernorm.weight, vit.layernorm.weight)


@torch.no_grad()
def test_distilled_deit_leaves_its_second_token_out(tmp_path, bert):
    deit = tiny_vit(DeiTModel)
    sizes = {"image_size": [24, 40], "patch_stride": 8}
    model, lines = start_from(saved(deit, tmp_path / "vit"), str(tmp_path / "bert"), **sizes)
    pixels = torch.randn(1, 3, 24, 40)
    expected = deit.embeddings(pixels)[:, [0, *range(2, 17)]]
    torch.testing.assert_close(model.image_embeddings(pixels) - model.image_embeddings.type_embeddings, expected)
    assert "distillation token 1" in lines[0]


def test_without_shared_attention_both_modalities_begin_with_the_vits(tmp_path, bert):
    vit = tiny_vit()
    model, _ = start_from(saved(vit, tmp_path / "vit"), str(tmp_path / "bert"), shared_attention=False)
    for modality in ("image", "text"):
        assert torch.equal(model.layers[1].attention[modality].proj.weight, vit.layers[1].attention.o_proj.weight)
        assert torch.equal(model.layernorm[modality].bias, vit.layernorm.bias)


def test_first_files_of_bert_say_gamma_and_beta(tmp_path, bert):
    def rename(tensors):
        return {
            "bert." + key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
            for key, t in tensors.items()
        } | {"cls.seq_relationship.weight": torch.zeros(2, 32)}

    edit(str(tmp_path / "bert"), rename)
    model, _ = start_from(saved(tiny_vit(), tmp_path / "vit"), str(tmp_path / "bert"))
    assert torch.equal(model.text_embeddings.layernorm.weight, bert.embeddings.LayerNorm.weight)


@pytest.mark.parametrize("form", ["file", "shards", "torch"])
def test_weights_may_lie_in_a_file_in_shards_or_in_torchs_format(tmp_path, bert, form):
    vit = tiny_vit()
    folder = Path(saved(vit, tmp_path / "vit"))
    name, tensors = str(folder), load_file(folder / "model.safetensors")
    if form == "file":
        name = str(folder / "model.safetensors")
    else:
        (folder / "model.safetensors").unlink()
    if form == "shards":
        halves = list(tensors.items())
        save_file(dict(halves[::2]), folder / "model-00001-of-00002.safetensors")
        save_file(dict(halves[1::2]), folder / "model-00002-of-00002.safetensors")
    elif form == "torch":
        torch.save(tensors, folder / "pytorch_model.bin")
    model, _ = start_from(name, str(tmp_path / "bert"))
    assert torch.equal(model.layernorm.weight, vit.layernorm.weight)


# ---- every tensor is accounted for


def test_report_accounts_for_every_tensor(tmp_path, bert):
    vit = saved(tiny_vit(ViTForImageClassification), tmp_path / "vit")
    model, lines = start_from(vit, str(tmp_path / "bert"))
    # per block: 2 norms, 4 matrices of attention, 2 of the feed-forward, each with a bias
    assert lines[0] == (
        f"ViT {vit}: {4 + 2 * 16 + 2} of {4 + 3 * 16 + 2 + 2} tensors taken; the first 2 of 3 blocks; "
        "positions 3 x 5 resized to 4 x 2; not used: classification head 2, blocks beyond the first 2 16"
    )
    assert lines[1] == (
        f"BERT {tmp_path / 'bert'}: {5 + 2 * 4} of {5 + 3 * 16 + 2} tensors taken; the first 2 of 3 blocks; "
        "the first 20 of 30 positions; not used: norms 8, attention 16, blocks beyond the first 2 16, pooler 2"
    )
    assert lines[2].startswith("drawn: image_embeddings.type_embeddings; ")
    taken = 4 + 2 * (4 + 4 + 4) + 2 + 5 + 2 * 4  # three tensors of attention are one here
    assert len(model.state_dict()) == taken + 1 and f"all {taken + 1} weights" in lines[2]


def test_timm_without_config_tells_that_heads_are_assumed(tmp_path, bert):
    vit = tiny_vit(image_size=[24, 24])
    folder = Path(save_as_timm(vit, tmp_path / "vit"))
    (folder / "config.json").unlink()
    _, lines = start_from(str(folder), str(tmp_path / "bert"))
    assert "its files do not tell its attention heads, taken for 4; positions 3 x 3 resized to 4 x 2" in lines[0]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t | {"blocks.0.ls1.gamma": torch.ones(32)}, r"tensors that nobody knows \(1\): blocks.0.ls1.gamma"),
        (lambda t: {k: v for k, v in t.items() if k != "norm.weight"}, "has no norm.weight for layernorm.weight"),
        (lambda t: {k: v for k, v in t.items() if not k.endswith("qkv.bias")}, "has no blocks.0.attn.qkv.bias"),
        (lambda t: t | {"norm.weight": torch.ones(3)}, r"layernorm.weight is \(32,\), in the ViT .* \(3,\)"),
        (lambda t: {"fc.weight": torch.ones(3)}, "holds no ViT: .* found 1 tensors such as fc.weight"),
        (lambda t: t | {"pos_embed": torch.ones(1, 15, 32)}, "has 14 patch positions, which are no square"),
    ],
)
def test_tensors_that_are_missing_unknown_or_unfit_are_named(tmp_path, bert, change, message):
    vit = edit(save_as_timm(tiny_vit(), tmp_path / "vit"), change)
    with pytest.raises(ValueError, match=message):
        start_from(vit, str(tmp_path / "bert"))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"hidden_size": 64}, "hidden_size is 64, the ViT .* is 32 wide; .*pass --model.hidden_size 32"),
        ({"num_hidden_layers": 4}, "num_hidden_layers is 4, the ViT .* has 3 blocks"),
        ({"num_attention_heads": 8}, "num_attention_heads is 8, in the ViT .* 4"),
        ({"patch_size": 6}, "patch_size is 6, in the ViT .* 8; pass --model.patch_size 8"),
        ({"hidden_act": "relu"}, "hidden_act is relu, in the ViT .* gelu"),
        ({"intermediate_size": 64}, r"feed_forward.image.fc1.weight is \(64, 32\), in the ViT .* \(48, 32\)"),
        ({"vocab_size": 50}, r"word_embeddings.weight is \(50, 32\), in the BERT .* \(60, 32\)"),
        ({"max_position_embeddings": 40}, r"position_embeddings.weight is \(40, 32\), in the BERT .* \(30, 32\)"),
    ],
)
def test_sizes_that_do_not_agree_are_named_with_the_remedy(tmp_path, bert, fields, message):
    with pytest.raises(ValueError, match=message):
        start_from(saved(tiny_vit(), tmp_path / "vit"), str(tmp_path / "bert"), **fields)


def test_bert_of_another_width_is_named(tmp_path):
    bert = saved(tiny_bert(hidden_size=16), tmp_path / "bert")
    with pytest.raises(ValueError, match="hidden_size is 32, the BERT .* is 16 wide"):
        start_from(saved(tiny_vit(), tmp_path / "vit"), bert)


def test_other_models_than_bert_are_refused(tmp_path, bert):
    config = json.loads((tmp_path / "bert/config.json").read_text()) | {"model_type": "roberta"}
    (tmp_path / "bert/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="holds no BERT but 'roberta'"):
        read_bert(str(tmp_path / "bert"))


def test_weights_that_are_not_there_or_cut_short_are_refused(tmp_path, bert):
    with pytest.raises(ValueError, match="'nobody/nothing' is no file or folder below .* cannot be had from the Hub"):
        read_vit("nobody/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds neither model.safetensors nor pytorch_model.bin"):
        read_vit(str(tmp_path / "empty"))
    path = tmp_path / "bert/model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        read_bert(str(tmp_path / "bert"))


# ---- the fusion encoder of pre-training


def pretraining_start(vit: str, bert: str, **fields: Any) -> tuple[IVTForPreTraining, list[str]]:
    config = IVTConfig(**({"vocab_size": VOCABULARY, "num_fusion_layers": 2} | FIELDS | fields))
    model, lines = assemble(read_vit(vit), read_bert(bert), config, IVTForPreTraining)
    return model.eval(), lines


@torch.no_grad()
def test_fusion_encoder_is_the_last_blocks_of_bert_and_its_head(tmp_path):
    source = tiny_bert(BertForMaskedLM)
    bert = saved(source, tmp_path / "bert")
    model, lines = pretraining_start(saved(tiny_vit(), tmp_path / "vit"), bert)
    states = torch.randn(2, 5, 32)
    for fusion, layer in zip(model.fusion_layers, source.bert.encoder.layer[1:], strict=True):
        torch.testing.assert_close(fusion.self_attention(states, states, None), layer.attention(states)[0])
        found = fusion.layernorm(states + fusion.feed_forward(states))
        torch.testing.assert_close(found, layer.feed_forward_chunk(states))
    torch.testing.assert_close(model.mlm_head(states), source.cls(states))
    # two of its three blocks serve the encoder, the last two the fusion encoder: 16 tensors each, and the encoder's 4
    assert lines[1] == (
        f"BERT {bert}: {5 + 4 + 2 * 16 + 5} of {5 + 3 * 16 + 5} tensors taken; the first 2 of 3 blocks; the first 20 "
        "of 30 positions; the last 2 for the fusion encoder; not used: norms 4, attention 8"
    )
    num_weights = len(model.state_dict()) - 1  # words and decoder are one
    assert lines[2] == (
        "drawn: fusion_layers.*.cross_attention, image_embeddings.type_embeddings, itm_head, log_temperature; all "
        f"{num_weights} weights of the model are accounted for"
    )


def test_head_that_bert_does_not_bring_is_drawn_and_named(tmp_path, bert):
    model, lines = pretraining_start(saved(tiny_vit(), tmp_path / "vit"), str(tmp_path / "bert"))
    assert "itm_head, log_temperature, mlm_head; all" in lines[2]
    encoder, _ = start_from(str(tmp_path / "vit"), str(tmp_path / "bert"))
    for name, tensor in encoder.state_dict().items():
        assert name.endswith("type_embeddings") or torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"num_fusion_layers": 4}, "num_fusion_layers is 4, the BERT .* 3 blocks; pass --model.num_fusion_layers 3"),
        ({"fusion_attention_heads": 2}, "has 2 attention heads, the BERT .* 4; pass --model.fusion_attention_heads 4"),
    ],
)
def test_fusion_encoder_that_bert_does_not_fit_is_named(tmp_path, bert, fields, message):
    with pytest.raises(ValueError, match=message):
        pretraining_start(saved(tiny_vit(), tmp_path / "vit"), str(tmp_path / "bert"), **fields)


PRETRAIN = {"stage": "pretrain", "cmpm_weight": 0.0, "itc_weight": 1.0, "levels": ["sentence"], "num_views": 1}


def test_pretraining_goes_on_from_its_own_checkpoint_and_begins_from_an_encoders(tmp_path, tokenizer):
    fields = {"tokenizer": tokenizer, "max_text_tokens": 12}
    first, processor, _ = build_model(Recipe(**PRETRAIN, **fields), FIELDS | {"num_fusion_layers": 2})
    assert type(first) is IVTForPreTraining
    first.save_pretrained(tmp_path / "whole")
    processor.save_pretrained(tmp_path / "whole")
    again, _, lines = build_model(Recipe(**PRETRAIN, **fields, init=str(tmp_path / "whole")), {})
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in first.state_dict().items())
    assert not lines
    encoder, _, _ = build_model(Recipe(**fields, init=str(tmp_path / "whole")), {})
    assert type(encoder) is IVTModel
    encoder.save_pretrained(tmp_path / "encoder")
    begun, _, lines = build_model(Recipe(**PRETRAIN, **fields, init=str(tmp_path / "encoder")), {})
    assert all(torch.equal(begun.state_dict()[name], tensor) for name, tensor in encoder.state_dict().items())
    assert type(begun) is IVTForPreTraining and lines[0].startswith("drawn: fusion_layers.*.cross_attention, ")


def test_checkpoint_is_continued_with_another_image_size_and_stride(tmp_path, tokenizer):
    fields = {"tokenizer": tokenizer, "max_text_tokens": 12}
    first, processor, _ = build_model(Recipe(**PRETRAIN, **fields), FIELDS | {"num_fusion_layers": 2})
    first.save_pretrained(tmp_path / "whole")
    processor.save_pretrained(tmp_path / "whole")
    recipe = Recipe(**fields, init=str(tmp_path / "whole"))
    model, processor, lines = build_model(recipe, FIELDS | {"image_size": [40, 16], "patch_stride": 8})
    assert lines == ["positions and types 4 x 2 resized to 5 x 2"]
    inputs = processor(images=Image.new("RGB", (30, 90)), return_tensors="pt")
    assert model.get_image_features(inputs.pixel_values).last_hidden_state.shape == (1, 11, 32)
    found, old = (m.image_embeddings.type_embeddings for m in (model, first))
    torch.testing.assert_close(found, resize_grid(old, (4, 2), (5, 2)))
    assert not build_model(recipe, FIELDS)[2]


# ---- the recipe's `init`


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"word{i}" for i in range(VOCABULARY - len(words))]
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


@pytest.mark.parametrize("length, expected", [(3.0, 3.0), (None, SIZES["hidden_size"] ** 0.5)])
@pytest.mark.parametrize("shared_attention", [True, False])
def test_embeddings_of_a_new_model_have_the_length_of_the_recipe(tokenizer, length, expected, shared_attention):
    recipe = Recipe(embedding_length=length, tokenizer=tokenizer, max_text_tokens=12)
    fields = FIELDS | {"shared_attention": shared_attention, "initializer_range": 0.2}
    model, processor, _ = build_model(recipe, fields)
    texts = processor(text=["word3 word4", "word5"], return_tensors="pt")
    outputs = model.eval()(pixel_values=torch.randn(4, 3, 26, 14), **texts)
    for embeds in (outputs.image_embeds, outputs.text_embeds):
        torch.testing.assert_close(embeds.norm(dim=1), torch.full((len(embeds),), expected), rtol=1e-3, atol=0.0)


def test_processor_of_a_run_fits_its_model_and_cuts_texts_where_the_recipe_says(tokenizer):
    model, processor, _ = build_model(Recipe(tokenizer=tokenizer, max_text_tokens=7), FIELDS)
    picture = Image.new("RGB", (90, 30))
    inputs = processor(images=picture, text="word3 " * 15, return_tensors="pt")
    assert inputs.pixel_values.shape == (1, 3, *FIELDS["image_size"])  # (height, width)
    assert inputs.input_ids.shape == (1, 7)
    assert model(**inputs).text_embeds.shape == (1, FIELDS["hidden_size"])


@pytest.mark.parametrize("gradient_checkpointing, passes", [(False, 1), (True, 2)])
def test_gradient_checkpointing_passes_every_block_once_more(tokenizer, gradient_checkpointing, passes):
    recipe = Recipe(tokenizer=tokenizer, max_text_tokens=12, gradient_checkpointing=gradient_checkpointing)
    model, _, _ = build_model(recipe, FIELDS)
    counts = Counter()
    for number, layer in enumerate(model.layers):
        layer.attention.register_forward_pre_hook(lambda *_, number=number: counts.update([number]))
    model.train().get_image_features(torch.randn(2, 3, 26, 14)).pooler_output.sum().backward()
    assert counts == {0: passes, 1: passes}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # which the compiler asks for
def test_compiled_blocks_give_the_same_gradients_from_one_graph_for_all(tokenizer, monkeypatch):
    """Two modalities, the last block or not: as many graphs for four blocks, and for any number of tokens."""
    graphs = []
    compile_with = functools.partial(nn.Module.compile, backend=lambda graph, _: graphs.append(graph) or graph)
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: compile_with(self, **options))
    fields, found = FIELDS | {"num_hidden_layers": 4, "drop_path_rate": 0.2, "bmm_ratio": 0.3}, []
    for compile in (False, True):
        torch.manual_seed(0)
        model, processor, _ = build_model(Recipe(tokenizer=tokenizer, max_text_tokens=12, compile=compile), fields)
        model.train()
        for words in (3, 5, 8):
            texts = processor(text=["woman " * words, "man"], return_tensors="pt")
            images = model.get_image_features(torch.randn(2, 3, 26, 14), cls_only=True).pooler_output
            (images * model.get_text_features(**texts, cls_only=True).pooler_output).sum().backward()
        found.append([weight.grad for weight in model.parameters()])
    assert len(graphs) == 4
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain)


def test_recipe_begins_with_a_vit_and_a_bert_in_either_order(tmp_path, bert, tokenizer):
    vit = tiny_vit()
    names = f"vit={save_as_timm(vit, tmp_path / 'vit')}", f"bert={tmp_path / 'bert'}"
    for init in (",".join(names), ",".join(reversed(names))):
        model, processor, lines = build_model(Recipe(init=init, tokenizer=tokenizer, max_text_tokens=20), FIELDS)
        assert torch.equal(model.layernorm.weight, vit.layernorm.weight) and len(lines) == 3
        # pictures are normalised as the ViT's were
        assert list(processor.image_processor.image_mean) == [0.4, 0.5, 0.6]
        assert list(processor.image_processor.image_std) == [0.2, 0.3, 0.4]
    for init in ("vit=a", "vit=a,bert="):
        with pytest.raises(ValueError, match="expected vit=NAME,bert=NAME"):
            build_model(Recipe(init=init, tokenizer=tokenizer), FIELDS)


def test_checkpoint_of_such_a_start_keeps_weights_and_normalisation(tmp_path, bert, tokenizer):
    init = f"vit={save_as_timm(tiny_vit(), tmp_path / 'vit')},bert={tmp_path / 'bert'}"
    first, processor, _ = build_model(Recipe(init=init, tokenizer=tokenizer, max_text_tokens=20), FIELDS)
    first.save_pretrained(tmp_path / "start")
    processor.save_pretrained(tmp_path / "start")
    recipe = Recipe(init=str(tmp_path / "start"), tokenizer=tokenizer, max_text_tokens=20)
    again, processor, lines = build_model(recipe, {})
    assert all(torch.equal(tensor, first.state_dict()[name]) for name, tensor in again.state_dict().items())
    assert list(processor.image_processor.image_mean) == [0.4, 0.5, 0.6] and not lines


def test_command_saves_the_start_that_a_run_would_have(tmp_path, bert, tokenizer, ivt):
    init = f"vit={saved(tiny_vit(), tmp_path / 'vit')},bert={tmp_path / 'bert'}"
    recipe = {"init": init, "tokenizer": tokenizer, "max_text_tokens": 20, "seed": 5}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe | {"model": FIELDS}))
    command = ["convert", tmp_path / "start", "--config", tmp_path / "recipe.yaml"]
    done = ivt(*command)
    set_seed(5)
    expected, _, lines = build_model(Recipe(**recipe), FIELDS)
    assert "\n".join(lines) in done.stdout
    found = AutoModel.from_pretrained(tmp_path / "start").state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.state_dict().items())
    with pytest.raises(ValueError, match="is not an empty folder"):
        ivt(*command)


def test_recipe_begins_with_a_file_of_the_authors(golden_checkpoint, golden_tokenizer, converted):
    recipe = Recipe(init=f"official={golden_checkpoint}", tokenizer=str(golden_tokenizer), max_text_tokens=40)
    geometry = {"image_size": [96, 48], "patch_stride": 12, "num_attention_heads": 4}
    model, _, lines = build_model(recipe, geometry | {"drop_path_rate": 0.3})
    expected = load_file(converted[0] / "model.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert model.config.drop_path_rate == 0.3 and any("used: 60, no parameter missing" in line for line in lines)
    recipe_of_pretraining = replace(recipe, **PRETRAIN)
    begun, _, lines = build_model(recipe_of_pretraining, geometry)
    assert all(torch.equal(begun.state_dict()[name], tensor) for name, tensor in expected.items())
    assert lines[-1].startswith("drawn: fusion_layers.*.cross_attention, ")
    with pytest.raises(ValueError, match="hidden_size is 768, in .* it is 64; leave it out or set it to that"):
        build_model(recipe, geometry | {"hidden_size": 768})


@pytest.mark.parametrize(
    "init, message",
    [
        (
            "vits=a,bert=b",
            "init is 'vits=a,bert=b', which is no checkpoint .*expected random, an IVT checkpoint, vit=",
        ),
        ("official={folder}/bert", "bert is no file; expected a checkpoint of the authors.*--init FOLDER"),
        ("{folder}/bert", "a model of type 'bert', expected 'ivt'.*--init vit=NAME,bert=NAME"),
    ],
)
def test_start_that_is_none_names_what_there_could_be(tmp_path, bert, tokenizer, init, message):
    with pytest.raises(ValueError, match=message):
        build_model(Recipe(init=init.format(folder=tmp_path), tokenizer=tokenizer, max_text_tokens=12), FIELDS)


def test_fields_that_a_checkpoint_has_otherwise_are_named(tmp_path, tokenizer):
    IVTModel(IVTConfig(**FIELDS, vocab_size=VOCABULARY)).save_pretrained(tmp_path / "ivt")
    recipe = Recipe(init=str(tmp_path / "ivt"), tokenizer=tokenizer, max_text_tokens=12)
    model, _, _ = build_model(recipe, FIELDS | {"bmm_ratio": 0.3})  # which no weight depends on
    assert model.config.bmm_ratio == 0.3
    other = FIELDS["intermediate_size"] * 2
    with pytest.raises(ValueError, match=rf"changes intermediate_size {other} \(there {other // 2}\); leave out"):
        build_model(recipe, FIELDS | {"intermediate_size": other})


@pytest.mark.parametrize(
    "size, width, depth, inner, length, patches",
    [
        ("ivt-tiny", 128, 3, 512, 96, 23 * 7),
        ("ivt-small", 384, 12, 1536, 512, 31 * 10),
        ("ivt-base", 768, 12, 3072, 512, 31 * 10),
    ],
)
def test_model_sizes_have_the_weights_that_width_and_depth_ask_for(size, width, depth, inner, length, patches):
    _, recipe, fields = parse_arguments(["--model_size", size, "--model.bmm_ratio", "0.1"])
    assert recipe.model_size == size and fields == MODEL_SIZES[size] | {"bmm_ratio": 0.1}
    with torch.device("meta"):
        model = IVTModel(IVTConfig(**fields, vocab_size=100))
    attention, feed_forward = 4 * width * (width + 1), width * (2 * inner + 1) + inner
    image = width * (3 * 16 * 16 + 1) + width * (1 + 2 * (1 + patches))  # patches, [CLS], positions and types
    text = width * (100 + length + 2 + 2)  # words, positions, token types, norm
    expected = depth * (attention + 2 * feed_forward + 4 * width) + image + text + 2 * width
    assert sum(p.numel() for p in model.parameters()) == expected
    assert parse_arguments(["--model_size", size, "--model.hidden_size", "48"])[2]["hidden_size"] == 48


def test_unknown_size_names_the_sizes():
    with pytest.raises(ValueError, match="'ivt-huge', expected one of 'ivt-tiny', 'ivt-small', 'ivt-base'"):
        parse_arguments(["--model_size", "ivt-huge"])


def test_source_of_weights_for_the_hub_is_asked_for_what_is_needed_only(tmp_path, bert, monkeypatch):
    asked = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path / "bert")

    monkeypatch.setattr("ivt.training.sources.snapshot_download", download)
    assert read_bert("somebody/bert").tensors.keys() == load_file(tmp_path / "bert/model.safetensors").keys()
    assert asked == [("somebody/bert", ["config.json", "preprocessor_config.json", "model*.safetensors*"])]
