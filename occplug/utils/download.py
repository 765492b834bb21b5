"""Files from the network: whole and checked, or not there at all.

A download goes to `NAME.part` beside its target. If it is interrupted, the next call goes on where it stopped, as long
as the server says (`If-Range`) or the checksum shows that it is still the same file; from Google Drive only the
checksum can. Only a complete file of the right size and checksum gets the target's name.
"""

from __future__ import annotations

import errno
import glob
import http.client
import logging
import math
import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gdown
import requests
from filelock import FileLock, Timeout
from gdown.exceptions import DownloadError, FileURLRetrievalError
from tqdm import tqdm

from occplug.errors import CheckpointError
from occplug.utils.files import file_sha256, user_path

__all__ = ["download"]

_log = logging.getLogger(__name__)
_BLOCK = 1 << 18
_OTHER_SIZE = "the index may be wrong, or the file new"
_SLOWEST = 1024  # bytes a second, on average over the time that a server has to answer
_LATER = {408, 425, 429, 500, 502, 503, 504}  # statuses that may pass
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_PAGE = re.compile(rb"\s*<(!doctype html|html|head)", re.I)
_REASONS = {401: "a login is needed", 403: "access is forbidden", 404: "there is no such file", 410: "it was removed"}


@dataclass(frozen=True)
class _Job:
    """What to fetch, what it must be, and how long to try."""

    source: str  # for messages
    target: Path
    sha256: str | None
    size: int | None
    attempts: int
    wait: float
    timeout: float
    progress: bool | None

    @property
    def part(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def mark(self) -> Path:
        """Holds the server's mark (ETag or date) of the file that `part` is the beginning of."""
        return self.target.with_name(f"{self.target.name}.part.mark")

    def error(self, reason: str, cure: str = "") -> CheckpointError:
        cure = cure or f"try again later, or fetch it elsewhere and put it at {self.target}"
        return CheckpointError(f"{self.source} could not be downloaded: {reason}; {cure}")

    @property
    def of_drive(self) -> Path:
        """What gdown writes; its own partial file has this name and eight characters more."""
        return self.target.with_name(f"{self.target.name}.drive")

    def begun_by_drive(self) -> list[Path]:
        """What gdown left."""
        return list(self.target.parent.glob(f"{glob.escape(self.of_drive.name)}*"))

    def discard(self) -> None:
        for file in (self.part, self.mark, *self.begun_by_drive()):
            file.unlink(missing_ok=True)


class _Interrupted(Exception):
    """A failure after which another attempt may succeed."""


def download(
    target: Path,
    url: str | None = None,
    drive: str | None = None,
    sha256: str | None = None,
    size: int | None = None,
    attempts: int = 4,
    wait: float = 1.0,
    timeout: float = 20.0,
    progress: bool | None = None,
) -> Path:
    """Fetch the file at `url`, or the one with the Google Drive id `drive`, to `target`; returns `target`.

    Args:
        sha256, size: what the file must have; None where not known.
        attempts: how often in all; between two of them it waits `wait` seconds, then twice as long, and so on.
        timeout: seconds for the server to answer.
        progress: show a bar; None means only on a terminal.

    Raises:
        CheckpointError: no network, no such file, a web page in place of a file (Drive's quota page), another size or
            checksum than stated, another process at the same file, or a disk that cannot be written. `target` is then
            as it was.
    """
    source = url if url is not None else f"Google Drive file {drive}"
    job = _Job(source, user_path(target), sha256, size, attempts, wait, timeout, progress)
    try:
        if job.target.is_dir():
            raise job.error(f"{job.target} is a folder", "move it out of the way")
        job.target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(job.target.with_name(f".{job.target.name}.lock")).acquire(timeout=0)
        except Timeout:
            raise job.error("another process is downloading it", "wait for it to finish") from None
        with lock:
            _log.info("downloading %s", source)
            _from_url(job, url) if url is not None else _from_drive(job, drive or "")
            _check(job)
            os.replace(job.part, job.target)
            job.discard()
    except OSError as error:
        reason = f"{error.filename or job.part} cannot be written ({error.strerror or error})"
        raise job.error(reason, "put that right and give the command again") from error
    return job.target


def _of_disk(error: Exception) -> bool:
    """Whether it is this machine's disk that failed; the network's failures are OSErrors too, but name no file."""
    return isinstance(error, OSError) and (error.filename is not None or error.errno in _FULL)


# ---------------------------------------------------------------------- a web server


def _from_url(job: _Job, url: str) -> None:
    """Complete `job.part` from `url`, in as many attempts as there are."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise job.error("its address begins with neither http: nor https:", "correct the address")
    for attempt in range(1, job.attempts + 1):
        try:
            _read_on(job, url)
            return
        except _Interrupted as error:
            if attempt == job.attempts:
                raise job.error(str(error)) from error
            pause = job.wait * 2 ** (attempt - 1)
            _log.warning("%s: %s; attempt %d in %g s", url, error, attempt + 1, pause)
            time.sleep(pause)


def _read_on(job: _Job, url: str) -> None:
    """One attempt: what is missing of `job.part`, or all of it if the server's file is another one by now."""
    done = job.part.stat().st_size if job.part.exists() else 0
    mark = job.mark.read_text() if job.mark.exists() else ""
    if done and not mark and job.sha256 is None:
        done = 0  # nothing would show that the beginning belongs to the rest
    if job.size is not None and done == job.size:
        return
    headers = {"User-Agent": "occplug", "Accept-Encoding": "identity"}
    if done:
        headers |= {"Range": f"bytes={done}-"} | ({"If-Range": mark} if mark else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=job.timeout) as answer:
            _receive(job, answer, done)
    except urllib.error.HTTPError as error:
        _refused(job, error.code)
    except (OSError, http.client.HTTPException) as error:
        if _of_disk(error):
            raise
        reason = getattr(error, "reason", None) or error
        raise _Interrupted(f"no answer, or a broken connection ({reason or type(error).__name__})") from error


def _refused(job: _Job, status: int) -> None:
    if status == 416:  # more is there than the server has
        job.discard()
        raise _Interrupted("the server's file is shorter than the part that was here")
    if status in _LATER:
        raise _Interrupted(f"the server answered with status {status}")
    raise job.error(f"status {status}, {_REASONS.get(status, 'refused')}", "check its address in the zoo's index")


def _receive(job: _Job, answer, done: int) -> None:
    if answer.headers.get_content_type() == "text/html":
        raise _page_error(job)
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        problem = "the server sends it packed, though asked not to"
        raise job.error(problem, f"fetch it elsewhere and put it at {job.target}")
    done = done if answer.status == 206 else 0
    length = answer.headers.get("Content-Length", "")
    end = done + int(length) if length.isdecimal() else None  # of this answer
    total = end if answer.status != 206 else _whole(job, answer, done)
    if total is None and not answer.chunked and job.sha256 is None and job.size is None:
        reason = "the server does not say how long it is, so a broken connection would not show"
        raise job.error(reason, "state its checksum in the zoo's index, or fetch it elsewhere")
    if job.size is not None and total not in (None, job.size):
        job.discard()
        raise job.error(f"it has {total} bytes, expected {job.size}", _OTHER_SIZE)
    job.mark.write_text(_mark(answer.headers))
    hidden = not (sys.stderr.isatty() if job.progress is None else job.progress)
    bar = tqdm(total=total, initial=done, unit="B", unit_scale=True, desc=job.target.name, disable=hidden, leave=False)
    with bar, job.part.open("r+b" if done else "wb") as part:
        part.seek(done)
        for block in _blocks(job, answer, job.size or total):
            part.write(block)
            bar.update(len(block))
        received = part.tell()
    if received < (wanted := total or end or 0):
        raise _Interrupted(f"the connection ended after {received} of {wanted} bytes")


def _blocks(job: _Job, answer, limit: int | None) -> Iterator[bytes]:
    """What `answer` sends, as it comes; stops if it is more than `limit`, or almost nothing for a while."""
    room = math.inf if limit is None else limit - job.part.stat().st_size
    begun, lately = time.monotonic(), 0
    while block := answer.read1(_BLOCK):
        room -= len(block)
        if room < 0:
            job.discard()
            raise job.error(
                f"the server sends more than the {limit:,} bytes it should have",
                "the index may be wrong, or the file new",
            )
        yield block
        lately += len(block)
        if (past := time.monotonic() - begun) > job.timeout:
            if lately < _SLOWEST * past:
                raise _Interrupted(f"only {lately:,} bytes came in {past:.0f} s")
            begun, lately = time.monotonic(), 0


def _whole(job: _Job, answer, done: int) -> int | None:
    """The length of the whole file, of which `answer` is the part from byte `done` on; None if it does not say."""
    match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != done:
        job.discard()
        raise _Interrupted("the server sent another part than was asked for")
    return None if match[2] == "*" else int(match[2])


def _mark(headers) -> str:
    """What `If-Range` may be given: a strong ETag, or the date of the last change."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


# ---------------------------------------------------------------------- Google Drive


def _from_drive(job: _Job, drive: str) -> None:
    """Complete `job.part` from Google Drive; gdown answers its questions and resumes broken transfers.

    gdown does not keep the mark of the file that a partial one is the beginning of. So what an earlier call left is
    used only if a checksum will show whether it fits. Between its attempts gdown waits as it likes.
    """
    if job.sha256 is None:
        job.discard()
    before = _sizes(job)
    try:
        try:
            _ask_gdown(job, drive)
        except DownloadError as error:
            if error.__cause__ is not None or not before or _sizes(job) != before:
                raise
            job.discard()  # not the network: what is here is no beginning of what Drive has
            _ask_gdown(job, drive)
    except FileURLRetrievalError as error:  # a page of Google's that says no
        raise _page_error(job, f" ({_told(error)})", drive) from error
    except Exception as error:  # requests', urllib3's and gdown's own, by version
        if _of_disk(error):
            raise
        raise job.error(f"Google Drive did not send it ({_told(error)})", _by_hand(job, drive)) from error
    os.replace(job.of_drive, job.part)


def _ask_gdown(job: _Job, drive: str) -> None:
    quiet = not (sys.stderr.isatty() if job.progress is None else job.progress)
    file = gdown.download(
        id=drive,
        output=str(job.of_drive),
        quiet=quiet,
        resume=job.sha256 is not None,
        timeout=job.timeout,
        retries=job.attempts - 1,
    )
    if file is None:
        raise FileURLRetrievalError("no file with this id")


def _sizes(job: _Job) -> dict[Path, int]:
    return {file: file.stat().st_size for file in job.begun_by_drive()}


def _told(error: Exception) -> str:
    """What went wrong, without addresses, and without gdown's hints at options of its command."""
    cause = error.__cause__ or error
    if isinstance(cause, requests.exceptions.Timeout):
        return "no answer in time"
    if isinstance(cause, requests.exceptions.ConnectionError):
        return "no answer, or a broken connection"
    text = " ".join(str(error).split("\nThe received bytes")[0].split())
    return (text or type(error).__name__)[:200]


def _by_hand(job: _Job, drive: str | None) -> str:
    address = f"https://drive.google.com/file/d/{drive}/view" if drive else job.source
    return f"open {address} in a browser and put the file at {job.target}"


def _page_error(job: _Job, detail: str = "", drive: str | None = None) -> CheckpointError:
    job.discard()
    reason = "a web page came in place of the file: over its download quota, or not public any more"
    return job.error(f"{reason}{detail}", _by_hand(job, drive))


# ---------------------------------------------------------------------- afterwards


def _check(job: _Job) -> None:
    """Refuse and remove a complete `job.part` that is not what was asked for."""
    size = job.part.stat().st_size
    with job.part.open("rb") as file:
        start = file.read(512)
    if _PAGE.match(start):
        raise _page_error(job)
    if not size or (job.size is not None and size != job.size):
        job.discard()
        raise job.error(
            f"it has {size} bytes, expected {job.size or 'some'}", "the index may be wrong, or the file new"
        )
    if job.sha256 is not None and (digest := file_sha256(job.part)) != job.sha256:
        job.discard()
        raise job.error(f"its sha256 is {digest}, expected {job.sha256}", "try again; else the file has been changed")
