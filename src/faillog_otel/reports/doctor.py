"""Checks what a run needs. Yields one `Finding` per check, with what to do where it fails.

Changes nothing, and makes no request that counts against Segment's quota.
"""

import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct

from faillog_otel.backends import BACKENDS, backend_of
from faillog_otel.clock import SECOND_NS, Clock, time_text
from faillog_otel.config import SEGMENT_URLS, RunConfig, Secret, SegmentConfig, Target
from faillog_otel.errors import Busy, ConfigError, LedgerBroken
from faillog_otel.ledger import LedgerReader
from faillog_otel.ledger.database import durability, open_reader
from faillog_otel.ledger.facts import SINCE, check_window, refused_collections
from faillog_otel.ledger.state_dir import StateFolder
from faillog_otel.network import OTLP, origin_of, proxy_to, variable_unused
from faillog_otel.otlp.delivery import network_client
from faillog_otel.otlp.outcome import Acknowledged, PartlyRejected, RetryLater
from faillog_otel.reports.readings import reading_checks
from faillog_otel.segment import answers, api
from faillog_otel.segment.hours import reads_per_hour
from faillog_otel.segment.http_client import Network, network_of, timeout_within
from faillog_otel.segment.quota import Quota
from faillog_otel.telemetry.health import HealthServer
from faillog_otel.tls import tls_context

Health = Literal["ok", "warn", "fail"]

LOW_SPACE_BYTES = 1024**3
NO_SPACE_BYTES = 64 * 1024**2
MAX_CLOCK_ERROR_SECONDS = 60
TIMEOUT_SECONDS = 10.0  # for Segment's answer: a person waits for it

_NOT_IN_USE = "not in use"
_OTHER_STATE_DIR = "name another --state-dir, or run as its owner"


class Finding(Struct, frozen=True):
    """The result of one check."""

    check: str
    state: Health
    says: str
    do: str = ""  # empty if `state` is `ok`


Findings = Iterator[Finding]


def examine(config: RunConfig, token: Callable[[], Secret], user_agent: str, clock: Clock) -> Findings:
    """Yields the findings about everything but the configuration itself."""
    folder = StateFolder(config.state_dir)
    yield from _state_folder(folder, config.segment, clock)
    yield from _collections(config.segment)
    yield from _window(config.segment, folder, clock)
    yield from _segment(config, token, user_agent, clock)
    yield from _collector(config, user_agent)
    yield from _backends(config)
    yield from _own_metrics(config)
    yield from _health(config, folder)


def _state_folder(folder: StateFolder, segment: SegmentConfig, clock: Clock) -> Findings:
    check = "state folder"
    there = folder.path.absolute()
    try:
        while not os.path.lexists(there):
            there = there.parent
        found = there.stat()
    except OSError as error:
        yield Finding(check, "fail", f"{folder.path}: {error.strerror}", _OTHER_STATE_DIR)
        return
    if not stat.S_ISDIR(found.st_mode):
        yield Finding(check, "fail", f"{there}: not a folder", "name another --state-dir")
        return
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        says = f"{there}: owned by uid {found.st_uid}, not writable for uid {os.geteuid()}"
        yield Finding(check, "fail", says, _OTHER_STATE_DIR)
        return
    if there != folder.path.absolute():
        yield Finding(check, "ok", f"{folder.path}: does not exist yet; `run` creates it")
        yield _space(there)
        return
    try:
        folder.check()
    except LedgerBroken as error:
        yield Finding(check, "fail", str(error), _OTHER_STATE_DIR)
        return
    yield _permissions(folder.path)
    yield _space(there)
    yield from _ledger(folder, segment, clock)


def _permissions(path: Path) -> Finding:
    """Checks the folder and everything in it. A file that disappears meanwhile does not matter."""
    loose, closed = [], []
    for each in (path, *path.rglob("*")):
        try:
            found = each.lstat()
        except OSError:
            continue
        if stat.S_IMODE(found.st_mode) & 0o077:
            loose.append(each)
        if not os.access(each, os.R_OK | os.W_OK, effective_ids=True):
            closed.append(each)
    if closed:
        says = f"{_first_of(closed)}: not writable for uid {os.geteuid()}"
        return Finding("state folder", "fail", says, "make one user the owner of all files: chown -R")
    if loose:
        says = f"{_first_of(loose)}: accessible to other users"
        return Finding("state folder", "warn", says, f"chmod -R go= {path}")
    return Finding("state folder", "ok", f"{path}: writable, private")


