"""Use a published model as somebody does who has transformers, but not this repository.

The tests run it in a process of its own: `python user_without_package.py NAME REVISION GOLDEN_FILE OUTPUT_DIR`. It
leaves `outputs.safetensors` (what the model answers to the golden inputs), `report.json` and the folders `again`
(model and processor, saved once more) and `pipeline` (the project's own pipeline, saved).
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    AutoTokenizer,
)
from use_pipelines import use_pipelines

name, revision, golden_file, output_dir = *sys.argv[1:4], Path(sys.argv[4])
options = {"revision": revision, "trust_remote_code": True}
auto_classes = (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    AutoTokenizer,
)
loaded = {auto.__name__: auto.from_pretrained(name, **options) for auto in auto_classes}
model, processor = loaded["AutoModel"], loaded["AutoProcessor"]
cmpm_loss = sys.modules[type(model).__module__].cmpm_loss

golden = load_file(golden_file)
images, texts = golden["pixel_values"], (golden["input_ids"], golden["attention_mask"])
with torch.no_grad():
    outputs = {
        "image_last_hidden_state": model.get_image_features(images).last_hidden_state,
        "text_last_hidden_state": model.get_text_features(*texts).last_hidden_state,
        "kept_image_last_hidden_state": model.get_image_features(
            images, keep_positions=golden["kept_image_positions"]
        ).last_hidden_state,
        "kept_text_last_hidden_state": model.get_text_features(
            *texts, keep_positions=golden["kept_text_positions"]
        ).last_hidden_state,
    }
    whole = model(
        pixel_values=images,
        input_ids=texts[0],
        attention_mask=texts[1],
        person_ids=golden["labels"],
        return_loss=True,
    )
embeds = [whole.image_embeds.clone().requires_grad_(), whole.text_embeds.clone().requires_grad_()]
cmpm_loss(*embeds, golden["labels"]).backward()
outputs |= {"cmpm_loss": whole.loss[None], "cmpm_grad_image": embeds[0].grad, "cmpm_grad_text": embeds[1].grad}
save_file({name: tensor.contiguous() for name, tensor in outputs.items()}, output_dir / "outputs.safetensors")

# a model that was loaded for one Auto class must still save the entries of both
loaded["AutoModelForZeroShotImageClassification"].save_pretrained(output_dir / "again")
processor.save_pretrained(output_dir / "again")
again = AutoModel.from_pretrained(output_dir / "again", trust_remote_code=True)
with torch.no_grad():
    same = torch.equal(again.get_image_features(images).pooler_output, whole.image_embeds)

report = {
    "modules": {name: type(thing).__module__ for name, thing in loaded.items()},
    "rooms_imported": sorted({"ivt", "modeling_ivt", "processing"} & sys.modules.keys()),
    "same_after_saving_again": same,
    "tokens_after_saving_again": AutoProcessor.from_pretrained(output_dir / "again", trust_remote_code=True)
    .tokenizer("a woman")
    .input_ids,
    "pipelines": use_pipelines(name, output_dir / "pipeline", **options),
}
(output_dir / "report.json").write_text(json.dumps(report))
