"""Videos and feature files that do not have the very name that a protocol gives them."""

import json
import os

import pytest
from qa_sets import write_set

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.check import check_test_set
from vidtune.evaluation.benchmarks.named_files import NamedFiles
from vidtune.registry import BENCHMARKS

FOUND = [  # name of the video, files, the one that is found
    ("v_abc", ["all_test/v_abc.mp4"], "all_test/v_abc.mp4"),
    ("abc", ["all_test/v_abc.webm"], "all_test/v_abc.webm"),
    ("abc", ["all_test/v_abc.gif"], "all_test/v_abc.gif"),
    ("abc", ["all_test/v_abc.MP4"], "all_test/v_abc.MP4"),
    ("abc.mp4", ["all_test/v_abc.mp4"], "all_test/v_abc.mp4"),
    ("abc.avi", ["all_test/v_abc.mp4", "all_test/v_abc.avi"], "all_test/v_abc.avi"),
    ("abc.gif", ["all_test/v_abc.mp4"], "all_test/v_abc.mp4"),
    ("abc", ["all_test/v_abc.mp4.mp4"], "all_test/v_abc.mp4.mp4"),
    ("abc", ["all_test/abc.mp4"], "all_test/abc.mp4"),
    ("v_abc", ["all_test/abc.mp4"], "all_test/abc.mp4"),
    ("abc", ["all_test/v_v_abc.mp4"], "all_test/v_v_abc.mp4"),
    ("v_abc", ["all_test/v_abc.mp4", "all_test/abc.mp4"], "all_test/v_abc.mp4"),
    ("abc", ["all_test/sports/run/v_abc.mp4"], "all_test/sports/run/v_abc.mp4"),
    ("abc", ["all_test/x/v_abc.mp4", "all_test/y/v_abc.mp4"], None),
    ("x/abc", ["all_test/v_x/abc.mp4", "all_test/y/v_abc.mp4"], "all_test/v_x/abc.mp4"),
    ("abc", ["v_abc.mp4"], "v_abc.mp4"),
    ("abc", ["videos/v_abc.mp4"], "videos/v_abc.mp4"),
    ("abc", ["deep/er/v_abc.mp4"], None),
    ("AbC", ["all_test/v_abc.mp4"], "all_test/v_abc.mp4"),
    ("abc", ["all_test/V_ABC.MP4"], "all_test/V_ABC.MP4"),
    ("abc", ["all_test/v_ABC.mp4", "all_test/v_abc.mkv", "all_test/v_abc.webm"], "all_test/v_abc.mkv"),
    ("abc", ["all_test/v_abc.AVI", "all_test/v_abc.webm"], "all_test/v_abc.AVI"),
    ("abc", ["all_test/v_abc.webm", "all_test/v_abc.gif"], None),
    ("abc", ["all_test/._v_abc.mp4", "all_test/v_abc.mp4.part", "all_test/v_abc.txt", "all_test/v_abcd.mp4"], None),
    ("clip.1", ["all_test/v_clip.1.webm", "all_test/v_clip.2.webm"], "all_test/v_clip.1.webm"),
    ("caf\u00e9", ["all_test/v_cafe\u0301.mp4"], "all_test/v_cafe\u0301.mp4"),
    ("7", ["all_test/v_7.mp4"], "all_test/v_7.mp4"),
]


def load(folder, names, files, benchmark="activitynet_qa"):
    write_set(folder, [(name, f"{n}?", "cat") for n, name in enumerate(names)], missing=names, videos="all_test")
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return BENCHMARKS[benchmark].load(folder).with_similar_files().questions


@pytest.mark.parametrize(("name", "files", "expected"), FOUND)
def test_a_video_that_lies_there_is_found_when_its_name_decides(name, files, expected, tmp_path):
    (question,) = load(tmp_path, [name], files)
    assert question.file == expected
    exact = f"all_test/v_{name}" in [file[:-4] for file in files if file.endswith((".mp4", ".avi", ".mkv"))]
    assert (question.looked_for is None) == (exact and expected is not None)


