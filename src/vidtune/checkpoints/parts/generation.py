"""What a published ``generation_config.json`` says of the ids that begin, end and pad a text."""

from vidtune.checkpoints.source import Source
from vidtune.errors import UserError
from vidtune.models.video_lm import VideoLM

FILE = "generation_config.json"
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def take_token_ids(model: VideoLM, source: Source) -> None:
    """Put the ids of a published whole model, language model or difference to one into a model, the uppermost last.

    Decoding settings in these files, such as a temperature, belong to their own programs; ours come from the caller.

    Raises:
        UserError: an id is not a number.
    """
    for one in source.steps():
        if one.kind in ("published", "language_model", "delta") and one.files is not None and one.files.has(FILE):
            stored = one.files.json(FILE)
            for name in _IDS:
                if stored.get(name) is not None:
                    setattr(model.generation_config, name, _checked(stored[name], f"{one.path / FILE}: {name}"))


def _checked(ids: object, where: str) -> object:
    several = ids if isinstance(ids, list) else [ids]
    if not all(isinstance(id, int) for id in several):
        raise UserError(f"{where}: expected the id of a token, or a list of ids, not {ids!r}")
    return ids
