"""Segment's SDKs for Node, as tests/sdks/package-lock.json names them.

They lie in `$XDG_CACHE_HOME/faillog-otel/sdks/<hash>/` (default `~/.cache`), outside the tree, so that a
second run needs no network.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SDKS = Path(__file__).parents[1] / "sdks"
_FILES = ("package.json", "package-lock.json", ".npmrc")


def install_sdks() -> tuple[Path | None, str]:
    """The `node_modules` folder; or None, and why there is none."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            return None, f"{program} is not installed"
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "faillog-otel" / "sdks"
    digest = hashlib.sha256(b"".join((SDKS / name).read_bytes() for name in _FILES)).hexdigest()
    folder = root / digest[:16]
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs on one machine: one installs, one waits
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=root) as temporary:
                work = Path(temporary, "sdks")  # moved when it is whole
                work.mkdir()
                for name in _FILES:
                    shutil.copy(SDKS / name, work)
                install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
                done = subprocess.run(install, cwd=work, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    return None, f"npm ci ended with {done.returncode}: {done.stderr}"
                work.rename(folder)
    return folder / "node_modules", ""
