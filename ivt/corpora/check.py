"""What a corpus holds, counted: sizes, caption lengths, repeated and empty captions.

    ivt corpus check NAME [--corpus-root FOLDER] [--split SPLIT] [--sheet PICTURE.png]

Empty captions and unreadable images of an official corpus are dropped by its loader, which says so on stderr.
For the drawn corpus it counts besides how often the colours of the two garments alone would find the right person,
and reports a problem if that is too often on the test split: such a corpus could be solved without seeing finer.
"""

import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from datasets import Dataset
from PIL import Image

from ivt.messages import check_choice
from processing.pictures import read_picture

from .drawn.synthetic import FIRST_PERSON_ID, sample_rows
from .load import load_corpus
from .rows import stored_images

MAX_COLOUR_RECALL = 15.0  # percent


@dataclass(frozen=True)
class CorpusCounts:
    """Counts of one split; `*_per_*` and `words` list one number per person, image or caption."""

    images_per_person: list[int]
    captions_per_image: list[int]
    words: list[int]
    images_with_equal_captions: int  # two or more captions, and two of them are the same
    shared_captions: int  # different texts that stand on pictures of several people
    empty_captions: int


@dataclass(frozen=True)
class ColourCounts:
    """How well the colours of upper and lower garment alone tell people apart, both in percent of the images.

    Attributes:
        recall_at_1: expected R@1 of an oracle that ranks all images by whether both colours are those of the query
            image and breaks ties at random: the mean over the images of the share of the same person among all
            images with the same two colours, the image itself included.
        unique: images whose pair of colours no other person has.
    """

    recall_at_1: float
    unique: float


def count_corpus(person_ids: Sequence[int], captions: Sequence[Sequence[str]]) -> CorpusCounts:
    """Count one split from the identity and the captions of each image; captions are compared without outer blanks."""
    stripped = [[caption.strip() for caption in of_image] for of_image in captions]
    people_of_caption: dict[str, set[int]] = defaultdict(set)
    for person_id, of_image in zip(person_ids, stripped, strict=True):
        for caption in of_image:
            people_of_caption[caption].add(person_id)
    people_of_caption.pop("", None)  # counted as empty
    return CorpusCounts(
        images_per_person=list(Counter(person_ids).values()),
        captions_per_image=[len(of_image) for of_image in stripped],
        words=[len(caption.split()) for of_image in stripped for caption in of_image],
        images_with_equal_captions=sum(len(set(of_image)) < len(of_image) for of_image in stripped),
        shared_captions=sum(len(people) > 1 for people in people_of_caption.values()),
        empty_captions=sum(not caption for of_image in stripped for caption in of_image),
    )


def count_colours(person_ids: Sequence[int], colours: Sequence[tuple[str, str]]) -> ColourCounts:
    """Measure from each image's identity and (upper, lower) colours how far colour alone identifies people."""
    of_colours = Counter(colours)
    of_person = Counter(zip(person_ids, colours, strict=True))
    shares = [of_person[person, pair] / of_colours[pair] for person, pair in zip(person_ids, colours, strict=True)]
    return ColourCounts(
        recall_at_1=100 * statistics.fmean(shares),
        unique=100 * statistics.fmean(share == 1 for share in shares),
    )


def _spread(numbers: list[int]) -> str:
    """Mean, range and deciles of some counts."""
    if min(numbers) == max(numbers):
        return f"{numbers[0]} each"
    deciles = " ".join(f"{decile:.0f}" for decile in statistics.quantiles(numbers, n=10, method="inclusive"))
    return f"mean {statistics.fmean(numbers):.1f}, {min(numbers)} to {max(numbers)}, deciles {deciles}"


