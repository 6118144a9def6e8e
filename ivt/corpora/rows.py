"""What every corpus hands out: a row per image."""

from datasets import Features, Image, List, Value

FEATURES = Features(
    {
        "image": Image(),
        "image_id": Value("string"),  # path relative to the corpus, with forward slashes
        "person_id": Value("int64"),
        "captions": List(Value("string")),  # at least one
    }
)
