"""Makes a file of failure logs: `python tests/benchmarks/make_file.py --messages 250000 > big.jsonl`."""

import argparse
import sys

from faillog_otel.segment.generator import failure_events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--messages", type=int, required=True, help="failing messages; about four events each"
    )
    chosen = parser.parse_args()
    for event in failure_events(chosen.seed, chosen.messages):
        sys.stdout.buffer.write(event + b"\n")


if __name__ == "__main__":
    main()
