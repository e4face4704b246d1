"""Ten thousand objects in one run: memory, descriptors and threads stay flat."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from campaign.bulk import Bulk, Expected, Measured, story
from campaign.parts import Case, Part

HOURS = 20
MIB = 1024 * 1024
MAX_GROWTH_BYTES = 16 * MIB
MAX_GROWTH = 2
"""Of descriptors and threads."""


class ManyObjects(Part):
    """One case; its name is how many objects."""

    title = "many objects in one run"
    unit = "objects"
    size = 10_000
    short = 300

    def plan(self, size: int, _seed: int) -> list[list[str]]:
        """The case."""
        return [[str(size)]]

    def run(self, names: Sequence[str], folder: Path) -> Iterator[Case]:
        """Runs it."""
        [name] = names
        count, expected, made = int(name), Expected(), dict[str, bytes]()
        shown: dict[str, list[str]] = {}

        def urls(hour: str) -> list[str]:
            if hour not in shown:
                first = len(made)
                new = [str(number) for number in range(first, min(count, first + -(-count // HOURS)))]
                made.update({each: story(int(each), expected) for each in new})
                shown[hour] = new
            return shown[hour]

        case = Case(name)
        with Bulk(urls, lambda each: iter([made[each]]), lambda each: len(made[each])) as bulk:
            process = bulk.start(folder, f"-{HOURS + 4}h")
            measured = bulk.watch(process, 0.2)
            bulk.judge(case, expected, process, folder)
        if bulk.downloads < count:
            case.wrong.append(f"{bulk.downloads} objects were downloaded of {count}")
        case.counts |= {"objects": bulk.downloads, "listings": bulk.listings, "records": bulk.logs}
        _judge_flatness(case, measured)
        yield case


def _judge_flatness(case: Case, measured: Sequence[Measured]) -> None:
    """The second half of the run needs no more than its second quarter."""
    if len(measured) < 8:
        case.wrong.append(f"measured {len(measured)} times only")
        return
    early, late = measured[len(measured) // 4 : len(measured) // 2], measured[len(measured) // 2 :]
    for name, of, most in (
        ("memory, bytes", lambda each: each.memory_bytes, MAX_GROWTH_BYTES),
        ("descriptors", lambda each: each.descriptors, MAX_GROWTH),
        ("threads", lambda each: each.threads, MAX_GROWTH),
    ):
        before, after = max(map(of, early)), max(map(of, late))
        case.peaks[f"{name}, second quarter"] = before
        case.peaks[f"{name}, second half"] = after
        if after > before + most:
            case.wrong.append(f"{name}: {before} in the second quarter, {after} in the second half")
