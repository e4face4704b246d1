"""`make campaign`: all parts, or those that are named; prints a table in Markdown.

`python -m campaign PART...` runs parts, `--case NAME` one case of a part, `table` shows what was found last.
What was found is left in `build/campaign/PART.json`; state folders of failed cases in `failed/` beside it.
Exits with 1 where anything was lost, invented, changed, or otherwise wrong.
"""

import argparse
import multiprocessing
import os
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import msgspec

from campaign.parts import Case, Table
from campaign.registry import PARTS, run_batch
from campaign.report import markdown

SHOWN_FAILURES = 5


def main() -> int:
    options = _read_options()
    names = options.parts or list(PARTS)
    if names == ["table"]:
        print(markdown(_tables(options.folder)))
        return 0
    options.folder.mkdir(parents=True, exist_ok=True)
    is_well = True
    for name in names:
        part = PARTS[name]
        size = options.size or (part.short if options.short else part.size)
        if not size:
            continue
        if options.case:
            table = _one_case(name, options, size)
        else:
            table = _run(name, options, size)
            (options.folder / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(table)))
        is_well = is_well and not table.failed
        print(markdown([table]), flush=True)
        for case, wrong in list(table.failed.items())[:SHOWN_FAILURES]:
            print(f"\n{name} --case {case}\n  " + "\n  ".join(wrong[:SHOWN_FAILURES]), flush=True)
    if len(names) > 1:
        print(markdown(_tables(options.folder)))
    return 0 if is_well else 1


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="campaign", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", choices=[*PARTS, "table", []], help=", ".join(PARTS)
    )
    parser.add_argument("--size", type=int, help="how many kills, images, ...; the part says what")
    parser.add_argument("--short", action="store_true", help="the short forms, a few minutes in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once")
    parser.add_argument("--case", help="one case of one part, by its name")
    parser.add_argument("--folder", type=Path, default=Path("build/campaign"), help="for what was found")
    return parser.parse_args()


def _run(name: str, options: argparse.Namespace, size: int) -> Table:
    part, seed = PARTS[name], options.seed
    table = _table(name, size, seed)
    failed = options.folder / "failed"
    shutil.rmtree(failed / name, ignore_errors=True)
    started = time.monotonic()
    done: list[Case] = []
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=options.jobs, mp_context=spawning) as pool:
        batches = part.plan(size, seed)
        while batches:
            for future in as_completed([pool.submit(run_batch, name, batch, failed) for batch in batches]):
                for case in future.result():
                    done.append(case)
                    table.add(case)
                _show_progress(table, started)
            batches = part.plan_more(size, seed, done)
    print(file=sys.stderr)
    if missing := part.missing(done):
        table.failed["all"] = [f"proves less than it says: {each} was never met" for each in missing]
        table.other += len(missing)
    table.seconds = time.monotonic() - started
    return table


def _one_case(name: str, options: argparse.Namespace, size: int) -> Table:
    table = _table(name, size, options.seed)
    for each in run_batch(name, [options.case], options.folder / "failed"):
        table.add(each)
    return table


def _table(name: str, size: int, seed: int) -> Table:
    part = PARTS[name]
    command = f"make campaign-{name}"
    if size != part.size or seed != 1:
        command += f" CAMPAIGN_ARGS='--size {size} --seed {seed}'"
    return Table(part=name, title=part.title, unit=part.unit, size=size, seed=seed, command=command)


def _show_progress(table: Table, started: float) -> None:
    print(
        f"\r{table.part}: {table.cases} cases, {len(table.failed)} failed,"
        f" {time.monotonic() - started:.0f} s",
        end="",
        file=sys.stderr,
        flush=True,
    )


def _tables(folder: Path) -> list[Table]:
    paths = [folder / f"{name}.json" for name in PARTS]
    return [msgspec.json.decode(path.read_bytes(), type=Table) for path in paths if path.exists()]


if __name__ == "__main__":
    sys.exit(main())
