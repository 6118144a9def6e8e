"""From a recipe to its rows and training batches."""

from datasets import Dataset
from torch.utils.data import DataLoader

from ivt.corpora import load_corpus
from ivt.corpora.official import LAYOUTS, find_annotations
from ivt.corpora.sharded import ShardedRows, find_shards
from processing import IVTProcessor
from processing.batches import PairCollator, StreamedPairs, TrainingPairs
from processing.caption_augmentation import CaptionAugmentation
from processing.levels import add_levels
from processing.samplers import BalancedSampler, PairSampler, ShardSampler
from processing.views import TrainingViews

from .recipe import Recipe

BATCHES_PER_WINDOW = 50  # whose captions are sorted by length together


def check_corpus(recipe: Recipe, corpus_root: str | None) -> None:
    """Raise a ValueError at once if the corpus is not there, not when weights were fetched, or a test begins."""
    if recipe.corpus in LAYOUTS:
        find_annotations(recipe.corpus, corpus_root)
    if recipe.corpus == "shards":
        find_shards(corpus_root, "train")
        try:
            if recipe.test_at_end:
                find_shards(corpus_root, "test")
        except ValueError as error:
            raise ValueError(f"{error}, or pass --test_at_end no") from error


def load_training_rows(recipe: Recipe, corpus_root: str | None) -> Dataset | ShardedRows:
    """The rows of the training split with their text levels, or streamed."""
    if recipe.streaming:  # the rows stay on the disk, the text levels are in the shards or worked out on the way
        return ShardedRows(corpus_root, "train")
    options = {"num_people": recipe.num_people} if recipe.corpus == "synthetic" else {}
    return add_levels(load_corpus(recipe.corpus, corpus_root, "train", on_bad_image=recipe.on_bad_image, **options))


def load_evaluation_rows(recipe: Recipe, corpus_root: str | None, split: str) -> Dataset:
    """The rows of the validation or test split."""
    return load_corpus(recipe.corpus, corpus_root, split, on_bad_image=recipe.on_bad_image)


def build_loader(
    rows: Dataset | ShardedRows, processor: IVTProcessor, recipe: Recipe, num_processes: int
) -> DataLoader:
    """Training batches, in an order that depends on seed and epoch alone."""
    augmentation = {
        "levels": recipe.levels,
        "views": TrainingViews(recipe.num_views, padding=recipe.crop_pad, flip=recipe.flip, erase=recipe.erase),
        "seed": recipe.seed,
        "flip_words": recipe.flip_words,
        "caption_augmentation": CaptionAugmentation(recipe.drop_attributes, recipe.drop_phrases),
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
            sampler = BalancedSampler(pairs.pair_person_ids, pairs_of_all, recipe.pairs_per_person, recipe.seed)
        else:
            window = BATCHES_PER_WINDOW if recipe.group_by_length else 1
            sampler = PairSampler(pairs.caption_lengths, pairs_of_all, recipe.seed, window)
    return DataLoader(
        pairs,
        recipe.batch_size,
        sampler=sampler,
        collate_fn=PairCollator(processor),
        num_workers=recipe.num_workers,
        drop_last=True,
    )
