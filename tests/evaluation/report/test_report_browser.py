"""The report page in headless Chromium: filters, keys, both widths, both colour schemes, foreign text."""

import pytest
from browser import CHROMIUM, Chromium
from qa_sets import StubEngine, stub_protocol, stub_run, write_set, write_video

from vidtune.evaluation.report.page import build_report
from vidtune.evaluation.scores.scoring import score_run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202e</script>"
LONG = "word " * 600
COUNT = 90
TEXT_ON_ITS_GROUND = """
(() => {
  const number = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(one => one / 255)
    .map(one => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
    .reduce((sum, one, place) => sum + one * [0.2126, 0.7152, 0.0722][place], 0);
  const ground = node => {
    for (; node; node = node.parentElement) {
      const colour = number(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const low = new Set(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const node = text.parentElement, style = getComputedStyle(node);
    if (!text.data.trim() || !node.getClientRects().length || node.closest("script, noscript")) continue;
    let colour = node.closest("svg") ? style.fill : style.color, back = ground(node);
    if (node.matches(".letter")) back = number(getComputedStyle(node.parentElement.querySelector("circle")).fill);
    const [one, other] = [light(number(colour)), light(back)].sort((a, b) => b - a);
    if ((one + 0.05) / (other + 0.05) < 4.5) low.add(`${node.outerHTML.slice(0, 60)}: ${text.data.trim()}`);
  }
  return [...low];
})()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    entries = [(f"clip{n // 3}", f"question {n}?", f"answer {n}") for n in range(COUNT)]
    entries[1], entries[2] = ("clip0", EVIL, EVIL), ("clip0", "question 2?", LONG)
    types = [("colour", "count", EVIL)[n % 3] for n in range(COUNT)]
    types[4] = "seen once"  # has no interval
    data = write_set(folder / "set", entries, types=types)
    write_video(data / "videos" / "clip0.mp4", (20, 60, 160))
    said = {f"question {n}?": "nothing" for n in range(0, COUNT, 9)} | {EVIL: EVIL, "question 2?": LONG}
    said["question 18?"] = ""
    name = "run-with-a-long-name-" * 4
    runs = [
        stub_run(data, folder / f"{name}{number}", StubEngine(said if number else {}), protocol).run_dir
        for number, protocol in enumerate((stub_protocol(), stub_protocol(generation={"max_new_tokens": 9})))
    ]
    for run in runs:
        score_run(run)
    return build_report(runs, folder / "report.html")


@pytest.fixture(scope="module")
def chromium(page):
    with Chromium(page.parent / "profile") as browser:
        browser.size(1280)
        yield browser


def shown(chromium) -> str:
    return chromium("document.querySelector('output').textContent")


def focused(chromium) -> str:
    return chromium("document.activeElement.querySelector('.ask .text')?.textContent ?? ''")


def settle(chromium) -> None:
    chromium("new Promise(done => setTimeout(() => requestAnimationFrame(done), 160))")


def test_nothing_foreign_runs_and_nothing_is_loaded(page, chromium):
    chromium.open(page)
    assert chromium.mistakes() == []
    assert EVIL in chromium("JSON.stringify([...document.querySelectorAll('.text')].map(one => one.textContent))")
    tags = chromium("[...new Set([...document.querySelectorAll('.samples *')].map(one => one.localName))].sort()")
    assert set(tags) <= {"article", "button", "code", "div", "header", "img", "p", "section", "small", "span"}
    chromium("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))")
    assert chromium("window.ran") is None


@pytest.mark.parametrize(
    ("state", "count"),
    [
        ("", COUNT),
        ("#verdict=wrong", 1),
        ("#verdict=wrong&run=1", 10),
        ("#between=verdicts", 11),
        ("#between=only1", 1),
        ("#between=miss1", 10),
        ("#type=count&text=QUESTION%201", 4),
        ("#type=no-such-type", COUNT),
        ("#unusual=empty%20answer&run=1", 1),
        ("#unusual=empty%20answer", 0),
    ],
)
def test_filters_come_from_the_address(page, chromium, state, count):
    chromium.open(page, state)
    assert shown(chromium) == f"{count} of {COUNT} questions"
    assert chromium("document.querySelectorAll('.sample').length") == min(count, 40)


def test_keys_move_filter_and_search(page, chromium):
    chromium.open(page)
    for key, question in (("j", "question 0?"), ("j", EVIL), ("j", "question 2?"), ("k", EVIL)):
        chromium.key(key)
        assert focused(chromium) == question
    chromium.key("w")
    settle(chromium)
    assert shown(chromium) == f"1 of {COUNT} questions" and chromium("location.hash") == "#verdict=wrong"
    chromium.key("r")
    settle(chromium)
    assert shown(chromium) == f"10 of {COUNT} questions"
    chromium.key("x")
    chromium.key("/")
    chromium.call("Input.insertText", text="clip7")
    settle(chromium)
    assert shown(chromium) == f"3 of {COUNT} questions" and chromium("location.hash") == "#text=clip7"
    chromium.key("Escape")
    chromium.key("?")
    assert chromium("document.querySelector('dialog').open")


def test_more_samples_are_made_when_the_end_is_near(page, chromium):
    chromium.open(page)
    made = "document.querySelectorAll('.sample').length"
    assert chromium(made) == 40
    for _ in range(COUNT):
        chromium.key("j")
    assert chromium(made) == COUNT and focused(chromium) == f"question {COUNT - 1}?"


def test_long_texts_are_clamped_and_unfold(page, chromium):
    chromium.open(page)
    heights = "[...document.querySelectorAll('.sample')][2].querySelector('.reply:last-child .text').clientHeight"
    before = chromium(heights)
    chromium("[...document.querySelectorAll('.sample')][2].querySelector('.reply:last-child .unfold').click()")
    assert before < 120 < chromium(heights)


def test_words_that_another_run_lacks_are_marked(page, chromium):
    chromium.open(page, "#words=1&text=question%209%3F")
    assert chromium("[...document.querySelectorAll('mark')].map(one => one.textContent)") == ["nothing"]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut_and_every_text_can_be_read(page, chromium, width, dark):
    chromium.size(width, dark=dark, phone=width < 500)
    try:
        chromium.open(page, "#words=1")
        chromium("for (const one of document.querySelectorAll('details')) one.open = true")
        assert chromium("document.documentElement.scrollWidth") == width
        outside = (
            "[...document.querySelectorAll('main *')].filter(one => !one.closest('pre, .clamp, noscript') && "
            f"one.getClientRects().length && one.getBoundingClientRect().right > {width} + 1)"
            ".map(one => one.outerHTML.slice(0, 90))"
        )
        assert chromium(outside) == []
        assert chromium(TEXT_ON_ITS_GROUND) == []
    finally:
        chromium.size(1280)


def test_the_button_changes_the_colours(page, chromium):
    chromium.open(page)
    ground = "getComputedStyle(document.body).backgroundColor"
    before = chromium(ground)
    chromium("document.getElementById('theme').click()")
    assert chromium(ground) != before
