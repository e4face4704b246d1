"""Machines unlike the one where this was written: file systems, users, clocks, networks, limits."""

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.building import Workshop, build
from support.events import error, lines
from support.polled_folder import AWAY, PolledFolder
from support.program import PROGRAM, Done, environment, run_program
from support.tiers import slow
from support.worker_run import child_processes

from faillog_otel.cli import BUG
from faillog_otel.ledger.state_dir import BALLAST_BYTES, Holder, StateFolder
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.collector import Receiver
from faillog_otel.sandbox.config import QuotaConfig, SimulatedClock, SimulatorConfig, WorldConfig

pytestmark = slow

SUPPORT = Path(__file__).parents[1] / "support"
MACOS: dict[str, Any] = {"PYTHONPATH": str(SUPPORT / "macos")}
DELIVERED = 3
"""Some of the simulated records are damaged: they are in quarantine in the end."""


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolledFolder]:
    """A simulated Segment, with requests for all tests."""
    config = SimulatorConfig(world=WorldConfig(damage=0.05), quota=QuotaConfig(per_day=100_000))
    with Simulator(config, SimulatedClock()) as simulator:
        yield PolledFolder(simulator, tmp_path_factory.mktemp("segment"), ("--since", "-10h"))


def run(polled: PolledFolder, receiver: Receiver, **env: Any) -> Done:
    """Polls once."""
    command = ["run", *polled.once_options(receiver.http_endpoint)]
    return run_program(*command, cwd=polled.folder, SEGMENT_TOKEN=polled.segment.token, **env)


def start(*command: str | Path, cwd: Path, before: Sequence[str] = (), **env: str) -> Done:
    """Runs the program to its end, by way of another command."""
    if before and os.geteuid() != 0:
        pytest.skip("takes root")
    done = subprocess.run(
        [*before, PROGRAM, *command],
        cwd=cwd,
        env=environment(**env),
        input=error(messageId="m"),
        capture_output=True,
        timeout=100,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr.decode())


# -- file systems --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def poor_file_system() -> str:
    """The library to be loaded."""
    source = SUPPORT / "poor_file_system.c"

    def compiled(workshop: Workshop) -> Path:
        made = workshop.bench / "poor_file_system.so"
        workshop.run("cc", "-O1", "-shared", "-fPIC", "-o", made, source)
        return made

    return str(build("poor_file_system.so", source.read_bytes(), compiled))


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV])
def test_a_file_system_that_reserves_no_room_is_written_to(
    segment: PolledFolder, receiver: Receiver, tmp_path: Path, poor_file_system: str, code: int
) -> None:
    """The ballast takes its room as it does elsewhere, and nothing is said."""
    here = segment.in_folder(tmp_path)
    done = run(here, receiver, LD_PRELOAD=poor_file_system, NO_FALLOCATE=str(code))
    assert done.code == DELIVERED, done.stderr
    assert "room" not in done.stderr
    assert (here.state / "ballast").stat().st_blocks * 512 >= BALLAST_BYTES


def test_a_disk_that_is_full_at_the_start_is_said_whatever_else_it_cannot(
    segment: PolledFolder, receiver: Receiver, tmp_path: Path, poor_file_system: str
) -> None:
    done = run(
        segment.in_folder(tmp_path), receiver, LD_PRELOAD=poor_file_system, NO_FALLOCATE=str(errno.ENOSPC)
    )
    assert done.code != DELIVERED
    assert "full" in done.stderr


# -- volumes -------------------------------------------------------------------------------------------------

OTHER = 1000
AS_OTHER = [
    *("setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups", "--bounding-set=+dac_read_search"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),  # Python may be root's
]


def polling(
    polled: PolledFolder, state: Path, *, before: Sequence[str] = (), **env: Any
) -> tuple[Done, Done]:
    """`run --once` on this state folder, and `doctor --json` before it."""
    doctor = start("doctor", "--json", "--state-dir", state, cwd=polled.folder, before=before, **env)
    command = ["run", *polled.once_options(AWAY), "--state-dir", str(state), "--wait", "0s"]
    token = polled.segment.token
    return start(*command, cwd=polled.folder, before=before, SEGMENT_TOKEN=token, **env), doctor


def verdict(doctor: Done) -> tuple[str, str]:
    """Of `doctor` on the state folder: ok, warn or fail, and why."""
    findings = json.loads(doctor.stdout)["findings"]
    return next((each["state"], each["says"]) for each in findings if each["check"] == "state folder")


