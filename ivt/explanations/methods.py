"""The ways to make a map, by name. For help texts, so nothing heavy is imported here."""

UNITS = {  # method -> what its maps count
    "cls": "share of [CLS]'s attention",
    "gradient": "part in the cosine",
    "tokenwise": "share of the likeness to the words",
    "occlusion": "fall of the cosine when hidden",
    "joint": "share of both, geometric mean",
}
METHODS = tuple(UNITS)
DEFAULT_METHOD = "joint"
DEFAULT_SHIFTS = 1
TEXT_FREE_METHODS = ("cls",)  # the two encoders never meet, so [CLS]'s attention is the same whatever the text
ANY_ENCODER_METHODS = ("occlusion",)  # need embeddings alone; the others read what only an IVT checkpoint records
