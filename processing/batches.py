"""Training batches of IVT: (image, caption) pairs -> several views and several levels of text.

Multi-level alignment (MLA) of Shu et al., arXiv 2208.08608, sec. 3.2. Every pair gives V augmented views of its image
(`views.py`) and one text per level (`levels.py`). For ablations: levels=("sentence",) with one view is the plain
baseline; one view with all levels shares that view among the texts, at a third of the image work.

    pairs = TrainingPairs(rows, processor)
    sampler = PairSampler(pairs.caption_lengths, batch_size=B, seed=0)
    loader = DataLoader(pairs, batch_size=B, sampler=sampler, collate_fn=PairCollator(processor), drop_last=True)
    loader.set_epoch(epoch)  # of a loader prepared by accelerate; sampler.set_epoch(epoch) of a plain one

Everything random about a pair depends on (seed, epoch, index of the pair) alone, whatever the number of workers or
processes, so a resumed run continues exactly.

Letters: B pairs, V views, T texts per pair (one per level), H height, W width, L text tokens.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import datasets
import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import Dataset as TorchDataset
from tqdm.auto import tqdm

from .caption_augmentation import CaptionAugmentation
from .image_processing_ivt import IVTImageProcessor
from .levels import levels_of, swap_sides
from .pictures import UnreadablePicture, read_picture
from .processing_ivt import IVTProcessor
from .reference_texts import longest_piece, random_clause, some_words
from .tagging import find_tagger
from .views import TrainingViews, resized_pixels

LEVELS = ("sentence", "phrase", "word")
PHRASES = ("piece", "longest")
WORDS = ("all", "subset", "clause")


class AugmentedPairs(TorchDataset):
    """The (image, caption) pairs of a corpus, augmented; the classes below read them from memory or from the disk.

    An item is asked for as `pairs[epoch, index]`: the epoch travels with the index because worker processes keep the
    copy of the dataset they were started with. The samplers of `samplers.py` give such keys.

    Args:
        processor: gives the images' size and filter.
        levels: texts per pair, any of "sentence", "phrase", "word".
        views: number and kind of the augmented views; None takes `TrainingViews()`.
        seed: of the augmentation.
        flip_words: mirror all views of a pair together, or none, and in the texts of mirrored ones swap "left" and
            "right". Together, because every view of a person is a match for every one of its texts.
        caption_augmentation: changes the texts at random; None takes `CaptionAugmentation()`, which does not.
        phrases: what the phrase level is, see `text_of`.
        words: what the word level is, see `text_of`.
        resample: Pillow filter that resizes the pictures; None takes the image processor's.

    Raises:
        ValueError: for unknown levels.
    """

    def __init__(
        self,
        processor: IVTProcessor,
        levels: Sequence[str] = LEVELS,
        views: TrainingViews | None = None,
        seed: int = 0,
        flip_words: bool = False,
        caption_augmentation: CaptionAugmentation | None = None,
        phrases: str = "piece",
        words: str = "all",
        resample: Image.Resampling | None = None,
    ) -> None:
        if not levels or not set(levels) <= set(LEVELS):
            raise ValueError(f"levels are {tuple(levels)}, expected one or more of {LEVELS}")
        self.levels, self.seed, self.flip_words = tuple(levels), seed, flip_words
        self.caption_augmentation = caption_augmentation or CaptionAugmentation()
        self.views = TrainingViews() if views is None else views
        self.image_processor, self.resample = processor.image_processor, resample
        self.phrases, self.words = phrases, words

    def resized(self, image: Image.Image) -> np.ndarray:
        """Resize a picture to uint8 (3, H, W)."""
        return resized_pixels(image, self.image_processor, self.resample)

    def read(self, index: int) -> tuple[dict[str, Any], int, np.ndarray]:
        """Read a pair: its row without the picture, the number of the caption in it, and the resized picture."""
        raise NotImplementedError

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """Augment one pair.

        Args:
            key: (epoch, index of the pair).

        Returns:
            `views` (V, 3, H, W) in pixel values, `texts` T strings in random order of the levels, `person_id`,
            `image_id`, and a `seed` for what is random about the tokens (`masking.py`). The views are alike in
            distribution, so the random order pairs views and levels at random.

        Raises:
            ValueError: for a key without an epoch, which would repeat one augmentation for ever, and for an image that
                cannot be read, named by its `image_id`.
        """
        if not isinstance(key, tuple):
            raise ValueError(f"got key {key!r}, expected (epoch, index); give the DataLoader a PairSampler")
        epoch, index = key
        row, number, pixels = self.read(index)
        rng = np.random.default_rng((self.seed, epoch, index))
        texts = [text_of(row, number, level, rng, self.phrases, self.words) for level in self.levels]
        texts = [self.caption_augmentation(text, rng) for text in texts]
        rng.shuffle(texts)
        mirrored = bool(rng.random() < self.views.flip) if self.flip_words else None
        if mirrored:
            texts = [swap_sides(text) for text in texts]
        return {
            "views": self.views(pixels, rng, mirrored),
            "texts": texts,
            "person_id": row["person_id"],
            "image_id": row["image_id"],
            "seed": int(rng.integers(2**63)),
        }


def text_of(
    row: dict[str, Any], number: int, level: str, rng: np.random.Generator, phrases: str = "piece", words: str = "all"
) -> str:
    """The text of one level that caption `number` of a row gives.

    Args:
        row: its `captions` and their `levels`.
        number: of the caption.
        level: one of `LEVELS`.
        rng: the only source of randomness.
        phrases: the phrase level is any "piece" between full stops and commas, or the "longest" of a sentence or the
            rest of it (`reference_texts.longest_piece`).
        words: the word level is "all" nouns and adjectives, a random "subset" of them, or a random "clause".
    """
    caption = row["captions"][number]
    if level == "sentence":
        return caption
    if level == "phrase" and phrases == "longest":
        return longest_piece(caption, rng)
    if level == "word" and words == "clause":
        return random_clause(caption, rng)
    pieces = row["levels"][number]
    if level == "word" and pieces["words"]:
        return some_words(pieces["words"], rng) if words == "subset" else " ".join(pieces["words"])
    return pieces["phrases"][rng.integers(len(pieces["phrases"]))]


class TrainingPairs(AugmentedPairs):
    """The pairs of a dataset, whose texts are kept in memory.

    Args:
        rows: dataset with the columns `image`, `image_id`, `person_id`, `captions`, and `levels` (see
            `levels.add_levels`) unless only whole sentences are wanted.
        processor: see `AugmentedPairs`.
        cache_images: keep the resized uint8 pictures in memory, 3 x H x W bytes each, decoded once and in parallel.
        **augmentation: see `AugmentedPairs`.

    Raises:
        ValueError: for unknown levels, missing columns, an empty caption, or an image that cannot be read (then or in
            `pairs[epoch, index]`), named by its `image_id`.
    """

    def __init__(
        self, rows: Dataset, processor: IVTProcessor, cache_images: bool = False, **augmentation: Any
    ) -> None:
        super().__init__(processor, **augmentation)
        if "levels" not in rows.column_names and set(self.levels) != {"sentence"}:
            raise ValueError(f"rows have no column 'levels', which {self.levels} need; call add_levels(rows) first")
        columns = {"image_id", "person_id", "captions"} | ({"levels"} & set(rows.column_names))
        self.texts = {name: list(rows[name]) for name in columns}
        captions = self.texts["captions"]
        self.pairs = [(row, number) for row, texts in enumerate(captions) for number in range(len(texts))]
        for row, number in self.pairs:
            if not captions[row][number].strip():
                raise ValueError(
                    f"caption {number} of image {self.texts['image_id'][row]!r} is empty; remove it from the rows"
                )
        self._images = rows.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
        self._cache = self._decode_all() if cache_images else None

    @property
    def pair_person_ids(self) -> list[int]:
        """The person of each pair."""
        return [self.texts["person_id"][row] for row, _ in self.pairs]

    @property
    def caption_lengths(self) -> list[int]:
        """Words of each pair's caption, to group pairs of like length."""
        return [len(self.texts["captions"][row][number].split()) for row, number in self.pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> tuple[dict[str, Any], int, np.ndarray]:
        """See `AugmentedPairs`."""
        row, number = self.pairs[index]
        pixels = self._pixels(row) if self._cache is None else self._cache[row]
        return {name: values[row] for name, values in self.texts.items()}, number, pixels

    def _pixels(self, row: int) -> np.ndarray:
        try:
            name = f"image {self.texts['image_id'][row]!r}"
            return self.resized(read_picture(self._images[row]["image"], name, shrink=True))
        except UnreadablePicture as error:
            raise ValueError(f"{error}; load the corpus with on_bad_image='skip' to leave such images out") from error

    def _decode_all(self) -> np.ndarray:
        size = self.image_processor.size
        cache = np.empty((len(self._images), 3, size.height, size.width), np.uint8)

        def decode(row: int) -> None:
            cache[row] = self._pixels(row)

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes and resizes outside the interpreter's lock
            for _ in tqdm(pool.map(decode, range(len(cache))), total=len(cache), desc="images", unit="image"):
                pass
        return cache


class StreamedPairs(AugmentedPairs):
    """The pairs of a corpus that is read from the disk row by row, the same ones as of a dataset with these rows.

    Args:
        rows: gives the row of a pair and the number of its caption (`rows.pair(index)`), the picture in it as
            `{"bytes": …}`, and `caption_lengths`; see `corpora/sharded.py`. Where a row has no phrases and words, they
            are worked out when it is read.
        processor: see `AugmentedPairs`.
        **augmentation: see `AugmentedPairs`.
    """

    def __init__(self, rows: Any, processor: IVTProcessor, **augmentation: Any) -> None:
        super().__init__(processor, **augmentation)
        self.rows = rows
        self.tagger_name = None if set(self.levels) == {"sentence"} else find_tagger()

    def __len__(self) -> int:
        return len(self.rows.caption_lengths)

    def read(self, index: int) -> tuple[dict[str, Any], int, np.ndarray]:
        """See `AugmentedPairs`."""
        row, number = self.rows.pair(index)
        if self.tagger_name and row.get("levels") is None:
            row["levels"] = levels_of(row["captions"], self.tagger_name)
        try:
            image = read_picture(row["image"] and row["image"]["bytes"], f"image {row['image_id']!r}", shrink=True)
        except UnreadablePicture as error:
            raise ValueError(f"{error}; write its shard anew") from error
        return row, number, self.resized(image)


class PairCollator:
    """Stack pairs into a training batch; nothing here is random.

    Pictures stay pixels, a quarter of the bytes, until the batch is on its device: `with_pixel_values`.

    Args:
        processor: gives the tokenizer and text options.
    """

    def __init__(self, processor: IVTProcessor) -> None:
        self.processor = processor

    def __call__(self, pairs: list[dict[str, Any]]) -> dict[str, Any]:
        """Make a batch.

        Args:
            pairs: B items of `TrainingPairs`.

        Returns:
            `pixels` (V*B, 3, H, W), of the type of the views, and `person_ids` (V*B,): row v * B + b is view v of
            pair b;
            `input_ids`, `attention_mask` (T*B, L) and `text_person_ids` (T*B,): row t * B + b is text t of pair b;
            `image_ids` list of B.
        """
        views = torch.from_numpy(np.stack([pair["views"] for pair in pairs], axis=1))  # (V, B, 3, H, W)
        num_texts = len(pairs[0]["texts"])
        texts = [pair["texts"][t] for t in range(num_texts) for pair in pairs]  # (T*B)
        person_ids = torch.tensor([pair["person_id"] for pair in pairs])  # (B,)
        return {
            "pixels": views.flatten(0, 1),
            **self.processor(text=texts, return_tensors="pt"),
            "person_ids": person_ids.repeat(len(views)),
            "text_person_ids": person_ids.repeat(num_texts),
            "image_ids": [pair["image_id"] for pair in pairs],
        }


def with_pixel_values(batch: dict[str, Any], image_processor: IVTImageProcessor) -> dict[str, Any]:
    """A batch of `PairCollator`, its `pixels` scaled and normalised to float32 `pixel_values` on their device."""
    rest = {name: values for name, values in batch.items() if name != "pixels"}
    return {"pixel_values": normalise(batch["pixels"], image_processor), **rest}


def normalise(pixels: torch.Tensor, image_processor: IVTImageProcessor) -> torch.Tensor:
    """Scale and normalise pixels (N, 3, H, W) of 0 to 255 to float32 as the image processor does."""
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (image_processor.image_mean, image_processor.image_std)
    )
    scale, shift = ((image_processor.rescale_factor / std).to(pixels.device), (mean / std).to(pixels.device))
    return pixels.to(torch.float32, copy=True).mul_(scale).sub_(shift)
