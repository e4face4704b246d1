"""Node programs of the tests, with the packages that tests/node/package-lock.json names.

The packages lie in `$XDG_CACHE_HOME/faillog-otel/node/<hash>/` (default `~/.cache`), outside the tree, so
that a second run needs no network.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

PROGRAMS = Path(__file__).parents[1] / "node"
_FILES = ("package.json", "package-lock.json", ".npmrc")


def install_packages() -> tuple[Path | None, str]:
    """The `node_modules` folder; or None, and why there is none."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            return None, f"{program} is not installed"
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "faillog-otel" / "node"
    digest = hashlib.sha256(b"".join((PROGRAMS / name).read_bytes() for name in _FILES)).hexdigest()
    folder = root / digest[:16]
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs on one machine: one installs, one waits
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=root) as temporary:
                work = Path(temporary, "packages")  # moved when it is whole
                work.mkdir()
                for name in _FILES:
                    shutil.copy(PROGRAMS / name, work)
                install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
                done = subprocess.run(install, cwd=work, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    return None, f"npm ci ended with {done.returncode}: {done.stderr}"
                work.rename(folder)
    return folder / "node_modules", ""


def run_node(program: str, *args: str, node_modules: Path, text: str = "") -> str:
    """Returns what a program of tests/node writes to stdout, given the text on stdin."""
    environment = {"PATH": os.environ["PATH"], "NODE_PATH": str(node_modules)}
    command = ["node", str(PROGRAMS / program), *args]
    done = subprocess.run(command, env=environment, input=text, check=True, text=True, stdout=subprocess.PIPE)
    return done.stdout
