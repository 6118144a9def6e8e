"""Build the first weights of a recipe and save them as a checkpoint: to look at, or to train from without a network.

    python -m ivt.hub.build_start OUTPUT_DIR --config recipes/cuhk_pedes.yaml [--init vit=NAME,bert=NAME]

Everything behind OUTPUT_DIR is what `train_hf.py` takes. `--init OUTPUT_DIR` then begins a run with these weights;
those that are drawn depend on `--seed`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from accelerate.utils import set_seed
from huggingface_hub.errors import StrictDataclassError

from ivt.new_folder import check_output
from ivt.training.initialization import build_model
from ivt.training.recipe import parse_arguments

from .convert import save


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0].startswith("-"):
        print(__doc__)
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    try:
        output_dir = check_output(Path(arguments[0]))
        _, recipe, model_fields = parse_arguments(arguments[1:])
        set_seed(recipe.seed)
        model, processor, lines = build_model(recipe, model_fields)
        print("\n".join(lines or ["all weights are random"]))
        save(model, processor, output_dir)
    except (ValueError, OSError, StrictDataclassError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"saved in {output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
