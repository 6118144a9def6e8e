"""Serve a published model as the Endpoints toolkit does: download the repository, run its handler.py, pass bodies on.

The tests run it in a process of its own, `python endpoint.py NAME REVISION OUTPUT.json`, which writes the answers.
"""

import base64
import importlib.util
import io
import json
import sys
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from PIL import Image

name, revision, output = sys.argv[1:4]
folder = snapshot_download(name, revision=revision, local_dir=Path.cwd() / "repository")
spec = importlib.util.spec_from_file_location("handler.EndpointHandler", Path(folder) / "handler.py")
sys.path.insert(0, folder)
module = importlib.util.module_from_spec(spec)
sys.modules["handler.EndpointHandler"] = module
spec.loader.exec_module(module)
handler = module.EndpointHandler(folder)

picture = io.BytesIO()
Image.linear_gradient("L").resize((50, 120)).convert("RGB").save(picture, format="PNG")
image = base64.b64encode(picture.getvalue()).decode()
sentence, labels = "a woman with an orange coat", ["a man", "a woman with an orange coat"]
json_bodies = {
    "labels": {"inputs": {"image": image, "candidate_labels": labels}},
    "text": {"inputs": {"text": sentence}},
    "image": {"inputs": {"image": image}},
    "bad": {"inputs": {"image": "https://example.org/a.jpg"}},
}
answers = {key: handler(json.loads(json.dumps(body))) for key, body in json_bodies.items()}
answers["opened"] = handler({"inputs": Image.open(picture).convert("RGB")})  # a body with the content type image/png

model, processor = handler.model, handler.processor
with torch.no_grad():
    expected = model(**processor(images=Image.open(picture), text=[sentence, *labels], return_tensors="pt"))
report = {
    "answers": answers,
    "text": expected.text_embeds[0].tolist(),
    "image": expected.image_embeds[0].tolist(),
    "scores": dict(zip(labels, expected.logits_per_image[0, 1:].softmax(dim=0).tolist(), strict=True)),
    "modules": type(model).__module__,
}
Path(output).write_text(json.dumps(report))
