"""Answers of a run for others to score: the file that a server takes, and files in an official evaluation folder.

An official evaluation folder (``eval/``) holds one folder per test set. The published scripts write answers to
``answers/`` in it, or to a folder named after the model, and files to upload to ``answers_upload/``;
`Benchmark.answers_file` and `Benchmark.upload_file` say where.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.base import Benchmark
from vidtune.evaluation.benchmarks.own.finding import stored_benchmark
from vidtune.evaluation.question import QuestionSet
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.judgements import judge_identity, judges_of
from vidtune.evaluation.runs.run_info import data_identity
from vidtune.evaluation.runs.run_ledger import judged_ledger, ledger_of
from vidtune.foreign.files import read_foreign
from vidtune.machine.files import atomic_file


class Submission:
    """The answers of a run, with its test set.

    Args:
        run_dir: folder of the run.
        data: folder of the test set, or one above it; None: where it was.

    Raises:
        UserError: no run there, no answer in it, or another test set.
    """

    def __init__(self, run_dir: Path, data: Path | None = None) -> None:
        self.run = RunFolder(run_dir)
        self.benchmark: Benchmark = stored_benchmark(self.run.info.protocol, self.run.info.data.file)
        self.questions: QuestionSet = self.benchmark.load(data or Path(self.run.info.data.folder))
        now = data_identity(self.questions).fingerprint
        if now != self.run.info.data.fingerprint:
            raise UserError(
                f"{self.questions.folder}: is another version of {self.benchmark.name} than {self.run.path} was asked "
                "about; give the one that was asked with --data"
            )
        self.predictions = self.run.predictions()
        ledger = ledger_of(self.run)
        self.planned, self.lacking = len(self.questions.questions), len(self.questions.questions) - ledger.answered
        if not ledger.answered:
            raise UserError(f"{self.run.path}: holds no answer; run the evaluation first")

    def content(self) -> bytes:
        """Returns the file to upload. Raises UserError: there is no server, or it takes no file that lacks answers."""
        return self.benchmark.submission(self.predictions, self.questions)

    def write(self, out: Path | None = None) -> Path:
        """Write the file to upload; returns its path.

        Args:
            out: None: ``upload`` in the folder of the run, with the ending that the server takes.
        """
        content = self.content()
        path = out or self.run.path / f"upload{PurePosixPath(self.benchmark.upload_file).suffix}"
        with atomic_file(path) as temporary:
            temporary.write_bytes(content)
        return path

    def reviews(self, model: str, judge: str | None = None) -> dict[str, str]:
        """Returns what a judge said in the files of the published scripts, by their places; none of most benchmarks.

        Args:
            model: name of the answering model.
            judge: its name; None: the only one that has judged the run.

        Raises:
            UserError: it has judged nothing here.
        """
        known = judges_of(self.run)
        if judge is None:
            if len(known) != 1:
                return {}
            judge = known[0]
        identity = judge_identity(self.run, judge)
        judgements = judged_ledger(self.run, judge)[1]
        told = {index: one for index, one in judgements.items() if one.error is None or one.reply is not None}
        name = str(identity.get("model", judge))
        return dict(self.benchmark.official_reviews(told, self.predictions, self.questions, name, model))


def write_back(submission: Submission, model: str | None = None, judge: str | None = None) -> Iterator[Path]:
    """Write answers, the file to upload, and what a judge said of them, into the folder of the test set.

    Args:
        model: name of the model in the names of files; None: that of the checkpoint.
        judge: see `Submission.reviews`.

    Yields:
        The path of each file, once it is written. A file that is there with the same content stays.

    Raises:
        UserError: a file holds other answers, or the name is none of a file.
    """
    model = model or submission.run.info.checkpoint.name
    if not model or model != PurePosixPath(model).name or model.startswith("."):
        raise UserError(f"--model {model!r}: expected a name that a file can have")
    benchmark, folder = submission.benchmark, submission.questions.folder
    references = submission.run.references_by_index()
    files = {
        benchmark.answers_file.format(model=model, file=name): text.encode()
        for name, text in benchmark.official_files(submission.predictions, references)
    }
    files |= {name: text.encode() for name, text in submission.reviews(model, judge).items()}
    uploaded = {}
    if benchmark.upload_file:
        uploaded = {benchmark.upload_file.format(model=model): submission.content()}
    # A name without the model is that of whichever was written last, also by the official scripts.
    kept = files | (uploaded if "{model}" in benchmark.upload_file else {})
    other = [name for name, content in kept.items() if _holds_other(folder / name, content)]
    if other:
        raise UserError(f"{folder / other[0]}: holds other answers; take it away, or choose another --model")
    files |= uploaded
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(folder / name) as temporary:
            temporary.write_bytes(content)
        yield folder / name


def _holds_other(path: Path, content: bytes) -> bool:
    return path.is_file() and read_foreign(path) != content
