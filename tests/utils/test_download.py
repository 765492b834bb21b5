"""Downloads from a local server that misbehaves in all the ways the network does."""

import errno
import hashlib
import http.client
import os
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest.mock import Mock

import gdown
import pytest
import requests

from occplug.backbones import download as openai
from occplug.errors import CheckpointError
from occplug.utils.download import download

CONTENT = bytes(range(256)) * 2000  # 512,000 bytes
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Behaves as the server's `plan` says for the path; notes every request's Range."""

    def log_message(self, *args):
        """Silent."""

    def do_GET(self):
        plan = self.server.plan
        plan["ranges"].append(self.headers.get("Range"))
        if "silent" in plan:
            plan["silent"].wait(10)
            return
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
        if start:
            first = start + plan["shift"]
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{plan['whole'] or len(content)}")
        if plan["disposition"]:
            self.send_header("Content-Disposition", 'attachment; filename="weights.pth"')
        self.send_header("Content-Type", plan["type"])
        ends = plan["ends"].pop(0) if plan["ends"] else len(content)
        if plan["length"]:
            self.send_header("Content-Length", plan["length"] if isinstance(plan["length"], str) else str(ends - start))
        if plan["packed"]:
            self.send_header("Content-Encoding", plan["packed"])
        if plan["etag"]:
            self.send_header("ETag", plan["etag"])
        self.end_headers()
        while plan.get("trickles"):  # until the client has had enough
            time.sleep(0.05)
            try:
                self.wfile.write(b"x")
            except OSError:
                return
        stop = plan["stops"].pop(0) if plan["stops"] else ends
        self.wfile.write(content[start:stop])


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.plan = {"content": CONTENT, "statuses": [], "stops": [], "ranges": [], "etag": '"one"', "resumes": True}
    server.plan |= {"type": "application/octet-stream", "disposition": False, "length": True, "shift": 0}
    server.plan |= {"ends": [], "packed": "", "whole": ""}
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


def test_a_file_that_changed_meanwhile_starts_again(server, tmp_path):
    server.plan["stops"] = [200_000]
    with pytest.raises(CheckpointError):
        fetch(server, tmp_path, attempts=1)
    server.plan |= {"content": CONTENT[::-1], "etag": '"two"'}
    assert fetch(server, tmp_path, attempts=1).read_bytes() == CONTENT[::-1]


def test_without_a_mark_and_checksum_it_starts_again(server, tmp_path):
    server.plan |= {"stops": [200_000], "etag": ""}
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.plan["ranges"] == [None, None]


def test_a_server_that_cannot_resume_sends_all_again(server, tmp_path):
    server.plan |= {"stops": [200_000], "resumes": False}
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT


def test_another_part_than_was_asked_for_is_not_spliced(server, tmp_path):
    server.plan |= {"stops": [200_000], "shift": 1}
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.plan["ranges"] == [None, "bytes=200000-", None]


def test_a_part_of_the_rest_is_not_taken_for_the_rest(server, tmp_path):
    server.plan |= {"stops": [1000], "ends": [len(CONTENT), 1500, 3000]}
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.plan["ranges"] == [None, "bytes=1000-", "bytes=1500-", "bytes=3000-"]


def test_a_rest_of_unknown_length_needs_a_checksum(server, tmp_path):
    server.plan |= {"stops": [1000], "whole": "*"}
    with pytest.raises(CheckpointError, match="does not say how long it is"):
        fetch(server, tmp_path)
    server.plan |= {"stops": [1000]}
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT


def test_openais_clip_comes_whole_or_not_at_all(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(openai.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(openai, "_check_answer", lambda address: None)
    monkeypatch.setattr(openai.huggingface_hub, "hf_hub_download", Mock(side_effect=OSError("no hub")))
    monkeypatch.setattr(openai.huggingface_hub, "try_to_load_from_cache", lambda *names: None)
    url = f"{server.url.rpartition('/')[0]}/{SHA256}/ViT-B-16.pt"
    monkeypatch.setattr(openai, "_sources", lambda: {"clip_vit_b16": openai._Source(url, "nobody/clip")})
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    server.plan["stops"] = [1000] * 4
    with pytest.raises(CheckpointError, match="the connection ended after 1000 of"):
        openai.openai_file("clip_vit_b16")
    cache = tmp_path / ".cache/clip"
    assert not (cache / "ViT-B-16.pt").exists()
    server.plan["stops"] = []
    assert openai.openai_file("clip_vit_b16").read_bytes() == CONTENT
    (cache / "ViT-B-16.pt").write_bytes(b"a stump")
    with pytest.raises(CheckpointError, match="the download is broken: delete the file, and it is fetched again"):
        openai.check_sum(openai.openai_file("clip_vit_b16"))


def test_what_is_packed_on_the_way_is_refused(server, tmp_path):
    server.plan["packed"] = "gzip"
    with pytest.raises(CheckpointError, match="the server sends it packed, though asked not to; fetch it elsewhere"):
        fetch(server, tmp_path)
    assert files(tmp_path) == []
    server.plan["packed"] = "identity"
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_length_that_is_no_number_is_none(server, tmp_path):
    server.plan["length"] = "abc"
    with pytest.raises(CheckpointError, match="does not say how long it is"):
        fetch(server, tmp_path)


def test_a_file_of_unknown_length_needs_a_checksum(server, tmp_path):
    server.plan |= {"stops": [1000, 1000], "length": False}
    with pytest.raises(CheckpointError, match="does not say how long it is, so a broken connection would not show"):
        fetch(server, tmp_path)
    with pytest.raises(CheckpointError, match="its sha256 is"):
        fetch(server, tmp_path, sha256=SHA256)
    assert files(tmp_path) == []


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
    real, failures = http.client.HTTPResponse.read1, [OSError(errno.EHOSTUNREACH, "No route to host")]

    def read(self, *size):
        if failures:
            raise failures.pop()
        return real(self, *size)

    monkeypatch.setattr(http.client.HTTPResponse, "read1", read)
    assert fetch(server, tmp_path).read_bytes() == CONTENT and len(server.plan["ranges"]) == 2


# ---------------------------------------------------------------------- Google Drive, with gdown itself


BIG = CONTENT * 5  # gdown reads blocks of 524,288 bytes, and what it has of a block when a connection breaks is lost
BIG_SHA256 = hashlib.sha256(BIG).hexdigest()
BLOCK = 524_288


@pytest.fixture
def google(server, monkeypatch):
    """The server in place of Google Drive."""
    get = requests.Session.get

    def redirected(self, url, **options):
        assert url.startswith("https://drive.google.com/uc?id=THEID")
        return get(self, server.url, **options)

    monkeypatch.setattr(requests.Session, "get", redirected)
    monkeypatch.setattr(gdown.download.__globals__["random"], "uniform", lambda low, high: 0.0)  # its pauses
    server.plan |= {"content": BIG, "disposition": True}
    return server


def from_drive(folder, **options):
    return download(folder / "x" / "weights.pth", drive="THEID", **{"wait": 0.0, "timeout": 5.0, **options})


def test_drive_gives_the_file_though_the_connection_breaks(google, tmp_path):
    google.plan["stops"] = [600_000, 2_000_000]
    assert from_drive(tmp_path).read_bytes() == BIG and files(tmp_path) == ["weights.pth"]
    assert google.plan["ranges"] == [None, f"bytes={BLOCK}-", f"bytes={3 * BLOCK}-"]


def test_with_a_checksum_a_later_call_goes_on_with_drives_file(google, tmp_path):
    google.plan["stops"] = [600_000]
    with pytest.raises(
        CheckpointError, match=r"did not send it \(Download is incomplete: received 524288 bytes but the"
    ):
        from_drive(tmp_path, attempts=1, sha256=BIG_SHA256)
    assert not (tmp_path / "x/weights.pth").exists()
    assert from_drive(tmp_path, attempts=1, sha256=BIG_SHA256).read_bytes() == BIG
    assert google.plan["ranges"] == [None, None, f"bytes={BLOCK}-"] and files(tmp_path) == ["weights.pth"]


def test_without_a_checksum_drives_file_may_have_changed_and_starts_again(google, tmp_path):
    google.plan["stops"] = [600_000]
    with pytest.raises(CheckpointError):
        from_drive(tmp_path, attempts=1)
    google.plan |= {"content": BIG[::-1], "etag": '"two"'}
    assert from_drive(tmp_path, attempts=1).read_bytes() == BIG[::-1] and files(tmp_path) == ["weights.pth"]


def test_what_is_no_beginning_of_drives_file_is_thrown_away(google, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/weights.pth.driveabcdefgh.part").write_bytes(BIG + b"more")
    assert from_drive(tmp_path, sha256=BIG_SHA256).read_bytes() == BIG and files(tmp_path) == ["weights.pth"]


def test_another_file_behind_drives_id_is_refused(google, tmp_path):
    with pytest.raises(CheckpointError, match=f"its sha256 is {BIG_SHA256}, expected {'0' * 64}"):
        from_drive(tmp_path, sha256="0" * 64)
    assert files(tmp_path) == []


def test_drives_quota_is_told_at_once(google, tmp_path):
    page = (
        b'<html><p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></html>'
    )
    google.plan |= {"content": page, "type": "text/html; charset=utf-8", "disposition": False}
    with pytest.raises(
        CheckpointError, match="Google Drive file THEID.*quota.*Too many users.*open https://drive.google"
    ):
        from_drive(tmp_path)
    assert len(google.plan["ranges"]) == 1 and files(tmp_path) == []


def test_drives_page_is_no_file(google, tmp_path):
    google.plan["content"] = b"<html><head><title>Google Drive - Quota exceeded</title>"
    with pytest.raises(CheckpointError, match="a web page came in place"):
        from_drive(tmp_path)
    assert files(tmp_path) == []


def test_drive_without_such_a_file(google, tmp_path):
    google.plan["statuses"] = [404] * 4
    with pytest.raises(CheckpointError, match="a web page came in place.*Cannot retrieve the public link of the file"):
        from_drive(tmp_path)
    assert files(tmp_path) == []


def test_drive_without_network(google, tmp_path):
    google.shutdown()
    google.server_close()
    with pytest.raises(
        CheckpointError,
        match=r"Google Drive did not send it \(no answer, or a broken connection\); open https.*THEID/view",
    ):
        from_drive(tmp_path, attempts=2)


def test_without_network_what_drive_has_sent_is_kept(google, tmp_path):
    google.shutdown()
    google.server_close()
    (tmp_path / "x").mkdir()
    (tmp_path / "x/weights.pth.driveabcdefgh.part").write_bytes(BIG[:BLOCK])
    with pytest.raises(CheckpointError, match="no answer, or a broken connection"):
        from_drive(tmp_path, attempts=2, sha256=BIG_SHA256)
    assert files(tmp_path) == ["weights.pth.driveabcdefgh.part"]


def test_a_drive_that_says_nothing_is_not_waited_for(google, tmp_path):
    google.plan["silent"] = threading.Event()
    try:
        with pytest.raises(CheckpointError, match=r"Google Drive did not send it \(no answer in time\)"):
            from_drive(tmp_path, attempts=1, timeout=0.2)
    finally:
        google.plan["silent"].set()


def test_a_full_disk_is_not_put_down_to_drive(tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(gdown, "download", Mock(side_effect=full))
    with pytest.raises(CheckpointError, match=r"x/weights.pth.part cannot be written \(No space left on device\)"):
        from_drive(tmp_path)


def test_a_trickle_is_given_up(server, tmp_path):
    server.plan["trickles"] = True
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=r"could not be downloaded: only \d+ bytes came in \d s; try again later"):
        fetch(server, tmp_path, sha256=SHA256, timeout=0.5, attempts=2)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    "length, told",
    [
        (True, "it has 512000 bytes, expected 300000"),
        (False, "the server sends more than the 300,000 bytes it should have"),
    ],
)
def test_more_than_the_stated_size_is_not_written(server, tmp_path, length, told):
    server.plan["length"] = length
    with pytest.raises(CheckpointError, match=f"{told}; the index may be wrong, or the file new"):
        fetch(server, tmp_path, size=300_000)
    assert files(tmp_path) == []
