"""That the linters of docker/ refuse what is wrong: a linter that takes everything proves nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from manifests.check import build
from support.building import CannotBuild

ROOT = Path(__file__).parents[2]
SCHEMAS = Path(sys.prefix, "bin", "kubernetes-validate")
COMPOSE = ROOT / "docker" / "compose.yaml"
KUBERNETES = ROOT / "docker" / "kubernetes.yaml"


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """The check in Go, built."""
    try:
        build()
    except CannotBuild as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def check(kind: str, file: Path) -> tuple[int, str]:
    done = subprocess.run([build(), f"-{kind}", file], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def changed(file: Path, old: str, new: str, folder: Path) -> Path:
    text = file.read_text("utf-8")
    assert old in text
    other = folder / file.name
    other.write_text(text.replace(old, new, 1))
    return other


@pytest.mark.parametrize("file", [COMPOSE, KUBERNETES])
def test_our_manifests_pass(file: Path) -> None:
    assert check(file.stem, file) == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("runAsNonRoot: true", "runAsNonRoot: false", "runAsNonRoot"),
        ("runAsUser: 65532", "runAsUser: 0", "runAsUser=0"),
        (
            "seccompProfile: { type: RuntimeDefault }",
            "seccompProfile: { type: Unconfined }",
            "seccompProfile",
        ),
        ("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "allowPrivilegeEscalation"),
        ("drop: [ALL]", "drop: [CHOWN]", "unrestricted capabilities"),
        ("enableServiceLinks: false", "hostNetwork: true", "host namespaces"),
        ("secret: { secretName: segment, defaultMode: 0440 }", "hostPath: { path: /etc }", "hostPath"),
        ("terminationGracePeriodSeconds:", "terminationGraceSeconds:", "unknown field"),
        ("replicas: 1", "replicas: one", "replicas"),
    ],
)
def test_a_pod_that_is_less_than_restricted_and_a_wrong_field_are_refused(
    tmp_path: Path, old: str, new: str, why: str
) -> None:
    code, said = check("kubernetes", changed(KUBERNETES, old, new, tmp_path))
    assert (code, why in said) == (1, True), said


def test_a_stateful_set_without_what_the_api_demands_is_refused(tmp_path: Path) -> None:
    """By Kubernetes' own schemas: `make lint` reads the manifest with them, too."""
    selector = "  selector:\n    matchLabels: { app.kubernetes.io/name: faillog-otel }\n"
    for file, wrong in ((KUBERNETES, ""), (changed(KUBERNETES, selector, "", tmp_path), "'selector'")):
        done = subprocess.run([SCHEMAS, "--strict", file], capture_output=True, text=True, check=False)
        assert (done.returncode == 0, wrong in done.stdout) == (not wrong, True), done.stdout


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("read_only: true", "readonly: true", "readonly"),
        ("condition: service_healthy", "condition: service_well", "condition"),
        ('network_mode: "service:segment"', 'network_mode: "service:sgment"', "sgment"),
        ("networks: [telemetry]", "networks: [telemetri]", "telemetri"),
        ("  state: {}\n", "", "undefined volume state"),
        ("../collector-config/tempo.yaml", "../collector-config/tmpo.yaml", "tmpo.yaml"),
    ],
)
def test_a_compose_file_that_would_not_come_up_is_refused(
    tmp_path: Path, old: str, new: str, why: str
) -> None:
    code, said = check("compose", changed(COMPOSE, old, new, tmp_path))
    assert (code, why in said) == (1, True), said
