"""Names that people choose among, and what comes with the package: for help texts, which must not load a library."""

from pathlib import Path

CORPORA = ("cuhk-pedes", "icfg-pedes", "rstpreid", "synthetic", "shards")
OFFICIAL_SPLITS = ("train", "val", "test")
SPLITS = (*OFFICIAL_SPLITS, "train+val")

ON_BAD_IMAGE = ("error", "skip")  # what to do about pictures that cannot be read
PROTOCOLS = ("standard", "reference")
METHODS = ("cls", "gradient", "tokenwise", "occlusion", "joint")  # of explanations
DEFAULT_METHOD = "joint"
EXPORT_FORMATS = ("onnx", "openvino")

CHECKPOINTS = Path(__file__).parent / "checkpoints"
DEFAULT_MODEL = str(CHECKPOINTS / "ivt-tiny-synthetic")
RECIPES = Path(__file__).parent / "recipes"
