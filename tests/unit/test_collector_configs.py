"""The collector configurations that are shipped: what each must have, and what none may have."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.collector import CONFIGS, ROOT

from faillog_otel.backends import BACKENDS

BACKENDS_PAGE = (ROOT / "docs" / "guides" / "backends" / "index.md").read_text("utf-8")
MANIFEST = yaml.safe_load((ROOT / "tests" / "collector" / "manifest.yaml").read_text("utf-8"))
KINDS = ("receivers", "processors", "exporters", "connectors", "extensions")
NAMED = re.compile(r"--backend (\w+)")
VARIABLE = re.compile(r"\$\{env:(\w+)(:-)?")
OF_THE_MOMENT = {"tailsampling", "spanmetrics", "datadog", "servicegraph", "groupbytrace"}
"""They take the time at which something arrives for the time at which it happened."""


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return loaded


PATHS = [path for path in sorted(CONFIGS.glob("*.yaml")) if load(path).keys() >= {"receivers", "service"}]
"""Those of collectors; Tempo and Loki have files there, too."""
each_path = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def plain(component: str) -> str:
    """A component's type in the letters that its Go module has, too."""
    return component.partition("/")[0].replace("_", "")


def types(config: dict[str, Any], kind: str) -> set[str]:
    return {plain(name) for name in config.get(kind) or {}}


def in_manifest(kind: str) -> set[str]:
    """`.../exporter/fileexporter v0.158.0` is the module of `file`."""
    modules = (entry["gomod"].split()[0].rpartition("/")[2] for entry in MANIFEST.get(kind) or ())
    return {module.removesuffix(kind.removesuffix("s")) for module in modules}


def test_there_is_one_for_each_destination() -> None:
    assert {path.stem for path in PATHS} == {"local", "tempo-loki", "honeycomb", "datadog", "jaeger"}


@each_path
@pytest.mark.parametrize("kind", KINDS)
def test_the_collector_of_the_tests_has_every_component(path: Path, kind: str) -> None:
    assert types(load(path), kind) <= in_manifest(kind)


@each_path
def test_late_data_has_a_receiver_and_pipelines_of_its_own(path: Path) -> None:
    config = load(path)
    pipelines = config["service"]["pipelines"]
    assert list(config["receivers"]) == ["otlp/faillog"]
    assert set(pipelines) == {"logs/faillog", "traces/faillog", "metrics/faillog"}
    for pipeline in pipelines.values():
        assert pipeline["receivers"] == ["otlp/faillog"]
        assert pipeline["processors"][0] == "memory_limiter", "before anything takes memory"


@each_path
def test_nothing_takes_late_data_for_what_happens_now(path: Path) -> None:
    config = load(path)
    for kind in KINDS:
        assert not types(config, kind) & OF_THE_MOMENT
    assert "batch" not in types(config, "processors"), "it forgets what it has acknowledged"


@each_path
def test_what_goes_over_the_network_waits_on_disk_and_is_tried_for_ever(path: Path) -> None:
    config = load(path)
    over_network = {name: each for name, each in config["exporters"].items() if name.startswith("otlp")}
    for exporter in over_network.values():
        assert exporter["sending_queue"]["storage"] in config["service"]["extensions"]
        assert exporter["retry_on_failure"] == {"max_elapsed_time": 0}
    if over_network:
        assert config["extensions"]["file_storage"]["fsync"] is True
    assert over_network or path.stem == "local"


@each_path
def test_the_header_comment_lists_every_variable(path: Path) -> None:
    text = path.read_text("utf-8")
    top = text.partition("\n\n")[0]
    assert {name for name, _ in VARIABLE.findall(text)} <= set(re.findall(r"\w+", top))


@each_path
def test_secrets_come_from_the_environment_and_have_no_default(path: Path) -> None:
    text = path.read_text("utf-8")
    assert not re.search(r"(?i)(key|token|secret|password): (?!\$\{env:\w+\}$)\S", text, re.MULTILINE)
    for name, default in VARIABLE.findall(text):
        assert bool(default) != name.endswith("_KEY"), name


def told(path: Path) -> set[str]:
    """The backends that the table of docs/guides/backends/index.md says for a file's other end."""
    (row,) = re.findall(rf"^\| `{path.name}` \|.*$", BACKENDS_PAGE, re.MULTILINE)
    return set(NAMED.findall(row))


@each_path
def test_the_header_command_names_the_documented_backend(path: Path) -> None:
    commands = re.findall(r"^#   faillog-otel run .*$", path.read_text("utf-8"), re.MULTILINE)
    assert {name for command in commands for name in NAMED.findall(command)} == told(path)
    assert told(path) <= set(BACKENDS)
    assert told(path) or path.stem == "local"


def test_both_manifests_name_the_backend_of_the_collector_configuration_that_they_mount() -> None:
    compose = load(ROOT / "docker" / "compose.yaml")["services"]
    (mounted,) = (each for each in compose["collector"]["volumes"] if isinstance(each, dict))
    assert {compose["faillog-otel"]["environment"]["FAILLOG_BACKEND"]} == told(Path(mounted["source"]))

    text = (ROOT / "docker" / "kubernetes.yaml").read_text("utf-8")
    (config,) = re.findall(r"--from-file=config\.yaml=(\S+)", text)
    (settings,) = (each["data"] for each in yaml.safe_load_all(text) if each["kind"] == "ConfigMap")
    assert {settings["FAILLOG_BACKEND"]} == told(Path(config))


@each_path
def test_files_are_written_at_once_and_added_to_and_none_is_removed(path: Path) -> None:
    """Unless it rotates, the exporter buffers, and empties its file at each start; 0 backups are all."""
    for name, exporter in load(path)["exporters"].items():
        if plain(name) == "file":
            assert exporter["rotation"]["max_backups"] == 0
            assert "max_days" not in exporter["rotation"]
