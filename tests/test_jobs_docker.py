"""Jobs in containers: docker's command line word by word, and a stand-in for docker."""

import dataclasses
import json
import os
import signal
import sys

import pytest

from job_ground import GROUND, ended, log_of, made, silent, wait_until
from kineme.errors import ResourceError, ServiceError, SpecError
from kineme.jobs.liveness import reconcile
from kineme.jobs.record import Failure, State
from kineme.jobs.runners import docker, load_runner
from kineme.processes import identity

pytestmark = pytest.mark.usefixtures("no_key")


def docker_job(store, tmp_path, **changes):
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    platform = {"image": "registry.example:5000/lab/kineme:0.1", **changes.pop("platform", {})}
    spec = {"dataset": {"train": [str(data)], "gone": "/no/such/path", "name": "data"}}
    return made(store, "x", runner="docker", platform=platform, spec=spec, **changes)


def test_the_command_line_of_docker_word_by_word(store, tmp_path):
    weights = tmp_path / "weights.pth"
    weights.touch()
    platform = {
        "mounts": [str(weights)], "gpu_ids": [0, 2], "shm_size": "2g", "network": "host",
        "user": "1000:100",
    }  # fmt: skip
    record = docker_job(store, tmp_path, platform=platform)
    folder, name = store.folder(record.id), f"kineme-{record.id}"
    assert docker.command_line(store, record, has_key=True) == [
        "docker", "run", "--rm", "--init", "--name", name, "--hostname", name,
        "--user", "1000:100", "--shm-size", "2g", "--env", "HOME=/tmp", "--network", "host",
        "--gpus", '"device=0,2"',
        "--interactive", "--env", "KINEME_KEY_DESCRIPTOR=0",
        "--mount", f"type=bind,src={tmp_path}/data,dst={tmp_path}/data,readonly",
        "--mount", f"type=bind,src={store.root},dst={store.root},readonly",
        "--mount", f"type=bind,src={folder},dst={folder}",
        "--mount", f"type=bind,src={weights},dst={weights},readonly",
        "--workdir", str(folder), "registry.example:5000/lab/kineme:0.1",
        "python", "-P", "-m", "kineme.jobs.agent", str(folder),
    ]  # fmt: skip


def test_what_docker_is_told_by_default(store, tmp_path):
    words = docker.command_line(store, docker_job(store, tmp_path, platform={"num_gpus": 1}))
    assert words[words.index("--user") + 1] == f"{os.getuid()}:{os.getgid()}"
    assert words[words.index("--shm-size") + 1] == "8g"
    assert words[words.index("--gpus") + 1] == "1"
    assert "--interactive" not in words
    words = docker.command_line(store, docker_job(store, tmp_path))
    assert "--gpus" not in words


@pytest.mark.parametrize(
    "image",
    ["--privileged", "a b", "Image", "a//b", "a:", "a@sha256:12", "a:b:c", "", "-v", "a;b", "a\n"],
)
def test_what_is_no_image_never_gets_into_the_command_line(store, tmp_path, image):
    with pytest.raises(SpecError, match="the name of an image"):
        docker.command_line(store, docker_job(store, tmp_path, platform={"image": image}))


@pytest.mark.parametrize(
    "image", ["kineme", "lab/kineme:1.0", "localhost:5000/k", f"a/b@sha256:{'0' * 64}"]
)
def test_images_are_named_in_every_usual_way(store, tmp_path, image):
    words = docker.command_line(store, docker_job(store, tmp_path, platform={"image": image}))
    assert image in words


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("mounts", ["relative"]), ("mounts", ["/"]), ("mounts", ["/a,readonly=false"]),
        ("mounts", ['/a"b']), ("mounts", ["/a/../etc"]), ("mounts", ["/a\nb"]), ("mounts", [1]),
        ("shm_size", "8 g"), ("shm_size", "--privileged"), ("network", "-x"), ("user", "root"),
        ("python", "-c"), ("gpu_ids", ["all"]), ("gpu_ids", [-1]),
    ],
)  # fmt: skip
def test_no_word_of_a_platform_gets_into_the_command_line_unchecked(
    store, tmp_path, setting, value
):
    with pytest.raises(SpecError):
        docker.command_line(store, docker_job(store, tmp_path, platform={setting: value}))


@pytest.fixture
def docker_command(tmp_path, monkeypatch):
    """A stand-in for docker, which runs the agent of a job here, or does what a test says."""
    folder = tmp_path / "bin"
    folder.mkdir()
    words = tmp_path / "words"
    path = folder / "docker"
    path.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"json.dump(sys.argv, open({str(words)!r}, 'w'))\n"
        "os.environ['KINEME_KEY_DESCRIPTOR'] = '0'\n"
        f"os.execv(sys.executable, [sys.executable, {GROUND!r}, sys.argv[-1]])\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return path


