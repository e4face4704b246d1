"""Numbers of cards and accounts: their ranges and lengths by issuer and country, and their checksums."""

import re

_CARDS = re.compile(
    r"4\d{12}(?:\d{3}(?:\d{3})?)?|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[689]\d)\d{11}|6(?:011|4[4-9]\d|5\d\d)\d{12,15}|35(?:2[89]|[3-8]\d)\d{12,15}|62\d{14,17}"
)
"""Ranges and lengths of Visa, Mastercard, American Express, Diners, Discover, JCB and UnionPay."""


def is_card(value: str) -> bool:
    """Whether the digits are a card's number: in a known range, with a valid check digit."""
    digits = re.sub(r"\D", "", value)
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    is_sum_right = (sum(map(int, digits[::-2])) + sum(doubled)) % 10 == 0  # ISO/IEC 7812-1 (Luhn)
    return is_sum_right and _CARDS.fullmatch(digits) is not None


IBANS = r"(?=[A-Z]{{2}}\d)(?:{})(?![A-Za-z0-9])".format(
    "|".join(
        rf"(?:{countries})\d\d(?:[ -]?[A-Z0-9]){{{length - 4}}}"
        for length, countries in (
            (15, "NO"),
            (16, "BE"),
            (18, "DK|FI|FK|FO|GL|NL|SD"),
            (19, "MK|SI"),
            (20, "AT|BA|EE|KZ|LT|LU|MN|XK"),
            (21, "CH|HR|LI|LV"),
            (22, "BG|BH|CR|DE|GB|GE|IE|ME|RS|VA"),
            (23, "AE|GI|IL|IQ|OM|SO|TL"),
            (24, "AD|CZ|ES|MD|PK|RO|SA|SE|SK|TN|VG"),
            (25, "LY|PT|ST"),
            (26, "IS|TR"),
            (27, "BI|DJ|FR|GR|IT|MC|MR|SM"),
            (28, "AL|AZ|BY|CY|DO|GT|HU|LB|NI|PL|SV"),
            (29, "BR|EG|PS|QA|UA"),
            (30, "JO|KW|MU|YE"),
            (31, "MT|SC"),
            (32, "LC"),
            (33, "RU"),
        )
    )
)
"""A pattern: lengths by country (ISO 13616, SWIFT's register), with blanks or dashes or without."""


def is_iban(value: str) -> bool:
    """Whether the check digits of an account number that IBANS found are valid."""
    characters = value.replace(" ", "").replace("-", "")
    number = "".join(str(int(character, 36)) for character in characters[4:] + characters[:4])
    return int(number) % 97 == 1  # ISO/IEC 7064, MOD 97-10
