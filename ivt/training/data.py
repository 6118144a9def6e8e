"""From a recipe to its rows and training batches."""

from dataclasses import replace

import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader

from ivt.corpora import load_corpus
from ivt.corpora.official import LAYOUTS, find_annotations
from ivt.corpora.sharded import ShardedRows, find_shards
from processing import IVTImageProcessor, IVTProcessor
from processing.batches import PairCollator, StreamedPairs, TrainingPairs
from processing.caption_augmentation import CaptionAugmentation
from processing.levels import add_levels
from processing.masking import MaskedPairCollator
from processing.samplers import BalancedSampler, PairSampler, ShardSampler
from processing.views import TrainingViews

from .recipe import Recipe, RunPaths

BATCHES_PER_WINDOW = 50  # whose captions are sorted by length together


def evaluation_corpus(recipe: Recipe, paths: RunPaths) -> tuple[str, str | None]:
    """Name and folder of the corpus whose validation and test splits are used."""
    if recipe.eval_corpus is None:
        return recipe.corpus, paths.corpus_root
    return recipe.eval_corpus, paths.eval_root


def check_corpus(recipe: Recipe, paths: RunPaths) -> None:
    """Raise a ValueError at once if a corpus is not there, not when weights were fetched, or a test begins."""
    if paths.eval_root and not recipe.eval_corpus:
        raise ValueError(f"eval_root is {paths.eval_root!r}, and no eval_corpus says what is there; pass both")
    judged, root = evaluation_corpus(recipe, paths)
    for name, folder in ((recipe.corpus, paths.corpus_root), (judged, root)):
        if name in LAYOUTS:
            find_annotations(name, folder)
    if recipe.corpus == "shards":
        find_shards(paths.corpus_root, "train")
    if judged == "shards":
        hint = "" if recipe.eval_corpus else "; pass --eval_corpus and --eval_root to validate on another corpus"
        try:
            find_shards(root, "val")
        except ValueError as error:
            raise ValueError(f"{error}{hint}") from error
        try:
            if recipe.test_at_end:
                find_shards(root, "test")
        except ValueError as error:
            raise ValueError(f"{error}, or pass --test_at_end no") from error


def load_training_rows(recipe: Recipe, corpus_root: str | None) -> Dataset | ShardedRows:
    """The rows of the training split with their text levels, or streamed."""
    if recipe.streaming:  # the rows stay on the disk, the text levels are in the shards or worked out on the way
        return ShardedRows(corpus_root, "train")
    options = {"num_people": recipe.num_people} if recipe.corpus == "synthetic" else {}
    rows = load_corpus(recipe.corpus, corpus_root, recipe.train_split, on_bad_image=recipe.on_bad_image, **options)
    if recipe.max_caption_words:
        rows = without_long_captions(rows, recipe.max_caption_words)
    return add_levels(rows)


def without_long_captions(rows: Dataset, most_words: int) -> Dataset:
    """Leave out the captions of more than `most_words` words, and images that have no other."""
    captions = [[text for text in texts if len(text.split()) <= most_words] for texts in rows["captions"]]
    feature = rows.features["captions"]
    rows = rows.remove_columns("captions").add_column("captions", captions, feature=feature)
    return rows.select([index for index, texts in enumerate(captions) if texts])


def build_views(recipe: Recipe, image_processor: IVTImageProcessor) -> TrainingViews:
    """The views that a recipe asks for."""
    views = TrainingViews(recipe.num_views, padding=recipe.crop_pad, flip=recipe.flip, erase=recipe.erase)
    if recipe.erasing == "grey":
        return views
    # standard normal where pictures are normalised, so its mean and deviation in pixel values are theirs
    mean, std = (
        tuple(value / image_processor.rescale_factor for value in values)
        for values in (image_processor.image_mean, image_processor.image_std)
    )
    return replace(views, erase_area=(0.02, 1 / 3), erase_log=True, erase_fill=mean, erase_noise=std)


def load_evaluation_rows(recipe: Recipe, paths: RunPaths, split: str) -> Dataset:
    """The rows of the validation or test split."""
    return load_corpus(*evaluation_corpus(recipe, paths), split, on_bad_image=recipe.on_bad_image)


def build_loader(
    rows: Dataset | ShardedRows, processor: IVTProcessor, recipe: Recipe, num_processes: int
) -> DataLoader:
    """Training batches, in an order that depends on seed and epoch alone."""
    collator = MaskedPairCollator if recipe.stage == "pretrain" else PairCollator
    augmentation = {
        "levels": recipe.levels,
        "views": build_views(recipe, processor.image_processor),
        "seed": recipe.seed,
        "flip_words": recipe.flip_words,
        "caption_augmentation": CaptionAugmentation(recipe.drop_attributes, recipe.drop_phrases),
        "phrases": recipe.phrases,
        "words": recipe.words,
        "resample": Image.Resampling.BICUBIC,
    }
    if isinstance(rows, ShardedRows):
        pairs = StreamedPairs(rows, processor, **augmentation)
        lengths = rows.caption_lengths if recipe.group_by_length else None
        sampler = ShardSampler(
            rows.pairs_per_shard, recipe.batch_size, num_processes, recipe.seed, recipe.stream_buffer, lengths
        )
    else:
        pairs = TrainingPairs(rows, processor, recipe.cache_images, **augmentation)
        pairs_of_all = recipe.batch_size * num_processes  # what the processes share is arranged by length or person
        if recipe.pairs_per_person:
            sampler = BalancedSampler(
                pairs.pair_person_ids, pairs_of_all, recipe.pairs_per_person, recipe.seed, recipe.drop_incomplete
            )
        else:
            window = BATCHES_PER_WINDOW if recipe.group_by_length else 1
            sampler = PairSampler(pairs.caption_lengths, pairs_of_all, recipe.seed, window)
    return DataLoader(
        pairs,
        recipe.batch_size,
        sampler=sampler,
        collate_fn=collator(processor),
        num_workers=recipe.num_workers,
        drop_last=True,
        pin_memory=torch.cuda.is_available(),
    )
