"""The image: its own steps carried out, and what they make run as docker/compose.yaml or a pod runs it."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from support.collector import ROOT, Collector, attributes_of
from support.dockerfile import ignores
from support.image import Image, Pod, build, pod, why_not
from support.server import Server
from support.tiers import slow

from faillog_otel import __version__

NOBODY = 65532
pytestmark = [
    pytest.mark.timeout(300),  # the first test builds the image, from packages of the network
    pytest.mark.xdist_group("image"),  # one process builds it
]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    if reason := why_not():
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("image")
    yield build(folder, VERSION="1.2.3", REVISION="abc")
    shutil.rmtree(folder)  # a hundred megabytes


@pytest.fixture
def inside(image: Image) -> Iterator[Pod]:
    with pod(image) as started:
        yield started


def services() -> dict[str, Any]:
    compose: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text("utf-8"))
    found: dict[str, Any] = compose["services"]
    return found


def run(command: list[str], *, timeout: float = 60) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@slow
def test_what_compose_starts_works_as_nobody_and_writes_nothing_but_its_volume(
    inside: Pod, collector_program: Path, tmp_path: Path
) -> None:
    """The commands of compose.yaml; for the collector's name stands the pod's loopback."""
    segment, ours = services()["segment"], services()["faillog-otel"]
    assert ours["network_mode"] == "service:segment"
    before = listing(inside.image.layer)
    volume = inside.volume(tmp_path / "volume")
    simulated = inside.container(inside.volume(tmp_path / "tmpfs"), segment["command"])
    with Collector(in_pod(inside, collector_program, tmp_path), tmp_path) as collector:

        def at_hand(text: str) -> str:
            return text.replace("http://collector:4318", collector.http_endpoint)

        command = [*map(at_hand, ours["command"]), "-v"]
        env = {name: at_hand(value) for name, value in ours["environment"].items()}
        is_healthy = inside.container(volume, inside.image.healthcheck, entrypoint=[])
        assert run(is_healthy).returncode == 1  # nothing runs yet
        with Server(simulated, "segment_url"):
            assert run(inside.container(volume, asked(segment), entrypoint=[])).returncode == 0
            with Server(inside.container(volume, command, **env), "health: "):
                done = run(is_healthy)
                assert (done.returncode, done.stderr) == (0, "")
            once = run(inside.container(volume, [*command, "--once"], **env))
            assert once.returncode == 0, once.stderr
        audit = run(inside.container(volume, ["audit", "--json"]))
        arrived = collector.stop()
    assert audit.returncode == 0, audit.stdout
    exported = json.loads(audit.stdout)["sums"]["exported"]
    forwarded = [record for record in arrived.logs if record.get("eventName") != "faillog.failure_group.new"]
    assert len({attributes_of(record)["log.record.uid"] for record in forwarded}) == exported > 0
    assert listing(inside.image.layer) == before
    is_private(volume)


@slow
def test_a_disk_that_kubernetes_gives_to_the_group_will_do(inside: Pod, tmp_path: Path) -> None:
    """By fsGroup: it belongs to root. And its own settings; that nobody answers is no reason to die."""
    manifest = yaml.safe_load_all((ROOT / "docker" / "kubernetes.yaml").read_text("utf-8"))
    _, settings, stateful_set = manifest
    pod_spec = stateful_set["spec"]["template"]["spec"]
    assert pod_spec["securityContext"]["fsGroup"] == NOBODY
    (ours,) = (each for each in pod_spec["containers"] if each["name"] == "faillog-otel")
    volume = tmp_path / "volume"
    volume.mkdir()
    os.chown(volume, 0, NOBODY)
    volume.chmod(0o2775)
    token = volume / "token"  # it stands in a volume of its own there
    token.write_text("token\n")
    env = settings["data"] | {each["name"]: each["value"] for each in ours["env"]}
    assert env["FAILLOG_COLLECTIONS"] == "COLLECTION_ID"  # which `run` refuses by name
    env |= {"SEGMENT_TOKEN_FILE": "token", "FAILLOG_SEGMENT_URL": "http://127.0.0.1:1"}
    env["FAILLOG_COLLECTIONS"] = "shop"
    with Server(inside.container(volume, [*ours["args"], "-v"], **env), "health: "):
        alive = run(inside.container(volume, inside.image.healthcheck, entrypoint=[], **env))
        assert (alive.returncode, alive.stderr) == (0, "")
    token.unlink()
    is_private(volume)


def is_private(volume: Path) -> None:
    """A volume holds the state folder and nothing else, and that is open to its owner only."""
    assert [path.name for path in volume.iterdir()] == ["state"]
    found = [volume / "state", *(volume / "state").rglob("*")]
    assert {path.stat().st_uid for path in found} == {NOBODY}
    assert {path.stat().st_mode & 0o077 for path in found} == {0}


@slow
def test_the_user_of_the_image_has_no_rights_and_one_place_to_write(inside: Pod, tmp_path: Path) -> None:
    """Also holds the tests to their word: this is how the containers above were run."""
    look = "cat /proc/self/status /proc/self/mountinfo; touch /opt/x /tmp/x /x; python -m pip"
    done = run(inside.container(inside.volume(tmp_path / "volume"), ["-c", look], entrypoint=["sh"]))
    said = done.stdout.splitlines()
    for line in (
        f"Uid:{f'{chr(9)}{NOBODY}' * 4}",
        f"CapBnd:\t{0:016x}",
        f"CapPrm:\t{0:016x}",
        "NoNewPrivs:\t1",
    ):
        assert line in said
    mounts = [line.split() for line in said if " - " in line]
    writable = {mount[4] for mount in mounts if "rw" in mount[5].split(",") and "rw" in mount[-1].split(",")}
    assert {place for place in writable if not place.startswith("/dev/")} == {
        "/proc",
        "/var/lib/faillog-otel",
    }
    assert done.stderr.count("Read-only file system") == 3
    assert "No module named pip" in done.stderr


@slow
def test_the_image_says_what_it_is_and_holds_what_it_needs(inside: Pod, tmp_path: Path) -> None:
    image = inside.image
    assert image.user == f"{NOBODY}:{NOBODY}"  # Kubernetes can tell only of a number that it is not root
    assert image.labels["org.opencontainers.image.version"] == "1.2.3"
    assert image.labels["org.opencontainers.image.revision"] == "abc"
    held = {path.relative_to(image.layer).parts[0] for path in image.layer.iterdir()}
    assert held <= {"opt", "var", "etc", "usr"}  # the last two: the stand-in for the base image
    packages = {path.name.split("-")[0] for path in image.layer.rglob("*.dist-info")}
    pinned = (ROOT / "requirements" / "run.txt").read_text("utf-8")
    assert "faillog_otel" in packages
    assert {name for name in packages if f"{name.replace('_', '-')}==" not in pinned} == {"faillog_otel"}
    done = run(inside.container(inside.volume(tmp_path / "volume"), ["--version"]))
    assert (done.returncode, __version__ in done.stdout) == (0, True)


@slow
def test_a_user_without_a_home_gets_a_clear_error(inside: Pod, tmp_path: Path) -> None:
    """The user is a number without a line in /etc/passwd."""
    done = run(inside.container(inside.volume(tmp_path / "volume"), ["run"], FAILLOG_STATE_DIR=""))
    assert (done.returncode, "FAILLOG_COLLECTIONS" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("path", "stays"),
    [
        ("src/faillog_otel/cli/__init__.py", False),
        ("requirements/run.txt", False),
        ("docker/healthy.py", False),
        ("docker/compose.yaml", True),
        ("src/faillog_otel/__pycache__/app.cpython-311.pyc", True),
        (".git/config", True),
        (".env", True),
        ("token", True),
        ("tests/conftest.py", True),
    ],
)
def test_nothing_but_the_program_gets_into_the_build(path: str, *, stays: bool) -> None:
    dockerignore = (ROOT / ".dockerignore").read_text("utf-8")
    assert ignores(dockerignore, PurePosixPath(path)) == stays


@pytest.mark.parametrize("name", services())
def test_every_service_of_compose_is_hardened_pinned_and_asked_for_its_health(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["image"] == "faillog-otel" or re.search(r":v?\d+\.\d+\.\d+$", service["image"])
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert "healthcheck" in service or name in {"faillog-otel", "collector"}  # its image's; none can be had


@pytest.mark.parametrize("name", ["collector", "tempo", "loki"])
def test_compose_overrides_the_defaults_for_one_machine(name: str) -> None:
    """Unless variables say more, our configurations listen on loopback and write where they run."""
    service = services()[name]
    (config,) = (each["source"] for each in service["volumes"] if isinstance(each, dict))
    text = (ROOT / "docker" / config).read_text("utf-8")
    local = set(re.findall(r"\$\{(?:env:)?(\w+):-(?:127\.0\.0\.1|\./)", text))
    assert local
    assert local <= set(service["environment"])
    writable = [each.partition(":")[2] for each in service["volumes"] if isinstance(each, str)]
    folders = [value for value in service["environment"].values() if value.startswith("/")]
    assert folders
    assert all(any(folder.startswith(place) for place in writable) for folder in folders)


def asked(service: dict[str, Any]) -> list[str]:
    how, *command = map(str, service["healthcheck"]["test"])
    assert how == "CMD"
    return command


def in_pod(inside: Pod, program: Path, folder: Path) -> Path:
    """A program that runs another one on the pod's loopback."""
    script = folder / "in-pod"
    script.write_text(f'#!/bin/sh\nexec {" ".join(inside.sharing([str(program)]))} "$@"\n')
    script.chmod(0o755)
    return script


def listing(folder: Path) -> list[tuple[str, int, int]]:
    return sorted((str(path), path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.rglob("*"))
