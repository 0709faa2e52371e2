"""An inference that was cut off goes on: nothing lost, nothing computed twice."""

import hashlib
import itertools
import os
import random
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lightning_fabric import Fabric

from inferred import (
    NETWORKS,
    SKELETONS,
    make_data,
    reads_in,
    spec_of,
    start,
    untrained,
    words_of,
)
from kineme.actions import inference
from kineme.cli import main
from kineme.engine import answer_journal
from kineme.engine.answer_journal import AnswerJournal, find_journals, open_journal
from kineme.engine.feeding import evaluation_requests
from kineme.errors import ResourceError, SpecError
from kineme.network import Remarks, load_network
from kineme.pose_classification.dataset import SkeletonDataset
from kineme.signals import Interrupted
from tiny_process import finish, session_processes, wait_until

NUM_SAMPLES = 40
RESUME = "inference.resume=true"


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """(checkpoint, data, what an undisturbed run answers) of each network, made when asked for."""
    made = {}

    def of(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            checkpoint, data = untrained(name, folder), make_data(name, folder, NUM_SAMPLES)
            infer(words_of(name, checkpoint, data, folder), name)
            made[name] = checkpoint, data, answers_in(folder)
        return made[name]

    return of


def answers_in(folder):
    return {
        name: (folder / "inference" / name).read_text()
        for name in ("predictions.csv", "predictions.jsonl", "results.txt")
    }


def num_written(folder):
    """Samples in the journals of an unfinished run."""
    journals = find_journals(folder / "inference")
    return sum(path.read_bytes().count(b'"scores"') for path in journals)


@pytest.mark.parametrize(("name", "processes"), [*((name, 1) for name in NETWORKS), (SKELETONS, 2)])
def test_i02_killed_and_resumed_computes_each_input_once(ready, tmp_path, name, processes):
    checkpoint, data, whole = ready(name)
    words = words_of(name, checkpoint, data, tmp_path, f"inference.num_gpus={processes}")
    draw, log = random.Random(2), tmp_path / "reads"
    for attempt in range(2 if (name, processes) == (SKELETONS, 1) else 1):
        more = [RESUME] if attempt else []
        process = start(name, [*words, *more], log, seconds=0.03)
        goal = num_written(tmp_path) + draw.randrange(6, 14)
        wait_until(lambda goal=goal: num_written(tmp_path) >= goal)
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        wait_until(lambda pid=process.pid: not session_processes(pid), 10)
    num_kept = num_written(tmp_path)
    assert 6 <= num_kept < NUM_SAMPLES
    assert not (tmp_path / "inference" / "predictions.csv").exists()
    assert finish(start(name, [*words, RESUME], log)) == 0
    reads = reads_in(log)
    assert set(reads) == set(range(NUM_SAMPLES))
    assert len(reads) <= 1.05 * NUM_SAMPLES
    assert answers_in(tmp_path) == whole
    assert find_journals(tmp_path / "inference") == []
    assert f"{num_kept} of 40 samples are answered" in (tmp_path / "reads.err").read_text()


@pytest.mark.parametrize("processes", [1, 2])
def test_i15_sigterm_keeps_what_is_answered(ready, tmp_path, processes):
    checkpoint, data, whole = ready(SKELETONS)
    words = words_of(SKELETONS, checkpoint, data, tmp_path, f"inference.num_gpus={processes}")
    log = tmp_path / "reads"
    process = start(SKELETONS, words, log, seconds=0.05)
    wait_until(lambda: num_written(tmp_path) >= 10)
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process) == 143
    said = (tmp_path / "reads.err").read_text()
    assert "The answers so far are kept; set inference.resume=true to go on with them." in said
    assert num_written(tmp_path) >= 10
    assert finish(start(SKELETONS, [*words, RESUME], log)) == 0
    reads = reads_in(log)
    assert set(reads) == set(range(NUM_SAMPLES))
    assert len(reads) <= 1.05 * NUM_SAMPLES
    assert answers_in(tmp_path) == whole


