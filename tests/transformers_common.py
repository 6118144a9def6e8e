"""transformers' own common tests on IVT. Opt-in: they lie in its repository and not in its wheel.

    git clone --depth 1 --branch v5.23.0 https://github.com/huggingface/transformers ../transformers
    pip install parameterized httpx
    RUN_SLOW=1 TRANSFORMERS_CHECKOUT=../transformers python -m pytest tests/transformers_common.py \
        -o addopts= -o filterwarnings=ignore

The checkout's version has to be that of the installed transformers. Which tests do not apply to IVT and why, and the
counts: `docs/common_tests.md`. The project's own tests of the same laws, which always run, are
`tests/modeling_ivt/test_library_laws.py` and those of `tests/processing`.
"""

import copy
import os
import sys
import unittest
from typing import Any
from unittest import mock

import pytest
import torch
from transformers import BertTokenizer
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs

if "TRANSFORMERS_CHECKOUT" not in os.environ:
    pytest.exit("set TRANSFORMERS_CHECKOUT to a checkout of the transformers repository", returncode=2)
sys.path.insert(0, os.environ["TRANSFORMERS_CHECKOUT"])

from tests.test_configuration_common import ConfigTester
from tests.test_image_processing_common import ImageProcessingTester, ImageProcessingTestMixin
from tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor
from tests.test_processing_common import ProcessorTesterMixin

from modeling_ivt import IVTConfig, IVTModel
from processing import IVTImageProcessor, IVTProcessor


class IVTModelTester:
    """Sizes and inputs of the model under test; a text is as long as its images have tokens, as the mixins assume."""

    batch_size, seq_length, num_hidden_layers, num_attention_heads, hidden_size, vocab_size = 4, 11, 2, 4, 32, 99
    is_training = True

    def __init__(self, parent: unittest.TestCase):
        self.parent = parent

    def get_config(self) -> IVTConfig:
        return IVTConfig(
            image_size=(24, 12),  # 5 rows x 2 columns of patches, with [CLS] 11 tokens
            patch_size=8,
            patch_stride=4,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            vocab_size=self.vocab_size,
            max_position_embeddings=64,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[IVTConfig, dict[str, Any]]:
        attention_mask = torch.ones(self.batch_size, self.seq_length, dtype=torch.long)
        attention_mask[1:, -2:] = 0
        inputs = {
            "input_ids": ids_tensor([self.batch_size, self.seq_length], self.vocab_size),
            "attention_mask": attention_mask,
            "pixel_values": floats_tensor([self.batch_size, 3, 24, 12]),
            "person_ids": torch.arange(self.batch_size),
            "return_loss": True,
        }
        return self.get_config(), inputs


class IVTModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (IVTModel,)
    additional_model_inputs = ["pixel_values"]
    test_resize_position_embeddings = True
    test_can_init_all_missing_weights_before_2023 = True  # or else a file without a copyright year counts as too old
    # Hidden states and attentions lie in the outputs of the two modalities: `EncoderTest` below.
    test_attention_outputs = test_hidden_states_output = test_retain_grad_hidden_states_attentions = None

    def setUp(self) -> None:
        self.model_tester = IVTModelTester(self)
        self.config_tester = ConfigTester(self, config_class=IVTConfig, hidden_size=48)

    def _text_features_prepare_config_and_inputs(self) -> tuple[IVTConfig, dict[str, Any]]:
        config, inputs = super()._text_features_prepare_config_and_inputs()
        config.text_config = copy.deepcopy(config)  # where the mixin looks for the width of the text
        return config, inputs

    def test_config(self) -> None:
        self.config_tester.run_common_tests()


class ImageEncoder(IVTModel):
    """The images' half as a model of its own, whose output has the hidden states and attentions on top."""

    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> ModelOutput:
        return self.get_image_features(pixel_values, **kwargs)


class TextEncoder(IVTModel):
    """The captions' half likewise."""

    input_modalities = ("text",)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ModelOutput:
        return self.get_text_features(input_ids, attention_mask, **kwargs)


class EncoderTester(IVTModelTester):
    is_training = False  # an encoder has no loss

    def __init__(self, parent: unittest.TestCase, names: list[str]):
        super().__init__(parent)
        self.names = names

    def prepare_config_and_inputs_for_common(self) -> tuple[IVTConfig, dict[str, Any]]:
        config, inputs = super().prepare_config_and_inputs_for_common()
        return config, {name: inputs[name] for name in self.names}


class EncoderTestMixin(ModelTesterMixin):
    """All but the tests of `get_image_features` and `get_text_features`, which run on the whole model."""

    test_can_init_all_missing_weights_before_2023 = True


for name in dir(EncoderTestMixin):
    if name.startswith(("test_get_image_features", "test_get_text_features")):
        setattr(EncoderTestMixin, name, None)


class ImageEncoderTest(EncoderTestMixin, unittest.TestCase):
    all_model_classes = (ImageEncoder,)
    test_resize_embeddings = False

    def setUp(self) -> None:
        self.model_tester = EncoderTester(self, ["pixel_values"])


class TextEncoderTest(EncoderTestMixin, unittest.TestCase):
    all_model_classes = (TextEncoder,)
    test_resize_position_embeddings = True

    def setUp(self) -> None:
        self.model_tester = EncoderTester(self, ["input_ids", "attention_mask"])


class IVTImageProcessingTest(ImageProcessingTestMixin, unittest.TestCase):
    # Rules for models inside the library: they need torchvision, or load without `trust_remote_code` in a new process.
    test_new_models_require_torchvision_backend = test_pil_can_run_without_torchvision = None

    def setUp(self) -> None:
        self.image_processor_tester = ImageProcessingTester(self, size={"height": 24, "width": 12})
        self.image_processor_tester.image_processing_classes = {"pil": IVTImageProcessor}

    @property
    def image_processor_dict(self) -> dict[str, Any]:
        return self.image_processor_tester.prepare_image_processor_dict()


class IVTProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = IVTProcessor

    @classmethod
    def setUpClass(cls) -> None:
        # The mixin compares a processor with its saved self, to which shipped code adds an `auto_map`.
        cls.enterClassContext(mock.patch.object(IVTProcessor, "_auto_class", None))
        super().setUpClass()

    @classmethod
    def _setup_image_processor(cls) -> IVTImageProcessor:
        return IVTImageProcessor()

    @classmethod
    def _setup_tokenizer(cls) -> BertTokenizer:
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lower", "newer", "upper", "older", "longer", "string"]
        return BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=64)
