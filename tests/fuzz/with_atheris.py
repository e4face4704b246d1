"""Inputs that grow from the seeds, led by the lines of the program that they reach: `make fuzz`.

Options are libFuzzer's, such as `-runs=200000`. An input that goes wrong, or takes longer than a second,
ends the run with an error and stays in `tests/fuzz/finds/`, where the tests replay it from then on. What
reached something new stays in `build/fuzz/corpus/`, where the next run begins.
"""

import hashlib
import sys
from pathlib import Path

try:
    import atheris
except ModuleNotFoundError:
    sys.exit("atheris is not here: it has wheels for Linux on x86-64, up to Python 3.13")

with atheris.instrument_imports(include=["faillog_otel"]):
    from fuzz.seeds import PACKINGS, packing_of, seeds
    from fuzz.target import check

    from faillog_otel.inputs.files import StopAtCorruption, unpack

HERE = Path(__file__).parent
CORPUS = Path("build", "fuzz", "corpus")
FINDS = HERE / "finds"
OPTIONS = (
    "-timeout=1",
    "-rss_limit_mb=1024",
    "-max_len=4096",
    f"-dict={HERE / 'tokens.dict'}",
    f"-artifact_prefix={FINDS}/",
)


def main() -> None:
    CORPUS.mkdir(parents=True, exist_ok=True)
    FINDS.mkdir(exist_ok=True)
    for seed in seeds():
        (CORPUS / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(
            seed
        )  # libFuzzer's names
    atheris.Setup([sys.argv[0], *OPTIONS, *sys.argv[1:], str(CORPUS)], check, custom_mutator=mutated)
    atheris.Fuzz()


def mutated(data: bytes, max_bytes: int, seed: int) -> bytes:
    """The file changed; of a packed one mostly its content, which checksums would shield else."""
    pack = packing_of(data)
    if pack is PACKINGS[0] or seed % 8 == 0:
        changed: bytes = atheris.Mutate(data, max_bytes)
        return changed
    content = b"".join(StopAtCorruption(unpack([data], max_bytes)))
    return pack(atheris.Mutate(content, max_bytes))[:max_bytes]


if __name__ == "__main__":
    main()