@pytest.fixture
def cut_off(ready, tmp_path, monkeypatch):
    """Words of an inference of which 25 samples are answered."""
    checkpoint, data, _ = ready(SKELETONS)
    words = words_of(SKELETONS, checkpoint, data, tmp_path)
    with monkeypatch.context() as patch:
        read = SkeletonDataset.read

        def until_25(self, indices, epoch):
            if 25 in indices:
                raise Interrupted.by(signal.SIGTERM)
            return read(self, indices, epoch)

        patch.setattr(SkeletonDataset, "read", until_25)
        with pytest.raises(Interrupted):
            infer(words)
    assert num_written(tmp_path) == 25
    return words


def infer(words, name=SKELETONS):
    return inference.run(load_network(name), spec_of(name, words))


def test_answers_under_another_setting_are_refused_with_both_values(cut_off, tmp_path, capsys):
    words = [*cut_off, RESUME, "inference.num_clips=3", "dataset.nan_policy=zero"]
    with pytest.raises(SpecError) as caught:
        infer(words)
    assert [str(problem) for problem in caught.value.problems] == [
        "dataset.nan_policy: expected 'error', as in the unfinished run, got 'zero'. Set it as it "
        "was, or inference.resume=false to start over.",
        "inference.num_clips: expected 1, as in the unfinished run, got 3. Set it as it was, or "
        "inference.resume=false to start over.",
    ]
    assert num_written(tmp_path) == 25
    for asked, code in ((words, 2), ([*cut_off, RESUME], 0)):
        assert main([SKELETONS, "inference", "--dry-run", *asked]) == code
    assert "resume: an unfinished run is gone on with" in capsys.readouterr().out


def test_answers_of_another_checkpoint_are_refused(cut_off, tmp_path):
    (tmp_path / "other").mkdir()
    other = untrained(SKELETONS, tmp_path / "other", seed=4)
    with pytest.raises(SpecError) as caught:
        infer([*cut_off, RESUME, f"inference.checkpoint={other}"])
    problem = caught.value.problems[-1]
    assert problem.where == "sha256 of the checkpoint"
    assert repr(hashlib.sha256(other.read_bytes()).hexdigest()) == problem.received
    assert re.fullmatch(r"'[0-9a-f]{64}', as in the unfinished run", problem.expected)


def test_answers_of_data_that_have_changed_since_are_refused(cut_off, tmp_path):
    named = next(word for word in cut_off if word.startswith("inference.test_dataset.data_path="))
    path = Path(named.partition("=")[2])
    data = np.load(path)
    changed = data.copy()
    changed[3] *= 2  # answered already
    try:
        np.save(path, changed)
        with pytest.raises(
            SpecError, match=r"fingerprint of the data: expected '.*', as in the unf"
        ):
            infer([*cut_off, RESUME])
    finally:
        np.save(path, data)
    assert infer([*cut_off, RESUME])["samples"] == NUM_SAMPLES


def test_how_a_run_computes_and_what_it_writes_may_change(cut_off, ready, tmp_path):
    words = [*cut_off, RESUME, "inference.batch_size=7", "inference.top_k=1"]
    infer([*words, f"inference.output_file={tmp_path / 'other.txt'}", "inference.max_bad=0.5"])
    assert (tmp_path / "other.txt").read_text() == ready(SKELETONS)[2]["results.txt"]
    rows = (tmp_path / "inference" / "predictions.csv").read_text().splitlines()
    assert rows[0] == "id,label,probability,truth,status"
    assert len(rows) == 1 + NUM_SAMPLES


def test_without_resume_the_answers_of_an_unfinished_run_are_dropped_with_a_note(
    cut_off, ready, tmp_path, monkeypatch, capsys
):
    reads = []
    read = SkeletonDataset.read
    monkeypatch.setattr(
        SkeletonDataset, "read", lambda self, i, e: reads.extend(i.tolist()) or read(self, i, e)
    )
    infer(cut_off)
    assert sorted(reads) == list(range(NUM_SAMPLES))
    assert "answers of an unfinished run are dropped" in capsys.readouterr().err
    assert answers_in(tmp_path) == ready(SKELETONS)[2]
    assert find_journals(tmp_path / "inference") == []


