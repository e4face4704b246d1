"""When polling, an attempt carries the status and reason of its exchange, from any object listed by then.

Segment is simulated: an exchange and its attempts are usually in different objects of an hour, and an
exchange may be in a later hour. The rest is real, and the program restarts several times a day.
"""

from pathlib import Path

import pytest
from support.exchange_answers import answers_run, judge
from support.tiers import slow_case

from faillog_otel.sandbox.config import ExchangeHour


@pytest.mark.timeout(3600)  # thirty days take four minutes of CPU
@pytest.mark.parametrize(
    ("exchange_hour", "days"), [("logged", 1), slow_case("message", 5), slow_case("logged", 30)]
)
def test_attempts_carry_what_their_exchange_says_and_exchanges_the_number_of_attempts(
    tmp_path: Path, exchange_hour: ExchangeHour, days: int
) -> None:
    with answers_run(tmp_path, exchange_hour=exchange_hour) as run:
        run.poll(days)
        found = judge(run)
    print(found)  # seen with -s
    assert found.wrong == []
    assert found.due > 50 * days
    assert found.share >= 0.99
    assert found.count_share >= 0.99
