"""Commands, options, settings, ids and exit codes of the installed program."""

import hashlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from contract.collector import AWAY, Collector
from contract.events import COMPACT, SPAN, UNSAMPLED, attempt, error
from contract.golden import FOLDER, check, sorted_keys
from support.program import PROGRAM, environment, run_program, start_program

from faillog_otel import propagation

WORK = Path(__file__).parents[2]


def help_of(command: str) -> str:
    """What `--help` prints, 100 columns wide."""
    return run_program(*command.split(), "--help", cwd=Path("/"), COLUMNS="100").stdout.decode()


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """Help texts by command; that of the program itself is named `faillog-otel`."""
    whole = help_of("")
    commands = re.findall(r"^  ([a-z]+) ", whole.partition("Commands:")[2], re.MULTILINE)
    with ThreadPoolExecutor(2) as pool:
        return {"faillog-otel": whole, **dict(zip(commands, pool.map(help_of, commands), strict=True))}


def test_help_texts(helps: dict[str, str]) -> None:
    for name, text in helps.items():
        check(f"help/{name}.txt", text.splitlines())
    assert {path.stem for path in FOLDER.joinpath("help").iterdir()} == helps.keys()


def test_commands_and_options(helps: dict[str, str]) -> None:
    """What users type: it stays when the prose of a help text changes."""
    found = []
    for text in helps.values():
        usage, *_ = text.partition("\n")
        found.append(usage.removeprefix("Usage: "))
        found += [f"  {option}" for option in re.findall(r"^  (-\S+(?: \S+)*)", text, re.MULTILINE)]
    check("options.txt", found)


def test_the_package_can_be_run(tmp_path: Path) -> None:
    """`python -m faillog_otel` is the program."""
    command = [sys.executable, "-m", "faillog_otel", "--version"]
    as_module = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, check=True)
    as_program = run_program("--version", cwd=tmp_path)
    assert as_module.stdout == as_program.stdout
    assert as_program.stdout.startswith(b"faillog-otel, version ")


# -- settings ------------------------------------------------------------------------------------------

SAMPLES = {
    "[]": '["a.example"]',
    "{}": '{ a = "b" }',
    '["never"]': '["discarded"]',
    '"<proxy>"': '"environment"',
    '"<endpoint>"': '"http://localhost:4318"',
    '"<backend>"': '"tempo"',
}
"""What takes the place of defaults that say nothing."""


def settings_with_variables() -> Iterator[tuple[str, str, str]]:
    """Each setting of the configuration file that is shipped: its path, a value as TOML, its variable.

    The lines above a setting name its option and its variables, and may have an example.
    """
    section = variable = example = ""
    for line in WORK.joinpath("collector-config", "faillog-otel.toml").read_text("utf-8").splitlines():
        if found := re.fullmatch(r"\[([a-z.]+)\]", line):
            section = found[1]
        elif line == "#":
            variable = example = ""
        elif found := re.fullmatch(r"# (?:--[a-z-]+, )?([A-Z_]{8,})(?:, [A-Z_]+)*", line):
            variable = found[1]
        elif found := re.fullmatch(r"# Example: [a-z_]+ = (.*)", line):
            example = found[1]
        elif found := re.fullmatch(r"#([a-z_]+) = (.*)", line):
            key, default = found.groups()
            value = example or SAMPLES.get(default, default.replace("<", "").replace(">", ""))
            if section in {"otlp.logs", "otlp.traces"}:  # these variables follow from the general ones
                variable = f"OTEL_EXPORTER_{section.replace('.', '_')}_{key}".upper()
            yield f"{section}.{key}", value, variable


def all_settings(settings: Iterable[tuple[str, str, str]]) -> str:
    """A configuration file with every setting."""
    lines = []
    for section, inside in groupby(settings, lambda each: each[0].rpartition(".")[0]):
        lines += [f"[{section}]", *(f"{path.rpartition('.')[2]} = {value}" for path, value, _ in inside)]
    return "\n".join(lines)


def as_variable(value: Any) -> str:
    """A setting as an environment variable writes it."""
    if isinstance(value, dict):
        return ",".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, list):
        return ",".join(value)
    return "10000" if value == "10s" else str(value).lower() if isinstance(value, bool) else str(value)


def origins(folder: Path, **variables: Any) -> dict[str, str]:
    """Which settings `doctor` knows, and where they come from.

    Token and token file exclude each other, so that it says this and connects to nothing.
    """
    done = run_program("doctor", "--json", cwd=folder, **variables)
    found: dict[str, str] = json.loads(done.stdout)["settings"]
    return found


def test_settings_and_their_environment_variables(tmp_path: Path) -> None:
    settings = list(settings_with_variables())
    (tmp_path / "all.toml").write_text(all_settings(settings))
    from_file = origins(tmp_path, FAILLOG_CONFIG="all.toml")
    assert from_file == {path: "all.toml" for path, _, _ in settings}
    values = {
        variable: as_variable(tomllib.loads(f"value = {value}")["value"])
        for _, value, variable in settings
        if variable
    }
    found = origins(tmp_path, **values)
    check("settings.txt", [f"{path:<32} {found.get(path, '')}".rstrip() for path in sorted(from_file)])


def test_the_protocol_has_two_variables(tmp_path: Path) -> None:
    conflict = {"SEGMENT_TOKEN": "a", "SEGMENT_TOKEN_FILE": "b"}
    found = origins(tmp_path, OTEL_EXPORTER_OTLP_PROTOCOL="grpc", **conflict)
    assert found["otlp.protocol"] == "OTEL_EXPORTER_OTLP_PROTOCOL"


