"""What the quota gives over 30 days, by the number of collections:
`PYTHONPATH=tests .venv/bin/python -m benchmarks.thirty_days`.

First from a first start without a past, then with 28 days of hours waiting; calm, then with failures, 429s,
restarts and clock steps.
"""

from support.thirty_days import CALM, ROUGH, thirty_days


def main() -> None:
    print(
        "collections  past  trouble  most/24h    hours  missed  records  age h: median    95 %  requests each"
    )
    for backlog_days in (0, 28):
        for trouble in (CALM, ROUGH):
            for collections in (1, 2, 4, 5, 20):
                found = thirty_days(collections, trouble=trouble, backlog_days=backlog_days)
                each = found.by_collection.values()
                print(
                    f"{collections:>11}  {backlog_days:>2} d  {'calm' if trouble is CALM else 'rough':>7}"
                    f"  {found.max_in_24_hours:>8}  {found.expected:>7}  {found.missed:>6}"
                    f"  {found.records:>7.2%}  {found.median_hours:>13.1f}  {found.slowest_hours:>6.1f}"
                    f"  {min(each):>6} to {max(each)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
