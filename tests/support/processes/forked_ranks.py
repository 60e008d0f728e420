"""Ranks that are forked from one process that has done their imports: a start takes a moment and no ten
seconds.

A fork has run nothing but imports, so it is as cold as a process of its own.
"""

import faulthandler
import functools
import multiprocessing.forkserver
import os
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from tests.support.processes.launch import free_ports, with_root


def start_ranks(
    workers: int, main: Callable[..., None], *arguments: Any, folder: Path
) -> list[ForkServerProcess]:
    """Start ranks that announce a process group in their environment, as torchrun does.

    Args:
        workers: Number of ranks.
        main: What each rank runs; a function of a module.
        arguments: Arguments of `main`.
        folder: Folder for the ranks' output, `rank0.txt` and so on.
    """
    port = free_ports(1)[0]
    processes = []
    for rank in range(workers):
        environment = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(workers),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
        }
        log = folder / f"rank{rank}.txt"
        process = _context().Process(target=_run_rank, args=(environment, log, main, arguments), daemon=True)
        process.start()
        processes.append(process)
    return processes


@functools.cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.processes.rank_imports"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = with_root()
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return context


def _run_rank(
    environment: dict[str, str], log: Path, main: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(environment)
    with log.open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    faulthandler.enable()
    main(*arguments)
