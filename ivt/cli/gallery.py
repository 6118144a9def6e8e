"""`ivt index | search | explain | gallery …`: find people in your own pictures from a sentence."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ivt.choices import DEFAULT_METHOD, METHODS

from .options import (
    DeviceOption,
    GalleryOption,
    JsonOption,
    ModelOption,
    RevisionOption,
    hide_loading_bars,
    print_json,
)

if TYPE_CHECKING:
    from ivt.gallery.queries import Query
    from ivt.gallery.results import SearchResults


def index(
    gallery: GalleryOption,
    folder: Annotated[str | None, typer.Argument(help="Folder of person crops, or its URI.")] = None,
    camera: Annotated[str | None, typer.Option(help="Camera that took the pictures.")] = None,
    time: Annotated[str | None, typer.Option(help="When they were taken, ISO 8601, UTC unless it says more.")] = None,
    camera_from_path: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Finds the camera in the path below FOLDER.")
    ] = None,
    time_from_path: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Finds the time: groups year, month, day, hour, …, or epoch, or one text."),
    ] = None,
    time_format: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="How that text is written, e.g. %Y%m%d-%H%M%S.")
    ] = None,
    sync: Annotated[bool, typer.Option("--sync", help="Remove pictures whose file is gone from FOLDER.")] = False,
    on_bad_image: Annotated[str, typer.Option(help="skip or error.")] = "skip",
    reembed: Annotated[bool, typer.Option("--reembed", help="First convert the gallery to --model.")] = False,
    model: ModelOption = None,
    revision: RevisionOption = None,
    device: DeviceOption = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures per call of the model.")] = 64,
    runner: Annotated[str, typer.Option(help="native, the threads of this machine, or ray.")] = "native",
    address: Annotated[str | None, typer.Option(help="Address of the Ray cluster.")] = None,
    as_json: JsonOption = False,
) -> None:
    r"""Add the pictures of a folder to a gallery.

    Only what is new or changed is embedded. You can interrupt it at any time: finished pictures stay, and the next run
    continues.

    Examples:
      ivt index crops/ --gallery people.lance --sync
      ivt index crops/ --gallery people.lance --camera-from-path "^(\w+)/" \
          --time-from-path "_(\d{8}-\d{6})" --time-format "%Y%m%d-%H%M%S"
      ivt index --gallery people.lance --reembed --model my-org/ivt-finetuned
      ivt index s3://bucket/crops --gallery s3://bucket/people.lance --runner ray --address 10.0.0.1:6379
    """
    if folder is None and not reembed:
        raise typer.BadParameter("FOLDER is missing; only --reembed does without", param_hint="FOLDER")
    from ivt.gallery.gallery import Gallery
    from ivt.gallery.path_fields import PathFields
    from ivt.retrieval.models import find_device

    hide_loading_bars()
    find_device(device)  # an error here, not in the engine
    engine: dict[str, Any] = {
        "on_bad_image": on_bad_image,
        "batch_size": batch_size,
        "runner": runner,
        "address": address,
    }
    if reembed:
        people = Gallery.reembed(gallery, model, revision=revision, device=device, **engine)
    else:
        people = Gallery(gallery, model, revision=revision, device=device)
    report = {}
    if folder is not None:
        paths = PathFields(camera_from_path, time_from_path, time_format)
        added = people.add(folder, camera=camera, time=time, path_fields=paths, sync=sync, **engine)
        report = asdict(added)
    if as_json:
        print_json(report | {"pictures": len(people)})
    else:
        print(f"{gallery}: {len(people)} pictures" + (f"; {added}" if report else ""))
    if report.get("bad"):
        raise typer.Exit(1)


def build_query(
    query: str | None, unwanted: Sequence[str], images: Sequence[Path], image_weights: Sequence[float]
) -> "Query":
    """Put the clauses of the command line together.

    Args:
        query: QUERY, which may hold clauses of its own.
        unwanted: what stands behind --not, a clause each.
        images: what stands behind --image.
        image_weights: what stands behind --weight, for the pictures in their order; the rest weigh 1.
    """
    if query is None and not images:
        raise typer.BadParameter("say what to look for: a QUERY, --image, or both", param_hint="QUERY")
    if len(image_weights) > len(images):
        raise typer.BadParameter("each --weight belongs to an --image; words are weighted like coat^2")
    from ivt.gallery.queries import Clause, Query, parse_query

    clauses = list(parse_query(query).clauses) if query is not None else []
    for image, weight in zip_longest(images, image_weights[: len(images)], fillvalue=1.0):
        clauses.append(Clause(image=str(image), weight=weight))
    for text in unwanted:
        parsed = parse_query(text).clauses
        if len(parsed) > 1:
            raise typer.BadParameter(f"{text!r} holds several clauses; repeat --not", param_hint="--not")
        clauses.append(replace(parsed[0], negated=True))
    return Query(tuple(clauses))


def print_results(results: "SearchResults", save: Path | None, as_json: bool) -> None:
    """Show what a search found, and draw the sheet if one is wanted."""
    if as_json:
        found = {"query": results.query, "presence": results.presence, "no_match": results.no_match}
        found["doubts"] = results.doubts
        print_json(found | {"results": [result.to_dict() for result in results]})
    else:
        print(results, flush=True)
    if save and results:  # after the results, which a sheet that cannot be written must not cost
        results.show(save)


def ask_marks(results: "SearchResults") -> tuple[list[str], list[str]]:
    """Ask which results are right and which are wrong, and return their names; an end of the input marks none."""
    marks: list[list[int]] = []
    for name in ("right", "wrong"):
        left = [place for place in range(1, len(results) + 1) if not marks or place not in marks[0]]
        while True:
            print(f"numbers of {name} results (Enter: none): ", end="", file=sys.stderr, flush=True)
            places = sys.stdin.readline().replace(",", " ").split()
            if all(place.isdecimal() and int(place) in left for place in places):
                break
            print(f"expected some of {', '.join(map(str, left))}, with blanks between them", file=sys.stderr)
        marks.append([int(place) for place in places])
    right, wrong = ([results[place - 1].image_id for place in places] for places in marks)
    return right, wrong


def search(
    gallery: GalleryOption,
    query: Annotated[str | None, typer.Argument(help="What the person looks like, in one or more clauses.")] = None,
    unwanted: Annotated[
        list[str] | None, typer.Option("--not", metavar="TEXT", help="What they do not look like; may be repeated.")
    ] = None,
    image: Annotated[list[Path] | None, typer.Option(help="Picture of the person; may be repeated.")] = None,
    weight: Annotated[
        list[float] | None, typer.Option(help="Weight of each --image, beside 1 for each clause of words.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many results.")] = 10,
    where: Annotated[str | None, typer.Option(metavar="SQL", help="Condition on camera, time, …")] = None,
    group_by: Annotated[str | None, typer.Option(help="track or duplicate: one result for each.")] = None,
    rerank: Annotated[int, typer.Option(min=0, help="Judge so many again, by a pre-trained fusion encoder.")] = 0,
    right: Annotated[list[str] | None, typer.Option(metavar="ID", help="Right earlier result; repeatable.")] = None,
    wrong: Annotated[list[str] | None, typer.Option(metavar="ID", help="Wrong earlier result; repeatable.")] = None,
    refine: Annotated[bool, typer.Option("--refine", help="Ask which results are right, and search again.")] = False,
    save: Annotated[Path | None, typer.Option(help="Draw the sheet of results to this file.")] = None,
    model: ModelOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    r"""Find the people whom words, a picture or both describe.

    AND and NOT, in capitals, join clauses; ^2 behind one doubles its weight; quotes keep what is in them as it is.
    Each result shows how well it fits each clause: 0 is the gallery's average, 2 is rare, low is good under NOT.
    If the model is calibrated, the answer also says how likely it is that the person is in the gallery at all.

    Examples:
      ivt search "a woman in a red coat with a black backpack" --gallery people.lance -k 10 --save sheet.png
      ivt search "red coat AND black boots^2 NOT backpack" --gallery people.lance
      ivt search "red coat" --not backpack --image crop.jpg --weight 2 --gallery people.lance --group-by track
      ivt search "red coat" --gallery people.lance --right north/0001.jpg --wrong north/0007.jpg
      ivt search "red coat" --gallery people.lance --save sheet.png --refine
      ivt search "a man in a suit" --gallery people.lance \
          --where "camera = 'north' AND time > timestamp '2024-05-01 12:00:00'"
    """
    if refine and as_json:
        raise typer.BadParameter("--refine asks in words; with --json, mark results by --right and --wrong")
    asked = build_query(query, unwanted or [], image or [], weight or [])
    from ivt.gallery.gallery import Gallery

    hide_loading_bars()
    people = Gallery(gallery, model, device=device)
    right, wrong = list(right or []), list(wrong or [])
    while True:
        results = people.search(asked, k, where, right=right, wrong=wrong, group_by=group_by, rerank=rerank)
        print_results(results, save, as_json)
        more_right, more_wrong = ask_marks(results) if refine and results else ([], [])
        if not more_right and not more_wrong:
            break
        right, wrong = right + more_right, wrong + more_wrong
    if refine and right:
        print("marked right: " + ", ".join(right))
    elif not results or results.no_match:
        raise typer.Exit(1)


def explain(
    image: Annotated[Path, typer.Argument(help="Picture of a person.")],
    text: Annotated[str, typer.Argument(help="A sentence.")],
    word: Annotated[str | None, typer.Option(help="One or several words of it that the map is for.")] = None,
    method: Annotated[str, typer.Option(help=f"How the map is made: {', '.join(METHODS)}.")] = DEFAULT_METHOD,
    save: Annotated[Path | None, typer.Option(help="Draw the map and the words to this file.")] = None,
    model: Annotated[str | None, typer.Option(help="Folder or Hub name; by default the bundled one.")] = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show where the model looks in a picture for a sentence.

    Also which of its words count.

    Example:
      ivt explain crop.jpg "a man with a red backpack" --word "red backpack" --save map.png
    """
    from ivt.choices import DEFAULT_MODEL
    from ivt.explanations.attention import explain as explain_picture
    from ivt.explanations.colours import COLOURS
    from ivt.retrieval.models import find_version, load_model
    from processing.pictures import read_picture

    hide_loading_bars()
    picture = read_picture(image)
    version = find_version(model or DEFAULT_MODEL)
    explanation = explain_picture(*load_model(version, device), picture, text, word, method, colours=COLOURS)
    if save:
        explanation.draw(save)
    if as_json:
        print_json(explanation.to_dict())
    else:
        print(explanation)


