"""tensors -> embeddings: the IVT model, its configuration, its losses and its pipeline.

Importing this package makes the `Auto` classes and `pipeline` of transformers know IVT, processors included, without
`trust_remote_code`. For that it imports the shipped classes of `processing`; no `*_ivt.py` file does.
"""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY

from processing import IVTImageProcessor, IVTProcessor

from .configuration_ivt import IVTConfig
from .losses_ivt import cmpm_loss, itc_loss, sdm_loss, tokenwise_loss
from .modeling_ivt import IVTModel, IVTOutput
from .pipeline_ivt import TASK, TextToPersonRetrievalPipeline

AutoConfig.register("ivt", IVTConfig, exist_ok=True)
AutoModel.register(IVTConfig, IVTModel, exist_ok=True)
AutoModelForZeroShotImageClassification.register(IVTConfig, IVTModel, exist_ok=True)
AutoImageProcessor.register(IVTConfig, image_processor_classes={"pil": IVTImageProcessor}, exist_ok=True)
AutoProcessor.register(IVTConfig, IVTProcessor, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline(TASK, TextToPersonRetrievalPipeline, pt_model=AutoModel, type="multimodal")
# Without these a save would write `auto_map` but copy no source file; `processing` does the same for its classes.
IVTConfig.register_for_auto_class()
IVTModel.register_for_auto_class("AutoModel")

__all__ = [
    "IVTConfig",
    "IVTModel",
    "IVTOutput",
    "TextToPersonRetrievalPipeline",
    "cmpm_loss",
    "itc_loss",
    "sdm_loss",
    "tokenwise_loss",
]
