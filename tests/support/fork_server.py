"""Runs scripts in forks of a process that has imported the program.

Imports take 0.2 s of CPU of the 0.3 s of a start. A fork differs from a fresh start only in what an
interpreter does before `main`. It has its own arguments, environment, working directory and streams, and a
process id for signals. Run as a script, this file is the server; its argument is the descriptor of a socket.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faillog_otel

NOT_IMPORTED = (
    "worker_process",
    "grpc",
    "grpc_channels",
    "collector",
    "demo",
    "metrics",
    "exporters",
    "logs",
    "__main__",
)
"""Modules that import gRPC or the OpenTelemetry SDK, which read the environment when they are loaded."""


def run_forked(
    command: Sequence[str], cwd: Path, env: dict[str, str], stdin: bytes, timeout: float
) -> "subprocess.CompletedProcess[bytes]":
    """Runs a Python script with arguments, as `subprocess.run` would with `capture_output`."""
    theirs, connection = socket.socketpair()
    their_stdin, stdin_end = os.pipe()
    stdout_end, their_stdout = os.pipe()
    stderr_end, their_stderr = os.pipe()
    with theirs, connection, ThreadPoolExecutor(3) as pool:
        descriptors = [their_stdin, their_stdout, their_stderr, theirs.fileno()]
        socket.send_fds(_server(), [b"."], descriptors)
        for each in descriptors[:3]:
            os.close(each)
        theirs.close()
        pool.submit(_write_all, stdin_end, stdin)
        stdout, stderr = pool.submit(_read_all, stdout_end), pool.submit(_read_all, stderr_end)
        connection.settimeout(timeout)
        with connection.makefile("rw") as messages:
            messages.write(json.dumps([command, str(cwd), env]) + "\n")
            messages.flush()
            process = int(messages.readline())
            try:
                code = int(messages.readline())
            except TimeoutError:
                os.kill(process, signal.SIGKILL)
                raise subprocess.TimeoutExpired(command, timeout) from None
        return subprocess.CompletedProcess(command, code, stdout.result(), stderr.result())


def _write_all(descriptor: int, content: bytes) -> None:
    with open(descriptor, "wb", buffering=0) as pipe:
        while content:
            content = content[pipe.write(content) :]


def _read_all(descriptor: int) -> bytes:
    with open(descriptor, "rb") as pipe:
        return pipe.read()


_starting = threading.Lock()
_control: socket.socket | None = None


def _server() -> socket.socket:
    """The socket to the server of this process, which is started if need be."""
    global _control  # one server for a process of tests
    with _starting:
        if _control is None:
            _control, theirs = socket.socketpair()
            process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            theirs.close()
            atexit.register(_end, _control, process)
        return _control


def _end(control: socket.socket, process: "subprocess.Popen[bytes]") -> None:
    control.close()
    process.communicate()


# What runs in the server.


def _serve(control: socket.socket) -> None:
    """Forks for each request; returns in the fork."""
    while True:
        _, descriptors, _, _ = socket.recv_fds(control, 1, 4)
        if not descriptors:
            sys.exit()
        if not os.fork():
            control.close()
            return _become(descriptors[:3], socket.socket(fileno=descriptors[3]))
        for each in descriptors:
            os.close(each)
        while _ended_child():
            pass


def _ended_child() -> int:
    try:
        return os.waitpid(-1, os.WNOHANG)[0]
    except ChildProcessError:
        return 0


def _become(streams: list[int], connection: socket.socket) -> None:
    """Forks once more. The parent reports the id and the end of its child, which returns as a new process."""
    with connection:
        with connection.makefile() as messages:
            command, cwd, env = json.loads(messages.readline())
        if process := os.fork():
            for each in streams:
                os.close(each)
            connection.sendall(b"%d\n" % process)
            _, status = os.waitpid(process, 0)
            connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
            os._exit(0)
    for descriptor, stream in enumerate(streams):
        os.dup2(stream, descriptor)
        os.close(stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    sys.argv[:] = command


if __name__ == "__main__":
    for module in pkgutil.walk_packages(faillog_otel.__path__, "faillog_otel."):
        if not module.name.endswith(NOT_IMPORTED):
            importlib.import_module(module.name)
    gc.freeze()  # else the collector would touch, and so copy, the memory that forks share
    _serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_path(sys.argv[0], run_name="__main__")
