"""The page in headless Chromium, over a server with tiny models: upload, ask, stream, second turn, reload."""

from types import SimpleNamespace

import pytest
from browser import CHROMIUM, Chromium
from loopback_server import running
from qa_sets import write_video
from tiny_checkpoint import always_say, write_checkpoint
from tiny_targets import write_target_checkpoint

import vidtune
from vidtune.serving.app import build_app
from vidtune.serving.media import MediaIntake
from vidtune.serving.served import ServedModel

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")

SAID = "at 0.5s<b>"
EVIL = "<img src=x onerror=window.ran=1>.mp4"
STOPPED = "document.querySelector('#send').hidden === false"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    says = always_say(write_checkpoint(folder / "says"), SAID, after=":")
    endless = always_say(write_checkpoint(folder / "endless"), "xyz", after=":", endless=True)
    videos = folder / "videos"
    videos.mkdir()
    models = [(one, vidtune.load(path)) for one, path in (("says", says), ("endless", endless))]
    intake = MediaIntake(videos)
    app = build_app([ServedModel(name, one.network, one.processor) for name, one in models], intake)
    clips = [videos / name for name in ("clip.mp4", EVIL)]
    for clip in clips:
        write_video(clip, (20, 60, 160))
    with running(app) as address:
        yield SimpleNamespace(address=address, clip=clips[0], evil=clips[1], files=intake.files)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def chromium(browser, served):
    """The page as a new visitor gets it."""
    browser.size(1280)
    browser.open(served.address)
    browser("localStorage.clear(); sessionStorage.clear()")
    browser.call("Page.navigate", url="about:blank")
    browser.call("Storage.clearDataForOrigin", origin=served.address, storageTypes="indexeddb")
    browser.open(served.address)
    browser.until("document.querySelector('#model').value")
    yield browser
    assert browser.mistakes(served.address) == []


def upload(chromium, clip) -> None:
    chromium.choose_files("#file", clip)
    chromium.until("document.querySelector('video')?.readyState > 0")


def reload(chromium, served) -> None:
    """Open the page anew, when all that it keeps has been written; its video is there again."""
    chromium("kept.read().then(() => true)")
    chromium.open(served.address)
    chromium.until("document.querySelector('video')?.readyState > 0")


def ask(chromium, text: str) -> str:
    """Ask by keyboard; the answer."""
    chromium("document.querySelector('#question').focus()")
    chromium.type(text)
    chromium.key("Enter")
    chromium.until(STOPPED)
    return chromium("[...document.querySelectorAll('.assistant .text')].at(-1)?.textContent")


def log(chromium) -> list[str]:
    return chromium("[...document.querySelectorAll('.turn .text')].map(one => one.textContent)")


def test_upload_ask_streamed_answer_second_turn_reload(chromium, served):
    before = len(served.files)
    chromium("""
      window.travel = [];
      new MutationObserver(() => window.travel.push(document.querySelector('#travel').textContent))
        .observe(document.querySelector('#travel'), {childList: true, subtree: true});
    """)
    upload(chromium, served.clip)
    chromium("""
      window.grown = new Set();
      new MutationObserver(() => {
        for (const one of document.querySelectorAll('.assistant .text')) window.grown.add(one.textContent);
      }).observe(document.querySelector('#log'), {childList: true, subtree: true});
    """)
    assert ask(chromium, "What happens?") == SAID
    assert chromium("window.grown.size") > 3  # piece by piece
    assert ask(chromium, "And then?") == SAID
    assert len(served.files) == before + 1  # sent once for both turns
    shares = chromium("window.travel")
    assert (shares[0], shares[-1]) == ("Sending clip.mp4: 0 %", "Sending clip.mp4: 100 %")
    assert chromium("document.querySelector('#travel').hidden")
    expected = ["What happens?", SAID, "And then?", SAID]
    assert log(chromium) == expected
    chromium("document.querySelector('.moment').click()")
    chromium.until("document.querySelector('video').currentTime === 0.5")
    reload(chromium, served)
    assert log(chromium) == expected
    assert chromium("document.querySelector('#question').value") == ""


def test_a_conversation_that_is_read_late_is_kept_with_what_came_meanwhile(chromium):
    found = chromium("""(async () => {
      await kept.write({ ...talk, turns: [{ role: "user", text: "What moved?", media: [] }] });
      const old = await kept.read();
      byId("question").value = talk.draft = "And now?";
      await save();
      restore(old);
      const stored = await kept.read();
      return [...stored.turns.map(one => one.text), stored.draft];
    })()""")
    assert found == ["What moved?", "And now?"] and log(chromium) == ["What moved?"]