def info(gallery: GalleryOption, as_json: JsonOption = False) -> None:
    """Print pictures, cameras, times, model and index of a gallery.

    Example:
      ivt gallery info --gallery people.lance
    """
    from ivt.gallery.gallery import Gallery

    found = Gallery(gallery).info()
    if as_json:
        print_json(found)
        return
    cameras = found.pop("cameras")
    for name, value in found.items():
        print(f"{name.replace('_', ' '):<20}{'-' if value is None else value}")
    for camera, count in cameras.items():
        print(f"{'camera ' + camera:<20}{count}")


def remove(
    gallery: GalleryOption,
    where: Annotated[str | None, typer.Option(metavar="SQL", help="Condition on camera, time, …")] = None,
    image_id: Annotated[list[str] | None, typer.Option(help="Name of a picture; may be repeated.")] = None,
    missing: Annotated[bool, typer.Option("--missing", help="Pictures whose file is gone.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove pictures from a gallery; their files stay.

    Examples:
      ivt gallery remove --gallery people.lance --where "time < timestamp '2024-05-01 00:00:00'"
      ivt gallery remove --gallery people.lance --image-id north/0001.jpg --image-id north/0002.jpg
      ivt gallery remove --gallery people.lance --missing
    """
    if sum((where is not None, bool(image_id), missing)) != 1:
        raise typer.BadParameter("say what to remove with one of --where, --image-id and --missing")
    from ivt.gallery.gallery import Gallery

    people = Gallery(gallery)
    if missing:
        image_id = people.verify().get("picture is missing", [])
    removed = people.remove(where) if where is not None else people.remove(image_ids=image_id)
    if as_json:
        print_json({"removed": removed, "pictures": len(people)})
    else:
        print(f"removed {removed} pictures, {len(people)} are left")
    if not removed:
        raise typer.Exit(1)


def verify(
    gallery: GalleryOption,
    quick: Annotated[bool, typer.Option("--quick", help="Look at the table alone, not at the pictures.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look for duplicate names, bad vectors, missing and changed pictures.

    Example:
      ivt gallery verify --gallery people.lance --json
    """
    from ivt.gallery.gallery import Gallery

    people = Gallery(gallery)
    problems = people.verify(pictures=not quick)
    if as_json:
        print_json({"pictures": len(people), "problems": problems})
    else:
        print("\n".join(f"{problem}: {name}" for problem, names in problems.items() for name in names))
        print(f"{len(people)} pictures, {sum(map(len, problems.values()))} problems")
    if problems:
        raise typer.Exit(1)


def optimize(
    gallery: GalleryOption,
    as_json: JsonOption = False,
) -> None:
    """Put small files together and build or extend the index.

    Indexing does so by itself when it is worth it.

    Example:
      ivt gallery optimize --gallery people.lance
    """
    from ivt.gallery.gallery import Gallery

    people = Gallery(gallery)
    people.optimize()
    found = people.info()
    if as_json:
        print_json(found)
    else:
        print(f"{found['pictures']} pictures, index {found['index'] or '-'}")
