"""A process that holds one program with one model, and runs what it is told, one call at a time."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / ".bench"


def serve(pipe: Connection, program: str, threads: int) -> None:
    """Answer (method, arguments) with (seconds, result), or with an exception."""
    log = os.open(FOLDER / f"{program}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    runner: Any = None
    module = None
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            begin = time.perf_counter()
            if method == "import":
                module, result = importlib.import_module(f"runners.{program}"), None
            elif method == "load":
                assert module is not None
                runner, result = module.load(*arguments, threads), None
            else:
                result = getattr(runner, method)(*arguments)
            pipe.send((time.perf_counter() - begin, result))
        except Exception as error:
            known = type(error).__name__ == "Unsupported"
            pipe.send((str(error) if known else f"failed: {type(error).__name__}: {error}"[:300], None))


class Absent(Exception):
    """A program that does not do what it was asked for; why, in a few words."""


class Worker:
    """A program in its own process, started when it is first called, and anew after `stop`.

    Args:
        program: a module of `runners`.
        folder: the model's folder.
        precision: of its weights.
        threads: for its arithmetic.
    """

    def __init__(self, program: str, folder: Path, precision: str, threads: int) -> None:
        self.program, self.loading, self.threads = program, (folder, precision), threads
        self.process: Any = None

    def _start(self) -> float:
        """Seconds of loading, without importing."""
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        os.environ["OMP_NUM_THREADS"] = str(self.threads)
        self.process = context.Process(target=serve, args=(theirs, self.program, self.threads), daemon=True)
        self.process.start()
        theirs.close()
        self._ask("import", ())
        return self._ask("load", self.loading)[0]

    def _ask(self, method: str, arguments: tuple[Any, ...]) -> tuple[float, Any]:
        self.pipe.send((method, arguments))
        try:
            seconds, result = self.pipe.recv()
        except EOFError:
            seconds = "failed: its process ended"
        if isinstance(seconds, str):
            self.stop()
            raise Absent(seconds)
        return seconds, result

    def call(self, method: str, *arguments: Any, warm: bool = True) -> tuple[float, Any]:
        """Seconds of a call and its result, after the same call unmeasured if the process is new and `warm`.

        Raises:
            Absent: if the program does not do it.
        """
        if self.process is None:
            self._start()
            if warm:
                self._ask(method, arguments)
        return self._ask(method, arguments)

    def first(self, method: str, *arguments: Any) -> tuple[float, Any]:
        """Seconds from the beginning of loading to the end of the first call, in a new process, and its result."""
        self.stop()
        loading = self._start()
        seconds, result = self._ask(method, arguments)
        return loading + seconds, result

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.pipe.close()
            self.process.join(10)
            if self.process.is_alive():
                self.process.kill()
                self.process.join()
            self.process = None
