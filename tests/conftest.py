"""Tests are many and small: one thread each, and none that spins while it waits."""

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells leave it to what runs behind
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded, here and in children
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # tests that import onnxruntime themselves

import pytest


@pytest.fixture
def client(monkeypatch, tmp_path):
    """Of jobs that a test moves by hand (parked_jobs.py)."""
    from parked_jobs import parked_client

    return parked_client(monkeypatch, tmp_path / "jobs")


@pytest.fixture
def data(tmp_path):
    """A folder of skeletons that jobs are given."""
    from parked_jobs import pose_data

    return pose_data(tmp_path / "data")


@pytest.fixture
def store(tmp_path):
    """An empty folder of jobs."""
    from kineme.jobs.store import JobStore

    return JobStore(tmp_path / "jobs")


@pytest.fixture
def no_key(monkeypatch):
    """Without the encryption key of whoever runs the tests."""
    from job_ground import forget_keys

    forget_keys(monkeypatch)