@pytest.mark.whole
def test_a_file_that_the_server_let_go_is_sent_anew(chromium, served):
    upload(chromium, served.clip)
    assert ask(chromium, "What happens?") == SAID
    file = list(served.files._files)[-1]
    chromium.choose_files("#file", served.evil)
    chromium.until("sent.size === 2")
    chromium("document.querySelector('#remove').click()")
    chromium.until("sent.size === 1")
    served.files.remove(file)
    assert ask(chromium, "And then?") == SAID
    assert ["404" in one for one in chromium.mistakes(served.address)] == [True]  # Chromium tells of every such status
    reload(chromium, served)
    assert ask(chromium, "And now?") == SAID  # of the file that the browser kept
    chromium("document.querySelector('#fresh').click()")
    assert chromium("sent.size") == 0


@pytest.mark.whole
def test_a_file_that_is_removed_on_its_way_is_given_up(chromium, served):
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 10}  # bytes a second
    chromium.call("Network.emulateNetworkConditions", **slow)
    chromium.choose_files("#file", served.clip)
    chromium.until("document.querySelector('#travel').checkVisibility() && travelling.size === 1")
    chromium("[...travelling.values()][0].post.addEventListener('abort', () => window.given_up = true)")
    chromium("document.querySelector('#remove').click()")
    chromium.until("document.querySelector('#travel').hidden && travelling.size === 0 && sent.size === 0")
    assert chromium("window.given_up")
    chromium.call("Network.emulateNetworkConditions", **{**slow, "uploadThroughput": -1})
    assert ask(chromium, "Anyone?") == SAID


@pytest.mark.whole
def test_names_and_answers_are_text(chromium, served):
    upload(chromium, served.evil)
    assert ask(chromium, "<script>window.ran = 2</script>") == SAID
    assert EVIL in chromium("document.querySelector('#name').textContent")
    assert chromium("document.querySelectorAll('.talk img, .talk b, .talk script, .seen img').length") == 0
    chromium("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 3'}))")
    assert chromium("window.ran") is None
    chromium.events.clear()  # the refused script


@pytest.mark.whole
def test_by_keyboard_alone(chromium, served):
    upload(chromium, served.clip)
    chromium("document.activeElement.blur()")
    reached = []
    for _ in range(40):
        chromium.key("Tab")
        reached.append(chromium("document.activeElement.id || document.activeElement.localName"))
        if reached[-1] == "question":
            break
    assert [one for one in reached if one in ("model", "fresh", "open", "theme", "pick", "start", "question")] == [
        *("model", "fresh", "open", "theme", "start", "pick", "question")
    ]
    chromium.type("first")
    chromium.key("Enter", shift=True)
    chromium.type("second")
    chromium.key("Tab")
    chromium.key("Enter")  # the button
    chromium.until(STOPPED)
    assert log(chromium) == ["first\nsecond", SAID]
    assert chromium("document.activeElement.id") == "question"


@pytest.mark.whole
@pytest.mark.parametrize("stop", ["key", "button"])
def test_an_answer_can_be_stopped(chromium, served, stop):
    chromium("document.querySelector('#model').value = 'endless'")
    chromium("document.querySelector('[name=max_tokens]').value = 90000")
    chromium("document.querySelector('#question').focus()")
    chromium.type("Go on")
    chromium.key("Enter")
    chromium.until("document.querySelector('.assistant .text').textContent.length > 5")
    chromium.key("Escape") if stop == "key" else chromium("document.querySelector('#stop').click()")
    chromium.until(STOPPED)
    assert "stopped" in chromium("document.querySelector('.assistant small').textContent")
    said = log(chromium)[-1]
    assert said.startswith("xyzxy") and len(said) < 90000
    chromium("document.querySelector('#model').value = 'says'")
    assert ask(chromium, "Again") == SAID  # what was said so far is part of the conversation


@pytest.mark.whole
def test_problems_are_said_in_words_and_the_question_stays(chromium, served, tmp_path):
    notice = "document.querySelector('#notice').textContent"
    field = "document.querySelector('#question').value"
    text = tmp_path / "notes.txt"
    text.write_text("no video")
    chromium.choose_files("#file", text)
    assert "neither a video nor a picture" in chromium(notice)
    (fake := tmp_path / "fake.mp4").write_text("no video")
    chromium.choose_files("#file", fake)
    chromium.until("document.querySelector('.words') !== null")  # the browser cannot show it
    ask(chromium, "What happens?")
    assert chromium(notice).startswith("messages[0].content[0]: ") and "/tmp" not in chromium(notice)
    assert ["400" in one for one in chromium.mistakes(served.address)] == [True]  # Chromium tells of every such status
    chromium.events.clear()
    assert (log(chromium), chromium(field)) == ([], "What happens?")
    chromium("document.querySelector('#fresh').click()")
    for answer, words in (
        ("return new Response('x', {status: 429, headers: {'Retry-After': '7'}})", "Try again in 7 s"),
        ("return new Response('x', {status: 413})", "too large"),
        ("return new Response('x', {status: 500})", "failed"),
        ('return new Response(\'data: {"error": {"message": "broken"}}\\n\\n\')', "broken"),
        ("return new Response('data: [')", "ended before the answer did"),
        ("throw new TypeError('Failed to fetch')", "does not answer"),
    ):
        chromium(f"window.fetch = async () => {{ {answer} }}; document.querySelector('#question').value = ''")
        ask(chromium, "Anyone?")
        assert words in chromium(notice) and chromium(field) == "Anyone?"


