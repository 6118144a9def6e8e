"""What Hugging Face Inference Endpoints run for a published model: json in, json out.

    {"inputs": {"image": BASE64, "candidate_labels": ["a woman in red", …]}} -> [{"label": …, "score": …}, …]
    {"inputs": {"text": "a woman in red"}}                                    -> {"embedding": […]}
    {"inputs": {"image": BASE64}}                                             -> {"embedding": […]}

Labels are whole descriptions; their scores sum to 1, the best fit first. Embeddings have unit length, so the dot
product of two is their cosine. Whatever is wrong with a request, the answer is `{"error": "what was found and what was
expected"}`. Nothing is fetched: images come in the request. `ivt publish` uploads this file to the root of the
model's repository, where it finds the model by the Auto classes.
"""

import base64
import binascii
import io
import logging
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers import AutoModel, AutoProcessor

logger = logging.getLogger(__name__)

MAX_PIXELS = 16_000_000  # of an image, before it is decoded; 4,000 x 4,000
MAX_IMAGE_CHARACTERS = 30_000_000  # of base64
MAX_TEXT_CHARACTERS = 5_000
MAX_LABELS = 100
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")  # others have decoders nobody needs here


class BadInput(ValueError):
    """Something is wrong with a request; the message says what, and goes to whoever sent it."""


def check_text(name: str, text: Any) -> str:
    """Return the text, or say what is wrong with it."""
    if not isinstance(text, str):
        raise BadInput(f"{name} is {type(text).__name__}, expected a sentence (string)")
    if not text.strip():
        raise BadInput(f"{name} is empty, expected a sentence")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise BadInput(f"{name} has {len(text)} characters, at most {MAX_TEXT_CHARACTERS} are taken")
    return text


def check_labels(labels: Any) -> list[str]:
    """Return the labels, or say what is wrong with them."""
    if not isinstance(labels, list) or not labels:
        raise BadInput(f"candidate_labels is {str(labels)[:40]!r}, expected a list of at least one description")
    if len(labels) > MAX_LABELS:
        raise BadInput(f"there are {len(labels)} candidate_labels, at most {MAX_LABELS} are taken")
    return [check_text(f"candidate_labels[{i}]", label) for i, label in enumerate(labels)]


def open_image(image: Any) -> Image.Image:
    """Decode an image, given as base64 or opened already (the toolkit opens a body that is a picture).

    Raises:
        BadInput: if it is no base64, no picture of `FORMATS`, damaged, or has more than `MAX_PIXELS`.
    """
    if isinstance(image, str):
        if len(image) > MAX_IMAGE_CHARACTERS:
            raise BadInput(f"image has {len(image)} characters, at most {MAX_IMAGE_CHARACTERS} are taken")
        try:
            data = base64.b64decode("".join(image.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadInput("image is not base64; send the file's content, URLs are not fetched") from error
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Exception as error:  # what Pillow raises on hostile bytes is not a closed list
            raise BadInput(f"image is no picture that can be opened, expected one of {', '.join(FORMATS)}") from error
    elif not isinstance(image, Image.Image):
        raise BadInput(f"image is {type(image).__name__}, expected the file's content in base64 (string)")
    if image.width * image.height > MAX_PIXELS:
        raise BadInput(f"image has {image.width} x {image.height} pixels, at most {MAX_PIXELS} in all are taken")
    try:
        image.load()
    except Exception as error:
        raise BadInput("image is damaged: it cannot be decoded") from error
    return image


class EndpointHandler:
    """Loaded once per process by the Endpoints toolkit, then called with every request.

    Args:
        path: folder of the model's repository.
    """

    def __init__(self, path: str = "") -> None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        self.model = AutoModel.from_pretrained(path, trust_remote_code=True).eval().to(device)
        self.processor = AutoProcessor.from_pretrained(path, trust_remote_code=True)

    def __call__(self, data: Any) -> dict[str, Any] | list[dict[str, Any]]:
        """Answer a request; see the head of this file. It never raises."""
        try:
            return self._answer(data)
        except BadInput as error:
            return {"error": str(error)}
        except Exception:
            logger.exception("a request failed")
            return {"error": "the request could not be answered; the endpoint's log says why"}

    def _answer(self, data: Any) -> dict[str, Any] | list[dict[str, Any]]:
        inputs = data.get("inputs") if isinstance(data, dict) else None
        if isinstance(inputs, Image.Image):
            inputs = {"image": inputs}
        if not isinstance(inputs, dict):
            raise BadInput('expected {"inputs": {…}} with "image", "text" or "image" and "candidate_labels"')
        given = {name for name, value in inputs.items() if value is not None}
        if given == {"text"}:
            return {"embedding": self._embed(text=check_text("text", inputs["text"]))[0].tolist()}
        if given == {"image"}:
            return {"embedding": self._embed(images=open_image(inputs["image"]))[0].tolist()}
        if given == {"image", "candidate_labels"}:
            labels = check_labels(inputs["candidate_labels"])
            return self._rank_labels(open_image(inputs["image"]), labels)
        found = ", ".join(sorted(map(str, given)))[:100] or "nothing"
        raise BadInput(f'inputs has {found}, expected "image", "text" or "image" and "candidate_labels"')

    @torch.inference_mode()
    def _embed(self, **inputs: Any) -> torch.Tensor:
        """Embed one modality: (B, D), of unit length."""
        output = self.model(**self.processor(**inputs, return_tensors="pt").to(self.model.device), cls_only=True)
        return normalize((output.image_embeds if "images" in inputs else output.text_embeds).float(), dim=-1)

    def _rank_labels(self, image: Image.Image, labels: list[str]) -> list[dict[str, Any]]:
        cosines = self._embed(text=labels) @ self._embed(images=image)[0]  # (labels,)
        scores = (self.model.config.logit_scale * cosines).softmax(dim=0).tolist()
        ranked = sorted(zip(labels, scores, strict=True), key=lambda pair: -pair[1])
        return [{"label": label, "score": score} for label, score in ranked]
