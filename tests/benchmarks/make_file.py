"""Makes a file of failure logs: `python tests/benchmarks/make_file.py --messages 250000 > big.jsonl`.

With `--mix`, of 10 attempts : 3 errors : 1 exchange, as benchmarks of others are made of: batches of ten
messages on average, of which three fail for good; responses of 1.5 to 4 KB, requests of up to 4 KB.
"""

import argparse
import random
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from msgspec import Struct

from faillog_otel.sandbox.generator import DESTINATIONS, Destination, DestinationAnswer, failure_events

FEWEST_EVENTS_PER_MESSAGE = 1.1
"""Each message has an attempt, every nineteen or fewer of them an exchange: so many messages surely do."""


REPORTS = 600
"""So many different answers: far more than are remembered, so nearly each one is redacted as if it were new.
They are of one kind, though, as one destination's are: their words come again."""


def _report(rng: random.Random, size: int) -> dict[str, Any]:
    """A destination's answer of about so many bytes."""
    why = "'properties.time' is invalid: must be specified as seconds since epoch"
    failed = [
        {"index": rng.randrange(size), "insert_id": f"{rng.getrandbits(128):032x}", "message": why}
        for _ in range(size // 141)
    ]
    return {"code": 400, "failed_records": failed}


def _answers() -> Iterator[DestinationAnswer]:
    rng = random.Random(1)
    for status in [200] * 7 + [400] * 3:
        for _ in range(REPORTS // 10):
            yield DestinationAnswer(1, status, _report(rng, rng.randint(1_500, 4_000)))


MIX = Destination(
    "5f7dd6d21ad74f3842b1fc47",
    "Mixpanel (Actions)",
    "https://api.mixpanel.com/import?strict=1",
    tuple(_answers()),
    batch=19,
    subscription_id="gMkWhSqGUyqGTV7BSZXHUu",
)


class Made(Struct, frozen=True):
    """A file of failure logs, and what has to arrive of it: a log record for each event, so many spans."""

    path: Path
    events: int
    spans: int
    bytes: int


def make_mix(path: Path, events: int, seed: int = 1) -> Made:
    """Writes exactly so many events of the mix. Memory stays flat: nothing in it is tried again."""
    spans = size = 0
    messages = int(events / FEWEST_EVENTS_PER_MESSAGE) + MIX.batch
    with path.open("wb") as file:
        for event in islice(failure_events(seed, messages, destinations=(MIX,)), events):
            spans += b'"event":"Error Logged"' not in event
            size += file.write(event + b"\n")
    return Made(path, events, spans, size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--messages", type=int, required=True, help="about four events each; 1.4 with --mix")
    parser.add_argument("--mix", action="store_true", help="10 attempts : 3 errors : 1 exchange")
    chosen = parser.parse_args()
    destinations = (MIX,) if chosen.mix else DESTINATIONS
    for event in failure_events(chosen.seed, chosen.messages, destinations=destinations):
        sys.stdout.buffer.write(event + b"\n")


if __name__ == "__main__":
    main()
