"""What `doctor` checks over the network: Segment's API, the clock, the collector, and the proxies to them."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

from msgspec import Struct

from faillog_otel.clock import SECOND_NS, Clock
from faillog_otel.config import DeliveryConfig, RunConfig, Secret, SegmentConfig, Target
from faillog_otel.errors import ConfigError
from faillog_otel.network import OTLP, origin_of, proxy_to, variable_unused
from faillog_otel.otlp.delivery import network_client
from faillog_otel.otlp.outcome import Acknowledged, PartlyRejected, RetryLater
from faillog_otel.segment import api
from faillog_otel.segment.http_client import Network, network_of, timeout_within

# -- finding -------------------------------------------------------------------------------------------------
#
# What `doctor` found: one thing that was looked at, and what to do where it is not well.


Health = Literal["ok", "warn", "fail"]


class Finding(Struct, frozen=True):
    """One thing that was looked at."""

    check: str
    state: Health
    says: str
    do: str = ""
    """What to do; empty where it is ok."""


# -- reachability --------------------------------------------------------------------------------------------


CLOCK_IS_WRONG_SECONDS = 60
TIMEOUT_SECONDS = 10.0
"""For Segment's answer: who looks, waits."""


def segment_findings(
    config: SegmentConfig,
    token: Callable[[], Secret],
    user_agent: str,
    clock: Clock,
    wait_seconds: float,
) -> Iterator[Finding]:
    """Yields findings about the token, the proxy and the clock, by a request that costs no quota.

    `wait_seconds` bounds the wait for the answer, as in `run`.
    """
    try:
        token()
    except ConfigError as error:
        state: Health = "fail" if config.collections else "warn"
        yield Finding("token", state, str(error), "make a Public API token in the workspace, and set it")
        return
    try:
        network = network_of(config, os.environ)
    except ConfigError as error:
        yield Finding("network", "fail", str(error), "change the setting that it names")
        return
    timeout_seconds = timeout_within(wait_seconds, TIMEOUT_SECONDS)
    segment = api.SegmentApi(config.url, token, user_agent, timeout_seconds=timeout_seconds, network=network)
    try:
        before_ns = clock.now_ns()
        answered = segment.check_token(before_ns)
        now_ns = (before_ns + clock.now_ns()) // 2
    finally:
        segment.close()
    yield _token(answered.outcome, config)
    yield from _proxy(config, network, is_answered=answered.is_answered)
    if answered.date_ns is None:
        whose = "answer has no Date header" if answered.is_answered else "answer did not come"
        says = f"Segment's {whose}; the clock was not checked"
        yield Finding("clock", "warn", says, "see that Segment answers, and what stands between: a proxy?")
        return
    ahead = (now_ns - answered.date_ns) // SECOND_NS
    if abs(ahead) > CLOCK_IS_WRONG_SECONDS:
        says = f"it is {abs(ahead)} s {'ahead of' if ahead > 0 else 'behind'} Segment's"
        do = "set this machine's clock: `run` goes by Segment's time, `status` and `plan` by this one"
        yield Finding("clock", "warn", says, do)
    else:
        yield Finding("clock", "ok", "is Segment's, within a minute")


def _proxy(config: SegmentConfig, network: Network, *, is_answered: bool) -> Iterator[Finding]:
    """The proxy to Segment, or that of the environment that is not used. Passwords are not shown."""
    if proxy := network.proxies.proxy_of(*origin_of(config.url)):
        yield Finding("proxy", "ok", f"{config.url}: through {proxy.url}")
    elif variable := variable_unused(config.url, config.proxy, os.environ):
        says = f"{variable} is set, and not used for Segment and S3"
        do = 'to use it: [segment] proxy = "environment", or FAILLOG_SEGMENT_PROXY=environment'
        yield Finding("proxy", "ok", says) if is_answered else Finding("proxy", "warn", says, do)


