"""The page of confusions: what is in the file, and what a browser makes of it."""

import base64
import io
import re
import subprocess

import numpy as np
import pytest
from PIL import Image

from cifarlib import mistakes, report
from cifarlib.errors import InputError

CHROMIUM = report.browser()
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

LABELS = np.array([3, 3, 3, 5, 0, 1, 2, 4, 6, 7, 8, 9])
SAID = {
    "first": np.array([5, 3, 5, 5, 0, 1, 2, 4, 6, 7, 8, 9]),
    "a/second <one>": np.array([3, 3, 3, 3, 0, 1, 2, 4, 6, 7, 8, 9]),
}


@pytest.fixture(scope="module")
def pictures():
    """Return images of one colour each."""
    colors = np.random.default_rng(0).integers(0, 256, (len(LABELS), 1, 1, 3), np.uint8)
    return colors.repeat(32, axis=1).repeat(32, axis=2)


@pytest.fixture
def page(tmp_path, pictures):
    options = {"title": "Mistakes & <more>", "told": "JPEG copy"}
    return mistakes.write(tmp_path / "new" / "page.html", pictures, LABELS, SAID, **options)


def opened(page, cell="", then=""):
    """Return the document after the browser has opened it, and run a script if told to."""
    if then:
        text = page.read_text(encoding="utf-8")
        page = page.with_name("then.html")
        page.write_text(text.replace("</body>", f"<script>{then}</script></body>"), "utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    folder = f"--user-data-dir={page.parent / 'browser'}"
    # Long enough for what a click sets off.
    command = [CHROMIUM, *options, folder, "--virtual-time-budget=2000", "--dump-dom"]
    address = f"{page.as_uri()}{cell and '#' + cell}"
    done = subprocess.run([*command, address], capture_output=True, timeout=120)
    return done.stdout.decode("utf-8")


def told(document):
    return re.search(r'id="told"[^>]*>([^<]*)', document)[1]


def shown(document):
    return [int(place) for place in re.findall(r'title="test image (\d+)"', document)]


@in_a_browser
def test_images_beyond_the_first_row_are_found(tmp_path):
    labels = np.arange(205) % 10
    pictures = np.zeros((205, 32, 32, 1), np.uint8)
    page = mistakes.write(tmp_path / "page.html", pictures, labels, {"m": labels}, title="many")
    document = opened(page, "m/cat/cat")
    assert 203 in shown(document), "in the third row of a hundred, the fourth image"
    assert "-192px -128px" in document and "6400px 192px" in document


def test_the_page_is_one_file_that_asks_for_nothing_else(page):
    text = page.read_text(encoding="utf-8")
    assert "Mistakes &amp; &lt;more&gt;" in text and "JPEG copy" in text
    assert not re.search(r"(src|href)=|https?://|@import", text)
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_lies_at_its_place_in_the_one_picture(channels, tmp_path, pictures):
    many = np.concatenate([pictures[..., :channels]] * 20)[:205]
    labels = np.arange(205) % 10
    page = mistakes.write(tmp_path / "p.html", many, labels, {"m": labels}, title="t")
    content = re.search(r"base64,([^)]+)", page.read_text(encoding="utf-8"))[1]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    assert sheet.shape[:2] == (3 * 32, 100 * 32)
    for place in (0, 99, 100, 204):
        row, column = divmod(place, 100)
        middle = sheet[row * 32 + 16, column * 32 + 16]
        assert np.abs(middle.astype(int) - many[place, 16, 16]).max() <= 4


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"answers": {}}, InputError, "at least one model"),
        ({"answers": {"m": LABELS[1:]}}, ValueError, "one shape"),
        ({"labels": LABELS[1:]}, ValueError, "pictures: expected 11 of uint8"),
        ({"pictures": np.zeros((12, 32, 32, 3))}, ValueError, "found float64"),
    ],
)
def test_what_does_not_belong_together_is_refused(changes, error, message, tmp_path, pictures):
    asked = {"pictures": pictures, "labels": LABELS, "answers": SAID, **changes}
    with pytest.raises(error, match=message):
        mistakes.write(tmp_path / "p.html", **asked, title="t")
    assert not list(tmp_path.glob("*.html"))


@in_a_browser
def test_the_matrix_counts_each_pair_of_the_first_model(page):
    document = opened(page)
    cells = dict(re.findall(r'data-cell="([^"]+)"[^>]*>(\d+)<', document))
    assert len(cells) == 100 and sum(map(int, cells.values())) == len(LABELS)
    assert (cells["cat/dog"], cells["cat/cat"], cells["dog/cat"]) == ("2", "1", "0")
    assert "10 of 12 right" in document
    assert told(document) == "Choose a cell." and shown(document) == []


@in_a_browser
def test_a_click_on_a_cell_shows_its_images(page):
    click = "document.querySelector('[data-cell=\"cat/dog\"]').click()"
    document = opened(page, then=click)
    assert told(document) == "cat, answered dog: 2 images"
    assert shown(document) == [0, 2]
    assert "-128px 0px" in document, "each is 64 pixels wide"


@in_a_browser
def test_an_address_names_a_cell_of_a_model_whatever_it_is_called(page):
    document = opened(page, "a%2Fsecond%20%3Cone%3E/dog/cat")
    assert told(document) == "dog, answered cat: 1 image" and shown(document) == [3]
    assert "11 of 12 right" in document


@in_a_browser
def test_another_model_keeps_the_cell(page):
    choose = (
        "location.hash = 'first/cat/dog'; const s = document.getElementById('model');"
        "setTimeout(() => { s.value = 'a/second <one>'; s.onchange(); }, 100)"
    )
    document = opened(page, then=choose)
    assert told(document) == "cat, answered dog: 0 images"
    assert "11 of 12 right" in document


@in_a_browser
@pytest.mark.parametrize("address", ["nothing/of/this", "%", "first%2"])
def test_an_address_that_names_nothing_shows_the_first_model(page, address):
    document = opened(page, address)
    assert told(document) == "Choose a cell." and "10 of 12 right" in document
