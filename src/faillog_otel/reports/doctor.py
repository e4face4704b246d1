"""Is all there that a run needs? One finding after the other, each with what to do where it is not well.

Nothing is changed, and nothing is asked that costs one of the day's 120 requests.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from faillog_otel.backends import BACKENDS, backend_of
from faillog_otel.clock import Clock, time_text
from faillog_otel.config import SEGMENT_URLS, HealthConfig, RunConfig, Secret, SegmentConfig
from faillog_otel.errors import Busy, ConfigError, LedgerBroken
from faillog_otel.ledger import LedgerReader
from faillog_otel.ledger.database import durability, open_reader
from faillog_otel.ledger.facts import SINCE, check_window, refused_collections
from faillog_otel.ledger.state_dir import StateFolder
from faillog_otel.reports.reachability import Finding, Health, collector_findings, segment_findings
from faillog_otel.segment.quota import Quota
from faillog_otel.segment.schedule import reads_per_hour
from faillog_otel.telemetry.health import HealthServer
from faillog_otel.tls import tls_context

LITTLE_ROOM_BYTES = 1024**3
NO_ROOM_BYTES = 64 * 1024**2


def examine(
    config: RunConfig, token: Callable[[], Secret], user_agent: str, clock: Clock
) -> Iterator[Finding]:
    """Everything but the configuration itself."""
    yield from _state_folder(StateFolder(config.state_dir), config.segment, clock)
    yield from _collections(config.segment)
    yield from _window(config.segment, StateFolder(config.state_dir), clock)
    yield from segment_findings(config.segment, token, user_agent, clock, config.delivery.wait_seconds)
    yield from collector_findings(config, user_agent)
    yield from _backends(config)
    yield from _own_metrics(config)
    yield from _health(config.health, StateFolder(config.state_dir))


# -- the state folder ----------------------------------------------------------------------------------------


def _state_folder(folder: StateFolder, segment: SegmentConfig, clock: Clock) -> Iterator[Finding]:
    check = "state folder"
    other = "name another --state-dir, or run as its owner"
    there = folder.path.absolute()
    try:
        while not os.path.lexists(there):
            there = there.parent
        found = there.stat()
    except OSError as error:
        yield Finding(check, "fail", f"{folder.path}: {error.strerror}", other)
        return
    uid = os.geteuid()
    if not stat.S_ISDIR(found.st_mode):
        yield Finding(check, "fail", f"{there}: is no folder", "name another --state-dir")
        return
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        yield Finding(
            check, "fail", f"{there}: belongs to uid {found.st_uid}, and uid {uid} cannot write there", other
        )
        return
    if there != folder.path.absolute():
        yield Finding(check, "ok", f"{folder.path}: is not there yet; `run` makes it")
        yield _room(there)
        return
    try:
        folder.check()
    except LedgerBroken as error:
        yield Finding(check, "fail", str(error), "do as it says")
        return
    yield _permissions(folder.path)
    yield _room(there)
    yield from _ledger(folder, segment, clock)


def _permissions(path: Path) -> Finding:
    """Of the folder and all that lies in it. Raises nothing: what goes meanwhile is of no interest."""
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
        says = f"{closed[0]}: cannot be written by uid {os.geteuid()}" + _and_more(closed)
        return Finding("state folder", "fail", says, "give all of it to one user: chown -R")
    if loose:
        says = f"{loose[0]}: others can look into it" + _and_more(loose)
        return Finding("state folder", "warn", says, f"chmod -R go= {path}")
    return Finding("state folder", "ok", f"{path}: is writable, and nobody else's")


def _and_more(paths: list[Path]) -> str:
    return f", and {len(paths) - 1} more" if len(paths) > 1 else ""


def _room(path: Path) -> Finding:
    found = os.statvfs(path)
    free = found.f_bavail * found.f_frsize
    says = f"{free / 1024**3:.1f} GiB free"
    if free < NO_ROOM_BYTES:
        return Finding("disk", "fail", says, "make room: nothing is taken in while the disk is full")
    if free < LITTLE_ROOM_BYTES:
        return Finding("disk", "warn", says, "make room: while the collector is away, the spool grows")
    return Finding("disk", "ok", says)


def _ledger(folder: StateFolder, segment: SegmentConfig, clock: Clock) -> Iterator[Finding]:
    yield Finding("sqlite", "ok", durability())
    try:
        if holder := folder.holder():
            do = "this is so while `run` polls; another one with this --state-dir is refused (exit code 5)"
            yield Finding("lock", "warn", holder.text("holds it"), do)
        else:
            yield Finding("lock", "ok", "nobody holds it")
        if not folder.ledger.exists():
            yield Finding("ledger", "ok", "is not there yet; `run` makes it")
            return
        with closing(open_reader(folder, may_be_older=True)) as ledger:
            ledger.check()
            found, newest = ledger.schema_versions()
            says = f"version {found}" + (f"; `run` brings it up to date ({newest})" if found < newest else "")
            yield Finding("ledger", "ok", says)
            yield from _refused(ledger, segment, clock)
    except Busy as error:
        yield Finding("ledger", "warn", str(error), "look again when that has ended")
    except LedgerBroken as error:
        yield Finding("ledger", "fail", str(error), "do as it says; `audit` tells more, where it can be read")


def _refused(ledger: LedgerReader, segment: SegmentConfig, clock: Clock) -> Iterator[Finding]:
    """Collections that Segment refused when an earlier run asked for them."""
    for name, refusal in refused_collections(ledger).items():
        if name in segment.collections:
            is_asked = refusal.until_ns <= clock.now_ns()
            when = "with its next request" if is_asked else f"not before {time_text(refusal.until_ns)}"
            yield Finding(
                "collections",
                "warn" if is_asked else "fail",
                f"{name}: Segment refused it when `run` asked last: {refusal.why}; `run` asks again {when}",
                "copy the Collection ID from Segment's Delivery Overview; is the token of its workspace?",
            )


# -- Segment -------------------------------------------------------------------------------------------------


def _collections(config: SegmentConfig) -> Iterator[Finding]:
    quota, number = Quota(per_day=config.requests_per_day), len(config.collections)
    covered = quota.size // 24
    if not number:
        yield Finding(
            "collections",
            "warn",
            "none: only PATHs can be forwarded",
            "set --collection or FAILLOG_COLLECTIONS",
        )
    elif number > covered:
        missed = f"each misses {24 - quota.size / number:.1f} of the 24 hours of a day"
        says = f"{number}, and the quota covers {covered}: {missed}"
        yield Finding("collections", "warn", says, "poll fewer, or ask Segment for more requests")
    else:
        yield Finding(
            "collections", "ok", f"{number}; each hour is read {reads_per_hour(quota, number)} times"
        )
    strange = [each for each in config.collections if not _KSUID.fullmatch(each)]
    if strange and config.url in SEGMENT_URLS.values():
        says = f"{strange[0]}: Segment's Collection IDs have 27 letters and digits, this one is another kind"
        do = "copy it again from Segment's Delivery Overview: only a request can tell whether it exists"
        yield Finding("collections", "warn", says, do)


_KSUID = re.compile(r"[0-9A-Za-z]{27}")


def _window(config: SegmentConfig, folder: StateFolder, clock: Clock) -> Iterator[Finding]:
    try:
        warnings = check_window(config, clock.now_ns(), _noted_since_ns(folder))
    except ConfigError as error:
        yield Finding("window", "fail", str(error), "change --since or --until")
        return
    for warning in warnings:
        yield Finding("window", "warn", warning, "change --since or --until, if that is not meant")


def _noted_since_ns(folder: StateFolder) -> int | None:
    """Since when an earlier run wanted hours; None where that cannot be read, which `_ledger` says."""
    try:
        if not folder.ledger.is_file():
            return None
        with closing(open_reader(folder, may_be_older=True)) as ledger:
            return ledger.fact_ns(SINCE)
    except (OSError, Busy, LedgerBroken):
        return None


# -- the backend ---------------------------------------------------------------------------------------------


def _backends(config: RunConfig) -> Iterator[Finding]:
    """That of `--backend`, and those that the endpoints' hosts tell."""
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
            says = f"{says}; older records are not found there unless {backend.raised_by} was raised"
            yield Finding("backend", "ok", says)
        else:
            says = f"{says}; older records are lost under the time policy {mapping.time_policy}"
            do = f"leave it to --backend {backend.profile}: {BACKENDS[backend.profile].time_policy}"
            yield Finding("backend", "warn", says, do)


