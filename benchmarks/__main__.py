"""Print speed and memory on this machine, as Markdown tables under the machine's name.

    make bench                                                  # everything
    OMP_NUM_THREADS=1 python -m benchmarks drawing views ranking cached_chunk    # per core
    python -m benchmarks encoders steps                         # base size, all cores or a GPU
    python -m benchmarks cached_chunk --cases 4 64:4 --config ivt/recipes/rstpreid.yaml --optimizer adamw

Wall-clock time on an otherwise idle machine is meant; `cached_chunk` counts processor time. Nothing here is part of
the tests. Retrieval, maps, exports and ablations are measured by the other modules of this folder.
"""

import argparse
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ivt.training.record import describe_versions

from . import cached_chunk, network, speed

SPEEDS = (speed.drawing, speed.views, speed.ranking, network.encoders, network.steps)
MEASURES = {measure.__name__: measure for measure in SPEEDS}
FIGURES = (*MEASURES, "cached_chunk")


def machine() -> str:
    """Name of the processor, cores, threads in use, GPU, and versions."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    if torch.cuda.is_available():
        name = f"{torch.cuda.get_device_name()}, {name}"
    versions = ", ".join(f"{library} {version}" for library, version in describe_versions().items())
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; {versions}"


def table(lines: Iterator[dict[str, object]]) -> None:
    """Print lines of one shape as a Markdown table, each as soon as it is measured."""
    for number, line in enumerate(lines):
        if number == 0:
            print(f"| {' | '.join(line)} |\n|{'---|' * len(line)}")
        print(f"| {' | '.join(map(str, line.values()))} |", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Read which figures to print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"{', '.join(FIGURES)} (default: all)")
    parser.add_argument("--cases", nargs="+", default=["32", "512:32", "512"], help="of cached_chunk: BATCH[:CHUNK]")
    parser.add_argument("--steps", type=int, default=3, help="of cached_chunk")
    arguments, recipe_arguments = parser.parse_known_args(argv)
    figures = arguments.figures or FIGURES
    if unknown := [name for name in figures if name not in FIGURES]:
        parser.error(f"no figure {', '.join(unknown)}, expected some of {', '.join(FIGURES)}")
    print(machine())
    for name in figures:
        print()
        if name == "cached_chunk":
            table(cached_chunk.measure_cases(arguments.cases, arguments.steps, recipe_arguments))
        else:
            table(MEASURES[name]())


if __name__ == "__main__":
    main()
