"""`train.on_nan: rollback` (T16): back to the last checkpoint, and on without the bad step."""

import pytest

from kineme.actions import train
from kineme.engine import checkpoint as checkpoints
from kineme.errors import QualityError
from tiny import TINY, content_of, same, tiny_spec

# Sample 25 is infinite and so fails in every epoch; seed 1234 has it late in the first one.
BAD = {
    "dataset__bad_sample": 25,
    "train__checkpoint_interval_unit": "step",
    "train__on_nan": "rollback",
    "train__num_epochs": 3,
}


def run(folder, **changes):
    return train.run(TINY, tiny_spec(folder, **{**BAD, **changes}))


def last(folder):
    return checkpoints.find_checkpoints(folder / "train")[-1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


def test_a_step_that_fails_is_passed_over_at_half_the_rate(whole):
    content = content_of(last(whole))
    progress = content["kineme"]["training"]["progress"]
    assert (progress["epoch"], progress["global_step"]) == (3, 18)
    assert 1 <= len(progress["passed_over"]) <= 3  # an epoch leaves two samples out, perhaps it
    assert progress["rate_share"] == 0.5 ** len(progress["passed_over"])
    assert content["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(
        0.05 * progress["rate_share"]
    )
    weights = checkpoints.load_checkpoint(last(whole)).weights
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    log = (whole / "train" / "log.txt").read_text()
    assert log.count("without that step and at 0.5 of the rate.") == 1
    assert "train-25" in log


def test_a_run_that_rolled_back_resumes_exactly(whole, tmp_path):
    run(tmp_path, train__num_epochs=1)
    run(tmp_path, train__num_epochs=3, train__resume=True)
    assert last(tmp_path).name == last(whole).name
    assert same(content_of(last(tmp_path)), content_of(last(whole)))


def test_resuming_before_a_roll_back_meets_it_again(whole, tmp_path):
    """As after kill -9: only checkpoints from before the first failure are left."""
    run(tmp_path, train__num_epochs=1)
    failed = content_of(last(whole))["kineme"]["training"]["progress"]["passed_over"][0]
    for path in checkpoints.find_checkpoints(tmp_path / "train"):
        if content_of(path)["global_step"] > failed:
            path.unlink()
    run(tmp_path, train__resume=True)
    assert same(content_of(last(tmp_path)), content_of(last(whole)))


def test_after_three_roll_backs_the_run_ends(tmp_path):
    with pytest.raises(QualityError) as caught:
        run(tmp_path, train__num_epochs=6)
    assert caught.value.exit_code == 7
    progress = content_of(last(tmp_path))["kineme"]["training"]["progress"]
    assert len(progress["passed_over"]) == 3
    assert progress["rate_share"] == 0.125


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(tmp_path):
    with pytest.raises(QualityError, match="expected a finite loss"):
        run(tmp_path, train__checkpoint_interval_unit="epoch")
    assert not checkpoints.find_checkpoints(tmp_path / "train")


def test_two_processes_roll_back_together(tmp_path):
    run(tmp_path, train__num_gpus=2, dataset__batch_size=2, train__num_epochs=2)
    progress = content_of(last(tmp_path))["kineme"]["training"]["progress"]
    assert 1 <= len(progress["passed_over"]) <= 2
    assert progress["global_step"] == 12


def test_an_epoch_of_two_steps_goes_on_without_one(tmp_path):
    run(tmp_path, dataset__batch_size=13, train__num_epochs=2)
    progress = content_of(last(tmp_path))["kineme"]["training"]["progress"]
    assert (progress["epoch"], len(progress["passed_over"])) == (2, 2)


def test_an_epoch_without_a_step_ends_the_run(tmp_path):
    one_step = {"dataset__batch_size": 26}
    run(tmp_path, **one_step, dataset__bad_sample=-1, train__num_epochs=1)
    first = content_of(last(tmp_path))
    with pytest.raises(QualityError, match="epoch 2: expected a step with a finite loss, got none"):
        run(tmp_path, **one_step, train__num_epochs=2, train__resume=True)
    assert same(content_of(last(tmp_path)), first)
