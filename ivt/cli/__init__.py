"""The command `ivt`: train, evaluate, index, search, explain, and what keeps corpora, galleries and models in order.

    ivt index crops/ --gallery people.lance
    ivt search "a woman in a red coat with a black backpack" --gallery people.lance -k 10 --save sheet.png

A command is a function with its options as parameters. What it finds goes to stdout, as text or with --json as JSON;
progress, warnings and errors go to stderr. The other rooms are imported when a command runs, so `ivt --help` is quick.
"""

import logging
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated

import typer

from ivt.errors import INTERRUPTED, exit_on_error

from .checkpoints import calibrate, convert, evaluate, export, models, publish, serve, train
from .corpora import check, push, shard
from .gallery import explain, index, info, optimize, remove, search, verify
from .options import UsageError, group, show_help


def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Print the version, or the help if there is no command."""
    if version:
        print(f"ivt {metadata.version('ivt-person-retrieval')}")
        raise typer.Exit()
    show_help(context)


def with_dashes(option: str) -> str:
    """Take --corpus_root, as the fields of a training are written, for --corpus-root."""
    return option.replace("_", "-")


app = group(
    """Find people in your own pictures from a sentence.

    \b
    Examples:
      ivt index crops/ --gallery people.lance
      ivt search "a woman in a red coat with a black backpack" --gallery people.lance --save sheet.png
    """,
    *(train, evaluate, index, search, explain, convert, export, publish, calibrate, serve, models),
    callback=start,
    token_normalize_func=with_dashes,
)
app.add_typer(group("Look after a gallery.", info, remove, verify, optimize), name="gallery")
app.add_typer(group("Look at a training corpus, push it, or cut it into shards.", check, push, shard), name="corpus")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and end the process; what the user can put right is one line and exit code 2.

    Args:
        argv: arguments without the program's name; None takes those of the process.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    with exit_on_error():
        try:
            code = app(argv, prog_name="ivt", standalone_mode=False)
            if code == INTERRUPTED:  # Ctrl-C, which the library has turned into this
                raise KeyboardInterrupt
            sys.exit(code)
        except UsageError as error:  # ty: ignore[invalid-exception-caught]  # it sees a base class as any `type`
            command = error.ctx.command_path if error.ctx else "ivt"
            raise ValueError(f"{error.format_message().rstrip('.')}; {command} --help explains") from error
        except typer.Abort:
            sys.exit(1)  # the input ended
