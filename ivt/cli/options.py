"""What the commands share: options of the same name and meaning, and how commands are put together."""

import inspect
import json
from collections.abc import Callable
from typing import Annotated, Any

import typer

from ivt.choices import CORPORA

EXIT_CODES = (
    "Exit codes: 0 done; 1 nothing found, no match, or problems, which are named; 2 wrong usage or unusable input."
)
UsageError = typer.BadParameter.__bases__[0]  # typer names it in some of its versions only

GalleryOption = Annotated[str, typer.Option("--gallery", help="Path or URI of the gallery, e.g. people.lance.")]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="Folder or Hub name; by default the gallery's own, at first the bundled one."),
]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub model.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …; by default a GPU if there is one.")]
CheckpointArgument = Annotated[str, typer.Argument(help="Folder or Hub name of a model with its processor.")]
CorpusOption = Annotated[str, typer.Option("--corpus", help=f"{', '.join(CORPORA)}.")]
CorpusRootOption = Annotated[
    str | None,
    typer.Option("--corpus-root", "--root", help="Folder of the corpus; of synthetic, a folder to cache it in."),
]
OnBadImageOption = Annotated[str, typer.Option(help="error, or skip pictures that cannot be read.")]
NumPeopleOption = Annotated[int | None, typer.Option(min=1, help="People to draw, for synthetic.")]
PrivateOption = Annotated[bool, typer.Option("--private", help="Nobody else may see the repository.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def print_json(value: Any) -> None:
    """Print what a command found as JSON; times and paths become texts."""
    print(json.dumps(value, default=str, ensure_ascii=False, indent=2))


def hide_loading_bars() -> None:
    """Hide transformers' progress bars of reading and writing weights, which takes no time."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def show_help(context: typer.Context) -> None:
    """Print the help of a group that was called without a command."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def group(
    help_text: str, *commands: Callable[..., None], callback: Callable[..., None] = show_help, **settings: Any
) -> typer.Typer:
    """Put commands together under a name of their own.

    Args:
        help_text: what they are for.
        *commands: their names become the commands'.
        callback: runs before a command, and without one.
        **settings: of typer's contexts.
    """
    made = typer.Typer(
        callback=callback,
        invoke_without_command=True,
        add_completion=False,
        rich_markup_mode=None,
        help=help_text,
        context_settings=settings,
    )
    for command in commands:
        text = (inspect.getdoc(command) or "").replace("\n\nExample", "\n\n\b\nExample")  # \b: keep line breaks
        made.command(help=text, epilog=EXIT_CODES, context_settings=getattr(command, "settings", None))(command)
    return made
