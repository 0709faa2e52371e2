"""A search on two Ray nodes, of which one dies while trials run on it.

Both nodes are of this machine; for one test, one of them says that it is of another. A node dies
as a machine does: all that runs on it is killed at once, and nobody says goodbye. A cluster takes
a quarter of a minute to start and eight trials as long, so all tests are slow.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest
import yaml

import fake_training
from job_ground import made, processes_of, wait_until
from kineme.automl import telling
from kineme.automl.controller import search
from kineme.automl.trial_specs import read_plan
from kineme.automl.trials import TrialState
from kineme.engine import lease
from kineme.engine.names import LEASE_FILE
from kineme.files import write_text
from kineme.jobs.ending import Processes, descendants, send
from kineme.jobs.liveness import reconcile
from kineme.jobs.record import Failure, State
from kineme.jobs.runners import ray
from kineme.jobs.store import JobStore
from kineme.processes import start_ticks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # on a machine with nothing else: 120 s

NUM_TRIALS = 8
NUM_CPUS = 4  # of a node; a trial takes one
OBJECT_STORE_BYTES = 100 << 20
PATIENCE_SECONDS = "30"  # of a cluster with jobs that wait, in place of a quarter of an hour
LEASE_SECONDS = 60  # that the lease of a training on the node still holds when the node dies
NODE_MARK = "KINEME_TEST_NODE"


class Node:
    """A Ray node that can be killed with all that runs on it."""

    def __init__(self, cluster, monkeypatch, *, host="", **settings):
        self.name = str(uuid.uuid4())
        self._cluster = cluster
        self._seen: Processes = {}
        self.ray_node = None
        with monkeypatch.context() as patch:
            patch.setenv(NODE_MARK, self.name)
            patch.setenv("FAKE_HOST", host)
            patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
            try:
                self.ray_node = cluster.add_node(
                    num_cpus=NUM_CPUS, object_store_memory=OBJECT_STORE_BYTES, **settings
                )
            except BaseException:
                self.kill()
                raise

    def processes(self) -> Processes:
        """All that runs on the node: what its services started, and what carries its mark.

        Ray's workers overwrite their environment with their title, so that the mark alone does
        not find them.
        """
        found = marked_with(f"{NODE_MARK}={self.name}")
        for process in self._services():
            found |= descendants(process.pid)
            start = start_ticks(process.pid)
            if start is not None:
                found[process.pid] = start
        self._seen |= found
        return found

    def kill(self):
        send(signal.SIGKILL, self.processes())
        wait_until(self.is_dead)

    def leave(self):
        """Be dead, and no more a node of the cluster."""
        self.kill()
        self._cluster.worker_nodes.discard(self.ray_node)

    def is_dead(self):
        """Whether nothing is left of it; what was started meanwhile is killed."""
        left = self.processes()
        left |= {pid: start for pid, start in self._seen.items() if start_ticks(pid) == start}
        send(signal.SIGKILL, left)
        return not left

    def _services(self):
        """Those that live: the number of a dead one may be another's by now."""
        kinds = self.ray_node.all_processes.values() if self.ray_node else ()
        services = [service.process for services in kinds for service in services]
        return [process for process in services if process.poll() is None]


def marked_with(words) -> Processes:
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        start = start_ticks(folder.name)
        if words.encode() in environment and start is not None:
            found[int(folder.name)] = start
    return found


@contextlib.contextmanager
def head_of(**environment):
    """The head of a cluster; tests add other nodes."""
    from ray._common.utils import reset_ray_address
    from ray._private import services
    from ray.cluster_utils import Cluster

    cluster = Cluster(shutdown_at_exit=False)
    ports = {"dashboard_port": free_port(), "dashboard_agent_listen_port": None}
    with (
        pytest.MonkeyPatch.context() as patch,
        # sockets in it have short names
        tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder,
    ):
        for name, value in environment.items():
            patch.setenv(name, value)
        head = Node(cluster, patch, include_dashboard=True, temp_dir=folder, **ports)
        try:
            cluster.address_of_jobs = f"http://{cluster.webui_url}"
            yield cluster
        finally:
            head.kill()
            reset_ray_address()
            services.find_gcs_addresses.cache_clear()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def cluster():
    with head_of() as cluster:
        yield cluster


@pytest.fixture
def program(monkeypatch):
    """Trials of moments under real agents; pages that say nothing."""
    monkeypatch.setattr(ray, "WORDS", (sys.executable, fake_training.__file__, "agent"))
    monkeypatch.setattr(telling, "write_page", lambda path, view: write_text(path, "<html"))


class Death:
    """Lets trials train for two epochs, one of the worker's for none, and kills the worker.

    before: does something with what ran there, just before.
    """

    def __init__(self, store, worker, gate, *, before):
        self._store, self._worker, self._gate, self._before = store, worker, gate, before
        self.running = {}  # trial: record, when all ran
        self.on_worker = set()  # trials
        self.without_checkpoint = -1
        self.is_over = False

    def __call__(self, view):
        records = [self._store.load(job_id) for job_id in self._store.ids()]
        if not self.running:
            now = {r.details["trial"]: r for r in records if r.state is State.RUNNING and r.group}
            if len(now) == NUM_TRIALS:
                self._let_go(now)
        elif not self.is_over and all(map(self._is_as_far_as_it_may, self.running.values())):
            self._before([self.running[number] for number in self.on_worker])
            self._worker.kill()
            self.is_over = True
            (self._gate / "go").touch()

    def _let_go(self, running):
        self.running = running
        there = self._worker.processes()
        self.on_worker = {number for number, r in running.items() if r.agent.pid in there}
        self.without_checkpoint = min(self.on_worker)
        for number, record in running.items():
            if number != self.without_checkpoint:
                (self._gate / record.id).write_text("2")

    def _is_as_far_as_it_may(self, record):
        number = record.details["trial"]
        return number == self.without_checkpoint or epochs_of(record.results_dir) == [1, 2]


