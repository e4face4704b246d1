"""How far a run has come: every byte of its input counts once, and the time that is left is honest."""

import gzip
import io
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.clock import MovedClock
from support.delivery import delivery_to
from support.events import error, exchange
from support.tiers import slow_case
from support.worker_run import run_with_workers

from faillog_otel.app.progress import RECENT_SECONDS, Meter
from faillog_otel.config import DeliveryConfig, MappingConfig
from faillog_otel.inputs.exchange_index import ExchangeIndex
from faillog_otel.inputs.files import InputFile
from faillog_otel.ledger.kept_files import FileSink
from faillog_otel.ledger.results import Accounted
from faillog_otel.otlp.encoder import WireEncoder
from faillog_otel.pipeline.forwarder import Forwarder
from faillog_otel.sandbox.collector import Receiver

LINES = st.sampled_from([error(), exchange(), error(reason="r" * 5000), b"", b"{", b"  ", b"[]"])
FILES = st.builds(
    lambda lines, end, packs: gzip.compress(b"\n".join(lines) + end) if packs else b"\n".join(lines) + end,
    st.lists(LINES, max_size=40).flatmap(lambda few: st.sampled_from([few, few * 30])),
    st.sampled_from([b"", b"\n"]),
    st.booleans(),
)
AWAY = "http://127.0.0.1:9"


@pytest.mark.parametrize("examples", [30, slow_case(100)])
@pytest.mark.parametrize("is_away", [False, True])
def test_every_byte_is_accounted_for_once_and_none_too_early(examples: int, *, is_away: bool) -> None:
    def check(files: list[bytes]) -> None:
        check_progress(files, is_away=is_away)

    cases = example(files=[b"\n", b"\n".join([error()] * 7)])(check)
    settings(max_examples=examples)(given(files=st.lists(FILES, min_size=1, max_size=3))(cases))()


def check_progress(files: list[bytes], *, is_away: bool) -> None:
    told: list[Accounted] = []
    with tempfile.TemporaryDirectory() as name, Receiver() as receiver:
        endpoint = AWAY if is_away else receiver.http_endpoint
        with delivery_to(endpoint, MovedClock(), wait_seconds=0) as delivery:
            forwarder = Forwarder(
                encoder=WireEncoder(MappingConfig()),
                delivery=delivery,
                config=DeliveryConfig(batch_records=7),
                is_stopping=lambda: False,
            )
            kept = FileSink(str(Path(name, "quarantine")), str(Path(name, "pending")), reference_ns=0)
            for number, content in enumerate(files):
                path = Path(name, str(number))
                path.write_bytes(content)
                with InputFile(str(path), io.BytesIO(), nullcontext) as file:
                    forwarder.forward(file, kept, ExchangeIndex(), progress=told.append)
            forwarder.finish()
            kept.close()
    delivered, pending = (sum(getattr(each, of) for each in told) for of in ("delivered", "pending"))
    assert delivered + pending == sum(map(len, files))
    assert min((each.delivered for each in told), default=0) >= 0
    counts = forwarder.counts
    assert (pending > 0) == (counts.pending > 0)
    if counts.pending == counts.records > 0:
        assert pending >= sum(map(len, files)) // 2  # the rest is blank lines around the records


def test_every_byte_is_accounted_for_with_workers(tmp_path: Path) -> None:
    """Of files that are cut, and of small ones that are one part together; some of it is quarantined."""
    sizes = []
    files = [tmp_path / f"f{number}" for number in range(5)]
    for number, file in enumerate(files):
        file.write_bytes(b"\n".join([error(), b"{", b""] * (1000 if number == 2 else 20)))
        sizes.append(file.stat().st_size)
    told: list[Accounted] = []
    with Receiver() as receiver:
        run_with_workers(
            files, receiver.http_endpoint, tmp_path, workers=2, size=20_000, progress=told.append
        )
    assert sum(each.delivered for each in told) == sum(sizes)


@given(
    rate=st.floats(1, 1e9),
    seconds=st.integers(3, 100),
    looking=st.integers(0, 1000),
    rest=st.integers(1, 10**12),
)
def test_at_a_steady_rate_the_rest_of_the_time_is_what_it_takes(
    rate: float, seconds: int, looking: int, rest: int
) -> None:
    """However long the input was looked through before anything was sent: no rest of twelve hours."""
    clock = MovedClock()
    meter = Meter(clock.monotonic)
    clock.wait(looking)
    for _ in range(seconds):
        clock.wait(1.0)
        meter.take(Accounted(round(rate)))
    meter.total = meter.delivered + rest
    left = meter.seconds_left()
    assert left is not None
    assert left == pytest.approx(rest / round(rate), rel=0.01)


def test_the_shown_time_goes_by_the_recent_speed_and_is_absent_after_a_silence() -> None:
    clock = MovedClock()
    meter = Meter(clock.monotonic)
    meter.total = 100_000
    assert meter.seconds_left() is None
    for _ in range(100):
        clock.wait(1.0)
        meter.take(Accounted(100))
    for _ in range(60):  # ten times slower
        clock.wait(1.0)
        meter.take(Accounted(10))
    assert meter.seconds_left() == pytest.approx((100_000 - 10_600) / 10, rel=0.05)
    clock.wait(RECENT_SECONDS / 2)  # half of the recent time brought nothing
    assert meter.seconds_left() == pytest.approx((100_000 - 10_600) / 5, rel=0.1)
    clock.wait(RECENT_SECONDS / 2 + 1)
    assert meter.seconds_left() is None


@given(
    taken=st.lists(st.builds(Accounted, st.integers(0, 50), st.integers(0, 50)), max_size=20),
    total=st.integers(1, 500),
)
def test_100_percent_means_that_everything_was_delivered(taken: list[Accounted], total: int) -> None:
    meter = Meter(MovedClock().monotonic)
    meter.total = total
    for each in taken:
        meter.take(each)
    assert (meter.percent() == 100) == (meter.delivered >= total)
