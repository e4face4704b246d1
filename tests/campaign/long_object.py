"""One object of ten million records: how long it takes, how much memory, and whether the law holds."""

import gzip
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from campaign.bulk import RECORDS_IN_A_STORY, Bulk, Expected, story
from campaign.parts import Case, Part

PIECE_BYTES = 1 << 18
MIB = 1024 * 1024
MAX_PEAK_BYTES = 400 * MIB


class LongObject(Part):
    """One case; its name is how many records (in whole stories)."""

    title = "one long object"
    unit = "records"
    size = 10_000_000
    short = 50_000

    def plan(self, size: int, _seed: int) -> list[list[str]]:
        """The case."""
        return [[str(size)]]

    def run(self, names: Sequence[str], folder: Path) -> Iterator[Case]:
        """Runs it."""
        [name] = names
        path, expected = folder / "object.jsonl.gz", Expected()
        length = 0
        with gzip.open(path, "wb", compresslevel=1) as file:
            for number in range(-(-int(name) // RECORDS_IN_A_STORY)):
                content = story(number, expected)
                length += len(content)
                file.write(content)
        shown: dict[str, list[str]] = {}

        def urls(hour: str) -> list[str]:
            return shown.setdefault(hour, [] if shown else ["long"])

        def content_of(_name: str) -> Iterator[bytes]:
            with path.open("rb") as file:
                yield from iter(lambda: file.read(PIECE_BYTES), b"")

        case = Case(name)
        started = time.monotonic()
        with Bulk(urls, content_of, lambda _name: path.stat().st_size) as bulk:
            process = bulk.start(folder, "-6h")
            measured = bulk.watch(process, 0.2)
            seconds = time.monotonic() - started
            bulk.judge(case, expected, process, folder)
        peak = max(each.peak_bytes for each in measured)
        if peak > MAX_PEAK_BYTES:
            case.wrong.append(f"{peak / MIB:.0f} MiB of memory")
        case.counts["records"] = bulk.logs
        case.peaks |= {
            "MiB of the object, unpacked": round(length / MIB, 1),
            "MiB of memory at most": round(peak / MIB, 1),
            "seconds": round(seconds, 1),
        }
        yield case
