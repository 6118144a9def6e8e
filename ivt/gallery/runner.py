"""Where Daft runs: on the threads of this machine, or on a Ray cluster, which gets this package's code."""

import os
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from ivt.messages import check_choice

RUNNERS = ("native", "ray")
ROOT = Path(__file__).parents[2]  # a checkout, or the folder of installed packages
SHIPPED_PACKAGES = ("ivt", "modeling_ivt", "processing")  # to the machines of a cluster


def load_daft() -> ModuleType:
    """Import Daft without its telemetry.

    Raises:
        ImportError: if it is not installed.
    """
    os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")  # read when Daft is imported
    try:
        import daft
        import daft.runners
    except ImportError as error:
        raise ImportError("reading pictures needs Daft: pip install 'ivt-person-retrieval[search]'") from error
    return daft


def start_engine(runner: str, address: str | None = None) -> None:
    """Choose where Daft runs; a process does so once.

    Args:
        runner: "native", the threads of this machine, or "ray".
        address: of the Ray cluster; None starts one on this machine.

    Raises:
        ValueError: on an unknown runner, an address without a cluster, or another runner than before.
        ImportError: if Daft or Ray is not installed.
    """
    check_choice("runner", runner, RUNNERS)
    if address and runner != "ray":
        raise ValueError(f"address is {address!r}, which only the runner 'ray' has a use for")
    daft = load_daft()
    if runner == "ray":
        _start_ray(address)
    if daft.runners.get_or_create_runner().name != runner:
        raise ValueError(
            f"runner is {runner!r}, but Daft runs with another in this process already; start a new process"
        )


def _start_ray(address: str | None) -> None:
    daft = load_daft()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ImportError("the runner 'ray' needs Ray: pip install 'ivt-person-retrieval[scale]'") from error
    if not ray.is_initialized():
        packages = [str(ROOT / name) for name in SHIPPED_PACKAGES]
        ray.init(address, runtime_env={"py_modules": packages}, log_to_driver=False)
    with suppress(daft.exceptions.DaftCoreException):  # a process has one runner; the caller checks which
        daft.set_runner_ray(noop_if_initialized=True)
