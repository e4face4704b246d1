"""The hours between `--since` and `--until`: whether there are any, and whether Segment still has them."""

from faillog_otel.clock import MIN_TIME_NS, RETENTION_NS, duration_text, time_text
from faillog_otel.config import SegmentConfig
from faillog_otel.errors import ConfigError


def check_window(config: SegmentConfig, now_ns: int, noted_since_ns: int | None = None) -> list[str]:
    """Warnings about the window at this time. Raises ConfigError where no hour is in it.

    `noted_since_ns`: what an earlier run wanted stays wanted, so an absolute `--until` may by now lie before
    a relative `--since`. A relative and an absolute time compare by the machine's clock, which may be wrong:
    that is a warning. A default `--since` is no mistake.
    """
    since, until, warnings = config.since, config.until, []
    since_ns = since.ns(now_ns)
    if until is not None and since_ns >= (until_ns := until.ns(now_ns)):
        says = f"--since ({time_text(since_ns)}) is not before --until ({time_text(until_ns)})"
        is_certain = (since.at_ns is None) == (until.at_ns is None)
        was_wanted = noted_since_ns is not None and noted_since_ns < until_ns
        if config.is_since_given and is_certain:
            raise ConfigError(f"{says}: no hour lies between them; exchange them, or name others")
        if not was_wanted:
            warnings.append(f"{says} by this machine's clock: no hour lies between them; name a --since")
    if now_ns < MIN_TIME_NS or not config.is_since_given:
        return warnings
    if since_ns > now_ns:
        ahead = duration_text((since_ns - now_ns) / 1e9)
        warnings.append(
            f"--since {time_text(since_ns)} is {ahead} in the future by this machine's clock: no hour"
            " that an earlier run did not want is asked for until then"
        )
    elif since_ns < now_ns - RETENTION_NS:
        warnings.append(
            f"--since {time_text(since_ns)} is more than 28 days ago, and Segment has no older hours:"
            f" the first that can be read begins after {time_text(now_ns - RETENTION_NS)}"
        )
    return warnings
