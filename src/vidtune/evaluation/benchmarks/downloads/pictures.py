"""Test sets of pictures: their size, what must be downloaded, and where it goes, in LLaVA's evaluation folder."""

from vidtune.evaluation.benchmarks.downloads.records import Download, Facts

_EVAL_ZIP = "https://drive.google.com/file/d/1atZSBBrAX54yYpxtVVW33zFvcnaHeFPy"


def _pictures(
    items: int,
    media: int | None,
    folder: str,
    *others: tuple[str, str, str],
    answers_hidden: bool = False,
    counted: bool = False,
) -> Facts:
    """Facts of a set whose questions are in the archive of LLaVA."""
    archive = Download("eval.zip of LLaVA: questions of all such sets", _EVAL_ZIP, f"{folder}/")
    files = (Download(what, url, f"{folder}/{place}") for what, url, place in others)
    return Facts(items, media, (archive, *files), medium="pictures", counted=counted, answers_hidden=answers_hidden)


def _mmbench(items: int | None, table: str) -> Facts:
    url = f"https://download.openmmlab.com/mmclassification/datasets/mmbench/{table}"
    return Facts(items, None, (Download(table, url, f"mmbench/{table}"),), medium="pictures")


PICTURE_SETS: dict[str, Facts] = {
    "vqa_v2": _pictures(
        107394,
        36807,
        "vqav2",
        ("COCO test2015", "http://images.cocodataset.org/zips/test2015.zip", "test2015/"),
        answers_hidden=True,
        counted=True,  # test-dev, as the card of HuggingFaceM4/VQAv2 counts it
    ),
    "gqa": _pictures(
        12578,
        398,
        "gqa",
        ("questions1.2.zip", "https://cs.stanford.edu/people/dorarad/gqa/download.html", "data/questions1.2/"),
        ("images.zip", "https://cs.stanford.edu/people/dorarad/gqa/download.html", "data/images/"),
    ),
    "vizwiz": _pictures(
        8000,
        8000,
        "vizwiz",
        ("test.zip", "https://vizwiz.cs.colorado.edu/VizWiz_final/images/test.zip", "test/"),
        answers_hidden=True,
    ),
    "textvqa": _pictures(
        5000,
        3166,
        "textvqa",
        (
            "TextVQA_0.5.1_val.json",
            "https://dl.fbaipublicfiles.com/textvqa/data/TextVQA_0.5.1_val.json",
            "TextVQA_0.5.1_val.json",
        ),
        (
            "train_val_images.zip",
            "https://dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip",
            "train_images/",
        ),
    ),
    "pope": _pictures(
        8910,
        500,
        "pope",
        ("output/coco of POPE at e3e3926", "github.com/AoiDragon/POPE", "coco/"),
        ("COCO val2014", "http://images.cocodataset.org/zips/val2014.zip", "val2014/"),
        counted=True,  # 2910 of category random, 3000 of each other
    ),
    "mme": _pictures(
        2374,
        1187,
        "MME",
        (
            "MME_Benchmark_release_version (on request)",
            "github.com/BradyFU/Awesome-Multimodal-Large-Language-Models, branch Evaluation",
            "MME_Benchmark_release_version/",
        ),
        counted=True,  # two questions about each picture, as the card of lmms-lab/MME counts them
    ),
    "seed_bench": _pictures(
        19242,
        None,
        "seed_bench",
        ("SEED-Bench.json", "https://huggingface.co/datasets/AILab-CVC/SEED-Bench", "SEED-Bench.json"),
        ("SEED-Bench-image.zip", "https://huggingface.co/datasets/AILab-CVC/SEED-Bench", "SEED-Bench-image/"),
        (
            "videos, as DATASET.md of github.com/AILab-CVC/SEED-Bench says; "
            "`vidtune benchmarks prepare` takes their middle frames",
            "",
            "videos/",
        ),
    ),
    "science_qa_img": _pictures(
        4241,
        2017,
        "scienceqa",
        (
            "problems.json, pid_splits.json, images of the test part",
            "github.com/lupantech/ScienceQA, data/scienceqa",
            "",
        ),
    ),
    "mmbench": _mmbench(4377, "mmbench_dev_20230712.tsv"),
    "mmbench_all_rounds": _mmbench(None, "mmbench_dev_20230712.tsv"),
    "mmbench_en": _mmbench(4329, "mmbench_dev_en_20231003.tsv"),
    "mmbench_cn": _mmbench(4329, "mmbench_dev_cn_20231003.tsv"),
    "llava_bench": Facts(
        60,
        24,
        (
            Download(
                "everything",
                "https://huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild",
                "llava-bench-in-the-wild/",
            ),
        ),
        medium="pictures",
        counted=True,
    ),
    "mm_vet": _pictures(
        218,
        200,
        "mm-vet",
        (
            "mm-vet.zip: mm-vet.json, images",
            "https://github.com/yuweihao/MM-Vet/releases/download/v1/mm-vet.zip",
            "",
        ),
        counted=True,
    ),
}
"""Name of a benchmark -> its facts."""