@pytest.mark.whole
def test_a_file_of_the_server_and_the_frames_that_the_model_sees(chromium, served):
    chromium("document.querySelector('.drop details').open = true; document.querySelector('#path').focus()")
    chromium.type("clip.mp4")
    chromium.key("Enter")
    assert ask(chromium, "What happens?") == SAID
    chromium("document.querySelector('#shown').open = true")
    assert chromium.until("document.querySelectorAll('#frames img').length") == 2
    chromium.until("[...document.querySelectorAll('#frames img')].every(one => one.naturalWidth === 28)")


@pytest.mark.whole
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_cut_and_text_can_be_read(chromium, served, width, dark):
    upload(chromium, served.evil)
    assert ask(chromium, "a question that is long " * 3 + "w" * 70) == SAID
    chromium.size(width, dark=dark, phone=width == 390)
    assert chromium("document.documentElement.scrollWidth") == width
    cut = """[...document.querySelectorAll('button, label, .text, .name')]
      .filter(one => one.getClientRects().length && one.getBoundingClientRect().right > innerWidth + 1)
      .map(one => one.outerHTML.slice(0, 80))"""
    assert chromium(cut) == []
    low = chromium("document.querySelector('#ask').getBoundingClientRect().bottom <= innerHeight + 1")
    assert low  # the field is in sight


@pytest.mark.whole
def test_a_box_is_drawn_by_keys_and_by_pointer_and_asked_about(browser, tmp_path):
    model = vidtune.load(write_target_checkpoint(tmp_path / "boxes"), device="cpu")
    write_video(tmp_path / "clip.mp4", (20, 60, 160))
    app = build_app([ServedModel("boxes", model.network, model.processor)], MediaIntake(None))
    box = "document.querySelector('#drawn')?.getBoundingClientRect().left"
    with running(app) as address:
        browser.size(1280)
        browser.open(address)
        browser.until("document.querySelector('#model').value")
        upload(browser, tmp_path / "clip.mp4")
        browser("document.querySelector('#draw').focus()")
        browser.key("Enter")
        left = browser.until(box)
        browser.key("ArrowRight")
        browser.key("ArrowDown", shift=True)
        assert browser(box) > left
        assert browser("chosen().box.box") == [0.37, 0.35, 0.67, 0.67]
        browser.key("Enter")
        assert browser("document.querySelector('#question').value") == "<box> "
        browser("document.querySelector('#draw').click()")
        place = browser("(({left, top}) => [left, top])(document.querySelector('#board').getBoundingClientRect())")
        inside = browser("ground()")
        for kind, share in (("Pressed", 0.25), ("Moved", 0.5), ("Released", 0.5)):
            x, y = (place[n] + inside[("left", "top")[n]] + share * inside[("width", "height")[n]] for n in (0, 1))
            browser.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, button="left", clickCount=1)
        assert browser("chosen().box.box") == pytest.approx([0.25, 0.25, 0.5, 0.5], abs=0.01)
        browser("document.querySelector('[name=max_tokens]').value = 6")
        said = ask(browser, "What does it do?")
        again = ask(browser, "Where is <box>?")
        assert browser("document.querySelector('#notice').textContent") == ""
        target = vidtune.Target(browser("chosen().box.box"), browser("chosen().box.seconds"), form="xyxy_fraction")
    talk = model.chat(video=tmp_path / "clip.mp4", target=target, max_new_tokens=6)
    assert said == str(talk.say("<box> What does it do?"))
    assert again == str(talk.say("Where is <box>?"))


MOMENTS = [
    ("at 12 s, then 1.5 seconds and 00:07", {}, ["12 s", "1.5 seconds", "00:07"], [12, 1.5, 7]),
    ("from 3 to 4.5 seconds", {}, ["from 3 to 4.5 seconds"], [3]),
    ("between 0:10 and 0:20, after 1:00:00", {}, ["between 0:10 and 0:20", "1:00:00"], [10, 3600]),
    ("ratio 3:2, 5 sheep, 2024 and 99 s", {"length": 20}, [], []),
    ("From 10 to 50, it moves", {"times": "percent", "length": 20, "start": 5}, ["From 10 to 50"], [7]),
    ("From 10 to 50, it moves", {"times": "percent"}, [], []),
]


@pytest.mark.whole
def test_moments_of_answers(chromium):
    for text, options, shown, seconds in MOMENTS:
        found = chromium(f"moments({text!r}, {options})")
        assert [text[one["begin"] : one["end"]] for one in found] == shown
        assert [one["second"] for one in found] == pytest.approx(seconds)
