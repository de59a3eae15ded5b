"""Test sets of videos: their size, what must be downloaded, and where it goes."""

from vidtune.evaluation.benchmarks.downloads.records import Download, Facts

_HUB = "https://huggingface.co/datasets"
_EVAL = "github.com/PKU-YuanGroup/Video-LLaVA, TRAIN_AND_VALIDATE.md"
_CHATGPT = "github.com/mbzuai-oryx/Video-ChatGPT, quantitative_evaluation/README.md"


_FORK = "annotation files of github.com/OpenGVLab/VideoChat-Flash at 2f8e2f57, lmms-eval_videochat"


def _zero_shot(name: str, items: int | None, media: int | None, videos: str, counted: str = "") -> Facts:
    place = f"GPT_Zero_Shot_QA/{name}"
    files = Download("test_q.json, test_a.json", _EVAL, f"{place}/")
    return Facts(items, media, (files, Download(f"{name}: videos", _EVAL, f"{place}/{videos}/")), counted=counted)


def _longvale(items: int) -> Facts:
    return Facts(
        items,
        1171,
        (
            Download("longvale-annotations-eval.json", f"{_HUB}/ttgeng233/LongVALE", "longvale-annotations-eval.json"),
            Download("videos, by their YouTube ids", f"{_HUB}/ttgeng233/LongVALE", "videos/"),
            Download("or features_eval, instead of videos", f"{_HUB}/ttgeng233/LongVALE", "--features STREAM=DIR"),
        ),
        counted="1171 videos with 13867 events in README.md of github.com/ttgeng233/LongVALE at 2eb88ce3",
    )


def _on_hub(items: int, media: int, repository: str, *places: tuple[str, str]) -> Facts:
    url = f"{_HUB}/{repository}"
    return Facts(items, media, tuple(Download(what, url, place) for what, place in places), counted=_FORK)


def _world(what: str, place: str) -> Facts:
    return Facts(None, None, (Download(what, "", place),))


_HAYSTACK = Facts(
    None,
    None,
    (Download("haystack.json with a long video and pictures of your own", "", "as haystack.json names them"),),
    medium="pictures in one video",
)
_VIDEO_CHATGPT = Facts(
    None,
    500,
    (
        Download("Benchmarking_QA.zip", _CHATGPT, "Video_5_Benchmark/Benchmarking_QA/"),
        Download("Test_Videos.zip", _CHATGPT, "Video_5_Benchmark/Test_Videos/"),
    ),
    counted="github.com/mbzuai-oryx/Video-ChatGPT, quantitative_evaluation/README.md",
)
_VIDEO_MME = _on_hub(
    2700, 900, "lmms-lab/Video-MME", ("table as videomme.jsonl", "Video-MME/"), ("videos", "Video-MME/data/")
)
_SUBTITLES = Download("subtitle.zip", f"{_HUB}/lmms-lab/Video-MME", "Video-MME/subtitle/")

_CHARADES = Facts(
    3720,
    1334,
    (
        Download(
            "charades_sta_test.txt (or .json, .jsonl)",
            "github.com/jiyanggao/TALL",
            "Charades/charades_sta_test.txt",
        ),
        Download("Charades_v1_480.zip", "https://prior.allenai.org/projects/charades", "Charades/Charades_v1_480/"),
    ),
    counted=_FORK,
)
VIDEO_SETS: dict[str, Facts] = {
    "msvd_qa": _zero_shot("MSVD_Zero_Shot_QA", 13157, None, "videos", "test in the card of MMInstruction/M3IT"),
    "msrvtt_qa": _zero_shot("MSRVTT_Zero_Shot_QA", 72820, 2990, "videos/all", "test in the card of MMInstruction/M3IT"),
    "tgif_qa": _zero_shot("TGIF_Zero_Shot_QA", None, None, "mp4"),
    "activitynet_qa": _zero_shot(
        "Activitynet_Zero_Shot_QA", 8000, 800, "all_test", "test in github.com/MILVLG/activitynet-qa, dataset/README.md"
    ),
    "longvale": _longvale(28905),
    "longvale_captioning": _longvale(1171),
    "longvale_grounding": _longvale(13867),
    "longvale_seg_captioning": _longvale(13867),
    "video_chatgpt": _VIDEO_CHATGPT,
    "video_chatgpt_q1_twice": _VIDEO_CHATGPT,
    **dict.fromkeys(
        ("videoref_bench", "videoref_bench_whole"),
        Facts(
            None,
            None,
            (
                Download("hc_stvg_val.json", "github.com/qiujihao19/Artemis, README.md", "videorefbench_json/"),
                Download("frames and features of HC-STVG", "github.com/qiujihao19/Artemis, README.md", "Artemis_data/"),
            ),
        ),
    ),
    "charades_sta": _CHARADES,
    "charades_sta_lmms_eval": _CHARADES,
    "mvbench": _on_hub(4000, 3899, "OpenGVLab/MVBench", ("json", "MVBench/json/"), ("video/*.zip", "MVBench/video/")),
    "mlvu": _on_hub(2175, 1242, "MLVU/MVLU", ("json", "MLVU/json/"), ("video", "MLVU/video/")),
    "lvbench": _on_hub(
        1519,
        101,
        "THUDM/LVBench",
        ("video_info.meta.jsonl (or the cleaned set of VideoChat-Flash: json/)", "LVBench/"),
        ("videos of YouTube, by their key", "LVBench/videos/"),
    ),
    "perception_test": Facts(
        19140,
        None,
        (
            Download(
                "mc_question_valid.json",
                "github.com/google-deepmind/perception_test",
                "PerceptionTest/mc_question_valid.json",
            ),
            Download("videos, valid", "github.com/google-deepmind/perception_test", "PerceptionTest/videos/"),
        ),
        counted="the card of lmms-lab/PerceptionTest_Val",
    ),
    "video_mme": _VIDEO_MME,
    "video_mme_subtitles": Facts(2700, 900, (*_VIDEO_MME.downloads, _SUBTITLES), counted=_FORK),
    **dict.fromkeys(
        ("longvideobench", "longvideobench_interleaved"),
        _on_hub(
            1337,
            753,
            "longvideobench/LongVideoBench",
            ("lvb_val.json", "LongVideoBench/"),
            ("videos.tar.part.*, joined", "LongVideoBench/videos/"),
            ("subtitles.tar", "LongVideoBench/subtitles/"),
        ),
    ),
    "needle": _HAYSTACK,
    "needle_multi_hop": _HAYSTACK,
    "world_qa": _world("`vidtune demo` renders it", "World_Zero_Shot_QA/"),
    "world_events": _world("`vidtune demo --recipe` of a system of events renders it", "eval/events/"),
    "world_targets": _world("`vidtune demo --recipe` of a system of targets renders it", "eval/targets/"),
    "world_moments": _world("`vidtune demo --recipe` of a system of moments renders it", "eval/moments/"),
}
"""Name of a benchmark -> its facts; a second record of a test set has those of the first."""
