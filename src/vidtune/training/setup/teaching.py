"""Distillation in the training loop: the frozen teachers of a stage, and the weights of their losses.

A step minimises its mean cross-entropy per supervised token plus, for every distilled stream, the weighted mean
alignment loss per frame. Gradients are sums over packs that are divided once, by the number of supervised tokens.
Therefore the alignment loss of each pack is multiplied by the planned number of tokens per planned frame of the step.
The plan gives both numbers for all ranks before the first pass, so the mean does not depend on packs or ranks. If files
fail, the ratio stays that of the plan; the weight is then wrong by as much as the failed samples change the ratio.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vidtune.checkpoints.teachers import build_teacher, teacher_preprocessing
from vidtune.errors import RecipeError
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.models.config import VideoLMConfig
from vidtune.models.distillation import Teacher
from vidtune.planning.plan import StagePlan
from vidtune.processing.batch import Batch, Item
from vidtune.recipe.types import Recipe


@dataclass
class Teachers:
    """The teachers of a stage by stream. Without distillation it is empty and does nothing.

    Args:
        towers: teacher of each stream, frozen; not a part of the model.
        preprocessing: preprocessing of media files for the teachers.
        weights: weight of each alignment loss relative to the cross-entropy.
        keep_features: callback(stream, key, features), called for every item that a teacher encoded, with
            :attr:`Teaching.key`.
    """

    towers: dict[str, Teacher] = field(default_factory=dict)
    preprocessing: dict[str, Preprocessing] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    keep_features: Callable[[str, str, Tensor], None] | None = None

    @classmethod
    def of(cls, recipe: Recipe, config: VideoLMConfig, preprocessing: Mapping[str, Preprocessing]) -> "Teachers":
        """Load the teachers of a recipe.

        Args:
            config: config of the student.
            preprocessing: preprocessing of the student in this stage.

        Raises:
            UserError: weights that cannot be found or do not fit; a teacher that cannot process the student's media.
        """
        teachers = cls()
        for stream, distillation in recipe.distillation.items():
            try:
                tower = build_teacher(recipe, stream, config)
            except ValueError as error:
                raise RecipeError(f"distillation.{stream}.teacher: {error}") from None
            teachers.towers[stream] = tower
            teachers.preprocessing[stream] = teacher_preprocessing(preprocessing[stream], tower.config)
            teachers.weights[stream] = distillation.weight
        return teachers

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the teachers to a device and dtype."""
        for tower in self.towers.values():
            tower.to(device=device, dtype=dtype)

    def factors(self, plan: StagePlan, step: int) -> dict[str, float]:
        """Returns the factor of each stream's summed alignment loss in a step (see above); 0 without frames."""
        if not self.weights:
            return {}
        tokens = max(plan.supervised(step), 1)
        frames = {stream: plan.frames(step, stream) for stream in self.weights}
        return {
            stream: weight * tokens / frames[stream] if frames[stream] else 0.0
            for stream, weight in self.weights.items()
        }

    def teach(self, batch: Batch) -> Batch:
        """Returns the batch with the teachers' features of its media. Features that it already has are kept."""
        media = dict(batch.media)
        for stream, tower in self.towers.items():
            if stream in media:
                media[stream] = self._taught(stream, tower, media[stream])
        return replace(batch, media=media)

    def _taught(self, stream: str, tower: Teacher, items: Sequence[Item]) -> list[Item]:
        """Returns the items with the teacher's features. Those that have features already, or no teacher, are kept."""
        rest = [item.teacher.values for item in items if item.teacher is not None and not item.teacher.done]
        found = iter(tower(rest) if rest else ())
        taught = []
        for item in items:
            teacher = item.teacher
            if teacher is not None and not teacher.done:
                features = next(found)
                if self.keep_features is not None and teacher.key is not None:
                    self.keep_features(stream, teacher.key, features)
                item = replace(item, teacher=replace(teacher, values=features, done=True))
            taught.append(item)
        return taught
