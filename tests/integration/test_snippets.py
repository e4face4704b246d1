"""The documentation's lines for applications, run where they can be."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "join-traces.md"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

DOCUMENT = """
const document = { querySelector: () => %s };
const analytics = {
  addSourceMiddleware: (middleware) => {
    const payload = { obj: { messageId: "the SDK's" } };
    middleware({ payload, next: (passed) => console.log(passed.obj.messageId) });
  },
};
"""
"""A page with this meta element, or null; it tells which messageId goes on."""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize(
    ("meta", "message_id"),
    [(f'({{ content: "{TRACEPARENT}" }})', rf"{TRACEPARENT}-[0-9a-f-]{{36}}"), ("null", "the SDK's")],
)
def test_an_event_goes_on_whether_or_not_its_page_says_a_traceparent(meta: str, message_id: str) -> None:
    text = PAGE.read_text("utf-8")
    (middleware,) = re.findall(r"```js\n(analytics\.addSourceMiddleware.*?)```", text, re.DOTALL)
    command = ["node", "--eval", DOCUMENT % meta + middleware]
    env = {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(message_id, done.stdout.strip())
