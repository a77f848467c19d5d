"""The report in a real browser: it loads quietly and alone, sorts, shows values, fits a phone, and runs no name."""

import csv
import json
import re
import shutil

import pytest
from conftest import skip_without

from telescoping_sklearn.benchmark import ResultStore, write_report

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def chromium():
    """Headless Chromium, as it is installed."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        skip_without("browser", "playwright is not installed: pip install playwright")
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        skip_without("browser", "Chromium is not installed: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--headless=new", "--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def files(small_results, hostile_results, tmp_path_factory):
    """Pages of both studies."""
    folder = tmp_path_factory.mktemp("pages")
    stores = {"small": small_results, "hostile": hostile_results}
    return {name: write_report(store, folder / f"{name}.html") for name, store in stores.items()}


@pytest.fixture
def visit(chromium, files):
    """Open a page as asked; when the test ends, nothing was logged, and nothing else was asked for."""
    heard, asked, contexts = [], [], []

    def open_page(name="small", **settings):
        context = chromium.new_context(**{"viewport": {"width": 1200, "height": 800}} | settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(files[name].as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    outside = [url for url in asked if not url.startswith(("file://", "blob:", "data:"))]
    assert not heard
    assert not outside
    assert {url for url in asked if url.startswith("file://")} <= {path.as_uri() for path in files.values()}


def column(page, table, place):
    """Values that a column is sorted by, from the top."""
    return page.locator(f"{table} tbody tr").evaluate_all(f"rows => rows.map(row => row.cells[{place}].dataset.value)")


def is_sorted(values, descending=False):
    """Whether numbers stand in order, with what is missing at the end."""
    numbers = [float(value) for value in values if value != ""]
    return values[len(numbers) :] == [""] * (len(values) - len(numbers)) and numbers == sorted(
        numbers, reverse=descending
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_loads_quietly_in_both_schemes(visit, scheme):
    page = visit(color_scheme=scheme)
    channels = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (min(channels) > 200) if scheme == "light" else (max(channels) < 60)
    assert page.locator("h2").all_inner_texts() == ["Summary", "Curves", "Numbers", "Settings", "Run it again"]
    assert page.locator("figure.chart svg").count() == 9


def test_every_column_sorts_both_ways(visit):
    page = visit()
    heads = page.locator("#t1 thead th")
    before = column(page, "#t1", 3)
    assert heads.count() >= 8
    for place in range(heads.count()):
        head = heads.nth(place)
        for direction in ("ascending", "descending"):
            head.locator("button").click()
            assert head.get_attribute("aria-sort") == direction
            values = column(page, "#t1", place)
            if place >= 2:
                assert is_sorted(values, descending=direction == "descending")
            else:
                assert values == sorted(values, reverse=direction == "descending")
        sorted_heads = page.locator("#t1 th[aria-sort=ascending], #t1 th[aria-sort=descending]")
        assert sorted_heads.count() == 1
    assert sorted(before) == sorted(column(page, "#t1", 3))  # rows are moved, none is lost


def test_what_is_missing_stands_last_either_way(visit):
    page = visit()
    place = (
        page.locator("#t1 thead th")
        .all_inner_texts()
        .index(next(text for text in page.locator("#t1 thead th").all_inner_texts() if "Kernel" in text))
    )
    button = page.locator("#t1 thead th").nth(place).locator("button")
    for _ in range(2):
        button.click()
        values = column(page, "#t1", place)
        assert values[-3:] == ["", "", ""]  # ridge's mixtures
        assert "" not in values[:-3]


def test_sorting_works_from_the_keyboard(visit):
    page = visit()
    button = page.locator("#t1 thead th").nth(3).locator("button")
    button.focus()
    page.keyboard.press("Enter")
    assert is_sorted(column(page, "#t1", 3))
    page.keyboard.press("Space")
    assert is_sorted(column(page, "#t1", 3), descending=True)


def test_pointing_at_a_chart_shows_its_values(visit):
    page = visit()
    plot = page.locator(".plot").first
    tip = plot.locator(".tip")
    assert not tip.is_visible()
    for stop in plot.locator(".stop").all():
        stop.hover()
        assert tip.is_visible()
        spoken = stop.get_attribute("aria-label")
        for line in json.loads(stop.get_attribute("data-lines")):
            assert f"{line[1]} {line[2]}" in spoken
            assert line[1] in tip.inner_text()
            assert line[2] in tip.inner_text()
        assert tip.locator("b").inner_text() in spoken
        inside, outer = tip.bounding_box(), plot.bounding_box()
        assert inside["x"] >= outer["x"] - 1
        assert inside["x"] + inside["width"] <= outer["x"] + outer["width"] + 1
    page.mouse.move(0, 0)
    assert not tip.is_visible()


def test_values_are_those_of_the_results(visit, small_results):
    results = ResultStore(small_results).results()
    regular = results[(results["set_kind"] == "mixture") & (results["set_value"] == 0) & (results["model"] == "ridge")]
    page = visit()
    page.locator(".plot .stop").first.hover()
    shown = page.locator(".plot .tip").first.inner_text()
    value = float(re.search(r"ridge\s+([\d.]+) ±", shown)[1])
    assert value == pytest.approx(regular["mse"].mean(), rel=5e-3)


def test_charts_work_from_the_keyboard(visit):
    page = visit()
    plot = page.locator(".plot").first
    stops = plot.locator(".stop")
    assert [stop.get_attribute("tabindex") for stop in stops.all()] == ["0", "-1", "-1"]
    stops.first.focus()
    heads = [plot.locator(".tip b").inner_text()]
    for key in ("ArrowRight", "End", "ArrowRight", "Home"):
        page.keyboard.press(key)
        heads.append(plot.locator(".tip b").inner_text())
    assert [head.replace("\N{NO-BREAK SPACE}", " ") for head in heads] == [
        "0 % irregular",
        "50 % irregular",
        "100 % irregular",
        "100 % irregular",
        "0 % irregular",
    ]
    page.keyboard.press("Escape")
    assert not plot.locator(".tip").is_visible()


@pytest.mark.parametrize("name", ["small", "hostile"])
def test_page_fits_a_phone(visit, name):
    page = visit(name, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    wide = page.locator(".scroll").first
    assert wide.evaluate("box => box.scrollWidth > box.clientWidth")  # the table scrolls in its own box
    sizes = page.locator("svg .tick").evaluate_all("ticks => ticks.map(tick => tick.getBoundingClientRect().height)")
    assert min(sizes) >= 10
    page.locator(".plot .stop").last.tap()
    assert page.locator(".plot .tip").last.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_page_is_whole_without_scripts(visit):
    page = visit(java_script_enabled=False)
    assert page.locator("figure.chart svg").first.is_visible()
    assert page.locator(".stop title").count() == page.locator(".stop").count()
    assert page.locator("#t1 tbody tr").count() == 9
    assert not page.locator("#save").is_visible()


def test_results_can_be_saved(visit, small_results, tmp_path):
    page = visit()
    with page.expect_download() as waiting:
        page.locator("#save").click()
    waiting.value.save_as(tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    results = ResultStore(small_results).results()
    assert len(rows) == len(results)
    assert [float(row["mse"]) for row in rows] == list(results["mse"])
    assert [row["settings"] for row in rows] == list(results["settings"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_names_run_nothing(visit, scheme):
    page = visit("hostile", color_scheme=scheme)
    for stop in page.locator(".stop").all()[:6]:
        stop.hover()
    for button in page.locator("th button").all():
        button.click()
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.locator("img").count() == 0
    assert "<img" in page.locator("h3").first.inner_text()


def test_policy_stops_scripts_that_are_not_the_pages_own(chromium, files):
    context = chromium.new_context()
    page = context.new_page()
    page.goto(files["small"].as_uri())
    blocked = []
    page.on("console", lambda message: blocked.append(message.text))
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"hacked=1\">')")
    page.wait_for_timeout(200)
    assert page.evaluate("typeof hacked") == "undefined"
    assert blocked
    context.close()
