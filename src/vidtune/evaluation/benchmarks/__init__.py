"""Benchmarks: test sets with their rules, and the rules that differ for one system."""

_HERE = "vidtune.evaluation.benchmarks"

PARTS = {
    "msvd_qa": f"{_HERE}.zero_shot_qa:MSVD_QA",
    "msrvtt_qa": f"{_HERE}.zero_shot_qa:MSRVTT_QA",
    "tgif_qa": f"{_HERE}.zero_shot_qa:TGIF_QA",
    "activitynet_qa": f"{_HERE}.zero_shot_qa:ACTIVITYNET_QA",
    "longvale": f"{_HERE}.longvale:LONGVALE",
    "longvale_captioning": f"{_HERE}.longvale:LONGVALE_CAPTIONING",
    "longvale_grounding": f"{_HERE}.longvale:LONGVALE_GROUNDING",
    "longvale_seg_captioning": f"{_HERE}.longvale:LONGVALE_SEG_CAPTIONING",
    "charades_sta": f"{_HERE}.temporal_grounding.charades:CHARADES",
    "charades_sta_lmms_eval": f"{_HERE}.temporal_grounding.charades:CHARADES_LMMS_EVAL",
    "video_chatgpt": f"{_HERE}.video_chatgpt:VIDEO_CHATGPT",
    "video_chatgpt_q1_twice": f"{_HERE}.video_chatgpt:VIDEO_CHATGPT_FIRST_TWICE",
    "videoref_bench": f"{_HERE}.videoref_bench:VIDEOREF_BENCH",
    "videoref_bench_whole": f"{_HERE}.videoref_bench:VIDEOREF_BENCH_WHOLE",
    "mvbench": f"{_HERE}.multiple_choice.mvbench:MVBENCH",
    "mlvu": f"{_HERE}.multiple_choice.mlvu:MLVU",
    "mlvu_lmms_eval": f"{_HERE}.multiple_choice.mlvu:MLVU_LMMS_EVAL",
    "lvbench": f"{_HERE}.multiple_choice.lvbench:LVBENCH",
    "lvbench_lmms_eval": f"{_HERE}.multiple_choice.lvbench:LVBENCH_LMMS_EVAL",
    "perception_test": f"{_HERE}.multiple_choice.perception_test:PERCEPTION_TEST",
    "perception_test_lmms_eval": f"{_HERE}.multiple_choice.perception_test:PERCEPTION_TEST_LMMS_EVAL",
    "mvbench_lmms_eval": f"{_HERE}.multiple_choice.mvbench:MVBENCH_LMMS_EVAL",
    "world_qa": f"{_HERE}.world:WORLD_QA",
    "world_targets": f"{_HERE}.world:WORLD_TARGETS",
    "world_events": f"{_HERE}.world:WORLD_EVENTS",
    "world_moments": f"{_HERE}.world:WORLD_MOMENTS",
}
