"""Downloads from a local server that misbehaves in all the ways the network does."""

import errno
import hashlib
import http.client
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import gdown
import pytest
from gdown.exceptions import FileURLRetrievalError

from occplug.errors import CheckpointError
from occplug.zoo.download import download

CONTENT = bytes(range(256)) * 2000  # 512,000 bytes
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Behaves as the server's `plan` says for the path; notes every request's Range."""

    def log_message(self, *args):
        """Silent."""

    def do_GET(self):
        plan = self.server.plan
        plan["ranges"].append(self.headers.get("Range"))
        status = plan["statuses"].pop(0) if plan["statuses"] else 200
        if status != 200:
            self.send_error(status)
            return
        content, start = plan["content"], 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        same = self.headers.get("If-Range") in (None, plan["etag"])
        if wanted and same and plan["resumes"]:
            start = int(wanted[1])
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Type", plan["type"])
        self.send_header("Content-Length", str(len(content) - start))
        if plan["etag"]:
            self.send_header("ETag", plan["etag"])
        self.end_headers()
        stop = plan["stops"].pop(0) if plan["stops"] else len(content)
        self.wfile.write(content[start:stop])


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.plan = {"content": CONTENT, "statuses": [], "stops": [], "ranges": [], "etag": '"one"', "resumes": True}
    server.plan["type"] = "application/octet-stream"
    server.url = f"http://127.0.0.1:{server.server_port}/weights.pth"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(server, folder, **options):
    return download(folder / "x" / "weights.pth", **{"url": server.url, "wait": 0.0, "timeout": 5.0, **options})


def files(folder):
    return sorted(p.name for p in (folder / "x").iterdir() if not p.name.endswith(".lock"))


def test_a_file_arrives_whole(server, tmp_path):
    path = fetch(server, tmp_path, sha256=SHA256, size=len(CONTENT))
    assert path.read_bytes() == CONTENT and files(tmp_path) == ["weights.pth"]
    assert server.plan["ranges"] == [None]


def test_a_broken_connection_is_taken_up_again(server, tmp_path):
    server.plan["stops"] = [100_000, 300_000]
    path = fetch(server, tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.plan["ranges"] == [None, "bytes=100000-", "bytes=300000-"]


def test_a_later_call_goes_on_where_the_first_stopped(server, tmp_path):
    server.plan["stops"] = [200_000]
    with pytest.raises(CheckpointError, match="the connection ended after 200000 of 512000 bytes"):
        fetch(server, tmp_path, attempts=1)
    assert not (tmp_path / "x/weights.pth").exists()  # nothing half-written under the name that is loaded
    assert fetch(server, tmp_path, attempts=1).read_bytes() == CONTENT
    assert server.plan["ranges"] == [None, "bytes=200000-"]


def test_a_file_that_changed_meanwhile_starts_anew(server, tmp_path):
    server.plan["stops"] = [200_000]
    with pytest.raises(CheckpointError):
        fetch(server, tmp_path, attempts=1)
    server.plan |= {"content": CONTENT[::-1], "etag": '"two"'}
    assert fetch(server, tmp_path, attempts=1).read_bytes() == CONTENT[::-1]


def test_without_a_mark_and_checksum_it_starts_anew(server, tmp_path):
    server.plan |= {"stops": [200_000], "etag": ""}
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.plan["ranges"] == [None, None]


def test_a_server_that_cannot_resume_sends_all_again(server, tmp_path):
    server.plan |= {"stops": [200_000], "resumes": False}
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.plan["statuses"] = [503, 429, 500]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    server.plan["statuses"] = [503] * 4
    with pytest.raises(CheckpointError, match="status 503; try again later, or fetch it elsewhere and put it at"):
        fetch(server, tmp_path / "other")


def test_a_wrong_checksum_or_size_leaves_nothing(server, tmp_path):
    with pytest.raises(CheckpointError, match=f"its sha256 is {SHA256}, expected {'0' * 64}"):
        fetch(server, tmp_path, sha256="0" * 64)
    with pytest.raises(CheckpointError, match="it has 512000 bytes, expected 7"):
        fetch(server, tmp_path, size=7)
    assert files(tmp_path) == []


def test_a_missing_file_is_not_asked_for_again(server, tmp_path):
    server.plan["statuses"] = [404] * 4
    with pytest.raises(CheckpointError, match="weights.pth could not be downloaded: status 404, there is no such file"):
        fetch(server, tmp_path)
    assert len(server.plan["ranges"]) == 1 and files(tmp_path) == []


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_is_no_file(server, tmp_path, kind):
    server.plan |= {"content": b"\n<!DOCTYPE html><html><title>Quota exceeded</title>", "type": kind}
    with pytest.raises(CheckpointError, match="a web page came in place of the file.*in a browser and put the file at"):
        fetch(server, tmp_path)
    assert files(tmp_path) == []


def test_no_network(tmp_path, server):
    server.shutdown()
    server.server_close()
    with pytest.raises(CheckpointError, match=r"no answer, or a broken connection \(.*refused.*\); try again later"):
        fetch(server, tmp_path)
    assert files(tmp_path) == []


def test_an_address_must_be_of_the_web(tmp_path):
    with pytest.raises(CheckpointError, match="neither http: nor https:"):
        download(tmp_path / "a", url="file:///etc/hostname")


def test_a_failure_leaves_an_older_file_alone(server, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/weights.pth").write_text("older")
    server.plan["statuses"] = [404]
    with pytest.raises(CheckpointError):
        fetch(server, tmp_path)
    assert (tmp_path / "x/weights.pth").read_text() == "older"


def test_two_processes_do_not_write_to_one_file(server, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "x").mkdir()
    with (tmp_path / "x/.weights.pth.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CheckpointError, match="another process is downloading it"):
            fetch(server, tmp_path)
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_full_disk_is_told_with_the_files_name(server, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/weights.pth.part").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"x/weights.pth.part cannot be written \(No space left on device\)"):
        fetch(server, tmp_path)
    assert len(server.plan["ranges"]) == 1  # asking again would make no room


def test_what_is_in_the_way_is_told_before_anything_is_fetched(server, tmp_path):
    (tmp_path / "x/weights.pth").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="x/weights.pth is a folder; move it out of the way"):
        fetch(server, tmp_path)
    (tmp_path / "a").write_text("a file where a folder should be")
    with pytest.raises(CheckpointError, match=r"/a cannot be written \(File exists\); put that right"):
        download(tmp_path / "a" / "weights.pth", url=server.url)
    assert server.plan["ranges"] == []


def test_a_network_that_fails_midway_is_asked_again(server, tmp_path, monkeypatch):
    """Not every failure of a network is a ConnectionError."""
    real, failures = http.client.HTTPResponse.read, [OSError(errno.EHOSTUNREACH, "No route to host")]

    def read(self, *size):
        if failures:
            raise failures.pop()
        return real(self, *size)

    monkeypatch.setattr(http.client.HTTPResponse, "read", read)
    assert fetch(server, tmp_path).read_bytes() == CONTENT and len(server.plan["ranges"]) == 2


# ---------------------------------------------------------------------- Google Drive, gdown in place of the network


def drive(tmp_path, monkeypatch, *outcomes, **options):
    """Download with a gdown that does each of `outcomes` in turn: raises it, or writes it."""
    left = list(outcomes)

    def fake(id, output, quiet, resume):
        assert id == "THEID" and resume
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        with open(output, "wb") as file:
            file.write(outcome)
        return output

    monkeypatch.setattr(gdown, "download", fake)
    return download(tmp_path / "x" / "weights.pth", drive="THEID", wait=0.0, **options)


def test_drive_gives_the_file_after_a_second_try(tmp_path, monkeypatch):
    path = drive(tmp_path, monkeypatch, ConnectionError("reset"), CONTENT, sha256=SHA256)
    assert path.read_bytes() == CONTENT and files(tmp_path) == ["weights.pth"]


def test_drives_quota_is_told_at_once(tmp_path, monkeypatch):
    error = FileURLRetrievalError("Too many users have viewed or downloaded this file recently.")
    with pytest.raises(
        CheckpointError, match="Google Drive file THEID.*quota.*Too many users.*open https://drive.google"
    ):
        drive(tmp_path, monkeypatch, error)


def test_drives_page_is_no_file(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="a web page came in place"):
        drive(tmp_path, monkeypatch, b"<html><head><title>Google Drive - Quota exceeded</title>")
    assert files(tmp_path) == []


def test_drive_without_network(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"no answer from Google Drive \(unreachable\); open https.*THEID/view"):
        drive(tmp_path, monkeypatch, *[ConnectionError("unreachable")] * 4)


def test_a_full_disk_is_not_put_down_to_drive(tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(CheckpointError, match=r"x/weights.pth.part cannot be written \(No space left on device\)"):
        drive(tmp_path, monkeypatch, full)