def test_j16_the_agent_in_a_container_gets_its_key_through_a_pipe(store, tmp_path, docker_command):
    code = "from kineme import concealment; print(concealment.told().key == 'a ' + 'secret')"
    record = docker_job(store, tmp_path, command=(code,))
    assert record.command == (code,)
    started = docker.start(store, record, key="a secret")
    assert started.backend_job_id == f"kineme-{record.id}"
    record = ended(store, record)
    assert record.state is State.COMPLETE
    assert log_of(store, record) == "True\n"
    told = json.loads((tmp_path / "words").read_text())
    assert "secret" not in " ".join(told)


def test_what_docker_refuses_is_an_error_that_says_so(store, tmp_path, docker_command):
    docker_command.write_text("#!/bin/sh\necho 'no such image' >&2\nexit 125\n")
    record = docker_job(store, tmp_path)
    with pytest.raises(ServiceError, match="docker: expected a container, got 'no such image'"):
        docker.start(store, record)
    assert store.load(record.id).backend_job_id is None


def test_without_docker_the_error_says_what_else_there_is(store, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResourceError, match="use the runner subprocess"):
        docker.start(store, docker_job(store, tmp_path))


def started_by(store, record, process):
    """As if that process of this machine had asked docker for the job's container."""
    path = store.folder(record.id) / "docker.json"
    path.write_text(json.dumps(dataclasses.asdict(process)))
    return store.amend(record.id, backend_job_id=f"kineme-{record.id}")


GONE = dataclasses.replace(identity(), started=1)


def test_docker_is_asked_whether_a_container_is_there(store, tmp_path, docker_command):
    record = started_by(store, docker_job(store, tmp_path), GONE)
    for line, gone in (
        ("echo running", False), ("echo created", False), ("echo paused", False),
        ("echo exited", True), ("echo removing", True),
        ("echo 'Error: No such container: x' >&2; exit 1", True),
        ("echo 'Cannot connect to the daemon' >&2; exit 1", None),
    ):  # fmt: skip
        docker_command.write_text(f"#!/bin/sh\n{line}\n")
        assert docker.is_gone(store, record) is gone


PULLS = """#!/bin/sh
case "$1" in
  run) echo run >> "$DOCKER_STANDIN"; exec sleep 20 ;;
  stop) echo "$@" >> "$DOCKER_STANDIN" ;;
  *) echo "Error: No such container: $5" >&2; exit 1 ;;
esac
"""


def test_a_job_whose_image_is_still_fetched_is_not_gone(
    store, tmp_path, docker_command, monkeypatch
):
    told = tmp_path / "told"
    monkeypatch.setenv("DOCKER_STANDIN", str(told))
    monkeypatch.setattr(docker, "_FAILS_WITHIN_SECONDS", 0.0)
    docker_command.write_text(PULLS)
    record = docker.start(store, docker_job(store, tmp_path))
    wait_until(told.exists)
    puller = json.loads((store.folder(record.id) / "docker.json").read_text())["pid"]
    assert puller != os.getpid()
    assert docker.is_gone(store, record) is False
    assert reconcile(store, record, asks_runner=True) == record
    os.kill(puller, signal.SIGKILL)
    wait_until(lambda: docker.is_gone(store, record))
    record = reconcile(store, record, asks_runner=True)
    assert record.failure == Failure("crashed", "docker has it no more")


def test_docker_of_another_machine_cannot_say_what_became_of_a_container(
    store, tmp_path, docker_command
):
    docker_command.write_text(PULLS)
    elsewhere = dataclasses.replace(GONE, host="other")
    record = started_by(store, docker_job(store, tmp_path), elsewhere)
    assert docker.is_gone(store, record) is None
    with pytest.raises(ServiceError, match="the machine that started the container"):
        docker.end(store, record)


def test_a_container_that_does_not_hear_is_stopped(store, tmp_path, docker_command, monkeypatch):
    told = tmp_path / "told"
    monkeypatch.setenv("DOCKER_STANDIN", str(told))
    docker_command.write_text(PULLS)
    record = started_by(store, docker_job(store, tmp_path), GONE)
    record = silent(store, record)
    assert load_runner("docker").cancel(store, record).state is State.CANCELED
    assert told.read_text() == f"stop -t 10 {record.backend_job_id}\n"


def test_a_container_has_the_variables_of_an_object_store_where_it_needs_them(
    store, tmp_path, monkeypatch
):
    from kineme.data.remote.client import Access

    for name in docker._STORE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    given = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "never seen",
             "S3_ENDPOINT_URL": "http://store:9000"}  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert "S3_ENDPOINT_URL" not in docker.command_line(store, docker_job(store, tmp_path))
    for changes in ({"uploads_to": "s3://bucket/runs"}, {"train_datasets": ("s3://bucket/data",)}):
        words = docker.command_line(store, docker_job(store, tmp_path, **changes))
        passed = [words[i + 1] for i, word in enumerate(words) if word == "--env"]
        assert passed == ["HOME=/tmp", *given]
        assert "never seen" not in " ".join(words)

    asked = set()

    class Asking(dict):
        def get(self, name, default=None):
            asked.add(name)
            return default

    Access.from_environment(Asking())
    Access.from_environment({**dict.fromkeys(docker._STORE_VARIABLES[:2], "x")})
    assert asked <= {*docker._STORE_VARIABLES}  # what a store is found by, it gets
