"""Test sets of pictures: their size, what must be downloaded, and where it goes, in LLaVA's evaluation folder."""

from vidtune.evaluation.benchmarks.downloads.records import Download, Facts

_EVAL_ZIP = "https://drive.google.com/file/d/1atZSBBrAX54yYpxtVVW33zFvcnaHeFPy"


def _pictures(
    items: int | None,
    media: int | None,
    counted: str,
    folder: str,
    *others: tuple[str, str, str],
    answers_hidden: bool = False,
) -> Facts:
    """Facts of a set whose questions are in the archive of LLaVA."""
    archive = Download("eval.zip of LLaVA: questions of all such sets", _EVAL_ZIP, f"{folder}/")
    files = (Download(what, url, f"{folder}/{place}") for what, url, place in others)
    return Facts(items, media, (archive, *files), medium="pictures", counted=counted, answers_hidden=answers_hidden)


def _mmbench(table: str, items: int | None = None, counted: str = "") -> Facts:
    url = f"https://download.openmmlab.com/mmclassification/datasets/mmbench/{table}"
    return Facts(items, None, (Download(table, url, f"mmbench/{table}"),), medium="pictures", counted=counted)


_MMBENCH_OF_OCTOBER = (4329, "github.com/modelscope/evalscope, docs/en/benchmarks/mm_bench.md, of lmms-lab/MMBench")


PICTURE_SETS: dict[str, Facts] = {
    "vqa_v2": _pictures(
        107394,
        36807,
        "test-dev in the card of HuggingFaceM4/VQAv2",
        "vqav2",
        ("COCO test2015", "http://images.cocodataset.org/zips/test2015.zip", "test2015/"),
        answers_hidden=True,
    ),
    "gqa": _pictures(
        None,
        None,
        "",
        "gqa",
        ("questions1.2.zip", "https://cs.stanford.edu/people/dorarad/gqa/download.html", "data/questions1.2/"),
        ("images.zip", "https://cs.stanford.edu/people/dorarad/gqa/download.html", "data/images/"),
    ),
    "vizwiz": _pictures(
        8000,
        8000,
        "test, with a picture each, in the card of lmms-lab/VizWiz-VQA",
        "vizwiz",
        ("test.zip", "https://vizwiz.cs.colorado.edu/VizWiz_final/images/test.zip", "test/"),
        answers_hidden=True,
    ),
    "textvqa": _pictures(
        5000,
        None,
        "validation in the card of lmms-lab/textvqa",
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
        "output/coco of github.com/AoiDragon/POPE at e3e3926: 2910 random, 3000 popular, 3000 adversarial",
        "pope",
        ("output/coco of POPE at e3e3926", "github.com/AoiDragon/POPE", "coco/"),
        ("COCO val2014", "http://images.cocodataset.org/zips/val2014.zip", "val2014/"),
    ),
    "mme": _pictures(
        2374,
        1187,
        "the card of lmms-lab/MME; two questions about each picture",
        "MME",
        (
            "MME_Benchmark_release_version (on request)",
            "github.com/BradyFU/Awesome-Multimodal-Large-Language-Models, branch Evaluation",
            "MME_Benchmark_release_version/",
        ),
    ),
    "seed_bench": _pictures(
        None,
        None,
        "",
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
        "test in github.com/modelscope/evalscope, docs/en/benchmarks/science_qa.md",
        "scienceqa",
        (
            "problems.json, pid_splits.json, images of the test part",
            "github.com/lupantech/ScienceQA, data/scienceqa",
            "",
        ),
    ),
    "mmbench": _mmbench("mmbench_dev_20230712.tsv"),
    "mmbench_all_rounds": _mmbench("mmbench_dev_20230712.tsv"),
    "mmbench_en": _mmbench("mmbench_dev_en_20231003.tsv", *_MMBENCH_OF_OCTOBER),
    "mmbench_cn": _mmbench("mmbench_dev_cn_20231003.tsv", *_MMBENCH_OF_OCTOBER),
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
        counted="arXiv:2304.08485; 60 also in the card of lmms-lab/llava-bench-in-the-wild",
    ),
    "mm_vet": _pictures(
        218,
        200,
        "arXiv:2308.02490",
        "mm-vet",
        (
            "mm-vet.zip: mm-vet.json, images",
            "https://github.com/yuweihao/MM-Vet/releases/download/v1/mm-vet.zip",
            "",
        ),
    ),
}
"""Name of a benchmark -> its facts."""
