"""How much of a processor the network uses: encoders and training steps of base size, CPU or GPU.

`python -m benchmarks encoders steps` prints them. The variants of a figure take turns, so that what else happens on
the machine falls on all of them; a rate is the median of the rounds. The peak is that of a large matrix product in
the same arithmetic. A share of the peak counts only what the network needs: matrix products and attention on tokens
that are there, no padding.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, CLIPModel

from ivt.retrieval.models import find_device
from ivt.training.dry_run import ATTENTION_ON_CPU
from ivt.training.embeddings import embed_batch
from ivt.training.initialization import compile_blocks
from ivt.training.objective import Objective
from ivt.training.optimization import build_optimizer
from ivt.training.recipe import MODEL_SIZES, Recipe
from modeling_ivt import IVTConfig, IVTModel

from .cached_chunk import random_batch

Work = Callable[[], object]
FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16


def alternate(variants: dict[str, Work], rounds: int = 7) -> dict[str, float]:
    """Seconds of each variant: the median of the rounds, in which all take turns, after two that are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 2):
        for name, work in variants.items():
            wait()
            start = time.perf_counter()
            work()
            wait()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times[2:]) for name, times in seconds.items()}


def wait() -> None:
    """Wait for the accelerator, if there is one."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product."""
    size = 2048 if device.type == "cpu" else 8192
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / alternate({"": lambda: left @ right})[""]


def operations(work: Work) -> int:
    """Floating-point operations of matrix products, convolutions and attention."""
    with FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU) as counter:
        work()
    return counter.get_total_flops()


def compiled(model: IVTModel) -> IVTModel:
    """The model, its blocks compiled."""
    compile_blocks(model)
    return model


def base_model(
    device: torch.device, dtype: torch.dtype = FLOAT32, attention: str = "sdpa", **fields: object
) -> IVTModel:
    """A model of the paper's size with random weights."""
    torch.manual_seed(0)
    config = IVTConfig(**MODEL_SIZES["ivt-base"] | {"patch_stride": 12} | fields, attn_implementation=attention)
    return IVTModel(config).to(device, dtype).eval()


@torch.inference_mode()
def encoders() -> Iterator[dict[str, object]]:
    """Images and texts of the base model, without gradients."""
    device = find_device()
    batch_size = 16 if device.type == "cpu" else 256
    peaks = {dtype: peak(device, dtype) for dtype in (FLOAT32, BFLOAT16)}
    images = torch.randn(batch_size, 3, 384, 128, device=device)

    def embed(model: IVTModel, cls_only: bool = True) -> Work:
        return lambda: model.get_image_features(images.to(model.dtype), cls_only=cls_only)

    clip = CLIPModel(CLIPConfig(vision_config={"patch_size": 16})).to(device, BFLOAT16).eval()
    crops = torch.randn(batch_size, 3, 224, 224, device=device, dtype=BFLOAT16)
    variants = {
        "images, float32, eager attention": (FLOAT32, embed(base_model(device, attention="eager"), cls_only=False)),
        "images, float32": (FLOAT32, embed(base_model(device))),
        "images, bfloat16": (BFLOAT16, embed(base_model(device, BFLOAT16))),
        "images, bfloat16, compiled": (BFLOAT16, embed(compiled(base_model(device, BFLOAT16)))),
        "CLIP ViT-B/16, 224 x 224, bfloat16": (BFLOAT16, lambda: clip.get_image_features(crops)),
    }
    needed = {name: operations(work) for name, (_, work) in variants.items()}
    needed["images, bfloat16, compiled"] = needed["images, bfloat16"]  # nothing is counted inside of a compiled graph
    for name, seconds in alternate({name: work for name, (_, work) in variants.items()}).items():
        yield figure(name, batch_size / seconds, "images/s", needed[name] / seconds / peaks[variants[name][0]])
    yield from texts(device, peaks[BFLOAT16])


def texts(device: torch.device, bfloat16_peak: float) -> Iterator[dict[str, object]]:
    """Texts of the three levels, whose lengths differ: padded to the longest of all, and in batches of like length."""
    model = base_model(device, BFLOAT16)
    per_batch = 64 if device.type == "cpu" else 256
    batch = random_batch(model.config, Recipe(), per_batch)
    ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
    lengths, order = mask.sum(dim=1).sort(descending=True)
    batches = [(rows, int(lengths[i * per_batch])) for i, rows in enumerate(order.split(per_batch))]

    def padded() -> None:
        for rows, _ in batches:
            model.get_text_features(ids[rows], mask[rows], cls_only=True)

    def alike() -> None:
        for rows, longest in batches:
            model.get_text_features(ids[rows, :longest], mask[rows, :longest], cls_only=True)

    by_length = {length: int((lengths == length).sum()) for length in lengths.unique().tolist()}
    needed = sum(
        count * operations(partial(model.get_text_features, ids[:1, :length], cls_only=True))
        for length, count in by_length.items()
    )
    for name, seconds in alternate({"texts, padded to the longest": padded, "texts, like lengths": alike}).items():
        yield figure(f"{name}, bfloat16", len(ids) / seconds, "texts/s", needed / seconds / bfloat16_peak)


def steps() -> Iterator[dict[str, object]]:
    """Training steps of the base model by the corpus recipes: forward, backward, optimiser."""
    device = find_device()
    pairs = 4 if device.type == "cpu" else 112  # the paper's, all processes together
    bfloat16_peak = peak(device, BFLOAT16)
    recipe = Recipe(num_views=3)
    autocast = partial(torch.autocast, device.type, BFLOAT16)
    variants = {
        "step, float32, eager attention, padded": (nullcontext, "eager", 1, False),
        "step, bfloat16, eager attention, padded": (autocast, "eager", 1, False),
        "step, bfloat16": (autocast, "sdpa", 3, False),
        "step, bfloat16, compiled": (autocast, "sdpa", 3, True),
    }
    works = {}
    for name, (context, attention, num_groups, compiles) in variants.items():
        model = base_model(device, attention=attention, bmm_ratio=0.2, drop_path_rate=0.1)
        works[name] = training_step(compiled(model) if compiles else model, recipe, pairs, context, num_groups)
    needed = operations(works["step, bfloat16"])
    memory = {name: peak_memory(work) for name, work in works.items()} if device.type == "cuda" else {}
    for name, seconds in alternate(works).items():
        line = figure(name, pairs * 3 / seconds, "images/s, each with a text", needed / seconds / bfloat16_peak)
        yield line | ({"peak, GB": f"{memory[name] / 1e9:.2f}"} if memory else {})


def training_step(
    model: IVTModel, recipe: Recipe, num_pairs: int, context: Callable[[], AbstractContextManager], num_groups: int
) -> Work:
    """A training step on one batch; it hides the same tokens every time."""
    objective = Objective(model, recipe).train()
    optimizer = build_optimizer(objective, recipe)
    batch = random_batch(model.config, recipe, num_pairs)
    batch = {name: rows.to(model.device) if isinstance(rows, torch.Tensor) else rows for name, rows in batch.items()}

    def step() -> None:
        torch.manual_seed(0)
        with context():
            loss = objective.compare(embed_batch(model, batch, num_groups, with_tokens=False))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def peak_memory(work: Work) -> int:
    """Most bytes of the GPU's memory that a piece of work takes beyond what was taken before it."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() - before


def figure(name: str, rate: float, unit: str, share: float) -> dict[str, object]:
    """A line of the table."""
    return {"figure": f"base model, stride 12, {name}", "rate": f"{rate:.3g}", "unit": unit, "of peak": f"{share:.0%}"}
