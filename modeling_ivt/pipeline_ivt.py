"""The pipeline `text-to-person-retrieval`: a sentence and pictures -> the pictures that fit it best, with scores.

    search = pipeline("text-to-person-retrieval", model=NAME, trust_remote_code=True)
    search("a woman in a red coat", images=["a.jpg", "b.jpg", "c.jpg"])

This file ships to the model repositories.

Letters: Q queries, G gallery items, L text tokens, D embedding width.
"""

import os
from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch.nn.functional import normalize
from transformers.pipelines import PIPELINE_REGISTRY, Pipeline

TASK = "text-to-person-retrieval"
SCORE_DECIMALS = 6  # what a float32 cosine can tell apart; closer scores are ties


class CustomPipelines(dict):
    """`custom_pipelines` of a configuration: the tasks whose code lies in the model repository, by name.

    A task that is registered with transformers is not in it: `pipeline` then takes the registered class, and needs
    nobody's trust in the repository's code.
    """

    def __contains__(self, task: object) -> bool:
        return super().__contains__(task) and task not in PIPELINE_REGISTRY.supported_tasks

    def __getitem__(self, task: str) -> dict[str, Any]:
        return dict(super().__getitem__(task))  # a copy: `pipeline` writes classes into it, which no json file takes


def unit_gallery(gallery: Any, width: int) -> torch.Tensor:
    """Check a gallery and bring it to unit length.

    Args:
        gallery: embeddings (G, D) as tensor, array or nested list.
        width: D of the model.

    Returns:
        (G, D), float32, on the CPU.

    Raises:
        ValueError: if it is not (G, D) with G at least 1, or a row has no direction.
    """
    gallery = torch.as_tensor(gallery).detach().cpu().float()
    if gallery.ndim != 2 or len(gallery) == 0 or gallery.shape[1] != width:
        raise ValueError(
            f"the gallery has shape {tuple(gallery.shape)}, expected (G, {width}) with at least one row; "
            "make it with this pipeline's embed_images"
        )
    usable = gallery.isfinite().all(dim=1) & gallery.any(dim=1)
    if not usable.all():
        raise ValueError(
            f"{int((~usable).sum())} of {len(gallery)} gallery rows are not finite or have length zero, the first is "
            f"row {int((~usable).nonzero()[0])}; leave out rows which were never embedded"
        )
    return normalize(gallery, dim=1)


class TextToPersonRetrievalPipeline(Pipeline):
    """Rank pictures of people by how well each fits a sentence."""

    model: Any  # an IVTModel
    processor: Any  # its processor, which `_load_processor` asks for
    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False
    _load_tokenizer = False

    def __call__(self, query: Any, images: Any = None, gallery: Any = None, **kwargs: Any) -> Any:
        """Rank pictures for one sentence or several.

        Args:
            query: a sentence, or a list, dataset or generator of sentences.
            images: the pictures (Pillow images, paths, URLs, arrays), embedded once for all queries of the call.
            gallery: instead of `images`, embeddings (G, D) as `embed_images` makes them: embed once, search often.
            **kwargs: `top_k`, how many to return (default 10), and `batch_size`, queries or images per call of the
                model (default 1 query, 64 images).

        Returns:
            Per sentence a list, best first, of `{"score", "index"}`: the cosine, in [-1, 1], and the position in
            `images` or `gallery`; with `images` also `"image"`, what stood there. Equal scores keep their order.

        Raises:
            ValueError: if not exactly one of `images` and `gallery` is given, if it is empty or unfit, for an empty
                sentence and for `top_k` below 1.
        """
        if (images is None) == (gallery is None):
            raise ValueError("pass either images or a gallery (their embeddings, made by embed_images), and not both")
        if images is not None:
            images = [images] if isinstance(images, str) else list(images)
            gallery = self.embed_images(images, kwargs.get("batch_size") or 64)
        gallery = unit_gallery(gallery, self.model.config.hidden_size)
        return super().__call__(query, gallery=gallery, images=images, **kwargs)

    def embed_images(self, images: Iterable[Any], batch_size: int = 64) -> torch.Tensor:
        """Embed a gallery, to be passed as `gallery` and kept with `torch.save`.

        Args:
            images: Pillow images, paths, URLs or arrays.
            batch_size: images per call of the model.

        Returns:
            Vectors of unit length (G, D), float32, on the CPU, in the order of the images.

        Raises:
            ValueError: if there are no images.
        """
        images, embeds = iter(images), []
        while batch := list(islice(images, batch_size)):
            pixel_values = self.processor(images=batch, return_tensors="pt")["pixel_values"]
            embeds.append(self.forward({"pixel_values": pixel_values})["image_embeds"])
        if not embeds:
            raise ValueError("there are 0 images, expected at least one")
        return normalize(torch.cat(embeds).float(), dim=1)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save all that loading again needs; the inherited method would leave the processor out."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def _sanitize_parameters(
        self, top_k: int | None = None, gallery: torch.Tensor | None = None, images: list[Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}, expected at least 1")
        given = {"top_k": top_k, "gallery": gallery, "images": images}
        return {}, {}, {name: value for name, value in given.items() if value is not None}

    def preprocess(self, query: str) -> dict[str, torch.Tensor]:
        """Tokenize one sentence."""
        return dict(self.processor(text=[query], return_tensors="pt"))

    def _forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        name, embed = "text_embeds", self.model.get_text_features
        if "pixel_values" in inputs:
            name, embed = "image_embeds", self.model.get_image_features
        return {name: embed(**inputs, cls_only=True).pooler_output}

    def postprocess(
        self, outputs: dict[str, torch.Tensor], gallery: torch.Tensor, images: list[Any] | None = None, top_k: int = 10
    ) -> list[dict[str, Any]]:
        """Rank the gallery for one embedded sentence (1, D)."""
        scores = gallery @ normalize(outputs["text_embeds"][0].float(), dim=0)  # (G,)
        scores, indices = scores.round(decimals=SCORE_DECIMALS).sort(descending=True, stable=True)
        answers = []
        for score, index in zip(scores[:top_k].tolist(), indices[:top_k].tolist(), strict=True):
            answer = {"score": round(score, SCORE_DECIMALS), "index": index}
            answers.append(answer if images is None else answer | {"image": images[index]})
        return answers


def custom_pipelines() -> CustomPipelines:
    """What config.json says about the pipeline."""
    return CustomPipelines(
        {TASK: {"impl": f"pipeline_ivt.{TextToPersonRetrievalPipeline.__name__}", "pt": ["AutoModel"]}}
    )


__all__ = ["CustomPipelines", "TextToPersonRetrievalPipeline", "custom_pipelines"]