# -- what `run` tells of itself ------------------------------------------------------------------------------


def _own_metrics(config: RunConfig) -> Iterator[Finding]:
    target = config.telemetry.target
    if target is None:
        return
    try:
        if target.url.startswith("https:"):
            tls_context(target)
    except ConfigError as error:
        yield Finding("own metrics", "fail", str(error), "change the setting under [self]")
        return
    yield Finding(
        "own metrics", "ok", f"go to {target.shown_url} every {config.telemetry.interval_seconds:g} s"
    )


def _health(config: HealthConfig, folder: StateFolder) -> Iterator[Finding]:
    """Whether the health check can listen, and its file be written."""
    if config.address is not None:
        host, port = config.address
        try:
            with HealthServer(host, port, alive=dict, ready=dict):
                yield Finding("health check", "ok", f"can listen on {host}, port {port}")
        except ConfigError as error:
            state: Health = "warn" if _is_held(folder) else "fail"
            do = "name another --health-addr; while `run` polls, it listens there itself"
            yield Finding("health check", state, str(error), do)
    if config.file is not None:
        file = Path(config.file)
        there = file if file.exists() else file.parent
        if file.is_dir() or not os.access(there, os.W_OK, effective_ids=True):
            says = f"--health-file {file}: cannot be written"
            yield Finding("health check", "fail", says, "name another --health-file")


def _is_held(folder: StateFolder) -> bool:
    try:
        return folder.holder() is not None
    except LedgerBroken:
        return False
