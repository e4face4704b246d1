"""Reasons as destinations give them: templates with values that vary, and many different ones."""

import random
import string
import uuid
from collections.abc import Callable

TEMPLATES = (
    "Invalid value {quoted} for field email",
    "User {id} not found at {url} (request {id})",
    "Request failed at {time}: quota of {number} requests per {number} s exceeded",
    "The address {mail} of profile {id} was suppressed on {date}",
    "connect ECONNREFUSED {ip}: gave up after {number} ms",
    "Der Wert {quoted} von Profil {id} ist ungültig, siehe {url}",
    "L’adresse {mail} n'est pas valide pour l’utilisateur {id}",
    "プロファイル{id}の値{quoted}は無効です",
    "用户{number}的邮箱{mail} 无效",
    "Пользователь {id} не найден: поле {quoted} пусто ({time})",
    "لم يتم العثور على المستخدم {number} في {url} منذ {time}",
    "El campo {quoted} del evento {number} no es válido: {quoted}",
    "사용자 {id} 의 값 {quoted} 이 잘못되었습니다",
    "{mark} is not subscribed to list {number}, last change {date}",
    '{"errors":[{"message":"Unknown property","path":{quoted},"id":{number}}],"trace":{quoted}}',
    '[{"message":"Unknown property","id":{quoted}},{"message":"Unknown property","id":{number}}]',
    "Batch rejected: rows {number}, {number} and {number} have no external id",
)

DIFFERENT = tuple(
    line
    for line in """\
Invalid API key
The API key was revoked
Access token has expired
Refresh token is no longer valid
Token was issued for another app
The account does not have permission to create conversions
The user has not accepted the terms of service
The ad account is disabled
The ad account was closed
The app is in development mode
Missing scope: contacts.write
Missing scope: events.read
The workspace is suspended
The trial of the account is over
Payment is overdue
Two-factor authentication is required
The certificate of the client was refused
Signature does not match
Timestamp of the signature is too old
The service account has no access to the dataset
The dataset does not exist
The table does not exist
The table has no column for the property
Column type does not match
The row is too large
The stream is being created
The bucket does not exist
The bucket is in another region
The file could not be written
The folder is read-only
The topic does not exist
Not leader for partition
The message is larger than the topic allows
The broker is not available
The queue is full
Rate limit reached
Too many concurrent requests
Daily quota exhausted
Monthly event volume used up
Too many profiles in one batch
Batch is empty
Batch holds duplicates
The list was archived
The list is locked while an import runs
The audience is being deleted
The audience has expired
The audience is too small
The cohort is not ready
The campaign has ended
The campaign is paused
The pixel does not belong to the account
The pixel is inactive
The conversion action is removed
The conversion happened before the click
The conversion is older than ninety days
Click id is malformed
Click id was not found
The currency is not supported
The price must be positive
The quantity must be a whole number
The order was already recorded
The order was cancelled
The product is not in the catalogue
The catalogue is being rebuilt
The event name is reserved
The event name is too long
The event is not in the schema
The event was archived
The event time lies in the future
The event time is too old
The time zone is unknown
The country code is unknown
The language is not supported
The phone number lacks its country code
The phone number belongs to a landline
The email address is on the suppression list
The email address bounced
The email domain does not exist
The profile was deleted on request
The profile was merged into another one
The profile has unsubscribed
The profile has no external id
The user is under age
Consent is missing for marketing
Consent is missing for analytics
Contact already exists
Contact is a duplicate of another one
Company name is not unique
The owner of the record left the company
The record is locked by another process
The record type is not active
The picklist has no such value
The lookup found no record
The lookup found several records
A validation rule of the object failed
A trigger of the object failed
A required association is missing
The pipeline stage does not exist
The deal is closed
The ticket is solved
connect ECONNREFUSED
socket hang up
read ECONNRESET
getaddrinfo ENOTFOUND
getaddrinfo EAI_AGAIN
No route to host
The connection timed out
The request was aborted
The certificate of the server has expired
The certificate of the server is self-signed
The server does not support TLS
The response is not JSON
The response is empty
The response is a login page
Service Unavailable
Bad Gateway
Gateway Timeout
Internal Server Error
We are down for maintenance
The region is being evacuated
The database is read-only
The shard is being moved
Please try again later
An unexpected error occurred
Something went wrong on our side
Cannot read properties of undefined
Cannot convert undefined to object
JSON could not be parsed
The function threw RetryError
The function returned nothing
The function ran out of memory
The template does not exist
The template has a syntax error
The webhook is disabled
The webhook answered with a redirect
Die Anmeldedaten sind abgelaufen
Das Feld ist zu lang
Le champ est obligatoire
Le quota est dépassé
La cuenta está suspendida
La lista no existe
アカウントが停止されています
フィールドが必要です
用户已被删除
余额不足
Недостаточно прав
Список не найден
계정이 비활성화되었습니다
المستخدم محظور""".splitlines()
    if line
) + tuple(
    f"Property {field} {problem}"
    for field in (
        *("email", "phone", "first_name", "last_name", "birthday", "country", "city", "currency", "price"),
        *("quantity", "product_id", "order_id", "external_id", "device_token", "user_agent", "consent"),
    )
    for problem in (
        *("is required", "is not a string", "is too long", "is not known", "must not be empty"),
        *("has the wrong format", "is read-only", "was removed", "is ambiguous", "may be set only once"),
    )
)
"""Each is another cause."""

