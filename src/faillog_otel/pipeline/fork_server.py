"""A process that forks a run's workers, and reports how they end.

A worker that is forked from a process which has imported everything takes 0.01 s of CPU to start; a new
interpreter takes 0.19 s. A process forks safely only while it has one thread. A run starts threads early, and
may replace a crashed worker at any time, so it forks this server before its first thread. The server has no
threads, and no open file but its socket to the run; it answers one request after the other. It ends with the
run, however that ends, and kills the workers that are left. If the server itself is killed, its workers go
on, and a new interpreter takes its place.

Not `multiprocessing`'s fork server: it always starts as a new interpreter, with another one to track
resources (0.18 s of CPU together), and its workers inherit its pipes and the run's standard streams.

macOS: system libraries may fail in a fork of a process that has used them. Before this fork, a run resolves
no names, opens no connections and does not ask the system for proxies.
"""

import gc
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NoReturn, Self

from msgspec import msgpack

from faillog_otel.pipeline.worker import Channel

_FORK = 0
"""The request for a worker. Any other request is the process id of a worker to wait for."""
_read_number = msgpack.Decoder[int | None](int | None).decode

_SIGNALS_OF_RUN = (signal.SIGINT, signal.SIGTERM)
"""Signals that only the run handles: a terminal or a supervisor sends them to all of its processes."""

Work = Callable[[Channel], object]
"""What a worker does, with its channel to the run."""


class ForkServer:
    """The run's end of the server. A context manager; its methods are for one thread."""

    def __init__(self, command: Sequence[str], work: Work | None = None) -> None:
        """Forks the server, if `work` says what its workers do: this process must not have other threads.

        `command` starts a server as a new interpreter; the descriptor of a socket is added as its last
        argument. It is used if there is no server.
        """
        self._command = command
        self._control: Channel | None = None
        self._join: Callable[[], object]
        """Waits until the server has ended."""
        if work is not None:
            self._fork(work)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def start_worker(self, stderr: int | None = None) -> tuple[int, Channel]:
        """Returns a new worker's process id and the channel to it. Raises OSError if it cannot be forked.

        `stderr`: the descriptor of its standard error, by default that of the server.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors = [theirs.fileno(), *([] if stderr is None else [stderr])]
            process = self._ask(_FORK, descriptors)
            if process is None:
                self._end()
                self._execute()
                process = self._ask(_FORK, descriptors)
        if process is None:
            raise RuntimeError("the fork server exits immediately after start")
        if process < 0:
            raise OSError(-process, f"no worker can be forked: {os.strerror(-process)}")
        return process, Channel(ours)

    def wait(self, process: int, seconds: float | None = None) -> int | None:
        """Waits until a worker has ended; kills it after `seconds`.

        Returns its exit code, or its signal as a negative number; None if the server that forked it was
        killed.
        """
        self._send(process)
        if seconds is not None and self._control is not None:
            is_over, _, _ = select.select([self._control], [], [], seconds)
            if not is_over:
                kill(process)
        return self._answer()

    def _ask(self, request: int, descriptors: Sequence[int] = ()) -> int | None:
        self._send(request, descriptors)
        return self._answer()

    def _send(self, request: int, descriptors: Sequence[int] = ()) -> None:
        if self._control is not None:
            with suppress(ConnectionError):  # there will be no answer
                self._control.send(msgpack.encode(request), descriptors)

    def _answer(self) -> int | None:
        """Returns the server's answer; None if there is no server, or if it does not know the worker."""
        received = None if self._control is None else self._control.receive()
        return None if received is None else _read_number(received[0])

    def _fork(self, work: Work) -> None:
        ours, theirs = socket.socketpair()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # else the fork would have a copy of what they hold
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS_OF_RUN)
        process = os.fork()
        if not process:
            ours.close()
            _end_with(partial(_become_server, theirs, work))
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self._control, self._join = Channel(ours), partial(os.waitpid, process, 0)

    def _execute(self) -> None:
        ours, theirs = socket.socketpair()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS_OF_RUN)
        try:
            with theirs:
                process = subprocess.Popen(  # noqa: S603  # ourselves
                    [*self._command, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._control, self._join = Channel(ours), process.wait

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
            self._join()
            self._control = None


def kill(process: int) -> None:
    """Kills a worker. Its process id is not used again before `wait` returns."""
    with suppress(ProcessLookupError):  # another process has waited for it: its server was killed
        os.kill(process, signal.SIGKILL)


def serve(control: Channel, work: Work) -> None:
    """Forks workers and waits for them, as the other end of `control` asks, until it is closed."""
    gc.freeze()  # a collection would write to all objects, and so copy the memory that workers share
    workers = set()
    while (received := control.receive()) is not None:
        message, descriptors = received
        request = _read_number(message)
        answer: int | None
        if request:
            workers.discard(request)
            answer = _exit_code(request)
        else:
            try:
                answer = os.fork()
            except OSError as error:
                answer = -(error.errno or 0)
            if answer == 0:
                control.close()
                _end_with(partial(_become_worker, work, *descriptors))
            if answer > 0:
                workers.add(answer)
        for descriptor in descriptors:
            os.close(descriptor)
        with suppress(ConnectionError):  # the run is gone, which the next receive() notices
            control.send(msgpack.encode(answer))
    for worker in workers:
        kill(worker)


def _exit_code(worker: int) -> int | None:
    """Waits for the worker. Returns None if it was forked by another server."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    except ChildProcessError:
        return None


def _become_server(control: socket.socket, work: Work) -> None:
    """Serves in a fork of the run, without the run's files, pipes and input."""
    signal.set_wakeup_fd(-1)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(null, stream)
    os.closerange(3, control.fileno())
    os.closerange(control.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    serve(Channel(control), work)


def _become_worker(work: Work, channel: int, stderr: int | None = None) -> None:
    if stderr is not None:
        os.dup2(stderr, 2)
        os.close(stderr)
    work(Channel(socket.socket(fileno=channel)))


def _end_with(main: Callable[[], object]) -> NoReturn:
    """Ends a forked process with a function: nothing that its parent was about to do is done twice."""
    try:
        try:
            main()
        except BaseException:  # noqa: BLE001  # also SystemExit: the frames above belong to the parent
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    finally:
        os._exit(1)