def test_resume_where_nothing_is_unfinished_starts_anew(ready, tmp_path, capsys):
    checkpoint, data, whole = ready(SKELETONS)
    infer(words_of(SKELETONS, checkpoint, data, tmp_path, RESUME))
    assert answers_in(tmp_path) == whole
    told = "nothing to go on with, as {}; all 40 samples are classified anew."
    assert told.format("there was no run before") in capsys.readouterr().err
    infer(words_of(SKELETONS, checkpoint, data, tmp_path, RESUME))
    assert told.format("the run before was finished") in capsys.readouterr().err


def test_videos_of_an_earlier_run_are_removed_and_other_files_stay(tmp_path):
    (tmp_path / "predictions.jsonl").write_text(
        '{"id": "a/old.mp4"}\nnot a line\n{"id": "b/same"}\n{"id": "../../up"}\n'
    )
    (tmp_path / "failed.jsonl").write_text('{"id": "c"}\n')
    folder = tmp_path / "annotated"
    for name in ("a/old.mp4", "b/same.mp4", "b/mine.mp4", "notes.txt", "up.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    (tmp_path.parent / "up.mp4").write_text("")
    journal = AnswerJournal(tmp_path / "unfinished-0.jsonl", ["x", "b/same"], drawn={1})
    inference._remove_videos_of_before(tmp_path, SimpleNamespace(ids=["x", "b/same"]), journal)
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert left == ["b/mine.mp4", "b/same.mp4", "notes.txt"]
    assert not (folder / "a").exists()
    assert (tmp_path.parent / "up.mp4").exists()
    journal.drawn.clear()
    (folder / "notes.txt").unlink()
    (folder / "b/mine.mp4").unlink()
    inference._remove_videos_of_before(tmp_path, SimpleNamespace(ids=["x"]), journal)
    assert not folder.exists()


def test_t19_an_inference_whose_worker_hangs_ends_and_keeps_its_answers(
    ready, tmp_path, monkeypatch
):
    checkpoint, data, whole = ready(SKELETONS)
    words = words_of(SKELETONS, checkpoint, data, tmp_path)
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    with monkeypatch.context() as patch:
        read = SkeletonDataset.read

        def hangs_at_20(self, indices, epoch):
            if 20 in indices:
                time.sleep(600)
            return read(self, indices, epoch)

        patch.setattr(SkeletonDataset, "read", hangs_at_20)
        with pytest.raises(ResourceError, match=r"^samples '20': expected to be read within 1 s"):
            infer([*words, "dataset.num_workers=1", "train.stall_timeout=1"])
    assert num_written(tmp_path) == 20
    infer([*words, RESUME])
    assert answers_in(tmp_path) == whole


# The journal itself


IDS = ["a", "b/c", "ü\n", "d", "e"]
ROWS = np.array([[-0.5, -1.5], [-np.inf, 0.0], [np.nan, -3e-38]], np.float32)


def opened(folder, *, resumes, run=None, ids=IDS):
    fabric = Fabric(accelerator="cpu")
    return open_journal(fabric, folder, ids, run or {"x": 1}, resumes=resumes)


def filled(folder):
    """Sample 2 with two rows, 0 with one, 4 failed."""
    journal = opened(folder, resumes=False)
    remarks = Remarks(failed={4: "torn"}, damaged={0: "gray"})
    journal.write(np.array([2, 0]), ROWS, np.array([2, 2, 0]), remarks)
    journal.write(np.array([4]), np.zeros((0, 0), np.float32), np.zeros(0, np.int64), remarks)
    journal.write_drawn(2)
    return journal.path


def test_what_was_written_comes_back_bit_for_bit(tmp_path):
    filled(tmp_path)
    journal = opened(tmp_path, resumes=True)
    assert list(journal.done) == [2, 0, 4]
    assert np.concatenate(journal.found.rows).tobytes() == ROWS.tobytes()
    assert np.concatenate(journal.found.sample_of_row).tolist() == [2, 2, 0]
    assert journal.found.remarks == Remarks(failed={4: "torn"}, damaged={0: "gray"})
    assert journal.drawn == {2}


@settings(max_examples=50, deadline=None)
@given(arrays(np.float32, (3, 4)))
def test_any_numbers_come_back_bit_for_bit(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("journal")
    journal = opened(folder, resumes=False)
    journal.write(np.array([1]), rows, np.array([1, 1, 1]), Remarks())
    assert opened(folder, resumes=True).found.rows[0].tobytes() == rows.tobytes()


def test_a_journal_that_was_torn_anywhere_gives_its_whole_lines_and_goes_on(tmp_path):
    whole = filled(tmp_path).read_bytes()
    header = whole.index(b"\n") + 1
    seen = set()
    ends = {i + k for i, byte in enumerate(whole) if byte == 10 for k in (0, 1)}
    for end in sorted({*range(header, len(whole), 9), *ends} - {*range(header), len(whole)}):
        filled(tmp_path).write_bytes(whole[:end])
        journal = opened(tmp_path, resumes=True)
        done = list(journal.done)
        assert done == [2, 0, 4][: len(done)]
        seen.add(len(done))
        journal.write(np.array([3]), ROWS[:1], np.array([3]), Remarks())
        assert list(opened(tmp_path, resumes=True).done) == [*done, 3]
    assert seen == {0, 1, 2, 3}


def test_another_data_set_is_refused_by_its_number_and_names(tmp_path):
    filled(tmp_path)
    with pytest.raises(SpecError) as caught:
        opened(tmp_path, resumes=True, ids=IDS[:4], run={"x": 1, "y": "new"})
    first, second, third = map(str, caught.value.problems)
    assert first.startswith("number of samples: expected 5, as in the unfinished run, got 4.")
    assert second.startswith("sha256 of the sample ids: expected '")
    assert third.startswith("y: expected None, as in the unfinished run, got 'new'.")


def test_a_file_that_is_no_journal_is_refused(tmp_path):
    (tmp_path / "unfinished-0.jsonl").write_text("[]\n")
    with pytest.raises(SpecError, match="expected the journal of an inference, got another file"):
        opened(tmp_path, resumes=True)


def test_a_sample_that_two_processes_answered_counts_once(tmp_path):
    path = filled(tmp_path)
    (tmp_path / "unfinished-1.jsonl").write_bytes(path.read_bytes())
    journal = opened(tmp_path, resumes=True)
    assert list(journal.done) == [2, 0, 4]
    assert len(np.concatenate(journal.found.rows)) == 3


def test_a_journal_that_cannot_be_written_costs_a_note(tmp_path, monkeypatch, caplog):
    journal = opened(tmp_path, resumes=False)

    def full(path, line):
        raise ResourceError(str(path), "enough disk space to write it", "0 bytes free")

    monkeypatch.setattr(answer_journal, "append_line", full)
    answer_journal.results._NOTED.clear()
    for _ in range(2):
        journal.write(np.array([3]), ROWS[:1], np.array([3]), Remarks())
    notes = [record.getMessage() for record in caplog.records]
    assert len(notes) == 1
    assert notes[0].startswith("This run could not go on after an interruption: ")


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 3), st.sets(st.integers(0, 39)))
def test_what_is_left_keeps_its_batches_whatever_is_done(num, batch_size, world_size, done):
    done = {index for index in done if index < num}
    shares = [
        evaluation_requests(num, batch_size, rank=rank, world_size=world_size, done=done)
        for rank in range(world_size)
    ]
    lengths = [len(share) for share in shares]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] - lengths[-1] <= 1
    batches = [indices.tolist() for share in shares for _, indices in share]
    assert sorted(itertools.chain(*batches)) == sorted(set(range(num)) - done)
    assert all(len({index // batch_size for index in batch}) == 1 for batch in batches)
