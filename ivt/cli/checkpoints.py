"""`ivt train | evaluate | convert | export | publish | calibrate | serve | models`: what is done with checkpoints."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ivt.choices import EXPORT_FORMATS, PROTOCOLS, SPLITS

from .options import (
    CheckpointArgument,
    CorpusOption,
    CorpusRootOption,
    DeviceOption,
    JsonOption,
    OnBadImageOption,
    PrivateOption,
    hide_loading_bars,
    print_json,
)

SplitOption = Annotated[str, typer.Option(help=f"{', '.join(SPLITS)}.")]
# Whatever is no option of the command is one of the training. `group` reads them as an attribute of the command's
# function, which ty does not know.
FIELDS = {"allow_extra_args": True, "ignore_unknown_options": True}


def train(context: typer.Context) -> None:
    """Train a model by a recipe, in one process.

    Every field of the recipe and of the model can be given, and wins over the recipe. For several processes there is
    `accelerate launch -m train_hf …`, with the same options.

    Examples:
      ivt train --config demo --output_dir runs/demo --max_minutes 8
      ivt train --config cuhk_pedes --corpus_root data/CUHK-PEDES --output_dir runs/cuhk --dry_run
      ivt train --config my_recipe.yaml --learning_rate 0.01 --model.hidden_size 384 --seed 1
      ivt train --config demo --output_dir runs/demo --resume
    """
    if "--help" in context.args:
        from ivt.training.arguments import build_parser

        parser = build_parser()
        parser.usage = "ivt train [--config RECIPE] [--FIELD VALUE ...]"
        print(context.get_help() + "\n\n" + parser.format_help().partition("\n\n")[2])
        return
    import train_hf

    hide_loading_bars()
    train_hf.main(context.args)


train.settings = FIELDS | {"help_option_names": []}  # ty: ignore[missing-attribute]


def evaluate(
    checkpoint: CheckpointArgument,
    corpus: CorpusOption,
    corpus_root: CorpusRootOption = None,
    split: SplitOption = "test",
    on_bad_image: OnBadImageOption = "error",
    batch_size: Annotated[int, typer.Option(min=1, help="Images or captions per call of the model.")] = 64,
    device: DeviceOption = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16; auto: half if fast here.")] = "float32",
    average_precision: Annotated[
        str | None, typer.Option(help="standard or trapezoidal; by default the protocol's.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help=f"{' or '.join(PROTOCOLS)}, the latter for parity with the authors' figures only.")
    ] = "standard",
    rerank: Annotated[
        int, typer.Option(min=0, help="Judge so many candidates of each query again, by the fusion encoder.")
    ] = 0,
    output: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write the figures there too.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure R@1, R@5, R@10, mAP and mINP of a checkpoint.

    Captions search images, and images search captions, by the corpora's own protocol.

    Examples:
      ivt evaluate runs/cuhk/best --corpus cuhk-pedes --corpus-root data/CUHK-PEDES --output metrics.json
      ivt evaluate runs/demo/best --corpus synthetic --split val --json
      ivt evaluate runs/pretrain/best --corpus cuhk-pedes --corpus-root data/CUHK-PEDES --rerank 32
    """
    from ivt.retrieval.report import describe_results, evaluate_checkpoint, write_results

    hide_loading_bars()
    results = evaluate_checkpoint(
        checkpoint,
        corpus,
        corpus_root,
        split,
        on_bad_image=on_bad_image,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        average_precision=average_precision,
        protocol=protocol,
        rerank=rerank,
    )
    if output:
        write_results(results, output)
    if as_json:
        print_json(results)
        return
    print(describe_results(results))
    if output:
        print(f"written to {output}")


