"""Train a tiny model without anything random in it; tests start it, alone or as one of two processes.

python tests/train_tiny.py OUTPUT_DIR CORPUS_CACHE '{"batch_size": 8}' [resume]

The third argument holds fields of the recipe. Under `accelerate launch` with a configuration for FSDP or DeepSpeed,
two processes share the model, also on a CPU.
"""

import json
import os
import sys

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from datasets import Dataset

import train_hf
from corpora import load_synthetic
from training.recipe import Recipe, RunPaths

NUM_PEOPLE = {"train": 6, "val": 4}
TINY_MODEL = {
    "image_size": [48, 32],
    "patch_stride": 16,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 96,
}
NOTHING_RANDOM = {"hidden_dropout_prob": 0.0, "drop_path_rate": 0.0, "bmm_ratio": 0.0, "initializer_range": 0.2}


def load_tiny(cache: str, split: str) -> Dataset:
    """Six people for training, four for validation, two images each."""
    return load_synthetic(split, cache, num_people=NUM_PEOPLE[split], images_per_person=2, num_proc=1)


def shard_on_the_cpu() -> None:
    """Let accelerate shard, which it only does on GPUs: the processes meet before it decides.

    `ACCELERATE_USE_CPU` would keep DeepSpeed away.
    """
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def main(output_dir: str, corpus_cache: str, settings: str, resume: str = "") -> None:
    torch.set_num_threads(1)
    if "true" in (os.environ.get("ACCELERATE_USE_FSDP"), os.environ.get("ACCELERATE_USE_DEEPSPEED")):
        shard_on_the_cpu()
    train_hf.load_corpus = lambda name, root, split, **options: load_tiny(corpus_cache, split)
    train_hf.add_levels = lambda rows: rows  # whole sentences need none
    fields = {
        "tokenizer": "recipes/tokenizer-synthetic",
        "levels": ["sentence"],
        "num_views": 1,
        "text_groups": 2,
        "itc_weight": 1.0,
        "learning_rate": 0.01,
        "warmup_epochs": 0.0,
        "max_steps": 4,
        "log_steps": 1,
        "num_workers": 0,
    }
    recipe = Recipe(**(fields | json.loads(settings)))
    train_hf.train(RunPaths(output_dir, resume=bool(resume)), recipe, TINY_MODEL | NOTHING_RANDOM)


if __name__ == "__main__":
    main(*sys.argv[1:])