def _first_of(paths: list[Path]) -> str:
    return str(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


def _space(path: Path) -> Finding:
    found = os.statvfs(path)
    free = found.f_bavail * found.f_frsize
    says = f"{free / 1024**3:.1f} GiB free"
    if free < NO_SPACE_BYTES:
        return Finding("disk", "fail", says, "free space: polling is paused while the disk is full")
    if free < LOW_SPACE_BYTES:
        return Finding("disk", "warn", says, "free space: the spool grows while the collector is unavailable")
    return Finding("disk", "ok", says)


def _ledger(folder: StateFolder, segment: SegmentConfig, clock: Clock) -> Findings:
    yield Finding("sqlite", "ok", durability())
    try:
        if holder := folder.holder():
            do = "expected while `run` polls; a second run with this --state-dir exits with code 5"
            yield Finding("lock", "warn", holder.text("holds it"), do)
        else:
            yield Finding("lock", "ok", _NOT_IN_USE)
        if not folder.ledger.exists():
            yield Finding("ledger", "ok", "does not exist yet; `run` creates it")
            return
        with closing(open_reader(folder, may_be_older=True)) as ledger:
            ledger.check()
            found, newest = ledger.schema_versions()
            upgrade = f"; `run` upgrades it to version {newest}" if found < newest else ""
            yield Finding("ledger", "ok", f"version {found}{upgrade}")
            yield from _refused(ledger, segment, clock)
            if found == newest:
                yield from (Finding(*each) for each in reading_checks(ledger, segment))
    except Busy as error:
        yield Finding("ledger", "warn", str(error), "run `doctor` again later")
    except LedgerBroken as error:
        do = "follow the message; `faillog-otel audit` lists the damage if the ledger can be read"
        yield Finding("ledger", "fail", str(error), do)


def _refused(ledger: LedgerReader, segment: SegmentConfig, clock: Clock) -> Findings:
    """Yields the collections that Segment refused to an earlier run."""
    for name, refusal in refused_collections(ledger).items():
        if name in segment.collections:
            is_over = refusal.until_ns <= clock.now_ns()
            when = "`run` asks again" if is_over else f"`run` asks again at {time_text(refusal.until_ns)}"
            yield Finding(
                "collections",
                "warn" if is_over else "fail",
                f"{name}: refused by Segment in the last run: {refusal.why}; {when}",
                "copy the Collection ID from Segment's Delivery Overview, and use a token of its workspace",
            )


def _collections(config: SegmentConfig) -> Findings:
    check = "collections"
    quota, number = Quota(per_day=config.requests_per_day), len(config.collections)
    covered = quota.size // 24
    if not number:
        yield Finding(check, "warn", "none; only PATHs can be forwarded", "set --collection")
    elif number > covered:
        missed = f"each misses {24 - quota.size / number:.1f} of 24 hours a day"
        says = f"{number}, but the quota covers {covered}: {missed}"
        yield Finding(check, "warn", says, "poll fewer, or ask Segment for a larger quota")
    else:
        yield Finding(check, "ok", f"{number}; each hour is read {reads_per_hour(quota, number)} times")
    strange = [each for each in config.collections if not re.fullmatch("[0-9A-Za-z]{27}", each)]
    if strange and config.url in SEGMENT_URLS.values():
        says = f"{strange[0]}: not a Collection ID of Segment, which has 27 letters and digits"
        yield Finding(check, "warn", says, "copy it again from Segment's Delivery Overview")


def _window(config: SegmentConfig, folder: StateFolder, clock: Clock) -> Findings:
    last_since_ns = None
    with suppress(OSError, Busy, LedgerBroken):  # reported by `_ledger`
        if folder.ledger.is_file():
            with closing(open_reader(folder, may_be_older=True)) as ledger:
                last_since_ns = ledger.fact_ns(SINCE)
    try:
        warnings = check_window(config, clock.now_ns(), last_since_ns)
    except ConfigError as error:
        yield Finding("window", "fail", str(error), "change --since or --until")
        return
    for warning in warnings:
        yield Finding("window", "warn", warning, "change --since or --until if this is not intended")


def _segment(config: RunConfig, token: Callable[[], Secret], user_agent: str, clock: Clock) -> Findings:
    """Checks the token, the proxy and the clock, with one request that costs no quota."""
    try:
        token()
    except ConfigError as error:
        state: Health = "fail" if config.segment.collections else "warn"
        yield Finding("token", state, str(error), "create a Public API token in the workspace, and set it")
        return
    try:
        network = network_of(config.segment, os.environ)
    except ConfigError as error:
        yield Finding("network", "fail", str(error), "correct that setting")
        return
    seconds = timeout_within(config.delivery.wait_seconds, TIMEOUT_SECONDS)
    segment = api.SegmentApi(config.segment.url, token, user_agent, timeout_seconds=seconds, network=network)
    with closing(segment):
        before_ns = clock.now_ns()
        answered = segment.check_token(before_ns)
        now_ns = (before_ns + clock.now_ns()) // 2
    yield _token(answered.outcome, config.segment)
    yield from _segment_proxy(config.segment, network, is_answered=answered.is_answered)
    if answered.date_ns is None:
        what = "Segment's answer has no Date header" if answered.is_answered else "Segment did not answer"
        do = "check the connection to Segment, and any proxy in between"
        yield Finding("clock", "warn", f"{what}; the clock was not checked", do)
        return
    ahead = (now_ns - answered.date_ns) // SECOND_NS
    if abs(ahead) > MAX_CLOCK_ERROR_SECONDS:
        says = f"{abs(ahead)} s {'ahead of' if ahead > 0 else 'behind'} Segment's"
        do = "set this machine's clock: `status` and `plan` use it; `run` uses Segment's"
        yield Finding("clock", "warn", says, do)
    else:
        yield Finding("clock", "ok", "agrees with Segment's within a minute")


def _segment_proxy(config: SegmentConfig, network: Network, *, is_answered: bool) -> Findings:
    """Yields the proxy to Segment, or the environment's if it is not used. Passwords are not shown."""
    if proxy := network.proxies.proxy_of(*origin_of(config.url)):
        yield Finding("proxy", "ok", f"{config.url}: through {proxy.url}")
    elif variable := variable_unused(config.url, config.proxy, os.environ):
        says = f"{variable} is set, but not used for Segment and S3"
        do = 'to use it, set [segment] proxy = "environment" or FAILLOG_SEGMENT_PROXY=environment'
        yield Finding("proxy", "ok", says) if is_answered else Finding("proxy", "warn", says, do)


def _token(outcome: answers.Outcome, config: SegmentConfig) -> Finding:
    if isinstance(outcome, answers.Success):
        return Finding("token", "ok", f"{config.url}: accepted")
    says = outcome.why if config.url in outcome.why else f"{config.url}: {outcome.why}"
    if isinstance(outcome, answers.Denied):
        do = "create a Public API token in the workspace, and set SEGMENT_TOKEN"
        # A token that is forbidden here may still be good for the failure logs.
        return Finding("token", "fail" if outcome.is_token_wrong else "warn", says, do)
    if isinstance(outcome, answers.RateLimited):
        return Finding("token", "warn", says, "run `doctor` again later")
    return Finding("token", "fail", says, "check --segment-url (us or eu) and the network")


def _collector(config: RunConfig, user_agent: str) -> Findings:
    """Checks each signal's endpoint with an empty request, and the proxies."""
    if config.delivery.writes:
        yield _output(config)
        return
    try:
        client = network_client(config.delivery, config.mapping.resource, user_agent)
    except ConfigError as error:
        yield Finding("collector", "fail", str(error), "correct that setting")
        return
    answered: list[Target] = []
    with closing(client):
        for signal in config.delivery.signals:
            outcome = client.send(signal, [])
            url = config.delivery.targets[signal].shown_url
            why = getattr(outcome, "why", "")
            where = signal if url in why else f"{signal} to {url}"
            if isinstance(outcome, Acknowledged | PartlyRejected):
                answered.append(config.delivery.targets[signal])
                state: Health = "warn" if outcome.message else "ok"
                do = "ask the operator of the collector" if outcome.message else ""
                yield Finding("collector", state, f"{where}: {outcome.message or 'reachable'}", do)
            elif isinstance(outcome, RetryLater):
                do = "start the collector, or correct --endpoint"
                yield Finding("collector", "fail", f"{where}: {why}", do)
            else:
                do = "check --endpoint, --protocol and --header"
                yield Finding("collector", "fail", f"{where}: {why}", do)
    telemetry = config.telemetry.target
    targets = [*config.delivery.targets.values(), *([telemetry] if telemetry else [])]
    yield from _proxies(targets, answered)


def _proxies(targets: Iterable[Target], answered: Collection[Target]) -> Findings:
    """Yields the proxies to the targets, then those of the environment that are not used.

    The latter is a warning if a target did not answer. A proxy that is not usable was reported before.
    """
    unused: dict[str, list[Target]] = {}
    for target in targets:
        with suppress(ConfigError):
            if proxy := proxy_to(target.url, target.proxy, os.environ):
                yield Finding("proxy", "ok", f"{target.shown_url}: through {proxy.url}")
        if name := variable_unused(target.url, target.proxy, os.environ, OTLP):
            unused.setdefault(name, []).append(target)
    for name, several in unused.items():
        urls = ", ".join(dict.fromkeys(each.shown_url for each in several))
        says = f"{name} is set, but not used for {urls}"
        do = 'to use it, set [otlp] proxy = "environment" or FAILLOG_OTLP_PROXY=environment'
        is_well = all(target in answered for target in several)
        yield Finding("proxy", "ok", says) if is_well else Finding("proxy", "warn", says, do)


def _output(config: RunConfig) -> Finding:
    """Checks the file of `--protocol file`, as `run` opens it, without creating it."""
    path = Path(config.delivery.output or os.devnull)
    if not _is_writable(path):
        return Finding("collector", "fail", f"--output {path}: not writable", "name another --output")
    return Finding("collector", "ok", f"{_NOT_IN_USE} with --protocol {config.delivery.writes}")


def _backends(config: RunConfig) -> Findings:
    """Yields what the backend of `--backend` needs, and those that the endpoints' hosts belong to."""
    mapping, named = config.mapping, BACKENDS[config.backend] if config.backend else None
    hosts = {urlsplit(target.url).hostname or "" for target in config.delivery.targets.values()}
    for backend in dict.fromkeys(filter(None, [named, *map(backend_of, sorted(hosts))])):
        says = f"{backend.name}: {backend.needs}"
        if backend is named:
            limits = f"bodies up to {mapping.limits.body_bytes} bytes"
            says = f"{says} (set here: time policy {mapping.time_policy}, {limits})"
        if not backend.profile or not backend.drops(mapping.time_policy):
            yield Finding("backend", "ok", says)
        elif backend.raised_by:
            says = f"{says}; older records are not found there unless {backend.raised_by} is raised"
            yield Finding("backend", "ok", says)
        else:
            says = f"{says}; older records are lost with the time policy {mapping.time_policy}"
            do = f"set --backend {backend.profile} (time policy {BACKENDS[backend.profile].time_policy})"
            yield Finding("backend", "warn", says, do)


def _own_metrics(config: RunConfig) -> Findings:
    target = config.telemetry.target
    if target is None:
        yield Finding("own metrics", "ok", _NOT_IN_USE)
        return
    try:
        if target.url.startswith("https:"):
            tls_context(target)
    except ConfigError as error:
        yield Finding("own metrics", "fail", str(error), "correct that setting in [self]")
        return
    says = f"sent to {target.shown_url} every {config.telemetry.interval_seconds:g} s"
    yield Finding("own metrics", "ok", says)


def _health(config: RunConfig, folder: StateFolder) -> Findings:
    """Checks that the health server can listen, and that its file is writable."""
    check = "health check"
    address, file = config.health.address, config.health.file
    if address is None and file is None:
        yield Finding(check, "ok", _NOT_IN_USE)
    if address is not None:
        host, port = address
        try:
            with HealthServer(host, port, alive=dict, ready=dict):
                yield Finding(check, "ok", f"can listen on {host}, port {port}")
        except ConfigError as error:
            state: Health = "warn" if _is_held(folder) else "fail"
            do = "name another --health-addr; a polling `run` listens on its own"
            yield Finding(check, state, str(error), do)
    if file is not None:
        says = f"--health-file {file}"
        if _is_writable(Path(file)):
            yield Finding(check, "ok", f"{says}: writable")
        else:
            yield Finding(check, "fail", f"{says}: not writable", "name another --health-file")


def _is_writable(file: Path) -> bool:
    """Returns whether the file can be written, or created."""
    there = file if file.exists() else file.parent
    return not file.is_dir() and os.access(there, os.W_OK, effective_ids=True)


def _is_held(folder: StateFolder) -> bool:
    try:
        return folder.holder() is not None
    except LedgerBroken:
        return False