def convert(
    context: typer.Context,
    output_dir: Annotated[Path, typer.Argument(metavar="OUT", help="New or empty folder.")],
    init: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="official=FILE (of the paper's authors), vit=NAME,bert=NAME, or an IVT checkpoint; by default the "
            "recipe's.",
        ),
    ] = None,
    config: Annotated[
        str | None, typer.Option(metavar="RECIPE", help="Name or yaml file: the start that a run of it has.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Folder or Hub name of the BERT tokenizer.")] = None,
    image_size: Annotated[
        tuple[int, int] | None, typer.Option(metavar="HEIGHT WIDTH", help="In pixels; needed for official=FILE.")
    ] = None,
    patch_stride: Annotated[
        int | None, typer.Option(help="Pixels from patch to patch; needed for official=FILE.")
    ] = None,
    num_attention_heads: Annotated[int | None, typer.Option(help="Heads per block; needed for official=FILE.")] = None,
    as_json: JsonOption = False,
) -> None:
    r"""Turn other weights into a checkpoint of IVT.

    The folder is one that `AutoModel.from_pretrained` loads. Every tensor of the source is accounted for, or nothing
    is written, and no pickled code is run. Fields of `ivt train` are taken too, after OUT, such as --model_size
    ivt-small or --model.hidden_size 384; `ivt train --init OUT` begins a run with these weights.

    Examples:
      ivt convert ivt-cuhk --init official=checkpoint_best.pth --image-size 384 128 --patch-stride 12 \
          --num-attention-heads 12 --tokenizer google-bert/bert-base-uncased
      ivt convert start --init vit=google/vit-base-patch16-224-in21k,bert=google-bert/bert-base-uncased
      ivt convert start --config cuhk_pedes
      ivt convert with-tokenizer --init old-checkpoint --tokenizer google-bert/bert-base-uncased
    """
    from ivt.hub.convert import convert as convert_weights

    hide_loading_bars()
    sizes = {
        "image_size": image_size and list(image_size),
        "patch_stride": patch_stride,
        "num_attention_heads": num_attention_heads,
    }
    fields = [part for name, size in sizes.items() if size is not None for part in (f"--model.{name}", str(size))]
    report = convert_weights(output_dir, init, config, tokenizer, fields + context.args)
    if as_json:
        print_json({"folder": output_dir, "report": report})
    else:
        print("\n".join([*report, f"saved in {output_dir}"]))


convert.settings = FIELDS  # ty: ignore[missing-attribute]


def export(
    checkpoint: CheckpointArgument,
    output_dir: Annotated[
        Path | None,
        typer.Argument(help="New or empty folder; by default one here, named after checkpoint and format."),
    ] = None,
    *,
    format: Annotated[str, typer.Option(help=f"{' or '.join(EXPORT_FORMATS)}.")],
    int8: Annotated[bool, typer.Option("--int8", help="Quantise to 8-bit integers.")] = False,
    corpus: CorpusOption = "synthetic",
    corpus_root: CorpusRootOption = None,
    split: SplitOption = "val",
    as_json: JsonOption = False,
) -> None:
    """Export a checkpoint for ONNX Runtime or OpenVINO.

    Image and text encoder become a graph each, which is compared with PyTorch. The corpus is where --int8 finds the
    ranges of the activations: it should be like what the model will see.

    Examples:
      ivt export runs/cuhk/best --format onnx
      ivt export runs/cuhk/best cuhk-int8 --format openvino --int8 --corpus cuhk-pedes --corpus-root data/CUHK-PEDES
    """
    from ivt.hub.export import export as export_checkpoint

    hide_loading_bars()
    exported = export_checkpoint(checkpoint, output_dir, format, int8, corpus, corpus_root, split)
    if as_json:
        print_json(exported)
        return
    for name, graph in exported["graphs"].items():
        print(
            f"{name}: {graph['megabytes']:.1f} MB, differs from PyTorch by at most {graph['difference']:.1e} in "
            "unit-length embeddings"
        )
    print(f"saved in {exported['folder']}")