def _token(outcome: api.Outcome, config: SegmentConfig) -> Finding:
    if isinstance(outcome, api.Listing):
        return Finding("token", "ok", f"{config.url}: takes it")
    says = outcome.why if config.url in outcome.why else f"{config.url}: {outcome.why}"
    if isinstance(outcome, api.Denied):
        remedy = "make a Public API token in the workspace, and set SEGMENT_TOKEN"
        # Forbidden here, it may still be good for the failure logs.
        return Finding("token", "fail" if outcome.is_token_wrong else "warn", says, remedy)
    if isinstance(outcome, api.RateLimited):
        return Finding("token", "warn", says, "look again later")
    return Finding("token", "fail", says, "look at --segment-url (us or eu?) and at the network")


def collector_findings(config: RunConfig, user_agent: str) -> Iterator[Finding]:
    """Yields a finding for each signal, by an empty request, and for proxies, used or not."""
    if config.delivery.writes:
        yield _output(config.delivery)
        return
    try:
        client = network_client(config.delivery, config.mapping.resource, user_agent)
    except ConfigError as error:
        yield Finding("collector", "fail", str(error), "change the setting")
        return
    answered: list[Target] = []
    try:
        for signal in config.delivery.signals:
            outcome = client.send(signal, [])
            url = config.delivery.targets[signal].shown_url
            why = getattr(outcome, "why", "")
            where = signal if url in why else f"{signal} to {url}"
            if isinstance(outcome, Acknowledged | PartlyRejected):
                answered.append(config.delivery.targets[signal])
                state: Health = "warn" if outcome.message else "ok"
                says = f"{where}: {outcome.message or 'takes an empty request'}"
                yield Finding("collector", state, says, "ask who runs it" if outcome.message else "")
            elif isinstance(outcome, RetryLater):
                do = "does it run, and is --endpoint right?"
                yield Finding("collector", "fail", f"{where}: {why}", do)
            else:
                do = "are --endpoint, --protocol and --header right?"
                yield Finding("collector", "fail", f"{where}: {why}", do)
    finally:
        client.close()
    telemetry = config.telemetry.target
    targets = [*config.delivery.targets.values(), *([telemetry] if telemetry else [])]
    yield from _used_proxies(targets)
    yield from _unused_proxies(targets, answered)


def _used_proxies(targets: Iterable[Target]) -> Iterator[Finding]:
    """Through which proxies the targets are reached. An unusable one was a finding before."""
    for target in targets:
        with suppress(ConfigError):
            if proxy := proxy_to(target.url, target.proxy, os.environ):
                yield Finding("proxy", "ok", f"{target.shown_url}: through {proxy.url}")


def _unused_proxies(targets: Iterable[Target], answered: Collection[Target]) -> Iterator[Finding]:
    """Proxies of the environment that are not used: a warning where a target did not answer."""
    found: dict[str, list[Target]] = {}
    for target in targets:
        if name := variable_unused(target.url, target.proxy, os.environ, OTLP):
            found.setdefault(name, []).append(target)
    for name, unused in found.items():
        says = (
            f"{name} is set, and not used for {', '.join(dict.fromkeys(each.shown_url for each in unused))}"
        )
        do = 'to use it: [otlp] proxy = "environment", or FAILLOG_OTLP_PROXY=environment'
        is_well = all(target in answered for target in unused)
        yield Finding("proxy", "ok", says) if is_well else Finding("proxy", "warn", says, do)


def _output(config: DeliveryConfig) -> Finding:
    """Where records are written: as `run` opens it, and without making it."""
    says = f"none: records are written ({config.writes})"
    path = Path(config.output or os.devnull)
    there = path if path.exists() else path.parent
    if path.is_dir() or not there.exists() or not os.access(there, os.W_OK, effective_ids=True):
        return Finding("collector", "fail", f"--output {path}: cannot be written", "name another --output")
    return Finding("collector", "ok", says)
