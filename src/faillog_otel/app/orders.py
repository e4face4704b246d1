"""What a run and its workers say to each other: orders one way, reports the other."""

from collections import Counter
from typing import Any

import msgspec
from msgspec import Struct, field

from faillog_otel.config import FailOn, RunConfig, Secret
from faillog_otel.ledger.counts import Accounted, Counts, Kept, Met, Stretch
from faillog_otel.ledger.exchanges import Index, Lessons
from faillog_otel.otlp.sender import Sent


class Piece(Struct, frozen=True):
    """A file, or the lines of one that stand from byte `start` to `end`. Its descriptor travels beside it."""

    name: str
    start: int
    end: int
    lines: int | None = None
    """So many lines stand before it in its file; None: it is a whole file, of whatever form."""


class Start(Struct, frozen=True, tag=True):
    """The first order: what the run is. `reference_ns` is the "now" of its time policy."""

    config: RunConfig
    reference_ns: int
    sends_rejected: bool = False


class Learn(Struct, frozen=True, tag=True):
    """Find out what the exchanges in these lines say, and how many lines they are."""

    piece: Piece


class LookInto(Struct, frozen=True, tag=True):
    """What all exchanges of a file say: the parts that follow are of this file."""

    index: Index


class Forward(Struct, frozen=True, tag=True):
    """Forward a part, from its record `position` on: those before it are written down.

    `carefully`: in small batches, so that little is done again when this worker dies, too.
    """

    part: int
    pieces: list[Piece]
    position: int = 0
    carefully: bool = False


class Settle(Struct, frozen=True, tag=True):
    """There is nothing to do at present: find out what became of everything that was read."""


class EndSending(Struct, frozen=True, tag=True):
    """Nothing is sent any more: what is read from now on is pending."""

    why: str


class Stop(Struct, frozen=True, tag=True):
    """The run was asked to stop: take nothing in, and find out what became of the rest."""


Order = Start | Learn | LookInto | Forward | Settle | EndSending | Stop


class Wanting(Struct, frozen=True, tag=True):
    """Everything that was ordered is read: another order, please."""


class Learned(Struct, frozen=True, tag=True):
    """The answer to Learn."""

    lines: int
    lessons: Lessons


class Written(Struct, frozen=True, tag=True, kw_only=True):
    """What became of the records that follow in a part; in the order of the part."""

    part: int
    counts: Counts
    kept: list[Kept]
    became: list[tuple[tuple[str, str, str], int]]
    shifted: set[int]
    met: dict[FailOn, Met]
    is_last: bool
    stopped_at: list[int | None] = field(default_factory=list)
    """With the last one, for each piece that was begun: where reading stopped, in bytes of the content; None:
    it was read to its end."""
    problems: list[str] = field(default_factory=list)
    """With the last one: what could not be read."""
    bytes_in: int = 0
    """With the last one: so much content the part has."""
    accounted: Accounted
    """The bytes of files that end with these records."""
    sent: Sent
    """What this worker sent so far."""
    over: str = ""
    """Why this worker sends nothing any more."""
    answers: list[tuple[str, str, float]] = field(default_factory=list)
    """Requests since the last report: signal, outcome, seconds."""

    def stretch(self) -> Stretch:
        """It once more, as books take it."""
        self.counts.bytes_in = self.bytes_in
        return Stretch(
            counts=self.counts,
            kept=self.kept,
            became=Counter(dict(self.became)),
            shifted=self.shifted,
            accounted=self.accounted,
            met=self.met,
            is_last=self.is_last,
        )


class Waits(Struct, frozen=True, tag=True):
    """A request waits: for what, and for how many seconds. The run says it, once for all workers."""

    what: str
    seconds: float


Report = Wanting | Learned | Written | Waits


def _reveal(secret: Any) -> Any:
    return secret.reveal()


def _secret(_type: type, text: Any) -> Any:
    return Secret(text)


encode = msgspec.msgpack.Encoder(enc_hook=_reveal).encode
read_order = msgspec.msgpack.Decoder[Order](Order, dec_hook=_secret).decode
read_report = msgspec.msgpack.Decoder[Report](Report).decode
