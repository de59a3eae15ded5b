"""What a published format does not hold of a training: how the model reads media."""

from tiny_checkpoint import write_checkpoint

from vidtune.checkpoints.load import load_checkpoint
from vidtune.checkpoints.write import unkept_rules
from vidtune.cli.main import run


def test_converting_names_the_rules_of_media_that_the_format_has_no_place_for(tmp_path, capsys):
    folder = write_checkpoint(tmp_path / "model")
    checkpoint = load_checkpoint(str(folder))
    assert unkept_rules(checkpoint, "official") == {}
    changed = checkpoint.processor.with_preprocessing({"video": {"sampling": "middles", "num_frames": 2}})
    changed.save_pretrained(folder)
    assert unkept_rules(load_checkpoint(str(folder)), "vidtune") == {}
    assert run(["convert", str(folder), str(tmp_path / "official"), "--to", "official"]) == 0
    err = capsys.readouterr().err
    assert (
        "format official has no place for how this model reads media: video.sampling 'middles' (then 'linspace')" in err
    )
    assert "--protocol preprocessing.KEY=VALUE" in err
