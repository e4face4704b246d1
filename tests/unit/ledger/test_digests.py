"""The digests of committed records: a set that is kept in a file."""

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.files import PrivateFolder
from faillog_otel.ledger.spool import DIGEST_BYTES, SeenRecords, digest_of

DIGESTS = st.integers(0, 2**64 - 1)


@given(st.lists(st.lists(st.one_of(DIGESTS, st.integers(0, 9)), max_size=40), max_size=4))
def test_digests_behave_as_a_set_across_spills_and_saves(rounds: list[list[int]]) -> None:
    known: set[int] = set()
    with TemporaryDirectory() as path, closing(PrivateFolder.open(Path(path))) as folder:
        for digests in rounds:
            found = SeenRecords(folder, "digests", max_in_memory=5)
            for digest in digests:
                assert (digest in found) is (digest in known)
                found.add(digest)
                known.add(digest)
                assert digest in found
            found.save()
            found.close()
            assert Path(path, "digests").stat().st_size == len(known) * DIGEST_BYTES
            assert folder.names() == ["digests"]


def test_unsaved_digests_are_lost(tmp_path: Path) -> None:
    """The outcome of a record without a stored result is unknown: it is sent again."""
    with closing(PrivateFolder.open(tmp_path)) as folder:
        for _ in range(2):
            digests = SeenRecords(folder, "digests")
            assert digest_of(b"record") not in digests
            digests.add(digest_of(b"record"))
            digests.close()
