"""Encrypted checkpoints in an analysis: which key opens them, and that nothing tells it."""

import pytest

import thin
from acting_checkpoints import build_actor, changed, labels, run
from kineme.cli import main
from kineme.errors import CheckpointError, SpecError
from kineme.people import command
from kineme.people.analysis_settings import AnalysisSettings

KEY = "a key that nobody should see"


@pytest.fixture(autouse=True)
def _thin_models(monkeypatch):
    thin.make_thin(monkeypatch)


@pytest.fixture(scope="module")
def actor(tmp_path_factory):
    return build_actor(tmp_path_factory.mktemp("checkpoints"))


def test_an_encrypted_checkpoint_opens_with_its_key_which_is_nowhere(
    actor, tmp_path, capsys, monkeypatch
):
    locked = changed(actor[0], tmp_path / "locked.pth", key=KEY)
    (tmp_path / "key").write_text(f"{KEY}\n")
    file = f"encryption_key_file={tmp_path / 'key'}"
    kept = []

    def remove(journal):
        kept.append(journal.path.read_bytes())
        journal.path.unlink()

    monkeypatch.setattr("kineme.people.journal.Journal.remove", remove)
    for name, words in (("file", [file]), ("word", [f"encryption_key='{KEY}'"])):
        assert run(actor, tmp_path / name, locked, *words) == 0
    monkeypatch.setenv("KINEME_ENCRYPTION_KEY", KEY)
    assert run(actor, tmp_path / "variable", locked) == 0
    assert labels(tmp_path / "file") == labels(tmp_path / "word") == labels(tmp_path / "variable")
    printed = capsys.readouterr()
    assert KEY not in printed.out + printed.err
    left = [path.read_bytes() for path in tmp_path.glob("*/*") if path.is_file()]
    assert len(left) > 9
    assert len(kept) == 3
    assert not any(KEY.encode() in content for content in [*left, *kept])
    assert KEY not in repr(AnalysisSettings(out=tmp_path, key=KEY))


def test_without_the_key_or_with_another_it_is_refused(actor, tmp_path, capsys):
    locked = changed(actor[0], tmp_path / "locked.pth", key=KEY)
    with pytest.raises(CheckpointError, match="encrypt"):
        run(actor, tmp_path / "a", locked)
    with pytest.raises(CheckpointError) as caught:
        run(actor, tmp_path / "a", locked, "encryption_key=zyx-987")
    assert "zyx-987" not in str(caught.value)
    run(actor, tmp_path / "b", actor[0], f"encryption_key={KEY}")
    assert "is not encrypted: it was read without encryption_key" in capsys.readouterr().err


def test_keys_that_make_no_sense_are_told(tmp_path):
    for words, message in (
        (["encryption_key=x"], "a checkpoint that it opens"),
        (["--checkpoint=a", "encryption_key=''"], r"encryption_key: expected text, got \*\*\*"),
        (["--checkpoint=a", "encryption_key=[1]"], r"encryption_key: expected text, got \*\*\*"),
        (["--checkpoint=a", "encryption_key=x", "encryption_key_file=y"], "both"),
        (["--checkpoint=a", f"encryption_key_file={tmp_path / 'no'}"], "a file that can be read"),
    ):
        with pytest.raises(SpecError, match=message):
            command._settings(command._parsed(["a.mp4", *words]))
    words = ["--checkpoint=a", "encryption_key=null"]
    assert command._settings(command._parsed(["a.mp4", *words])).key is None
    assert main(["analyze", "a.mp4", "--checkpoint=a", "encryption_key="]) == 2