def publish(
    checkpoint: Annotated[
        str | None, typer.Argument(help="Folder or Hub name of a model with its processor.", show_default=False)
    ] = None,
    repo_id: Annotated[
        str | None, typer.Argument(metavar="[ORG/NAME]", help="Model repository, created if it is missing.")
    ] = None,
    space: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Publish the demo page instead of a model.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(metavar="ORG/person_retrieval", help="Publish the metric instead of a model.")
    ] = None,
    private: PrivateOption = False,
    dry_run: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write everything there, upload nothing.")
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Name of this version; by default that of this package.")] = None,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE.json", help="Results of `ivt evaluate --output` for the page; repeatable."),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CORPUS=ORG/NAME",
            help="Where a corpus is on the Hub; results on it go to .eval_results too. Repeatable.",
        ),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(help="Of the weights, e.g. cc-by-nc-4.0; by default that of the training corpus."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Publish a checkpoint, the demo page or the metric on the Hub.

    A model repository works by itself. Its page has what the run recorded and what was measured on these weights, and
    nothing else. `hf auth login` says who you are.

    Examples:
      ivt publish runs/cuhk/best ORG/NAME --private --evaluation metrics.json --dataset cuhk-pedes=ORG/CUHK-PEDES
      ivt publish runs/cuhk/best ORG/NAME --dry-run FOLDER
      ivt publish runs/cuhk/best --dry-run FOLDER
      ivt publish --space ORG/NAME
      ivt publish --metric ORG/person_retrieval
    """
    published = [source for source in (checkpoint, space, metric) if source]
    if len(published) != 1 or (checkpoint and not (repo_id or dry_run)):
        raise ValueError(
            "pass either CHECKPOINT ORG/NAME, or CHECKPOINT --dry-run FOLDER, or --space ORG/NAME, "
            "or --metric ORG/NAME"
        )
    from ivt.hub.publish import publish_metric, publish_model, publish_space

    hide_loading_bars()
    options: dict[str, Any] = {"private": private, "dry_run": dry_run, "tag": tag}
    if space:
        done = publish_space(space, **options)
    elif metric:
        done = publish_metric(metric, **options)
    else:
        hub_datasets = dict(pair.partition("=")[::2] for pair in dataset or [])
        options |= {"evaluations": evaluation or [], "hub_datasets": hub_datasets, "licence": license}
        done = publish_model(published[0], repo_id, **options)
    if as_json:
        print_json({"place": done.place, "tag": done.tag, "files": done.files})
        return
    for path, size in done.files.items():
        print(f"{size:>12,}  {path}")
    print(f"published {done.place} as {done.tag}" if done.tag else f"written to {done.place}, nothing uploaded")


def calibrate(
    checkpoint: Annotated[str, typer.Argument(help="Folder of a model with its processor.")],
    corpus: CorpusOption = "synthetic",
    corpus_root: CorpusRootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Calibrate the answer "no match" of a checkpoint.

    It tells how likely the person asked for is in the gallery at all. Searches galleries of the corpus's validation
    people, with and without the person, and writes calibration.json into the checkpoint's folder. A kind of query
    whose curve hardly tells the two apart is left out.

    Example:
      ivt calibrate runs/cuhk/best --corpus cuhk-pedes --corpus-root data/CUHK-PEDES
    """
    from ivt.gallery.calibrate import calibrate as calibrate_checkpoint

    hide_loading_bars()
    found = calibrate_checkpoint(checkpoint, corpus, corpus_root)
    if as_json:
        print_json(found)
        return
    for kind, rates in found.items():
        cases, kept = rates.pop("cases"), rates.pop("kept")
        figures = ", ".join(f"{name} {value:.3g}" for name, value in rates.items())
        print(f"{kind}{'' if kept else ', left out'}: {cases} cases, on the same cases {figures}")
    print(f"written to {Path(checkpoint) / 'calibration.json'}")


def serve(
    model: Annotated[str | None, typer.Option(help="Folder or Hub name; by default the bundled one.")] = None,
    people: Annotated[
        Path | None, typer.Option(help="Pictures to search, a folder per camera; by default drawn people.")
    ] = None,
    port: Annotated[int, typer.Option(help="Of the web server.")] = 7860,
) -> None:
    """Serve the demo page on this machine.

    Describe a person, see who fits best, and where the model looked.

    Examples:
      ivt serve
      ivt serve --model runs/cuhk/best --people crops/ --port 8000
    """
    try:
        from ivt import page
    except ImportError as error:
        raise ImportError("the demo page needs Gradio: pip install 'ivt-person-retrieval[space]'") from error

    hide_loading_bars()
    page.serve(model or page.DEFAULT_MODEL, people or page.PEOPLE, port)


def models(as_json: JsonOption = False) -> None:
    """List the models that come with the package.

    With what they are for, their sizes, and the figures that were measured when they were trained.

    Example:
      ivt models --json
    """
    from ivt.hub.bundled import bundled_models, describe_model

    found = bundled_models()
    if as_json:
        print_json(found)
    else:
        print("\n\n".join(map(describe_model, found)))
