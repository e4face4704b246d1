"""The simulated workspace: its sources, its destinations, and how each of these fails."""

import random
import string
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

SOURCE_ID = "qL9vTgNcd3xW2b5Yp8RkZm"


class DestinationAnswer(Struct, frozen=True):
    """One response of a destination. `weight`: its relative frequency; `retried`: whether Segment retries.

    A status of None is a timeout.
    """

    weight: int
    status: int | None
    body: dict[str, Any]
    retried: bool = False
    headers: dict[str, str] = {}
    reason: str | None = None


class Destination(Struct, frozen=True):
    """One destination, and how it fails."""

    id: str
    name: str
    url: str
    answers: tuple[DestinationAnswer, ...]
    batch: int = 1
    """The maximum number of messages in one exchange."""
    passes_through: bool = False
    """Whether it receives a tracked event unchanged, instead of a mapping of it."""
    subscription_id: str | None = None
    """The mapping of an Actions destination."""
    feature: str = "delivery"
    """The draft's `featureName`."""
    source: str = SOURCE_ID
    """The source whose events it receives."""


_OK = {"status": "ok"}
DESTINATIONS: tuple[Destination, ...] = (
    Destination(
        "5f7dd6d21ad74f3842b1fc47",
        "Mixpanel (Actions)",
        "https://api.mixpanel.com/import?strict=1",
        (
            DestinationAnswer(3, 200, _OK),
            DestinationAnswer(
                6, 400, {"code": 400, "error": "some data points in the request failed validation"}
            ),
            DestinationAnswer(
                3,
                429,
                {"error": "rate limit exceeded"},
                retried=True,
                headers={"Retry-After": "30", "X-RateLimit-Remaining": "0"},
            ),
        ),
        batch=8,
        subscription_id="gMkWhSqGUyqGTV7BSZXHUu",
    ),
    Destination(
        "60f9d0d048950c356be2e4da",
        "Braze Cloud Mode (Actions)",
        "https://rest.iad-01.braze.com/users/track",
        (DestinationAnswer(1, 401, {"message": "Invalid API key"}, reason="INVALID_SETTINGS"),),
        batch=5,
        subscription_id="4GvPnyVm2LxcBe6Tq8RkZa",
    ),
    Destination(
        "614a3c7d791c91c41bae7599",
        "Webhooks (Actions)",
        "https://hooks.shop.example/segment",
        (
            DestinationAnswer(4, 200, _OK),
            DestinationAnswer(5, 500, {"error": "Internal Server Error"}, retried=True),
            DestinationAnswer(4, None, {}, retried=True, reason="ETIMEDOUT"),
        ),
        passes_through=True,
        subscription_id="nD3uWpRr7TbYs5KfJx9QeC",
    ),
    Destination(
        "62e184d4fa0e3c4a1f0d4b11",
        "Amplitude (Actions)",
        "https://api2.amplitude.com/2/httpapi",
        (
            DestinationAnswer(3, 200, _OK),
            DestinationAnswer(
                5,
                429,
                {"code": 429, "error": "Too many requests for some devices and users", "eps_threshold": 30},
                retried=True,
                headers={"Retry-After": "60"},
            ),
        ),
        batch=10,
        subscription_id="aB8hZt2NcvLqX6wPy4MdRk",
    ),
    Destination(
        "65f0c2ab9d3e4b0012ab34cd",
        "Teapot Function",
        "https://fn.shop.example/brew",
        (DestinationAnswer(1, 418, {"error": "I'm a teapot", "contact": "barista@shop.example"}),),
        passes_through=True,
        feature="destinationInsertFunction",
    ),
)


def destination_of(number: int, sources: int = 1) -> Destination:
    """Returns the destination of a collection by its number; each has one of its own.

    Collections belong to the sources in turns.
    """
    rounds, index = divmod(number, len(DESTINATIONS))
    found = replace(DESTINATIONS[index], source=source_of(number % sources))
    if not rounds:
        return found
    mapping = found.subscription_id and _derived(found.subscription_id, rounds)
    return replace(
        found,
        id=f"{_number_of(found.id, rounds):024x}",
        name=f"{found.name} {rounds + 1}",
        subscription_id=mapping,
    )


def source_of(number: int) -> str:
    """Returns the id of a source by its number."""
    return _derived(SOURCE_ID, number) if number else SOURCE_ID


def _derived(id_: str, number: int) -> str:
    digits = string.ascii_letters + string.digits
    rng = random.Random(f"{id_}/{number}")
    return "".join(rng.choice(digits) for _ in id_)


def _number_of(id_: str, number: int) -> int:
    return random.Random(f"{id_}/{number}").getrandbits(96)
