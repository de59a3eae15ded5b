"""Files that are sent once: they are asked about by their id, kept within limits, and leave nothing behind."""

import asyncio
import base64
import gc
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import openai
import pytest
from served_world import asking, served

from vidtune.serving.files.form import boundary_of, read_form
from vidtune.serving.files.stored import StoredFiles, is_file_id
from vidtune.serving.limits import Limits
from vidtune.serving.problems import ApiProblem

FORM = b'--X\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nvision\r\n' + (
    b'--X\r\nContent-Disposition: form-data; name="file"; filename="a b.mp4"\r\n'
    b"Content-Type: video/mp4\r\n\r\n%s\r\n--X--\r\n"
)


def read(body: bytes, size: int) -> tuple[str, dict[str, str], bytes]:
    """A form that comes in pieces of so many bytes."""
    held = bytearray()

    async def run():
        async def pieces():
            for begin in range(0, len(body), size):
                yield body[begin : begin + size]

        return await read_form(pieces(), b"X", held.extend)

    return *asyncio.run(run()), bytes(held)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_form_is_read_in_pieces_of_any_size(size):
    content = b"\r\n--\r\n--Y\0" + bytes(range(256)) + b"\r\n--"
    assert read(FORM % content, size) == ("a b.mp4", {"purpose": "vision"}, content)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "is no form, or ends"),
        ((FORM % b"aaaa")[:-12], "ends before"),
        (b"--X--\r\n", "no field file"),
        (b"--X\r\nContent-Type: a/b\r\n\r\nx\r\n--X--", "has no name"),
        ((FORM % b"a").replace(b"purpose", b"file"), "two files"),
        (FORM.replace(b"vision", b"v" * 5000) % b"a", "'purpose' is longer than 4,096 bytes"),
        (b"--X\r\nA: " + b"b" * 20_000, "the head of a part is longer than 16,384 bytes"),
    ],
)
def test_what_is_no_form_is_refused(body, said):
    with pytest.raises(ApiProblem, match=said) as problem:
        read(body, 1000)
    assert problem.value.status == 400


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data", "multipart/form-data; boundary=\u00e4"])
def test_a_body_of_another_type_is_refused(kind):
    with pytest.raises(ApiProblem, match="multipart/form-data"):
        boundary_of(kind)


def keep(files: StoredFiles, content: bytes) -> str:
    with files.arriving() as arrival:
        arrival.take(content)
        return arrival.keep("a.mp4", "vision").id


def test_files_go_by_bytes_number_and_age_and_stay_while_they_are_held(monkeypatch):
    files = StoredFiles(Limits(media_bytes=8, files_bytes=10, files=2, files_seconds=100))
    first = keep(files, b"aaaa")
    assert is_file_id(first) and not is_file_id(first + "0")
    held, path = files.find(first).upload, files.find(first).upload.path
    second, third = keep(files, b"bbbb"), keep(files, b"cc")  # a third of two
    with pytest.raises(ApiProblem, match="send it again"):
        files.find(first)
    assert path.read_bytes() == b"aaaa" and held.size == 4
    del held
    gc.collect()
    assert not path.exists()
    files.find(second)
    fourth = keep(files, b"dddddd")  # no room beside both
    assert (len(files), files.used) == (2, 10)
    with pytest.raises(ApiProblem):
        files.find(third)
    with files.arriving() as arrival, pytest.raises(ApiProblem) as problem:
        arrival.take(b"e" * 9)
    assert problem.value.status == 413 and files.used == 10  # nothing went for it
    with files.arriving() as one, files.arriving() as two:
        one.take(b"f" * 8)
        with pytest.raises(ApiProblem, match="arrive take all the room") as problem:
            two.take(b"g" * 3)
        assert problem.value.status == 429
    assert files.used == 0  # what arrived had the room of all others
    last = keep(files, b"cc")
    with files.arriving() as one, files.arriving() as two:
        one.take(b"f" * 8)
        with pytest.raises(ApiProblem, match="arrive take all the room") as problem:
            two.take(b"g" * 3)
    assert files.find(last).upload.size == 2  # nothing went for what was refused
    files.remove(last)
    fourth = keep(files, b"dddddd")
    folder = files.find(fourth).upload.path.parent
    assert [path.read_bytes() for path in folder.iterdir()] == [b"dddddd"]
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 101)
    with pytest.raises(ApiProblem):
        files.find(fourth)
    del files, arrival, one, two, problem
    gc.collect()
    assert not folder.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_no_half_file():
    files = StoredFiles(Limits())
    with pytest.raises(ApiProblem, match="file: the server has no room left") as problem, files.arriving() as arrival:
        arrival._file.close()
        arrival._file = Path("/dev/full").open("wb")  # noqa: SIM115 - it says so when it is closed
        arrival.take(b"aaaa")
        arrival.keep("a.mp4", "vision")
    assert (problem.value.status, problem.value.code, problem.value.retry_after) == (507, "disk_full", 60)
    assert files.used == 0 and not list(Path(files._folder.name).iterdir())


