"""How redaction's time grows with nasty texts: `python tests/benchmarks/redaction.py`.

Ten times the length may take fifteen times as long at the most: no rule is quadratic.
"""

import sys
import time

from faillog_otel.redact import redact_text

SHORT, LONG, MOST = 16_000, 160_000, 15.0
NASTY = (
    *(
        "token,a\n",
        "token,token\nx1,x2\n",
        "| token | a |\n",
        "password: a;b,",
        "password: a b ",
        '[["token","a"],',
    ),
    *(
        '{"v":1,"k":"token",',
        '"loc":["a","token"],',
        "<input value=1 name=token ",
        "- name: token\n",
        "**token** ",
    ),
    *(
        "<td>token</td>",
        "\x1b[1m",
        "token: # a\n",
        "DE89 3704 ",
        "4242 ",
        '"a b"@',
        "dXNlcjpwYXNz",
        "1.2.3.4-",
    ),
    *(
        "phone=",
        '"phone":[',
        'phone:{"',
        "<phone>",
        '"token":[',
        '"token":{"a":[',
        "token=",
        "token: ",
        "token ",
    ),
    *(
        'token="',
        'token="\\',
        "token=a&",
        "token=a%26",
        "token%3D",
        "'cookie: <token>x",
        "cookie: a\n ",
        "cookie:",
    ),
    *(
        '{"name":"token",',
        '"value":"token","name":',
        'name="token"\r\n\r\n',
        "<token>",
        "<token a ",
        "<token><b>",
    ),
    *(
        "<token><![CDATA[",
        '["token","',
        "headers:[",
        '"token","a",',
        "api key is ",
        "api api ",
        "token is the a ",
    ),
    *(
        "\\",
        "\\\\u",
        "%25",
        "%5C",
        "&amp",
        "%22",
        "a@",
        ".a@",
        "a'",
        "://a@",
        "+1 ",
        "00 1 ",
        "1.1.",
        "::",
        "2001:",
    ),
    *(
        "eyJaaaaaaaa.",
        "-----BEGIN PRIVATE KEY-----",
        "Bearer ",
        "sk-",
        "xoxb-",
        "[redacted:",
        "[redacted:secret]",
    ),
    *(
        "token" + " " * 50,
        "hooks.slack.com/services/",
        "bot123456:",
        "-u a:",
        "?key=",
        "Aa1",
        "\u0130",
        "(415) 555-",
    ),
)


def seconds(text: str) -> float:
    """The least of three tries, in the processor's time: others may be at work on this machine."""
    tries = []
    for _ in range(3):
        start = time.process_time()
        redact_text(text)
        tries.append(time.process_time() - start)
    return min(tries)


def main() -> None:
    worst = 0.0
    for unit in NASTY:
        for before in ("", 'token="', '{"token":["', "cookie: "):
            short, long = (before + (unit * size)[:size] for size in (SHORT, LONG))
            took = seconds(short), seconds(long)
            ratio = took[1] / took[0]
            worst = max(worst, ratio)
            if ratio > MOST or took[1] > 1:
                print(f"{ratio:6.1f} times, {took[1]:.2f} s: {before!r} + {unit!r} * n")
    print(f"{LONG // SHORT} times as long takes {worst:.1f} times as long at the worst")
    sys.exit(worst > MOST)


if __name__ == "__main__":
    main()
