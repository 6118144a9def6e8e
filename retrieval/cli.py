"""The command line: `ivt index`, `ivt search`, `ivt gallery …`, `ivt corpus …`.

    ivt index crops/ --gallery people.lance
    ivt search "a woman in a red coat with a black backpack" --gallery people.lance -k 10 --save sheet.png

Exit codes: 0 done, 1 nothing found or problems, 2 wrong usage or input that cannot be used.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Find people in your own pictures from a sentence.")

GalleryOption = Annotated[str, typer.Option("--gallery", help="Where the gallery lies, e.g. people.lance.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Folder or Hub name; by default the embedded one.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def print_json(value: Any) -> None:
    """Print what a command found as JSON; times and paths become strings."""
    print(json.dumps(value, default=str, ensure_ascii=False, indent=2))


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(help="Folder of person crops.")],
    gallery: GalleryOption,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add the pictures of a folder to a gallery.

    Example: ivt index crops/ --gallery people.lance
    """
    from .gallery import Gallery

    added = Gallery(gallery, model).add(folder)
    if as_json:
        print_json({"added": added})
    else:
        print(f"added {added} pictures to {gallery}")


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What the person looks like.")],
    gallery: GalleryOption,
    k: Annotated[int, typer.Option("-k", min=1, help="How many pictures.")] = 10,
    where: Annotated[str | None, typer.Option(help="SQL condition, e.g. \"camera = 'north'\".")] = None,
    save: Annotated[Path | None, typer.Option(help="Draw the sheet of results to this file.")] = None,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the people that a sentence describes.

    Example: ivt search "a woman in a red coat" --gallery people.lance -k 10 --save sheet.png
    """
    from .gallery import Gallery

    results = Gallery(gallery, model).search(query, k, where)
    if save and results:
        results.show(save)
    if as_json:
        print_json({"query": query, "results": [result.to_dict() for result in results]})
    else:
        print(results)
    if not results:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; mistakes of the user become one line and exit code 2."""
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
