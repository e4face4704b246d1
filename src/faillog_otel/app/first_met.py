"""The first record that met each condition of `--fail-on`, in words that a log line can show."""

from collections.abc import Iterable

from faillog_otel.config import FailOn
from faillog_otel.events.decode import decode
from faillog_otel.events.entry import Learned, read_entry
from faillog_otel.events.model import BadRecord, Event
from faillog_otel.events.redaction import redact_text
from faillog_otel.ledger.counts import Kept, Met, Stretch
from faillog_otel.text import peer_text

FirstMet = dict[FailOn, Met]


def note_first(first: FirstMet, stretch: Stretch) -> None:
    """Adds what a stretch met, where nothing before it did. Stretches come in the order of their records."""
    for condition, met in stretch.met.items():
        first.setdefault(condition, met)
    if "quarantined" not in first and (met_kept := _met_by_kept(stretch.kept)):
        first["quarantined"] = met_kept


def met_by(raw: bytes, file: str, line: int, learned: Learned | None) -> Met:
    """What is said of a record that met a condition: its message, its destination, and why it failed."""
    event = decode(raw)
    if isinstance(event, BadRecord):
        return Met(file, line, why=f"{event.reason}: {event.detail}")
    return Met(
        file,
        line,
        message_id=peer_text(getattr(event.properties, "message_id", None) or "", str),
        destination=event.routing.destination_id or "",
        why=_why(event, learned),
    )


def _why(event: Event, learned: Learned | None) -> str:
    answer = learned.answer if learned else None
    reason = event.reason or (answer.reason if answer else None)
    parts = [f"HTTP {answer.status}"] if answer and answer.status else []
    parts += [peer_text(reason.text, redact_text)] if reason else []
    return ": ".join(parts)


def _met_by_kept(kept: Iterable[Kept]) -> Met | None:
    """The first record that went to the quarantine; None where no record did."""
    for each in kept:
        if each.where == "quarantine":
            entry = read_entry(each.entry)
            if entry is None:
                return Met("", 0, why=each.reason)
            record = entry.record()
            met = met_by(record, entry.file, entry.line or 0, entry.context) if record else None
            why = f"{each.reason}: {entry.detail}" if entry.detail else each.reason
            return Met(
                entry.file,
                entry.line or 0,
                message_id=met.message_id if met else "",
                destination=met.destination if met else "",
                why=why,
            )
    return None
