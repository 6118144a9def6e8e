"""Convert a checkpoint of the IVT authors (Shu et al. 2022, arXiv 2208.08608) into a folder the Auto classes load.

    python -m ivt.hub.convert CHECKPOINT OUTPUT_DIR --image_size 384 128 --patch_stride 12 \
        --num_attention_heads 12 [--tokenizer DIR_OR_NAME]

Everything else is read from the shapes of the tensors. Such a file is a pickle, in torch's old or new format: only
tensors and plain containers are read from it, its code is never run. The conversion fails, and writes nothing, unless
every parameter of the network is found and every key of the file is used or known not to matter.

`AutoModel.from_pretrained(OUTPUT_DIR, trust_remote_code=True)` then loads the model.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ivt.new_folder import check_output, new_folder
from modeling_ivt import IVTConfig, IVTModel
from modeling_ivt.official import load_official
from processing import IVTImageProcessor, IVTProcessor


def load_tokenizer(name: str, config: IVTConfig) -> PreTrainedTokenizerBase:
    """Load the tokenizer and let it truncate to what the model holds.

    Raises:
        ValueError: if there is none, or not that of a model with this vocabulary size.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no tokenizer can be loaded from {name}; pass a folder written by a tokenizer's save_pretrained, or a "
            f"name on the Hub ({error})"
        ) from error
    if len(tokenizer) != config.vocab_size:
        raise ValueError(
            f"tokenizer {name} has {len(tokenizer)} tokens, the checkpoint {config.vocab_size}; "
            "pass the tokenizer the checkpoint was trained with"
        )
    tokenizer.model_max_length = min(tokenizer.model_max_length, config.max_position_embeddings)
    return tokenizer


def save(model: IVTModel, processor: IVTProcessor | IVTImageProcessor, output_dir: Path) -> None:
    """Write model, code files and processor, all or nothing."""
    with new_folder(output_dir) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


def convert(
    checkpoint: Path,
    output_dir: Path,
    image_size: Sequence[int],
    patch_stride: int,
    num_attention_heads: int,
    tokenizer_name: str | None = None,
) -> None:
    """Convert `checkpoint` into the folder `output_dir` and print what became of every key.

    Args:
        checkpoint: file of the authors' training.
        output_dir: new or empty folder.
        image_size: (height, width) in pixels.
        patch_stride: distance of two patches in pixels.
        num_attention_heads: heads per block.
        tokenizer_name: folder or Hub name of the BERT tokenizer; None writes none.

    Raises:
        ValueError: if anything does not fit; nothing is written then.
        OSError: if a file cannot be read or written.
    """
    output_dir = check_output(output_dir)
    model, lines = load_official(checkpoint, image_size, patch_stride, num_attention_heads)
    print("\n".join(lines))
    height, width = model.config.image_size
    processor = IVTImageProcessor(size={"height": height, "width": width})
    if tokenizer_name is not None:
        processor = IVTProcessor(processor, load_tokenizer(tokenizer_name, model.config))
    save(model, processor, output_dir)
    if tokenizer_name is None:
        print("no tokenizer written, only the image processor: pass --tokenizer DIR_OR_NAME for a whole processor")
    print(f"saved in {output_dir}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ivt.hub.convert", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="new or empty folder")
    parser.add_argument("--image_size", type=int, nargs=2, required=True, metavar=("H", "W"), help="in pixels")
    parser.add_argument("--patch_stride", type=int, required=True, metavar="S", help="distance of patches in pixels")
    parser.add_argument("--num_attention_heads", type=int, required=True, metavar="N", help="heads per block")
    parser.add_argument("--tokenizer", metavar="DIR_OR_NAME", help="BERT tokenizer; left out, none is written")
    options = parser.parse_args(arguments)
    try:
        convert(
            options.checkpoint,
            options.output_dir,
            options.image_size,
            options.patch_stride,
            options.num_attention_heads,
            options.tokenizer,
        )
    except (ValueError, OSError, StrictDataclassError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
