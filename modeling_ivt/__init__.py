"""tensors -> embeddings: the IVT model, its configuration, its losses and its pipeline.

Importing this package makes the `Auto` classes and `pipeline` of transformers know IVT, processors included, without
`trust_remote_code`. For that it imports the shipped classes of `processing`; no `*_ivt.py` file does.
"""

from importlib.util import find_spec
from pathlib import Path

import transformers
from packaging.version import Version

OLDEST_TRANSFORMERS = "5.23"


def _check_environment() -> None:
    """Raise an ImportError for an older transformers, and where `import processing` would find another module."""
    if Version(transformers.__version__) < Version(OLDEST_TRANSFORMERS):
        raise ImportError(
            f"transformers {transformers.__version__} is installed, but modeling_ivt needs {OLDEST_TRANSFORMERS} or "
            f"newer; run pip install --upgrade 'transformers>={OLDEST_TRANSFORMERS}'"
        )
    spec = find_spec("processing")
    folders = (spec.submodule_search_locations if spec else None) or []
    if not any(Path(folder, "processing_ivt.py").is_file() for folder in folders):
        raise ImportError(
            f"`import processing` finds {(spec and spec.origin) or 'nothing'}, but modeling_ivt needs the package of "
            f"that name in {Path(__file__).parents[1]}; rename the other one, or start Python in another folder"
        )


_check_environment()

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY

from processing import IVTImageProcessor, IVTProcessor

from .configuration_ivt import IVTConfig
from .losses_ivt import cmpm_loss, itc_loss, product_itc_loss, sdm_loss, tokenwise_loss
from .modeling_ivt import IVTModel, IVTOutput
from .pipeline_ivt import TASK, TextToPersonRetrievalPipeline
from .pretraining_ivt import IVTForPreTraining, IVTForPreTrainingOutput

AutoConfig.register("ivt", IVTConfig, exist_ok=True)
AutoModel.register(IVTConfig, IVTModel, exist_ok=True)
AutoModelForPreTraining.register(IVTConfig, IVTForPreTraining, exist_ok=True)
AutoModelForZeroShotImageClassification.register(IVTConfig, IVTModel, exist_ok=True)
AutoImageProcessor.register(IVTConfig, image_processor_classes={"pil": IVTImageProcessor}, exist_ok=True)
AutoProcessor.register(IVTConfig, IVTProcessor, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline(TASK, TextToPersonRetrievalPipeline, pt_model=AutoModel, type="multimodal")
# Without these a save would write `auto_map` but copy no source file; `processing` does the same for its classes.
IVTConfig.register_for_auto_class()
IVTModel.register_for_auto_class("AutoModel")
IVTForPreTraining.register_for_auto_class("AutoModelForPreTraining")

__all__ = [
    "IVTConfig",
    "IVTForPreTraining",
    "IVTForPreTrainingOutput",
    "IVTModel",
    "IVTOutput",
    "TextToPersonRetrievalPipeline",
    "cmpm_loss",
    "itc_loss",
    "product_itc_loss",
    "sdm_loss",
    "tokenwise_loss",
]