def test_the_published_scripts_know_no_similar_names(tmp_path):
    load(tmp_path, ["abc"], ["all_test/v_abc.webm"])
    (question,) = BENCHMARKS["activitynet_qa"].load(tmp_path).questions
    assert (question.file, question.similar) == (None, "all_test/v_abc.webm")


def test_what_was_tried_and_what_is_near_is_named(tmp_path):
    first, second = load(tmp_path, ["abcdef", "other"], ["all_test/v_abcdeg.mp4", "all_test/x/other.mp4", "other.mp4"])
    assert first.looked_for == "not all_test/v_abcdef (.mp4, .avi, .mov, .mkv); nearest: all_test/v_abcdeg.mp4"
    assert second.file == "all_test/x/other.mp4"  # below the folder of videos, before those beside it
    assert second.looked_for == "not all_test/v_other (.mp4, .avi, .mov, .mkv)"


def test_two_files_equally_close_are_both_named(tmp_path):
    (question,) = load(tmp_path, ["abc"], ["all_test/v_abc.webm", "all_test/v_abc.gif"])
    assert question.looked_for.endswith("several could be meant: all_test/v_abc.gif, all_test/v_abc.webm")


def test_ids_that_differ_in_case_alone_are_different_videos(tmp_path):
    first, second = load(tmp_path / "one", ["abC", "abc"], ["all_test/v_abc.mp4"])
    assert (first.file, second.file) == (None, "all_test/v_abc.mp4")
    first, second = load(tmp_path / "two", ["abC", "aBc"], ["all_test/ABC.mp4"])
    assert (first.file, second.file) == (None, None)
    first, second = load(tmp_path / "three", ["abC", "aBc"], ["all_test/aBc.mp4"])
    assert (first.file, second.file) == (None, "all_test/aBc.mp4")


def test_a_link_out_of_the_folder_is_refused_under_any_name(tmp_path):
    (tmp_path / "secret.webm").touch()
    (tmp_path / "set" / "all_test").mkdir(parents=True)
    (tmp_path / "set" / "all_test" / "v_a.webm").symlink_to(tmp_path / "secret.webm")
    with pytest.raises(UserError, match="is a link that leaves"):
        load(tmp_path / "set", ["a"], [])


def test_features_behind_a_link_that_leaves_their_folder_are_refused(tmp_path):
    folder = write_set(tmp_path / "set", [("one", "question?", "answer")], missing=["one"])
    (tmp_path / "secret.npy").touch()
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "one.npy").symlink_to(tmp_path / "secret.npy")
    test_set = BENCHMARKS["world_qa"]
    with pytest.raises(UserError, match=r"features of video: .*one\.npy is a link that leaves the folder"):
        test_set.with_features(test_set.load(folder), {"video": tmp_path / "features"}, "video")


def test_feature_files_are_found_in_the_same_way(tmp_path):
    questions = BENCHMARKS["activitynet_qa"].load(
        write_set(tmp_path / "set", [(name, "?", "cat") for name in "abcd"], missing="abcd", videos="all_test")
    )
    features = tmp_path / "features"
    (features / "more").mkdir(parents=True)
    for file in ("v_a.pkl", "b.npy", "more/v_c.NPY"):
        (features / file).touch()
    found = BENCHMARKS["activitynet_qa"].with_features(questions, {"video": features}, "video").questions
    expected = [str(features / file) for file in ("v_a.pkl", "b.npy", "more/v_c.NPY")]
    assert [dict(one.features).get("video") for one in found] == [*expected, None]
    assert found[3].missing and found[3].looked_for.startswith("not v_d (.npy")


def test_events_are_found_in_the_same_way(tmp_path):
    annotation = {"duration": 9.0, "timestamps": [[0, 5]], "sentences": ["It rings."]}
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "One.MOV").touch()
    (tmp_path / "annotations.json").write_text(json.dumps({"one": annotation, "two": annotation}))
    questions = BENCHMARKS["world_events"].load(tmp_path).with_similar_files().questions
    assert {(one.video, one.file) for one in questions} == {("one", "videos/One.MOV"), ("two", None)}


def test_the_nearest_file_is_searched_for_a_few_names_only():
    files = NamedFiles([f"videos/clip{n:04d}.mp4" for n in range(300)], "videos", "", (".mp4",), (), [])
    found = [files.find(f"klip{n:04d}").looked_for for n in range(40)]
    assert "nearest" in found[0] and "nearest" not in found[-1]


