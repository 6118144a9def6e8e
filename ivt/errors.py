"""What goes wrong and can be put right is one line and exit code 2, in every command and script; Ctrl-C is 130."""

import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager

INTERRUPTED = 128 + signal.SIGINT  # as shells have it
FIXABLE = (ValueError, OSError, ImportError, FloatingPointError)  # the last: a loss that is not finite


def is_fixable(error: Exception) -> bool:
    """Whether the user can put right what raised an error; anything else is a mistake in this package."""
    if isinstance(error, FIXABLE):
        return True
    from huggingface_hub.errors import StrictDataclassError  # a bad field of a config; takes half a second to import

    return isinstance(error, StrictDataclassError)


@contextmanager
def exit_on_error() -> Generator[None]:
    """End the process with one line and exit code 2 after an error that the user can put right."""
    try:
        yield
    except KeyboardInterrupt:
        print("\ninterrupted; what was saved stays, the same command goes on", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(INTERRUPTED)  # no finalisers: threads of the engines that still work would abort the process there
    except Exception as error:
        if not is_fixable(error):
            raise
        if os.environ.get("RANK", "0") == "0":  # of several processes the first one reports
            print("error: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