def lines_of(results_dir):
    text = (Path(results_dir) / "train" / "status.json").read_text()
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def epochs_of(results_dir):
    """That were trained, in order; an epoch that was trained twice is there twice."""
    path = Path(results_dir) / "train" / "status.json"
    lines = lines_of(results_dir) if path.exists() else []
    return [line["epoch"] + 1 for line in lines if "epoch" in line]


def hold_lease(records):
    """As a training on the machine `elsewhere` does, whose last sign of life was a while ago."""
    path = Path(records[0].results_dir) / "train" / LEASE_FILE
    path.write_text(json.dumps({**lease._holder(), "host": "elsewhere"}))
    moment = time.time() - lease.EXPIRY_SECONDS + LEASE_SECONDS
    os.utime(path, (moment, moment))


@pytest.mark.parametrize("host", ["", "elsewhere"], ids=["one-host", "two-hosts"])
def test_of_eight_trials_on_two_ray_nodes_all_finish_although_a_node_dies(
    tmp_path, cluster, program, monkeypatch, host
):
    gate = tmp_path / "gate"
    gate.mkdir()
    words = (
        f"results_dir={tmp_path / 'results'}", *fake_training.WORDS, "automl.algorithm=random",
        f"automl.max_recommendations={NUM_TRIALS}", f"automl.max_concurrent={NUM_TRIALS}",
    )  # fmt: skip
    plan = read_plan("pose_classification", None, words)
    store = JobStore(plan.folder / "trials")
    platform = {"address": cluster.address_of_jobs, "environment": {"FAKE_GATE": str(gate)}}
    worker = Node(cluster, monkeypatch, host=host)
    death = Death(store, worker, gate, before=hold_lease if host else lambda records: None)
    told = []
    try:
        view = search(plan, runner="ray", platform=platform, show=death, tell=told.append)
    finally:
        worker.leave()

    assert death.is_over
    assert len(death.on_worker) == NUM_TRIALS // 2
    assert [one.state for one in view.trials] == [TrialState.COMPLETE] * NUM_TRIALS
    jobs = {number: [] for number in range(NUM_TRIALS)}
    for record in map(store.load, store.ids()):
        jobs[record.details["trial"]].append(record)
    for one in view.trials:
        first, *again = sorted(jobs[one.number], key=lambda record: record.details["attempt"])
        is_crashed = one.number in death.on_worker
        assert one.retries == len(again) == is_crashed
        last = again[0] if is_crashed else first
        assert last.state is State.COMPLETE
        if is_crashed:
            assert first.state is State.ERROR
            assert first.failure == Failure("crashed", reason_of(first, host))
            assert last.retry_of == first.id
        # no epoch was trained twice: what crashed went on from where it had been
        assert epochs_of(last.results_dir) == [1, 2, 3, 4]
        said = Counter(line.get("status") for line in lines_of(last.results_dir))
        assert said["STARTED"] == 1 + is_crashed
        assert said["SUCCESS"] == 1
        assert one.value == fake_training.accuracy(last.spec, 4)
        assert not processes_of(first)
        assert not processes_of(last)
    waited = [text for text in told if "waits for its folder: one in use by pid" in text]
    assert len(waited) == bool(host)


def reason_of(record, host):
    """Of a crash: on this machine the agent is seen to be dead, of another one Ray is asked."""
    if host:
        return "ray has it no more"
    return f"its agent (pid {record.agent.pid} on {record.agent.host}) was killed"


def test_a_job_waits_for_its_turn_longer_than_ray_has_patience(tmp_path, program, monkeypatch):
    store = JobStore(tmp_path / "jobs")
    results = str(tmp_path / "results")
    spec = {"results_dir": results, "model": {"dropout": 0.0},
            "train": {"num_epochs": 2, "optim": {"lr": 0.004}}}  # fmt: skip

    def seen():
        time.sleep(1)
        return reconcile(store, store.load(record.id), asks_runner=True)

    with head_of(RAY_JOB_START_TIMEOUT_SECONDS=PATIENCE_SECONDS) as cluster:
        platform = {"address": cluster.address_of_jobs, "resources": {"late": 1}}
        record = made(store, runner="ray", platform=platform, results_dir=results, spec=spec)
        write_text(store.folder(record.id) / "spec.yaml", yaml.safe_dump(spec))
        ray.start(store, record)
        wait_until(lambda: seen().backend_job_id == f"{record.id}-2", 120)
        assert seen().state is State.PENDING
        worker = Node(cluster, monkeypatch, resources={"late": 1})
        try:
            wait_until(lambda: seen().is_terminal, 120)
        finally:
            worker.leave()
    assert [step.state for step in store.load(record.id).transitions] == [
        State.RUNNING,
        State.COMPLETE,
    ]
    assert epochs_of(results) == [1, 2]
