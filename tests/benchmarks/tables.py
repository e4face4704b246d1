"""The results of a benchmark as tables for a terminal."""

from collections.abc import Iterator, Sequence

from benchmarks.length import Length
from benchmarks.ratios import median_ratio
from benchmarks.results import MIB, Results, ShapeResult, bars


def lines(results: Results) -> Iterator[str]:
    """Yields all of it."""
    machine = results.machine
    yield (
        f"{machine.cores} x {machine.processor}, {machine.system}, Python {machine.python}, {machine.date};"
        f" load average {machine.load:.1f} at the beginning"
    )
    if results.shapes:
        yield from ("", *_shapes(results.shapes))
    if results.scores:
        yield from ("", *_contest(results))
    if results.limits:
        yield ""
    for protocol, limit in results.limits.items():
        yield (
            f"the sink alone, {protocol}: {limit.records_per_second:,.0f} records/s,"
            f" {limit.bytes_per_second / MIB:,.0f} MiB/s, CPU {limit.cpu_us_per_record:.2f} µs per record"
        )
    if stages := results.stages:
        yield f"decode only: {stages.decode_us:.1f} µs per event; map and encode: {stages.encode_us:.1f} µs"
    if results.lengths:
        yield from ("", *_lengths(results.lengths))
    if results.help_seconds is not None:
        yield f"\n--help: {results.help_seconds:.2f} s"
    yield ""
    for bar in bars(results):
        yield f"{'met    ' if bar.is_met else 'NOT MET'}  {bar.text}: {bar.shown}"


def _shapes(shapes: Sequence[ShapeResult]) -> Iterator[str]:
    width = max(len(each.about) for each in shapes)
    yield "1 worker, 2 workers, the tuned Collector; the Collector sends one record per event"
    yield (
        f"{'shape of the file':<{width}} {'events/s':>8} {'2 work.':>8} {'Coll.':>8} {'1 to C.':>7}"
        f" {'2 to C.':>7} {'CPU µs/event':>12} {'µs/record':>9} {'Coll. µs':>8}"
        f" {'MiB 1':>6} {'MiB 2':>6} {'Coll.':>6}"
    )
    for each in shapes:
        one, two, collector = each.one, each.two, each.collector
        mib = [score.peak_bytes / MIB for score in (one, two, collector)]
        yield (
            f"{each.about:<{width}} {one.events_per_second:>8,.0f} {two.events_per_second:>8,.0f}"
            f" {collector.events_per_second:>8,.0f} {each.one_to_collector:>7.2f}"
            f" {each.two_to_collector:>7.2f} {one.cpu_us_per_event:>12.1f} {one.cpu_us_per_record:>9.1f}"
            f" {collector.cpu_us_per_event:>8.1f} {mib[0]:>6.1f} {mib[1]:>6.1f} {mib[2]:>6.1f}"
        )


def _contest(results: Results) -> Iterator[str]:
    first = results.scores[0]
    width = max(len(each.title) for each in results.scores)
    yield f"400 routes, {results.events:,} events, {results.bytes / MIB:,.0f} MiB; ratios to {first.title}"
    yield (
        f"{'':<{width}} {'events/s':>9} {'ratio':>6} {'CPU µs/event':>13} {'ratio':>6} {'µs/record':>9}"
        f" {'peak MiB':>9} {'sent B/event':>13} {'delivered':>10} {'sink CPU':>9}"
    )
    for each in results.scores:
        ratio = median_ratio(first.seconds, each.seconds)
        cpu_ratio = median_ratio(each.cpu_seconds, first.cpu_seconds)
        yield (
            f"{each.title:<{width}} {each.events_per_second:>9,.0f} {ratio:>6.2f}"
            f" {each.cpu_us_per_event:>13.1f} {cpu_ratio:>6.2f} {each.cpu_us_per_record:>9.1f}"
            f" {each.peak_bytes / MIB:>9.1f} {each.bytes_per_event:>13.0f} {each.delivered:>10.1%}"
            f" {each.sink_cpu_seconds:>7.2f} s"
        )


def _lengths(lengths: Sequence[Length]) -> Iterator[str]:
    yield "1 worker, 400 routes; ratios to the shortest file"
    yield (
        f"{'events':>10} {'MiB file':>9} {'seconds':>8} {'µs/event':>9} {'ratio':>6} {'CPU µs':>7}"
        f" {'ratio':>6} {'peak MiB':>9}"
    )
    for each in lengths:
        yield (
            f"{each.events:>10,} {each.file_bytes / MIB:>9,.0f} {each.seconds:>8.1f}"
            f" {each.us_per_event:>9.1f} {each.to_shortest:>6.2f} {each.cpu_us_per_event:>7.1f}"
            f" {each.cpu_to_shortest:>6.2f} {each.peak_bytes / MIB:>9.1f}"
        )
