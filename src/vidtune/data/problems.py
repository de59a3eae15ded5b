"""Problems of a single sample: a short reason, by which reports count, and a sentence for the user."""

from vidtune.errors import UserError


class SampleProblem(UserError):
    """A sample that cannot be used.

    Args:
        reason: short text, equal for every sample with this problem; reports count by it.
        detail: one sentence about this sample.
        sample: the sample's id, or its position in the file; `of` sets it where it is known.
        cause: `MediaError.cause` of the file that makes it unusable; None: the sample itself.
    """

    def __init__(self, reason: str, detail: str, sample: str = "", cause: str | None = None) -> None:
        super().__init__(f"sample {sample}: {detail}" if sample else detail)
        self.reason = reason
        self.detail = detail
        self.sample = sample
        self.cause = cause

    def of(self, sample: str) -> "SampleProblem":
        """Returns the same problem with the id of the sample."""
        return SampleProblem(self.reason, self.detail, sample, self.cause)

    def __reduce__(self) -> tuple[type["SampleProblem"], tuple[str, str, str, str | None]]:
        return SampleProblem, (self.reason, self.detail, self.sample, self.cause)
