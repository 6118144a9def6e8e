"""Any dual encoder of transformers: embedded as by calling it directly, described, searched with, explained."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gallery_parts import draw
from tiny_encoders import DESCRIPTIONS, KINDS, save_encoder
from transformers import AutoModel, AutoProcessor, BertConfig, BertModel, BertTokenizer
from typer.testing import Result

from ivt import Gallery
from ivt.explanations.attention import as_seen, explain
from ivt.explanations.maps import known_methods
from ivt.gallery.queries import Clause, Query
from ivt.retrieval import models
from ivt.retrieval.checkpoints import load_embedder
from ivt.retrieval.embedding import embed_images, embed_texts
from ivt.retrieval.encoders import auto_dtype, describe
from ivt.retrieval.models import embedding_width, find_version, load_model, load_processor

IMAGES = [draw(seed, width, height) for seed, (width, height) in enumerate([(20, 50), (60, 33), (40, 40), (24, 96)])]
TEXTS = ["a man in a red coat", "the woman with a bag", "person", " ".join(["a blue bag and"] * 20)]


@pytest.fixture(scope="module")
def encoder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Folder of a tiny model of a kind."""
    folders: dict[str, str] = {}

    def find(kind: str) -> str:
        if kind not in folders:
            folders[kind] = save_encoder(kind, tmp_path_factory.mktemp("encoders") / kind)
        return folders[kind]

    return find


