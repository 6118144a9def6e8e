"""The demo page as a visitor meets it: a real server, and a real browser, headless Chromium of the system."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

playwright_api = pytest.importorskip("playwright.sync_api", reason="the browser's driver is not installed")
from playwright.sync_api import Browser, Page, expect  # noqa: E402

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]
SECONDS = 60_000  # milliseconds a step may take on a busy machine

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """Address of a page served by a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("space") / "log"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "ivt", "serve", "--port", str(port)]
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert server.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 1400})
    context.set_default_timeout(SECONDS)
    opened = context.new_page()
    opened.goto(address)
    yield opened
    context.close()


def ask(page: Page, query: str) -> None:
    """Type a query, press Enter, wait for the people."""
    page.get_by_label("Describe a person").fill(query)
    page.get_by_label("Describe a person").press("Enter")
    expect(page.locator("#status")).to_contain_text("people of", timeout=SECONDS)


def test_query_is_answered_with_ten_people_best_first(page: Page):
    ask(page, "a woman in a pink t-shirt and black shorts")
    captions = page.locator("#people .caption-label")
    expect(captions).to_have_count(10)
    found = [re.fullmatch(r"(\d+)\. (-?\d\.\d\d), camera \d", text.strip()) for text in captions.all_inner_texts()]
    assert [int(match[1]) for match in found] == list(range(1, 11))
    scores = [float(match[2]) for match in found]
    assert scores == sorted(scores, reverse=True)


def test_ticked_cameras_are_the_only_ones_found(page: Page):
    page.get_by_label("camera 2").check()
    ask(page, "a man in a white coat")
    captions = page.locator("#people .caption-label").all_inner_texts()
    assert len(captions) == 10 and all(text.strip().endswith("camera 2") for text in captions)


def test_clicked_person_is_explained_for_the_sentence_and_for_a_word(page: Page):
    ask(page, "a man with a black backpack")
    page.locator("#people button.thumbnail-item").first.click()
    picture = page.locator("#map img")
    expect(picture).to_be_visible(timeout=SECONDS)
    expect(page.locator("#map")).to_contain_text("number 1 for the whole sentence")
    whole = picture.get_attribute("src")
    page.get_by_label("backpack", exact=True).check()
    expect(page.locator("#map")).to_contain_text("number 1 for backpack", timeout=SECONDS)
    assert picture.get_attribute("src") != whole


def test_two_queries_stand_side_by_side(page: Page):
    page.get_by_label("Compare with another description").fill("a woman in a red dress")
    ask(page, "a man in a blue shirt")
    expect(page.locator("#other-people .caption-label")).to_have_count(10)
    first, second = (page.locator(name).bounding_box() for name in ("#people", "#other-people"))
    assert second["x"] >= first["x"] + first["width"] and abs(first["y"] - second["y"]) < 5


def test_bad_upload_is_refused_and_a_good_one_searched(page: Page, tmp_path):
    bad, good = tmp_path / "bad", tmp_path / "good"
    bad.mkdir()
    good.mkdir()
    (bad / "notes.jpg").write_text("no picture at all")
    for number in range(3):
        Image.effect_noise((60, 150), 60 + number).save(good / f"{number}.png")
    page.get_by_text("Search your own pictures").click()
    page.locator("#files input[type=file]").set_input_files(bad)
    expect(page.locator("#upload-status")).to_contain_text("notes.jpg is no picture that can be read", timeout=SECONDS)
    ask(page, "a man")
    expect(page.locator("#status")).to_contain_text("10 people of 160 pictures")
    page.reload()
    page.get_by_text("Search your own pictures").click()
    page.locator("#files input[type=file]").set_input_files(good)
    expect(page.locator("#upload-status")).to_contain_text("Your gallery has 3 pictures", timeout=SECONDS)
    ask(page, "a man")
    expect(page.locator("#status")).to_contain_text("3 people of 3 pictures")


def test_empty_query_asks_for_one(page: Page):
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_text("Describe the person first")).to_be_visible()


def test_page_fits_a_phone(page: Page):
    page.set_viewport_size({"width": 375, "height": 812})
    ask(page, "a woman in a dress")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    people = page.locator("#people button.thumbnail-item").all()
    assert min(person.bounding_box()["width"] for person in people) >= 80
    people[0].click()
    expect(page.locator("#map img")).to_be_visible(timeout=SECONDS)
    frame, picture = (page.locator(name).bounding_box() for name in ("#map .image-container", "#map img"))
    assert picture["x"] >= frame["x"]  # to the right one can scroll
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_everything_that_is_operated_has_a_name_and_keyboard_focus(page: Page):
    ask(page, "a woman in a dress")
    operated = "#query textarea, #other-query textarea, #cameras input, #search, #people button, #files button"
    nameless = page.locator(operated).evaluate_all(
        "all => all.filter(e => !(e.ariaLabel || e.innerText || e.labels?.[0]?.innerText || e.title)).length"
    )
    assert page.locator(operated).count() > 15
    assert nameless == 0
    page.locator("#people button.thumbnail-item").nth(1).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#map")).to_contain_text("number 2 for the whole sentence", timeout=SECONDS)
