"""Rows -> tensors: the image processor and processor that ship with a model, and the training batches.

`modeling_ivt` registers the two classes with transformers' Auto classes, because that needs the config class.
"""

from .image_processing_ivt import IVTImageProcessor
from .processing_ivt import IVTProcessor

# Without these two calls a save would write `auto_map` but copy no source file.
IVTImageProcessor.register_for_auto_class("AutoImageProcessor")
IVTProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["IVTImageProcessor", "IVTProcessor"]