def embed_directly(folder: str, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of IMAGES and TEXTS as the documents of transformers say, each alone."""
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    padding = {"padding": "max_length"} if kind.startswith("siglip") else {"padding": True}
    images, texts = [], []
    with torch.no_grad():
        for image in IMAGES:
            inputs = processor(images=[image], return_tensors="pt")
            images.append(model.get_image_features(**inputs).pooler_output)
        for text in TEXTS:
            options = {"truncation": True, "max_length": DESCRIPTIONS[kind][2]}
            inputs = processor(text=[text], return_tensors="pt", **padding, **options)
            texts.append(model.get_text_features(**inputs).pooler_output)
    return torch.cat(images), torch.cat(texts)


@pytest.mark.parametrize("kind", KINDS)
def test_embeds_are_those_of_calling_the_model_directly(kind: str, encoder_of: Callable[[str], str]) -> None:
    folder = encoder_of(kind)
    model, processor = load_embedder(folder, torch.float32), load_processor(folder)
    found = embed_images(model, processor, IMAGES, 3, False), embed_texts(model, processor, TEXTS, 3, False)
    for embeds, direct in zip(found, embed_directly(folder, kind), strict=True):
        cosines = torch.cosine_similarity(embeds.double(), direct.double())
        assert cosines.min() >= 0.999999
        assert (embeds @ embeds.T - torch.eye(4)).max() < 0.999  # a constant would agree with anything


@pytest.mark.parametrize("kind", KINDS)
def test_description_says_what_the_model_takes_and_gives(kind: str, encoder_of: Callable[[str], str]) -> None:
    folder = encoder_of(kind)
    (Path(folder) / "README.md").write_text("---\nlicense: mit\nlanguage:\n- en\n- zh\n---\n")
    model, processor = load_model(find_version(folder), "cpu")
    found = describe(folder, processor)
    assert (found.width, found.image_size, found.longest_text) == DESCRIPTIONS[kind]
    assert (found.languages, found.licence) == (("en", "zh"), "mit")
    assert embedding_width(find_version(folder)) == found.width
    assert embed_texts(model, processor, TEXTS, progress=False).shape == (4, found.width)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_gallery_answers_every_kind_of_query(
    kind: str, encoder_of: Callable[[str], str], make_crops: Callable[..., Path], tmp_path: Path
) -> None:
    gallery = Gallery(tmp_path / "people.lance", encoder_of(kind), device="cpu")
    folder = make_crops(*(f"{number}.png" for number in range(12)))
    assert gallery.add(folder, progress=False).added == 12
    model, processor = load_model(gallery.model_version, "cpu")
    images = embed_images(model, processor, sorted(folder.glob("*")), progress=False)
    names = sorted(path.name for path in folder.glob("*"))
    scores = (embed_texts(model, processor, ["red coat"], progress=False) @ images.T)[0]
    assert gallery.search("red coat", 1)[0].image_id == names[int(scores.argmax())]
    assert gallery.search(folder / "7.png", 1)[0].image_id == "7.png"
    assert (
        gallery.search(Query((Clause("a man"), Clause(image=str(folder / "7.png"), weight=9.0))), 1)[0].image_id
        == "7.png"
    )
    found = gallery.search("red coat AND blue bag^2 NOT woman", 3)
    assert list(found[0].clause_scores) == ["red coat", "blue bag", "NOT woman"]
    assert found.presence is None and not found.no_match
    refined = gallery.search("red coat", 12, right=[names[0]], wrong=[names[1]])
    assert not {names[0], names[1]} & {result.image_id for result in refined}


def test_a_model_of_another_kind_is_named_with_what_it_lacks(tmp_path: Path, checkpoint: str) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=8, **sizes)).save_pretrained(tmp_path)
    BertTokenizer.from_pretrained(checkpoint).save_pretrained(tmp_path)
    message = "is a BertModel without get_image_features and get_text_features"
    with pytest.raises(ValueError, match=message):
        load_model(find_version(str(tmp_path)), "cpu")
    with pytest.raises(ValueError, match=message):
        Gallery(tmp_path / "people.lance", str(tmp_path)).add([draw(0)], progress=False)


def test_a_processor_without_a_tokenizer_is_named(encoder_of: Callable[[str], str], tmp_path: Path) -> None:
    folder = encoder_of("clip")
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(folder).image_processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no whole processor"):
        load_model(find_version(str(tmp_path)), "cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_explanations_work_or_say_which_methods_do(kind: str, encoder_of: Callable[[str], str]) -> None:
    model, processor = load_embedder(encoder_of(kind), torch.float32), load_processor(encoder_of(kind))
    if kind == "siglip2_naflex":
        with pytest.raises(ValueError, match="no method works with these; choose a model of a fixed size"):
            explain(model, processor, IMAGES[0], TEXTS[0], method="occlusion")
        return
    known = known_methods(model)
    assert known == (("occlusion",) if kind == "siglip" else ("occlusion", "cls", "gradient"))
    for method in known:
        found = explain(model, processor, IMAGES[0], "a man in a red coat", method=method)
        assert found.pixel_map.shape == (24, 24) and found.pixel_map.max() > 0
        assert [word for word, _ in found.words] == "a man in a red coat".split()
    embeds = embed_images(model, processor, [IMAGES[0]], progress=False)[0]
    texts = embed_texts(model, processor, ["a man in a red coat", "a man in a coat"], progress=False)
    whole, without_red = (texts @ embeds).tolist()
    assert found.score == pytest.approx(whole, abs=1e-5)
    assert found.words[4][1] == pytest.approx(whole - without_red, abs=1e-5)
    with pytest.raises(ValueError, match=f"choose the method {' or '.join(known)} instead of joint"):
        explain(model, processor, IMAGES[0], "a man")


def test_maps_lie_over_the_part_of_the_picture_that_the_model_sees(encoder_of: Callable[[str], str]) -> None:
    processor = AutoProcessor.from_pretrained(encoder_of("clip"))
    whole, part = (
        processor(images=[image], return_tensors="pt")["pixel_values"]
        for image in (IMAGES[3], as_seen(processor, IMAGES[3]))
    )
    torch.testing.assert_close(whole, part, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("capability", "dtype"), [("avx2", torch.float32), ("avx512_bf16", torch.bfloat16), ("amx_bf16", torch.bfloat16)]
)
def test_half_precision_is_for_devices_that_are_fast_in_it(
    capability: str,
    dtype: torch.dtype,
    encoder_of: Callable[[str], str],
    checkpoint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, capability: True})
    assert auto_dtype(torch.device("mps")) == torch.float16
    assert auto_dtype(torch.device("cpu")) == dtype
    for name in (encoder_of("clip"), checkpoint):
        models._load_model.cache_clear()
        assert load_model(find_version(name), "cpu")[0].dtype == dtype
    models._load_model.cache_clear()


@pytest.mark.parametrize(("is_fast", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_that_only_emulates_bfloat16_gets_float16(
    is_fast: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or is_fast)
    assert auto_dtype(torch.device("cuda")) == dtype


def test_a_checkpoint_is_loaded_in_its_own_precision_or_in_the_one_asked_for(checkpoint: str, tmp_path: Path) -> None:
    load_embedder(checkpoint, torch.bfloat16).save_pretrained(tmp_path)
    assert load_embedder(str(tmp_path)).dtype == torch.bfloat16
    assert load_embedder(str(tmp_path), torch.float32).dtype == torch.float32


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_evaluate_takes_any_dual_encoder(
    dtype: str, encoder_of: Callable[[str], str], ivt: Callable[..., Result], tmp_path: Path
) -> None:
    folder, corpus = encoder_of("clip"), ["--corpus", "synthetic", "--split", "val"]
    done = ivt("evaluate", folder, *corpus, "--dtype", dtype, "--device", "cpu", "--json")
    computed = str(auto_dtype(torch.device("cpu"))).removeprefix("torch.") if dtype == "auto" else dtype
    assert f'"dtype": "{computed}"' in done.stdout