def test_a_file_is_sent_once_and_asked_about_by_its_id(model, folder):
    expected = str(model.answer("What moves?", video=folder / "a.mp4", max_new_tokens=8))
    content = (folder / "a.mp4").read_bytes()
    with served({"tiny": model}, folder, limits=Limits(media_bytes=len(content) + 1), api_key="key") as server:
        kept = Path(server.intake.files._folder.name)
        with server.client("key") as client:
            file = client.files.create(file=("../a.mp4", content), purpose="vision")
            assert (file.bytes, file.filename, file.purpose) == (len(content), "../a.mp4", "vision")
            assert client.files.retrieve(file.id) == file

            def ask(url: str, text: str = "What moves?") -> str:
                reply = client.chat.completions.create(model="tiny", messages=asking(text, url), max_tokens=8)
                return reply.choices[0].message.content

            with ThreadPoolExecutor(4) as pool:
                assert set(pool.map(ask, [file.id] * 4)) == {expected}
            work = server.work()
            again = client.files.create(file=("b.mp4", content), purpose="vision")
            data = f"data:video/mp4;base64,{base64.b64encode(content).decode()}"
            assert ask(again.id) == ask(data) == expected and server.work() == work  # known by its content
            client.files.delete(again.id)
            assert client.files.delete(file.id).deleted
            assert list(kept.iterdir()) == []
            for refused in (lambda: client.files.delete(file.id), lambda: ask(file.id)):
                with pytest.raises(openai.NotFoundError) as problem:
                    refused()
                assert problem.value.code == "file_not_found"
            for wrong, status in ((content + b"aa", 413), (b"", 400)):
                with pytest.raises(openai.APIStatusError) as problem:
                    client.files.create(file=("a.mp4", wrong), purpose="vision")
                assert problem.value.status_code == status
            nothing = client.files.create(file=("a.mp4", b"no video"), purpose="vision")
            with pytest.raises(openai.BadRequestError, match="the file: "):
                ask(nothing.id)
        assert len(list(kept.iterdir())) == 1
        with server.client("other") as client, pytest.raises(openai.AuthenticationError):
            client.files.retrieve(nothing.id)
    del server
    gc.collect()


def test_a_form_of_a_foreign_page_is_refused(model, folder):
    with served({"tiny": model}, folder) as server:
        for headers, status in (({}, 415), ({"Authorization": "bearer any"}, 200), ({"Authorization": "Basic a"}, 415)):
            connection = HTTPConnection("127.0.0.1", server.port)
            kind = {"Content-Type": "multipart/form-data; boundary=X"}
            connection.request("POST", "/v1/files", FORM % b"aaaa", {**kind, **headers})
            assert connection.getresponse().status == status
            connection.close()
        connection = HTTPConnection("127.0.0.1", server.port)  # a client that leaves in the middle
        headers = {**kind, "Authorization": "Bearer any", "Content-Length": "999"}
        connection.request("POST", "/v1/files", (FORM % b"aaaa")[:120], headers)
        connection.close()
        deadline = time.monotonic() + 60
        folder_of_files = Path(server.intake.files._folder.name)
        while (len(list(folder_of_files.iterdir())), server.intake.files.used) != (1, 4):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_files_go_when_their_time_is_over_also_while_nobody_asks(model, folder):
    with served({"tiny": model}, folder, limits=Limits(files_seconds=0.2)) as server, server.client() as client:
        client.files.create(file=("a.mp4", b"no video"), purpose="vision")
        data = f"data:video/mp4;base64,{base64.b64encode(b'none either').decode()}"
        with pytest.raises(openai.BadRequestError, match="the file"):
            client.chat.completions.create(model="tiny", messages=asking("What moves?", data))
        places = [Path(one._folder.name) for one in (server.intake.files, server.intake._uploads)]
        deadline = time.monotonic() + 60
        while any(any(place.iterdir()) for place in places):
            assert time.monotonic() < deadline
            time.sleep(0.02)