def print_counts(counts: CorpusCounts, colours: ColourCounts | None = None) -> None:
    """Print the counts of one split, one fact per line."""
    num_images, num_captions = len(counts.captions_per_image), len(counts.words)
    print(f"people                 {len(counts.images_per_person)}")
    print(f"images                 {num_images}")
    print(f"captions               {num_captions}")
    print(f"images per person      {_spread(counts.images_per_person)}")
    print(f"captions per image     {_spread(counts.captions_per_image)}")
    print(f"words per caption      {_spread(counts.words)}")
    equal = counts.images_with_equal_captions
    print(f"captions of an image the same      {equal} images ({100 * equal / num_images:.2f} %)")
    print(f"same caption on several people     {counts.shared_captions} captions")
    print(f"empty captions                     {counts.empty_captions}")
    if colours is not None:
        print(f"found by the two garment colours   {colours.recall_at_1:.1f} % expected R@1 of an oracle")
        print(f"images with colours of their own   {colours.unique:.1f} %")


def draw_contact_sheet(
    corpus: Dataset, path: str, num_people: int = 12, num_images: int = 4, height: int = 240
) -> None:
    """Draw the first images of the first people, a person per column.

    Args:
        corpus: rows of `load_corpus`.
        path: picture to write.
        num_people: columns.
        num_images: rows; a person with fewer images leaves places empty.
        height: pixels of an image, whose width follows from its own shape and is cut at half the height.
    """
    rows_of_person: dict[int, list[int]] = defaultdict(list)
    for row, person_id in enumerate(corpus["person_id"]):
        rows_of_person[person_id].append(row)
    people, images = list(rows_of_person.values())[:num_people], stored_images(corpus)
    width = height // 2
    sheet = Image.new("RGB", (width * len(people), height * num_images), "white")
    for column, rows in enumerate(people):
        for line, row in enumerate(rows[:num_images]):
            image = read_picture(images[row])
            image = image.resize((min(width - 4, image.width * height // image.height), height - 4))
            sheet.paste(image, (column * width, line * height))
    sheet.save(path)


def count_split(
    name: str, root: str | os.PathLike[str] | None = None, split: str = "test"
) -> tuple[CorpusCounts, ColourCounts | None]:
    """Count a split of a corpus, and for the drawn corpus how well colours tell its people apart."""
    if name != "synthetic":
        corpus = load_corpus(name, root, split, on_bad_image="skip")
        return count_corpus(list(corpus["person_id"]), list(corpus["captions"])), None
    check_choice("split", split, tuple(FIRST_PERSON_ID))
    rows = list(sample_rows(split))  # the same people and captions as in the corpus, not drawn
    person_ids = [FIRST_PERSON_ID[split] + index for index, *_ in rows]
    colours = count_colours(person_ids, [(person.upper.colour, person.lower.colour) for _, person, *_ in rows])
    return count_corpus(person_ids, [captions for *_, captions in rows]), colours


def summarise(counts: CorpusCounts, colours: ColourCounts | None) -> dict[str, Any]:
    """The counts of one split with means and ranges in the place of lists, for JSON."""
    numbers = {name: value for name, value in asdict(counts).items() if not isinstance(value, list)}
    sizes = {"people": len(counts.images_per_person), "images": len(counts.captions_per_image)}
    spreads = {
        name: {"mean": statistics.fmean(value), "min": min(value), "max": max(value)}
        for name, value in asdict(counts).items()
        if isinstance(value, list)
    }
    return sizes | {"captions": len(counts.words)} | numbers | spreads | {"colours": colours and asdict(colours)}


def problem_of_colours(colours: ColourCounts | None, split: str) -> str | None:
    """Say so if colours alone find too many people of the test split."""
    if colours is None or split != "test" or colours.recall_at_1 < MAX_COLOUR_RECALL:
        return None
    return (
        f"the two garment colours alone find {colours.recall_at_1:.1f} % of the test people, which must stay under "
        f"{MAX_COLOUR_RECALL:.0f} %: make GARMENT_COLOURS in ivt/corpora/drawn/people.py shorter or less even"
    )