def test_failure_codes(tmp_path: Path) -> None:
    """What `error.type`, `segment.reason.class` and `segment.reason.retryable` can be."""
    found = json.loads(run_program("explain", "--json", cwd=tmp_path).stdout)
    check("json/explain.txt", sorted_keys(found))
    kinds = (f"{row['class']}{', retried' if row['retryable'] else ''}" for row in found["reasons"])
    codes = (" = ".join([row["code"], *row["names"]]) for row in found["reasons"])
    check("failure_codes.txt", map("{}: {}".format, codes, kinds))


# -- ids -------------------------------------------------------------------------------------------------

VECTORS = WORK / "tests" / "golden" / "ids.json"


def test_ids(tmp_path: Path) -> None:
    """The golden vectors are those that were published, and the program computes them."""
    content = VECTORS.read_bytes()
    lines = [f"{hashlib.sha256(content).hexdigest()}  tests/golden/ids.json"]
    for message_id in ("m", "Grüße, 世界 🌍", f"{SPAN}-unique", f"{UNSAMPLED}-unique", COMPACT):
        done = run_program("ids", message_id, cwd=tmp_path)
        lines += [f"{message_id}: {done.stdout.decode().strip()}"]
    check("ids.txt", lines)
    for vector in json.loads(content)["messages"]:
        assert propagation.trace_id_of(vector["messageId"]) == vector["traceId"]


def test_fresh_message_ids(tmp_path: Path) -> None:
    full, compact = (
        run_program("ids", "--new", *more, cwd=tmp_path, TRACEPARENT=SPAN).stdout.decode().strip()
        for more in ((), ("--compact",))
    )
    assert re.fullmatch(f"{SPAN}-[0-9a-f]{{32}}", full)
    assert re.fullmatch("tr1-[0-9A-Za-z]{32}", compact)
    assert propagation.trace_id_of(full) == propagation.trace_id_of(compact) == SPAN[3:35]


def test_public_names_of_propagation() -> None:
    found = []
    for name, value in sorted(vars(propagation).items()):
        if name.startswith("_") or name == "TYPE_CHECKING" or inspect.ismodule(value):
            continue
        if getattr(value, "__module__", propagation.__name__) == propagation.__name__:
            is_called = inspect.isroutine(value) or inspect.isclass(value)
            found.append(f"{name}{inspect.signature(value)}" if is_called else f"{name} = {value!r}")
    check("propagation.txt", found)


# -- exit codes ----------------------------------------------------------------------------------------


def run_code(folder: Path, arguments: str, **env: Any) -> int:
    """How `faillog-otel ARGUMENTS` ends."""
    return run_program(*arguments.split(), cwd=folder, **env).code


def test_exit_codes_and_their_order(tmp_path: Path) -> None:
    """Of several that apply the first of 2, 5, 6, 4, 1, 3, 7; those of polling are in test_polling.py."""
    (tmp_path / "good").write_bytes(attempt("a", outcome="success"))
    (tmp_path / "failed").write_bytes(attempt("a"))
    (tmp_path / "bad").write_bytes(b"{\n" + attempt("a"))
    (tmp_path / "folder").mkdir()
    with Collector() as collector:
        here, away = f"--endpoint {collector.url}", f"--endpoint {AWAY} --wait 1ms"
        cases = {
            "done": f"run good {here}",
            "--fail-on": f"run failed {here} --fail-on failure",
            "wrong usage": "run --no-such-option",
            "no such PATH": f"run good gone {here}",
            "quarantined": f"run bad {here}",
            "collector away": f"run good {away}",
            "quarantine cannot be written": f"run bad {here} --quarantine folder",
            "no ledger": "status --state-dir gone",
            "redact: bad record": "redact bad",
            "doctor: something fails": f"doctor {away}",
            "2 before 5": f"run bad gone {here} --quarantine folder",
            "5 before 4": f"run bad {away} --quarantine folder",
            "4 before 1": f"run failed {away} --fail-on failure",
            "1 before 3": f"run bad {here} --fail-on failure",
        }
        with ThreadPoolExecutor(3) as pool:
            codes = pool.map(lambda case: run_code(tmp_path, case), cases.values())
        found = [f"{code:>3}  {case}" for case, code in zip(cases, codes, strict=True)]
    check("exit_codes.txt", found)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_exit_code_after_a_signal(tmp_path: Path, number: signal.Signals, code: int) -> None:
    (tmp_path / "events").write_bytes(error("a"))
    process = start_program("run", "events", "--endpoint", AWAY, "--wait", "forever", cwd=tmp_path)
    assert process.stderr
    process.stderr.readline()  # it says that the collector is away, and waits
    process.send_signal(number)
    try:
        process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == code


@pytest.mark.parametrize("arguments", ["run events --protocol console", "redact events"])
def test_exit_code_when_nobody_reads(tmp_path: Path, arguments: str) -> None:
    (tmp_path / "events").write_bytes(error("a"))
    reading, writing = os.pipe()
    os.close(reading)
    command = [PROGRAM, *arguments.split()]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), stdout=writing, check=False, timeout=60)
    os.close(writing)
    assert done.returncode == 141


def test_exit_code_of_a_bug(tmp_path: Path) -> None:
    """A standard library that breaks stands for a mistake in the program."""
    broken = "import hashlib\ndef sha256(*_):\n    raise RuntimeError\nhashlib.sha256 = sha256\n"
    (tmp_path / "sitecustomize.py").write_text(broken)
    assert run_code(tmp_path, "ids m", PYTHONPATH=str(tmp_path)) == 70
