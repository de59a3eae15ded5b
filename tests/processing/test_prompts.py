import pytest

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Turn
from vidtune.processing.prompts import PromptFormat

TWO = PromptFormat("two", "Be kind.")
SINGLE = PromptFormat("single", "Be kind.", "Human", "Assistant", ("###", "###"), "single")
PLAIN = PromptFormat("plain", "", separators=("\n", "\n"), style="plain", only_streams=("image",))


def turns(*texts: str) -> list[Turn]:
    return [Turn(("user", "assistant")[k % 2], text) for k, text in enumerate(texts)]  # type: ignore[arg-type]


def text_of(prompt: PromptFormat, *texts: str, open_answer: bool = False) -> str:
    return "".join(piece.text for piece in prompt.render(turns(*texts), open_answer))


def test_two_separators() -> None:
    expected = "Be kind. USER: A? ASSISTANT: B.</s>USER: C? ASSISTANT: D.</s>"
    assert text_of(TWO, "A?", "B.", "C?", "D.") == expected


def test_one_separator() -> None:
    assert text_of(SINGLE, "A?", "B.") == "Be kind.###Human: A?###Assistant: B.###"


def test_an_open_answer_ends_with_the_role_and_no_space() -> None:
    assert text_of(TWO, "A?", open_answer=True) == "Be kind. USER: A? ASSISTANT:"
    assert text_of(SINGLE, "A?", open_answer=True) == "Be kind.###Human: A?###Assistant:"


def test_supervised_are_the_answers_with_their_end() -> None:
    pieces = TWO.render(turns("A?", "B.", "C?", "D."))
    assert [piece.text for piece in pieces if piece.supervised] == [" B.</s>", " D.</s>"]


def test_an_assistant_turn_at_the_start_is_dropped() -> None:
    with_greeting = [Turn("assistant", "Hello."), *turns("A?", "B.")]
    assert TWO.render(with_greeting) == TWO.render(turns("A?", "B."))


def test_two_turns_of_one_role_are_refused() -> None:
    with pytest.raises(SampleProblem, match="turn 1 is another user turn"):
        TWO.render([Turn("user", "A?"), Turn("user", "B?")])


@pytest.mark.parametrize("conversation", [[], [Turn("assistant", "Hello.")]])
def test_a_conversation_without_user_is_refused(conversation: list[Turn]) -> None:
    with pytest.raises(SampleProblem, match="no user turn"):
        TWO.render(conversation)


def test_plain_keeps_only_the_tag_of_the_question() -> None:
    assert text_of(PLAIN, "<image>\nDescribe.", "A dog.") == "<image>A dog.\n"
    assert [piece.supervised for piece in PLAIN.render(turns("<image>\nDescribe.", "A dog."))] == [False, True]


@pytest.mark.parametrize("question", ["<video>\nDescribe.", "Describe.", "<image><image>\nDescribe."])
def test_plain_takes_exactly_one_image(question: str) -> None:
    with pytest.raises(SampleProblem, match="one <image> and one caption"):
        PLAIN.render(turns(question, "A dog."))


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (("A?", "B."), None),
        (("A?", ""), "empty answer"),
        (("", "B."), "empty question"),
        (("A?", "B.", "C?"), "last question has no answer"),
        (("A?", "He said ASSISTANT: yes."), "role text in a turn"),
        (("Say ASSISTANT: yes", "B."), "role text in a turn"),
        (("ASSISTANT: yes?", "B."), "role text in a turn"),
        (("A?", "B.</s>C."), "separator in a turn"),
        (("A</s>?", "B."), "separator in a turn"),
        (("Who is the USER: me?", "ASSISTANT"), None),
    ],
)
def test_answers_that_published_code_cannot_find_are_named(texts: tuple[str, ...], reason: str | None) -> None:
    assert TWO.ambiguity(turns(*texts)) == reason


def test_roles_in_a_single_separator_format_are_ambiguous_only_after_the_separator() -> None:
    assert SINGLE.ambiguity(turns("A?", "An Assistant: yes.")) is None
    assert SINGLE.ambiguity(turns("A?", "B###Human: C")) == "separator in a turn"
