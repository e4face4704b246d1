"""Which files PATHs mean."""

import io
import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from faillog_otel.errors import InputError
from faillog_otel.inputs.files import FoundPaths, InputFile, UntilReadable


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a.jsonl", "sub/c.gz", "sub/b.jsonl", ".hidden", "sub/.git/x", "own.jsonl"):
        path = tmp_path / "logs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("tree")
def test_a_folder_means_all_files_below_it_sorted_but_hidden_ones_and_our_own() -> None:
    found = FoundPaths(["logs"], ["logs/own.jsonl"])
    assert found.files == ["logs/a.jsonl", "logs/sub/b.jsonl", "logs/sub/c.gz"]
    assert found.problems == found.warnings == []


@pytest.mark.usefixtures("tree")
def test_a_link_to_nothing_is_a_problem_and_the_rest_is_read() -> None:
    Path("logs/b.jsonl").symlink_to("gone")
    found = FoundPaths(["logs"], ["logs/own.jsonl"])
    assert found.files == ["logs/a.jsonl", "logs/sub/b.jsonl", "logs/sub/c.gz"]
    assert found.problems == ["logs/b.jsonl: a symbolic link to a missing file"]


@pytest.mark.usefixtures("tree")
def test_a_glob_means_its_matches_sorted() -> None:
    assert FoundPaths(["logs/**/*.jsonl"], ["logs/own.jsonl"]).files == ["logs/a.jsonl", "logs/sub/b.jsonl"]


@pytest.mark.usefixtures("tree")
def test_a_file_is_meant_whatever_its_name_and_paths_keep_their_order() -> None:
    assert FoundPaths(["logs/sub", "-", "logs/.hidden"], []).files == [
        "logs/sub/b.jsonl",
        "logs/sub/c.gz",
        "-",
        "logs/.hidden",
    ]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tree: Path) -> None:
    (tree / "[1].jsonl").write_bytes(b"")
    assert FoundPaths(["[1].jsonl"], []).files == ["[1].jsonl"]


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize("path", ["missing.jsonl", "missing*.jsonl", "logs/own.jsonl"])
def test_what_is_not_there_or_is_our_own_output_is_a_problem(path: str) -> None:
    found = FoundPaths([path, "logs/a.jsonl"], ["logs/own.jsonl"])
    assert found.files == ["logs/a.jsonl"]
    assert [problem.split(":")[0] for problem in found.problems] == [path]


def test_a_folder_without_files_is_a_warning(tree: Path) -> None:
    (tree / "empty").mkdir()
    found = FoundPaths(["empty"], [])
    assert (found.files, found.problems, found.warnings) == ([], [], ["empty: holds no files"])


def test_a_file_can_be_read_twice(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"content")
    with InputFile(str(tmp_path / "f"), io.BytesIO(), nullcontext) as file:
        assert [b"".join(file.chunks()), b"".join(file.chunks())] == [b"content"] * 2
        assert file.bytes_read == 7


@contextmanager
def waiting() -> Iterator[UntilReadable]:
    """A pipe is opened before anybody writes to it: the run waits for it, without a signal."""
    yield lambda descriptor: select.select([descriptor], [], [])


def test_standard_input_and_a_pipe_can_be_read_twice(tmp_path: Path) -> None:
    with InputFile("-", io.BytesIO(b"content"), nullcontext) as file:
        assert [b"".join(file.chunks()), b"".join(file.chunks())] == [b"content"] * 2
        assert file.name == "<stdin>"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"content",), daemon=True)
    writer.start()
    with InputFile(str(pipe), io.BytesIO(), waiting) as file:
        assert [b"".join(file.chunks()), b"".join(file.chunks())] == [b"content"] * 2
    writer.join()


def test_a_file_that_is_gone_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        InputFile(str(tmp_path / "gone"), io.BytesIO(), nullcontext)


def test_a_file_that_is_released_takes_no_descriptor_and_is_read_again(tmp_path: Path) -> None:
    """Many small files wait for their batch, and a process may have 1,024 descriptors only."""
    path = tmp_path / "f"
    path.write_bytes(b"content")
    with InputFile(str(path), io.BytesIO(), nullcontext) as file:
        before = len(list(Path("/proc/self/fd").iterdir()))
        file.release()
        assert len(list(Path("/proc/self/fd").iterdir())) == before - 1
        with path.open("ab") as more:
            more.write(b" and more")
        assert file.grown_bytes() == 9
        assert b"".join(file.chunks()) == b"content"


def test_a_file_that_was_replaced_after_its_release_is_not_read(tmp_path: Path) -> None:
    """As log rotation does it: the new file's records are not those that were surveyed."""
    path = tmp_path / "f"
    path.write_bytes(b"content")
    with InputFile(str(path), io.BytesIO(), nullcontext) as file:
        file.release()
        path.rename(tmp_path / "rotated")
        path.write_bytes(b"another content")
        assert file.grown_bytes() == 0
        with pytest.raises(InputError, match=r"f: was replaced while it was read; run it again"):
            b"".join(file.chunks())


def test_standard_input_is_not_released() -> None:
    with InputFile("-", io.BytesIO(b"content"), nullcontext) as file:
        file.release()
        assert b"".join(file.chunks()) == b"content"
