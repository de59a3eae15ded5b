"""Whether the samples of a stage have what its objective aligns: media, and if it is contrastive texts that differ."""

from collections.abc import Mapping

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Sample
from vidtune.models.config import VideoLMConfig
from vidtune.models.media_reading import no_pooled_output
from vidtune.models.text_alignment.contrast import pooled_sizes
from vidtune.processing.captions import caption_of
from vidtune.recipe.types import Contrast, Stage

NO_MEDIUM, NO_TEXT, SEVERAL = "no medium", "no text", "several media"
REFUSED = (NO_MEDIUM, NO_TEXT, SEVERAL)
"""Reasons for which a stage with an objective is refused, and not trained without the sample."""


class AlignedSamples:
    """Looks at the samples of a stage with an objective, one by one.

    Args:
        stage: settings of the stage.
        config: of the model.
    """

    def __init__(self, stage: Stage, config: VideoLMConfig) -> None:
        self._stage, self._config, self._count = stage, config, 0
        self._contrastive = stage.objective == "contrastive"
        self._pooled = pooled_sizes(config, (stage.contrast or Contrast()).mean_streams)
        self._unpooled: str | None = None
        self._first, self._differ = "", False

    def add(self, sample: Sample, items: Mapping[str, int]) -> None:
        """Look at a sample.

        Args:
            items: number of its media, by stream.

        Raises:
            SampleProblem: it cannot be aligned, for one of the reasons of `REFUSED`.
        """
        self._count += 1
        held = {stream: number for stream, number in items.items() if number}
        if not held:
            told = f"objective: {self._stage.objective} needs media in every sample; remove its file from data"
            raise SampleProblem(NO_MEDIUM, told, sample.id)
        if not self._contrastive:
            return
        self._unpooled = self._unpooled or next((stream for stream in held if stream not in self._pooled), None)
        if (many := next((stream for stream, number in held.items() if number > 1), None)) is not None:
            told = f"has {held[many]} media of stream {many!r}; a pair has one: make a sample of each"
            raise SampleProblem(SEVERAL, told, sample.id)
        caption = caption_of(sample)
        if not caption:
            raise SampleProblem(NO_TEXT, "has no text for its medium; mend its answer", sample.id)
        self._first = self._first or caption
        self._differ = self._differ or caption != self._first

    def mistake(self) -> str | None:
        """Returns why the samples together cannot be aligned; None if they can."""
        if self._unpooled is not None:
            return no_pooled_output(self._unpooled, self._config)
        if self._first and not self._differ:
            return f"all {self._count} samples have one text, {self._first!r}: there is nothing to tell apart"
        return None
