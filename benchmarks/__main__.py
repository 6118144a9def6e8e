"""Print speed and memory on this machine's CPU, as Markdown tables under the machine's name.

    make bench                                                  # everything
    OMP_NUM_THREADS=1 python -m benchmarks drawing views ranking cached_chunk    # per core
    python -m benchmarks embedding                              # all cores, base size
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

from . import cached_chunk, speed

SPEEDS = {measure.__name__: measure for measure in (speed.drawing, speed.views, speed.ranking, speed.embedding)}
FIGURES = (*SPEEDS, "cached_chunk")


def machine() -> str:
    """Name of the processor, cores, threads in use, and versions."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
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
    if chosen := [SPEEDS[name] for name in figures if name in SPEEDS]:
        print()
        table(line for measure in chosen for line in measure())
    if "cached_chunk" in figures:
        print()
        table(cached_chunk.measure_cases(arguments.cases, arguments.steps, recipe_arguments))


if __name__ == "__main__":
    main()
