"""Each text of `redaction_corpus.toml` is redacted exactly where it says, and nowhere else."""

import json
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from faillog_otel.redact import redact_text

CORPUS = tomllib.loads((Path(__file__).parent / "redaction_corpus.toml").read_text(encoding="utf-8"))
MARKED = re.compile(r"«(?:(email|ip|phone)\|)?(.*?)»", re.DOTALL)


class Probe(NamedTuple):
    """A text, the same text redacted, and what of it must not be seen."""

    about: str
    text: str
    redacted: str
    secrets: tuple[str, ...]


def _probe(about: str, marked: str) -> Probe:
    """A marked value in quotes is a JSON number that becomes a string."""
    return Probe(
        about,
        MARKED.sub(lambda found: found[2], marked),
        MARKED.sub(lambda found: f"[redacted:{found[1] or 'secret'}]", marked),
        tuple(found[2] for found in MARKED.finditer(marked)),
    )


REPLACED = [_probe(about, text) for about, texts in CORPUS["replaced"].items() for text in texts]
KEPT = [_probe(about, text) for about, texts in CORPUS["kept"].items() for text in texts]


def leaks(probe: Probe) -> list[str]:
    """The words of the probe's secrets that are in the redacted text more often than around them."""
    shown = redact_text(probe.text)
    words = {word for secret in probe.secrets for word in re.findall(r"\w{2,}", secret)}
    return [word for word in sorted(words) if shown.count(word) > probe.redacted.count(word)]


def test_the_corpus_is_large() -> None:
    assert len(REPLACED) >= 150
    assert len(KEPT) >= 60


@pytest.mark.parametrize("probe", REPLACED, ids=lambda probe: repr(probe.text))
def test_what_the_corpus_marks_is_replaced_and_nothing_else(probe: Probe) -> None:
    assert leaks(probe) == []
    assert redact_text(probe.text) == probe.redacted
    assert redact_text(probe.redacted) == probe.redacted


@pytest.mark.parametrize("probe", KEPT, ids=lambda probe: repr(probe.text))
def test_what_the_corpus_keeps_stays(probe: Probe) -> None:
    assert redact_text(probe.text) == probe.text


@pytest.mark.parametrize("probe", REPLACED, ids=lambda probe: repr(probe.text))
def test_it_is_replaced_inside_json_as_well_and_the_json_stays_valid(probe: Probe) -> None:
    text = json.dumps({"body": probe.text, "other": "x"})
    shown = json.loads(redact_text(text))
    assert shown == {"body": probe.redacted, "other": "x"}
