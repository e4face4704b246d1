"""Which records are known: a set that remembers its file, however many there are."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.ledger.digests import DIGEST_BYTES, Digests, digest_of

DIGESTS = st.integers(0, 2**64 - 1)


@given(st.lists(st.lists(st.one_of(DIGESTS, st.integers(0, 9)), max_size=40), max_size=4))
def test_it_is_a_set_through_spills_and_saves(rounds: list[list[int]]) -> None:
    known: set[int] = set()
    with TemporaryDirectory() as folder:
        path = Path(folder, "digests")
        for digests in rounds:
            found = Digests(path, most_in_memory=5)
            for digest in digests:
                assert found.add(digest) is (digest not in known)
                known.add(digest)
            found.save()
            found.close()
            assert path.stat().st_size == len(known) * DIGEST_BYTES


def test_what_was_not_saved_is_forgotten(tmp_path: Path) -> None:
    """The fate of a record that was not stored is not known: it is sent again."""
    first = Digests(tmp_path / "digests")
    assert first.add(digest_of(b"record"))
    first.close()
    again = Digests(tmp_path / "digests")
    assert again.add(digest_of(b"record"))
    again.close()
