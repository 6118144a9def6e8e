"""What every corpus hands out: a row per image."""

from datasets import Column, Dataset, Features, Image, List, Value

FEATURES = Features(
    {
        "image": Image(),
        "image_id": Value("string"),  # path relative to the corpus, with forward slashes
        "person_id": Value("int64"),
        "captions": List(Value("string")),  # at least one
    }
)


def stored_images(rows: Dataset) -> Column:
    """The column of images as they are stored, not decoded: for `processing.pictures.read_picture`."""
    return rows.cast_column("image", Image(decode=False))["image"]
