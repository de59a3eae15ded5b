"""Evaluation: predict, judge or measure, score, report - passes over stored files, each repeatable without the others.

- `predict.predict_benchmark` asks a checkpoint and appends to ``predictions.jsonl``;
- `judging.judge_run` gives verdicts, one file per judge; predictions can be judged again by any other judge;
- `measuring.measure_run` measures the answers of benchmarks that metrics score, which need no judge;
- `score.score_run` and `comparison.compare_runs` turn verdicts into numbers with intervals;
- `report.build_report` writes one self-contained page.
"""
