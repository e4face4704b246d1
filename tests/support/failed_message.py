"""A message that could not be delivered: its attempts, the exchange of each, and that it was given up."""

import hashlib
import json

from faillog_otel.clock import SECOND_NS, time_text
from faillog_otel.propagation import trace_id_of
from support.events import attempt, error, exchange, lines


class FailedMessage:
    """Attempted for the first time at `started_ns` (nanoseconds since 1970), then every minute."""

    attempts = 3

    def __init__(self, message_id: str, started_ns: int) -> None:
        self.message_id = message_id
        self.trace_id = trace_id_of(message_id)
        self.started_seconds = started_ns // SECOND_NS
        self.exchanges = [f"{message_id}-exchange-{number}" for number in range(1, self.attempts + 1)]

    def content(self) -> bytes:
        """The failure log of it."""
        events = []
        for number, exchange_id in enumerate(self.exchanges, 1):
            at = time_text((self.started_seconds + 60 * number) * SECOND_NS)
            shared = {"destinationExchangeId": exchange_id, "occurredAt": at, "loggedAt": at}
            events.append(attempt(messageId=self.message_id, attempt=number, **shared))
            events.append(exchange(**shared))
        events.append(error(messageId=self.message_id, occurredAt=at, loggedAt=at))
        return lines(*events)

    def exchange_spans(self) -> list[tuple[str, str]]:
        """Trace id and span id of each exchange, by the formula in docs/concepts/ids.md."""
        texts = [
            json.dumps(["segment.exchange", each], separators=(",", ":")).encode() for each in self.exchanges
        ]
        digests = [hashlib.sha256(text).hexdigest() for text in texts]
        return [(digest[:32], digest[32:48]) for digest in digests]
