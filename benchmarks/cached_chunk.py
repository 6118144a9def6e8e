"""Memory and time of training steps with and without gradient caching. `python -m benchmarks` prints them.

Each case has a process of its own. It takes some steps on one batch of random pictures and texts, whose lengths are
like those of sentences, phrases and words, with the model, losses and optimiser of the recipe. Memory is the largest
resident set of the process; "above start" leaves out what libraries take, and "batch" is what of it pictures and texts
themselves need. Time is processor time.
"""

import os
import resource
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from accelerate import Accelerator

from ivt.training.arguments import parse_arguments
from ivt.training.gradient_cache import backward
from ivt.training.objective import Objective
from ivt.training.optimization import build_optimizer
from ivt.training.recipe import Recipe
from modeling_ivt import IVTConfig, IVTModel

TEXT_TOKENS = {"sentence": (20, 60), "phrase": (4, 12), "word": (8, 20)}  # least and most, with [CLS] and [SEP]


def random_batch(config: IVTConfig, recipe: Recipe, num_pairs: int) -> dict[str, object]:
    """A batch as `PairCollator` makes it; every pair is a person of its own."""
    limits = [TEXT_TOKENS[level] for level in recipe.levels]
    lengths = torch.cat([torch.randint(least, most + 1, (num_pairs, 1)) for least, most in limits])
    lengths.clamp_(max=recipe.max_text_tokens)
    person_ids = torch.arange(num_pairs)
    return {
        "pixel_values": torch.randn(recipe.num_views * num_pairs, config.num_channels, *config.image_size),
        "input_ids": torch.randint(config.vocab_size, (len(lengths), int(lengths.max()))),
        "attention_mask": (torch.arange(int(lengths.max())) < lengths).long(),
        "person_ids": person_ids.repeat(recipe.num_views),
        "text_person_ids": person_ids.repeat(len(recipe.levels)),
        "image_ids": [str(i) for i in range(num_pairs)],
    }


def peak_megabytes() -> float:
    """The largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(
    batch_size: int, cached_chunk: int | None, num_steps: int, recipe_arguments: list[str]
) -> dict[str, str | int]:
    """Train some steps and give what they took: a line of the table."""
    start = peak_megabytes()
    _, recipe, model_fields = parse_arguments([*recipe_arguments, "--batch_size", str(batch_size)])
    torch.manual_seed(0)
    config = IVTConfig(**model_fields)
    objective = Objective(IVTModel(config), recipe, range(batch_size)).train()
    accelerator = Accelerator(cpu=True)
    objective, optimizer = accelerator.prepare(objective, build_optimizer(objective, recipe))
    batch = random_batch(config, recipe, batch_size)
    before, losses = time.process_time(), []
    for _ in range(num_steps):
        losses.append(backward(accelerator, objective, batch, cached_chunk).item())
        optimizer.step()
        optimizer.zero_grad()
    seconds = (time.process_time() - before) / num_steps
    return {
        "pairs": batch_size,
        "cached_chunk": cached_chunk or "-",
        "peak, MB": f"{peak_megabytes():.0f}",
        "above start": f"{peak_megabytes() - start:.0f}",
        "batch": f"{sum(rows.nbytes for rows in batch.values() if isinstance(rows, torch.Tensor)) / 2**20:.0f}",
        "CPU seconds a step": f"{seconds:.1f}",
        "loss, first to last step": f"{losses[0]:.2f} to {losses[-1]:.2f}",
    }


def measure_cases(
    cases: Sequence[str], num_steps: int, recipe_arguments: Sequence[str]
) -> Iterator[dict[str, str | int]]:
    """Measure one case after the other.

    Args:
        cases: BATCH or BATCH:CACHED_CHUNK.
        num_steps: of each case.
        recipe_arguments: of `train_hf.py`, on top of the demo's recipe.
    """
    recipe_arguments = ["--config", "demo", *recipe_arguments]
    # large blocks go back to the system when they are freed, so that the peak is what is needed at one time
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for case in cases:
            batch_size, _, chunk = case.partition(":")
            sizes = (int(batch_size), int(chunk) if chunk else None)
            yield pool.submit(measure, *sizes, num_steps, recipe_arguments).result()
