"""The tests on each supported Python that is installed: `make matrix`."""

import nox

nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"  # an interpreter that is missing is skipped


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    """Installs what `make test` installs, and runs the tests of hosted CI, or those that are named."""
    session.install("--require-hashes", "-r", "requirements/dev.txt")
    session.install("--no-deps", "--no-build-isolation", ".")
    session.run("pytest", "-n", "2", "--dist", "loadfile", *session.posargs)