OUT = "(a linked folder that leads out of the test set, so that nothing in it is found)"


@pytest.mark.parametrize(
    ("files", "links", "expected"),
    [
        ([], {"all_test/v_a.mp4": "/nowhere/a.mp4"}, "all_test/v_a.mp4 (a broken link)"),
        ([], {"all_test/v_a.webm": "v_a.webm"}, "all_test/v_a.webm (a broken link)"),
        ([], {"all_test/more": "../../outside"}, f"all_test/more {OUT}"),
        (["all_test/a/video.mp4"], {}, "all_test/a/video.mp4"),
        (["all_test/v_a.mp4/clip.mp4"], {}, "all_test/v_a.mp4/clip.mp4"),
        (["all_test/a/0001.jpg"], {}, "all_test/a (a folder)"),
        (["data/raw/x/a.mp4"], {}, "data/raw/x/a.mp4"),
        (["all_test/v_a.mp4.part"], {}, "all_test/v_a.mp4.part"),
        (["all_test/v_a.f137.mp4"], {}, "all_test/v_a.f137.mp4"),
        (["all_test/a copy.mp4"], {}, "all_test/a copy.mp4"),
    ],
)
def test_what_lies_there_instead_of_a_video_is_named(files, links, expected, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "set" / "all_test").mkdir(parents=True)
    for link, target in links.items():
        (tmp_path / "set" / link).symlink_to(target)
    (question,) = load(tmp_path / "set", ["a"], files)
    assert (question.file, question.looked_for) == (
        None,
        f"not all_test/v_a (.mp4, .avi, .mov, .mkv); there is {expected}",
    )


def test_a_pipe_is_no_video_and_names_that_are_no_text_belong_to_none(tmp_path):
    (tmp_path / "all_test").mkdir()
    os.mkfifo(tmp_path / "all_test" / "v_a.mp4")
    (tmp_path / "all_test" / os.fsdecode(b"v_b\xe9.mp4")).touch()
    first, second = load(tmp_path, ["a", "b"], [])
    assert first.file is None and first.looked_for.endswith("all_test/v_a.mp4 (no file)")
    assert second.file is None and second.looked_for.isprintable()


def test_linked_folders_are_read_where_they_stay_in_the_test_set(tmp_path):
    (tmp_path / "store" / "part").mkdir(parents=True)
    (tmp_path / "all_test").mkdir()
    (tmp_path / "all_test" / "part").symlink_to("../store/part")
    (tmp_path / "store" / "part" / "again").symlink_to("..")
    (question,) = load(tmp_path, ["a"], ["store/part/a.mp4"])
    assert question.file == "all_test/part/a.mp4"


def test_a_file_belongs_to_one_of_two_names_that_differ_in_the_prefix(tmp_path):
    first, second = load(tmp_path / "one", ["a", "v_a"], ["all_test/v_a.mp4"])
    assert (first.file, second.file) == ("all_test/v_a.mp4", None)
    assert "several names are those of all_test/v_a.mp4: 'a'" in second.looked_for
    first, second = load(tmp_path / "two", ["a", "v_a"], ["all_test/v_a.webm"])
    assert (first.file, second.file) == (None, None)
    first, second = load(tmp_path / "three", ["a", "a.mp4"], ["all_test/v_a.mp4"])
    assert first.file == second.file == "all_test/v_a.mp4"


def test_the_check_names_empty_files_and_features_of_no_video(tmp_path):
    load(tmp_path, ["a", "b"], ["all_test/v_a.mp4"])
    (tmp_path / "all_test" / "v_b.mp4").write_bytes(b"x")
    found = check_test_set(BENCHMARKS["activitynet_qa"], tmp_path, {})
    assert found.no_content == [str(tmp_path / "all_test" / "v_a.mp4")] and found.usable == 2
    (tmp_path / "features").mkdir()
    with pytest.raises(UserError, match=r"--features bogus=.*: no feature file there is named after a video"):
        check_test_set(BENCHMARKS["activitynet_qa"], tmp_path, {"bogus": tmp_path / "features"})
