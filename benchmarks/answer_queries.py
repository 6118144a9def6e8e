"""Answer three free-text queries over the test gallery of the drawn corpus, and draw the answers.

    python -m benchmarks.answer_queries CHECKPOINT OUTPUT.png [--corpus_root CACHE]

The model is loaded as anybody would load it from the Hub: `AutoModel` and `AutoProcessor` from the folder, with the
code that lies beside the weights. The queries are no captions of the corpus. Each comes with what it asks for in terms
of the corpus's attributes, so every person in the gallery is known to be right or wrong.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

from transformers import AutoModel, AutoProcessor

from ivt.corpora import load_corpus
from ivt.gallery.sheets import Answer, draw_answers
from ivt.retrieval.embedding import embed_images, embed_texts
from ivt.retrieval.ranking import rank_gallery

ANSWERS_PER_QUERY = 10


def _wears_black_dress(person: dict[str, Any]) -> bool:
    return person["upper"]["kind"] == "dress" and person["upper"]["colour"] == "black"


def _is_woman_in_white_with_skirt(person: dict[str, Any]) -> bool:
    return person["gender"] == "woman" and person["upper"]["colour"] == "white" and person["lower"]["kind"] == "skirt"


def _is_man_in_pink(person: dict[str, Any]) -> bool:
    return person["gender"] == "man" and person["upper"]["colour"] == "pink"


QUERIES: tuple[tuple[str, Callable[[dict[str, Any]], bool]], ...] = (
    ("A lady who has a black dress on.", _wears_black_dress),
    ("Find me the woman with something white on top, and she wears a skirt.", _is_woman_in_white_with_skirt),
    ("A man, dressed in pink.", _is_man_in_pink),
)


def answer_queries(checkpoint: str, output: str, corpus_root: str | None = None) -> None:
    """Rank the test gallery for `QUERIES` and draw the sheet of answers.

    Args:
        checkpoint: folder or Hub name of an IVT model.
        output: the picture to write.
        corpus_root: cache of the drawn corpus.
    """
    model = AutoModel.from_pretrained(checkpoint, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
    gallery = load_corpus("synthetic", corpus_root, "test")
    people = [json.loads(attributes)["person"] for attributes in gallery["attributes"]]
    sentences = [sentence for sentence, _ in QUERIES]
    scores, indices = rank_gallery(
        embed_texts(model, processor, sentences, progress=False),
        embed_images(model, processor, gallery["image"]),
        k=ANSWERS_PER_QUERY,
    )
    answers = []
    for (sentence, is_right), query_scores, found in zip(QUERIES, scores.tolist(), indices.tolist(), strict=True):
        images = gallery.select(found)["image"]
        rights = [is_right(people[index]) for index in found]
        answers.append([Answer(*answer) for answer in zip(images, query_scores, rights, strict=True)])
        in_gallery = f"{sum(map(is_right, people))} of the {len(people)} pictures are"
        print(f"“{sentence}”: {sum(rights)} of {len(found)} answers are right; in the gallery {in_gallery}")
    draw_answers(sentences, answers, output)
    print(f"answers drawn to {output}")


def main(argv: list[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="folder or Hub name of an IVT model")
    parser.add_argument("output", help="picture to write, e.g. answers.png")
    parser.add_argument("--corpus_root", help="cache of the drawn corpus")
    answer_queries(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
