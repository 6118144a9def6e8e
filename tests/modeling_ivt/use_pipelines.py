"""Every pipeline a published model is for, each beside what the model itself says; part of the two user scripts."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers import AutoModel, AutoProcessor, pipeline

PICTURES = [Image.linear_gradient("L").resize((50, 120)).convert("RGB"), *map(Image.new, ["RGB"] * 2, [(40, 90)] * 2)]
PICTURES[2].paste((200, 30, 30), (0, 20, 40, 50))
SENTENCES = ["a woman with an orange coat", "A man, a striped shirt."]


def use_pipelines(name: str, folder: Path, **options: Any) -> dict[str, Any]:
    """Load and call the pipelines.

    Args:
        name: folder or Hub name.
        folder: where to save the project's own pipeline, to load it again from there.
        **options: for loading: `revision`, `trust_remote_code`.

    Returns:
        What each answered, what the model says to the same, and the modules of the pipelines' classes.
    """
    model = AutoModel.from_pretrained(name, **options)
    processor = AutoProcessor.from_pretrained(name, **options)
    with torch.no_grad():
        output = model(**processor(images=PICTURES, text=SENTENCES, return_tensors="pt"))
    cosines = normalize(output.text_embeds, dim=1) @ normalize(output.image_embeds, dim=1).T
    expected = {
        "zero_shot": dict(zip(SENTENCES, output.logits_per_image[0].softmax(dim=0).tolist(), strict=True)),
        "text": output.text_embeds[0].tolist(),
        "image": output.image_embeds[0].tolist(),
        "ranking": [row.argsort(descending=True).tolist() for row in cosines],
        "cosines": [row.sort(descending=True).values.tolist() for row in cosines],
    }

    classify = pipeline("zero-shot-image-classification", model=name, **options)
    answers = classify(PICTURES[0], candidate_labels=SENTENCES, hypothesis_template="{}")
    search = pipeline(model=name, **options)  # the task is the one of config.json
    found = search(SENTENCES, images=PICTURES)
    gallery = search.embed_images(PICTURES, batch_size=2)
    search.save_pretrained(folder)
    trust = {key: value for key, value in options.items() if key != "revision"}
    again = pipeline("text-to-person-retrieval", model=str(folder), **trust)
    given = {
        "zero_shot": {answer["label"]: answer["score"] for answer in answers},
        "text": pipeline("feature-extraction", model=name, **options)(SENTENCES[0])[0],
        "image": pipeline("image-feature-extraction", model=name, **options)(PICTURES[0])[0],
        "ranking": [[answer["index"] for answer in answers] for answers in found],
        "cosines": [[answer["score"] for answer in answers] for answers in found],
    }
    return {
        "expected": expected,
        "given": given,
        "modules": [type(search).__module__, type(again).__module__],
        "images_are_returned": all(answer["image"] is PICTURES[answer["index"]] for answer in found[0]),
        "by_image": [{key: answer[key] for key in ("score", "index")} for answer in found[1]],
        "by_gallery": search(SENTENCES[1], gallery=gallery),
        "by_saved_pipeline": again(SENTENCES[1], gallery=gallery),
    }
