"""The figures in the documentation are those of the last published benchmark."""

from pathlib import Path

import pytest
from benchmarks.page import FIGURES, PAGES, PICTURE, updated
from benchmarks.picture import picture
from benchmarks.results import read
from benchmarks.shapes import SHAPES


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_page_shows_the_published_figures(path: Path) -> None:
    """If this fails: `PYTHONPATH=tests python -m benchmarks.page`."""
    page = path.read_text("utf-8")
    assert "<!-- figures: summary -->" in page
    assert updated(page, read(FIGURES)) == page


def test_the_picture_shows_the_published_figures() -> None:
    assert PICTURE.read_text("utf-8") == picture(read(FIGURES))


def test_every_shape_of_file_is_published() -> None:
    assert {each.name for each in read(FIGURES).shapes} == SHAPES.keys()