_BASE62 = string.digits + string.ascii_letters
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_QUOTES = ("''", '""', "``", "«»", "„“", "“”", "「」", "‹›")
_NAMES = ("jane", "Jörg Müller", "李小龙", "Анна", "O’Neill-Smith", "محمد", "x", "", "two words, and more")
_MONTHS = (
    "January",
    "Feb",
    "march",
    "Apr",
    "May",
    "June",
    "July",
    "Aug",
    "September",
    "Oct",
    "Nov",
    "December",
)


def variant(template: str, chance: random.Random) -> str:
    """Returns a template with other values in its slots."""
    for slot, value in _VALUES.items():
        while slot in template:
            template = template.replace(slot, value(chance), 1)
    return template


def _of(letters: str, length: int) -> Callable[[random.Random], str]:
    return lambda chance: "".join(chance.choices(letters, k=length))


_IDS: tuple[Callable[[random.Random], str], ...] = (
    lambda chance: str(uuid.UUID(int=chance.getrandbits(128), version=4)),
    lambda chance: uuid.UUID(int=chance.getrandbits(128)).hex.upper(),
    _of("0123456789abcdef", 24),
    _of("0123456789abcdef", 8),
    lambda chance: f"2{_of(_BASE62, 26)(chance)}",  # a KSUID of these years
    lambda chance: f"01{_of(_CROCKFORD, 24)(chance)}",  # a ULID of these years
    lambda chance: f"usr_{_of(_BASE62, 16)(chance)}7",
    lambda chance: str(chance.randrange(10**12)),
    lambda chance: f"ORD-{_of(string.ascii_uppercase, 2)(chance)}-{chance.randrange(10**6)}",
)


def _number(chance: random.Random) -> str:
    number = chance.randrange(10 ** chance.randrange(1, 9))
    return chance.choice((str(number), f"{number:,}", f"-{number}", f"{number}.5", f"{number}"))


def _url(chance: random.Random) -> str:
    path = "/".join(chance.choices(("v1", "users", "a%20b", "é", "list-7"), k=chance.randrange(4)))
    return f"{chance.choice(('https', 'http'))}://api{chance.randrange(9)}.example.com/{path}?q={_number(chance)}"


def _mail(chance: random.Random) -> str:
    user = chance.choice(("jane", "j.o+tag", "jörg_1", "a-b", "анна"))
    return f"{user}@{chance.choice(('shop.example', 'a.b.co.uk', 'münchen.example'))}"


def _quoted(chance: random.Random) -> str:
    quotes = chance.choice(_QUOTES)
    return f"{quotes[0]}{chance.choice((*_NAMES, _number(chance), _IDS[0](chance)))}{quotes[1]}"


def _time(chance: random.Random) -> str:
    day, hour, minute = chance.randrange(1, 29), chance.randrange(24), chance.randrange(60)
    time = f"{hour:02}:{minute:02}:{chance.randrange(60):02}"
    return chance.choice(
        (
            f"2025-05-{day:02}T{time}.{chance.randrange(1000):03}Z",
            f"2025-05-{day:02} {time}+02:00",
            f"2025/05/{day:02} {time}",
            f"{day:02}.05.2025, {time}",
            str(1_746_627_420 + chance.randrange(10**6)),
        )
    )


def _date(chance: random.Random) -> str:
    day, month = chance.randrange(1, 29), chance.choice(_MONTHS)
    return chance.choice(
        (f"{month} {day}, 2025", f"{day} {month} 2025", f"Wed, {day} {month} 2025 14:17:00 GMT")
    )


def _ip(chance: random.Random) -> str:
    if chance.random() < 0.2:
        return f"fe80::{chance.getrandbits(16):x}:{chance.getrandbits(16):x}"
    if chance.random() < 0.2:
        return ":".join(f"{chance.getrandbits(16):x}" for _ in range(8))
    return ".".join(str(chance.randrange(256)) for _ in range(4))


_VALUES: dict[str, Callable[[random.Random], str]] = {
    "{quoted}": _quoted,
    "{id}": lambda chance: chance.choice(_IDS)(chance),
    "{url}": _url,
    "{time}": _time,
    "{date}": _date,
    "{number}": _number,
    "{mail}": _mail,
    "{ip}": _ip,
    "{mark}": lambda chance: chance.choice(
        ("[redacted:email]", f"[redacted:email:{_of('0123456789abcdef', 16)(chance)}]")
    ),
}
