"""Archives made for tests, and what extraction left of them."""

import io
import os
import tarfile
import zipfile

import pytest

from kineme.data.archives import extract
from kineme.errors import DataError

FRAMES = {
    "train/catch/clip1/rgb/000001.png": b"one" * 100,
    "train/catch/clip1/rgb/000002.png": b"two" * 100,
    "train/smile/clip2/rgb/000001.png": bytes(range(256)) * 9000,  # more than one piece
}


def tar_of(path, files, mode="w", **options):
    with tarfile.open(path, mode, **options) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def zip_of(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tree(folder):
    """{relative path: content} of all files below `folder`."""
    files = {}
    for root, _, names in os.walk(os.fsencode(folder)):
        for name in names:
            path = os.path.join(root, name)
            with open(path, "rb") as file:
                files[os.fsdecode(os.path.relpath(path, os.fsencode(folder)))] = file.read()
    return files


def leftovers(cache):
    """What is in the cache besides locks and stamps."""
    shelf = cache / "archives"
    names = os.listdir(shelf) if shelf.is_dir() else []
    return [name for name in names if name != "stamps" and not name.endswith(".lock")]


def refusal(path, cache):
    before = outside_cache(path.parent)
    with pytest.raises(DataError) as caught:
        extract(path, cache)
    assert leftovers(cache) == []
    assert outside_cache(path.parent) == before
    return str(caught.value)


def outside_cache(folder):
    return {k: v for k, v in tree(folder).items() if not k.startswith("cache/")}
