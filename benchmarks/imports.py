"""How long imports take, beside those of transformers' own CLIP. `python -m benchmarks.imports` prints the ratios.

Each line of Python runs in a process of its own. The lines take turns, so that a machine that gets slower or faster
meanwhile does so for all of them. The figures are medians of the wall-clock time, starting Python included.
"""

import argparse
import statistics
import subprocess
import sys
import time

CLIP = "from transformers import CLIPModel, CLIPProcessor"
COMMANDS = {
    "python -c pass": ("-c", "pass"),
    CLIP: ("-c", CLIP),
    "import modeling_ivt": ("-c", "import modeling_ivt"),
    "import ivt": ("-c", "import ivt"),
    "ivt --help": ("-m", "ivt", "--help"),
}


def measure(rounds: int) -> dict[str, float]:
    """Median seconds of each command, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, arguments in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    """Print seconds, and the ratio to importing CLIP."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="at least 5 for a figure to report (default: 9)")
    medians = measure(parser.parse_args().rounds)
    for name, seconds in medians.items():
        print(f"{name:<52} {seconds:6.2f} s {seconds / medians[CLIP]:6.3f} x CLIP")


if __name__ == "__main__":
    main()
