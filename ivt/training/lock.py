"""One training at a time in an output folder."""

from pathlib import Path

from filelock import FileLock, Timeout

# the data workers of a killed run keep its lock until they notice, which torch has them look for every 5 seconds
PATIENCE = 6.0  # seconds
held: list[FileLock] = []


def lock_output(output_dir: Path) -> None:
    """Keep other processes from training into a folder until this process ends, however it ends.

    The system lets go of the lock of a process that was killed; the file that stays behind means nothing.

    Raises:
        ValueError: if another process trains there.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output_dir / ".lock", is_singleton=True)  # this process may train there again
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout as error:
        raise ValueError(
            f"another training is running in {output_dir}; wait for its end, or pass another --output_dir"
        ) from error
    held.append(lock)
