"""Evaluation: predict, judge or measure, score, report.

Every pass works on stored files and can be repeated without the others:

- `predict.predict_benchmark` asks a checkpoint and appends its answers to ``predictions.jsonl``;
- `judging.judge_run` stores the verdicts of a judge, one file per judge; predictions can be judged again by another;
- `scoring.score_run` computes a score with intervals from verdicts, or from metrics where the benchmark has some;
- `comparison.compare_runs` compares two runs question by question;
- `report.page.build_report` writes one HTML page;
- `evaluate.evaluate` does all of it for one benchmark, except the report.
"""