def test_the_root_of_a_volume_of_kubernetes_is_refused_and_a_folder_inside_it_is_named(
    segment: PolledFolder, tmp_path: Path
) -> None:
    """Its group may write there (fsGroup), and root owns it. What is named then works."""
    volume = tmp_path / "volume"
    volume.mkdir()
    here = segment.in_folder(tmp_path)
    os.chown(volume, os.geteuid(), OTHER)
    volume.chmod(0o2775)
    done, doctor = polling(here, volume, before=AS_OTHER)
    advice = f"name a folder inside it, which `run` creates: --state-dir {volume}/faillog-otel"
    assert (done.code, advice in done.stderr) == (5, True), done.stderr
    state, says = verdict(doctor)
    assert (state, advice in says) == ("fail", True), says
    assert list(volume.iterdir()) == []

    done, doctor = polling(here, volume / "faillog-otel", before=AS_OTHER)
    assert (done.code, verdict(doctor)[0]) == (4, "ok"), done.stderr
    assert {each.stat().st_mode & 0o7777 for each in volume.rglob("*")} == {0o600, 0o700}


def test_a_volume_whose_permissions_cannot_be_changed_is_refused_alike(
    segment: PolledFolder, tmp_path: Path, poor_file_system: str
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    done, doctor = polling(
        segment.in_folder(tmp_path), volume, LD_PRELOAD=poor_file_system, NO_CHMOD=str(errno.EPERM)
    )
    advice = "name a --state-dir on another file system, or mount this one with mode 0700"
    assert (done.code, advice in done.stderr) == (5, True), done.stderr
    state, says = verdict(doctor)
    assert (state, advice in says) == ("fail", True), says
    volume.chmod(0o700)
    done, doctor = polling(
        segment.in_folder(tmp_path), volume, LD_PRELOAD=poor_file_system, NO_CHMOD=str(errno.EPERM)
    )
    assert (done.code, verdict(doctor)[0]) == (4, "ok"), done.stderr


@pytest.mark.parametrize("is_there", [True, False])
def test_a_state_folder_that_is_a_link_says_what_to_write(
    segment: PolledFolder, tmp_path: Path, is_there: bool
) -> None:
    if is_there:
        (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    here = segment.in_folder(tmp_path)
    done, doctor = polling(here, tmp_path / "link")
    advice = f"link: is a symbolic link to real; write --state-dir {tmp_path}/real"
    assert (done.code, advice in done.stderr) == (5, True), done.stderr
    assert verdict(doctor)[0] == "fail"
    if is_there:
        assert advice in verdict(doctor)[1]
    done, _ = polling(here, tmp_path / "real")
    assert done.code == 4, done.stderr


# -- macOS ---------------------------------------------------------------------------------------------------


def test_polling_needs_no_call_that_only_linux_has(
    segment: PolledFolder, receiver: Receiver, tmp_path: Path
) -> None:
    here = segment.in_folder(tmp_path)
    done = run(here, receiver, **MACOS, FAILLOG_HEALTH_ADDR="127.0.0.1:0")
    assert done.code == DELIVERED, done.stderr
    assert "Traceback" not in done.stderr
    assert (here.state / "ballast").stat().st_size == BALLAST_BYTES
    for command in ("status", "audit"):
        done = run_program(command, "--state-dir", here.state, cwd=tmp_path, **MACOS)
        assert done.code == 0, done.stderr


def test_workers_need_no_call_that_only_linux_has(receiver: Receiver, tmp_path: Path) -> None:
    """In them it is removed, too."""
    for n in range(40):
        (tmp_path / f"{n}.jsonl").write_bytes(lines(error(messageId=f"m{n}")))
    done = run_program(
        *("run", tmp_path, "--workers", "2", "--summary", "json"),
        *("--endpoint", receiver.http_endpoint),
        cwd=tmp_path,
        **MACOS,
    )
    assert (done.code, done.summary["exported"]) == (0, 40), done.stderr


def test_the_demo_needs_no_call_that_only_linux_has(tmp_path: Path) -> None:
    done = run_program("demo", cwd=tmp_path, **MACOS)
    assert (done.code, done.stderr) == (0, ""), done.stderr


# -- processes -----------------------------------------------------------------------------------------------

NO_PRIVILEGES = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
"""Before a command: root has no more rights than others then."""


def by_shell(script: str, *before: str) -> list[str]:
    """A command that runs another one, its arguments, after a line of the shell."""
    return [*before, "/bin/sh", "-c", f'{script} && exec "$@"', "sh"]


def test_no_umask_keeps_the_program_from_its_own_files(
    segment: PolledFolder, receiver: Receiver, tmp_path: Path
) -> None:
    here = segment.in_folder(tmp_path)
    without = by_shell("umask 0777", *NO_PRIVILEGES)
    polling = ["run", *here.once_options(receiver.http_endpoint)]
    for _ in range(2):
        done = start(*polling, cwd=tmp_path, before=without, SEGMENT_TOKEN=here.segment.token)
        assert done.code in (0, DELIVERED), done.stderr
    for command in (["status", "--state-dir", here.state], ["audit", "--state-dir", here.state], ["demo"]):
        assert start(*command, cwd=tmp_path, before=without).code == 0
    modes = {path.stat().st_mode & 0o777 for path in here.state.rglob("*")}
    assert modes == {0o600, 0o700}


def test_what_a_run_keeps_under_any_umask_can_be_read(tmp_path: Path) -> None:
    without = by_shell("umask 0777", *NO_PRIVILEGES)
    for _ in range(2):
        done = start("run", "-", "--endpoint", AWAY, "--wait", "0s", cwd=tmp_path, before=without)
        assert done.code == 4, done.stderr
    pending = tmp_path / "faillog-pending.jsonl"
    kept = len(pending.read_bytes().splitlines())  # the second run reads it, and keeps the same record once
    assert (kept, pending.stat().st_mode & 0o777) == (1, 0o600)


@pytest.mark.parametrize(
    "command", ["run - --wait 0s", "doctor --state-dir here", "run --once", "status", "demo"]
)
def test_a_working_directory_that_was_removed_is_no_bug(tmp_path: Path, command: str) -> None:
    """What needs one says so; what does not goes on."""
    gone = tmp_path / "gone"
    gone.mkdir()
    done = start(*command.split(), cwd=gone, before=by_shell('rmdir "$PWD"'), XDG_STATE_HOME="")
    assert done.code != BUG, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["run -", "redact -", "demo"])
def test_where_no_temporary_file_can_be_made_the_remedy_is_said(tmp_path: Path, command: str) -> None:
    """As on a root file system that is read only."""
    readonly = 'mount --make-rprivate / && for d in /tmp /var/tmp /usr/tmp /dev/shm "$PWD"; do'
    readonly += " if [ -d $d ]; then mount --bind $d $d && mount -o remount,ro,bind $d || exit 99; fi; done"
    done = start(*command.split(), cwd=tmp_path, before=by_shell(readonly, "unshare", "-m"))
    if done.code == 99:
        pytest.skip("file systems cannot be mounted here")
    assert done.code == 2, done.stderr
    assert "no folder for temporary files is writable; name one in TMPDIR" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_process_of_a_container_can_be_ended_while_it_waits(
    tmp_path: Path, number: signal.Signals
) -> None:
    """`doctor` asks a collector that never answers; the kernel keeps signals without a handler from it."""
    if os.geteuid() != 0:
        pytest.skip("takes root")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        command = [PROGRAM, "doctor", "--endpoint", f"http://127.0.0.1:{silent.getsockname()[1]}"]
        with subprocess.Popen(
            ["unshare", "--pid", "--fork", "--kill-child", *command],
            cwd=tmp_path,
            env=environment(OTEL_EXPORTER_OTLP_TIMEOUT="50000"),
            stdout=subprocess.DEVNULL,
        ) as process:
            connection, _ = silent.accept()
            with connection:
                [child] = child_processes(process.pid)
                os.kill(child, number)
                assert process.wait(40) == 128 + number


# -- networks ------------------------------------------------------------------------------------------------


def in_network(script: str) -> list[str]:
    """A command in a network of its own, with nothing but a loopback interface that is up."""
    if shutil.which("ip") is None:
        pytest.skip("ip is not on this machine")
    return by_shell(f"ip link set lo up && {script}", "unshare", "--net")


WITHOUT_IPV4 = "ip address del 127.0.0.1/8 dev lo"
WITHOUT_IPV6 = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"


@pytest.mark.parametrize("without", [WITHOUT_IPV4, WITHOUT_IPV6], ids=["IPv6 only", "IPv4 only"])
def test_the_demo_needs_one_kind_of_addresses(tmp_path: Path, without: str) -> None:
    done = start("demo", cwd=tmp_path, before=in_network(without))
    assert (done.code, done.stderr) == (0, "")
    assert "no problems found" in done.stdout.decode()


@pytest.mark.parametrize(
    ("without", "hosts"),
    [("true", ["127.0.0.1", "[::1]"]), (WITHOUT_IPV4, ["[::1]"]), (WITHOUT_IPV6, ["127.0.0.1"])],
    ids=["both", "IPv6 only", "IPv4 only"],
)
def test_health_at_all_addresses_is_answered_by_ipv4_and_ipv6(
    tmp_path: Path, without: str, hosts: list[str]
) -> None:
    """Where our pod listens; it is asked by the kind of addresses that the cluster has."""
    if os.geteuid() != 0:
        pytest.skip("takes root")
    asking = "".join(
        f"urllib.request.urlopen('http://{host}:' + str(server.port) + '/healthz').read(); " for host in hosts
    )
    manifest = (SUPPORT.parents[1] / "docker" / "kubernetes.yaml").read_text("utf-8")
    [address] = re.findall(r'FAILLOG_HEALTH_ADDR, value: "(.*):8080"', manifest)
    code = (
        "import urllib.request; from faillog_otel.telemetry.health import HealthServer as H\n"
        f"with H({address.strip('[]')!r}, 0, alive=dict, ready=dict) as server: {asking}"
    )
    done = subprocess.run([*in_network(without), sys.executable, "-c", code], check=False, cwd=tmp_path)
    assert done.returncode == 0


# -- limits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("limit", [40, 64])
def test_polling_takes_few_descriptors(
    segment: PolledFolder, receiver: Receiver, tmp_path: Path, limit: int, protocol: str
) -> None:
    here = segment.in_folder(tmp_path)
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    few = by_shell(f"ulimit -n {limit}")
    command = ["run", *here.once_options(endpoint), "--protocol", protocol, "--health-addr", "127.0.0.1:0"]
    done = start(*command, cwd=tmp_path, before=few, SEGMENT_TOKEN=here.segment.token)
    assert done.code in (0, DELIVERED), done.stderr
    assert ("raise the limit to 64 or more (ulimit -n)" in done.stderr) == (limit < 64)
    replayed = ["replay", "--state-dir", str(here.state), "--endpoint", endpoint, "--protocol", protocol]
    assert start(*replayed, cwd=tmp_path, before=few).code in (0, DELIVERED)


# -- two of them ---------------------------------------------------------------------------------------------


def test_a_second_pod_sees_which_host_holds_the_folder_since_when(tmp_path: Path) -> None:
    """Two containers have the same process id: only their host names tell them apart."""
    if os.geteuid() != 0:
        pytest.skip("takes root")
    state = tmp_path / "state"
    in_pod = by_shell("hostname faillog-otel-0", "unshare", "--uts")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = ["--segment-url", f"http://127.0.0.1:{silent.getsockname()[1]}", "--collection", "shop"]
        command = [PROGRAM, "run", *hosts, "--state-dir", str(state)]
        env = environment(SEGMENT_TOKEN="a-token")  # noqa: S106  # nobody takes it
        with subprocess.Popen([*in_pod, *command], cwd=tmp_path, env=env) as first:
            connection, _ = silent.accept()
            with connection:
                done = start(*command[1:], cwd=tmp_path, SEGMENT_TOKEN="a-token")  # noqa: S106  # the same
                held = rf"process {first.pid} {{}}\(on host faillog-otel-0, since 20\d\d-\d\d-\d\dT\S+Z\)"
                assert (done.code, bool(re.search(held.format("holds it "), done.stderr))) == (5, True)
                status = start("status", "--state-dir", state, cwd=tmp_path).stdout.decode()
                assert re.search(f"in use by {held.format('')}", status), status
                doctor = start("doctor", "--state-dir", state, cwd=tmp_path).stdout.decode()
                assert re.search(held.format("holds it "), doctor), doctor
                # Version 0.1.0 reads 20 bytes, and takes nothing but a number and white space.
                assert (state / "lock").read_bytes()[:20].strip() == str(first.pid).encode()
            first.send_signal(signal.SIGTERM)


def test_a_lock_of_version_0_1_0_says_the_process_only(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with StateFolder(str(state)) as folder:
        (state / "lock").write_text("4711\n")
        assert folder.holder() == Holder("4711")
        (state / "lock").write_text("")
        assert folder.holder() == Holder("?")
