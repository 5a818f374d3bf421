"""Downloads from mirrors that misbehave: resumed, verified, or given up with a reason."""

import errno
import hashlib
import http.client
import random
import ssl
import threading
import time
from pathlib import Path

import pytest

from cifarlib import download
from cifarlib.download import Mirror, Patience, UnavailableError
from cifarlib.errors import InputError

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = 120_000
WRONG = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])

# Waits for a slow machine, not for a bad mirror; the tests of silence and of slowness have
# patiences of their own.
PATIENCE = Patience(timeout=30, window=30, attempts=3, back_off=0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "downloads" / "cifar-10.tar.gz"


@pytest.fixture
def part(path):
    """Return where an unfinished download lies, in a folder that exists."""
    path.parent.mkdir()
    return path.with_name("cifar-10.tar.gz.part")


def fetch(path, *urls, sha256=SHA256, patience=PATIENCE):
    return download.fetch([Mirror(url) for url in urls], path, sha256, patience)


def truncated(handler):
    """Promise everything, send a part, hang up."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(CONTENT)))
    handler.end_headers()
    handler.wfile.write(CONTENT[:HALF])


def visible_files(path):
    return sorted(file.name for file in path.parent.iterdir() if not file.name.startswith("."))


def without_range(handler):
    handler.send_response(416)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def of_strange_length(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "²")
    handler.end_headers()
    handler.wfile.write(CONTENT)


# What arrives


def test_a_range_that_nobody_asked_for_is_refused_by_a_mirror_that_is_of_no_use(server, path):
    with pytest.raises(UnavailableError, match="answered 416 though all of it was asked for"):
        fetch(path, server.offer("a", without_range))


def test_a_length_that_is_no_number_is_none(server, path):
    assert fetch(path, server.offer("a", of_strange_length)).read_bytes() == CONTENT


def test_file_is_downloaded(server, path):
    assert fetch(path, server.offer("a", CONTENT)) == path
    assert path.read_bytes() == CONTENT
    assert visible_files(path) == [path.name]


def test_file_that_is_there_is_not_downloaded(server, path):
    url = server.offer("a", CONTENT)
    fetch(path, url)
    fetch(path, url)
    assert server.requests == [("a", None)]


def test_file_that_is_there_with_another_hash_is_replaced(server, path, part):
    path.write_bytes(WRONG)
    fetch(path, server.offer("a", CONTENT))
    assert path.read_bytes() == CONTENT


def test_file_of_unknown_hash_is_downloaded(server, path):
    fetch(path, server.offer("a", CONTENT), sha256=None)
    assert path.read_bytes() == CONTENT


def test_empty_file_is_downloaded(server, path):
    fetch(path, server.offer("a", b""), sha256=hashlib.sha256(b"").hexdigest())
    assert path.read_bytes() == b""


# Resuming


def test_broken_download_is_resumed_where_it_stopped(server, path):
    url = server.offer("a", truncated, server.ranged(CONTENT))
    fetch(path, url)
    assert server.requests == [("a", None), ("a", f"bytes={HALF}-")]
    assert path.read_bytes() == CONTENT
    assert visible_files(path) == [path.name]


def test_broken_download_is_resumed_at_the_next_mirror(server, path):
    urls = server.offer("a", truncated), server.offer("b", server.ranged(CONTENT))
    fetch(path, *urls)
    assert server.requests == [("a", None), ("b", f"bytes={HALF}-")]
    assert path.read_bytes() == CONTENT


def test_part_is_kept_when_the_download_fails_and_resumed_later(server, path):
    with pytest.raises(UnavailableError, match=f"broke off at {HALF:,} of {len(CONTENT):,} bytes"):
        fetch(path, server.offer("a", truncated), patience=PATIENCE._replace(attempts=1))
    assert visible_files(path) == [f"{path.name}.part"]
    assert path.with_name(f"{path.name}.part").read_bytes() == CONTENT[:HALF]
    fetch(path, server.offer("a", server.ranged(CONTENT)))
    assert server.requests[-1] == ("a", f"bytes={HALF}-")
    assert path.read_bytes() == CONTENT


def broken_read1(error):
    """Return an ``HTTPResponse.read1`` that fails once, after half of the content."""
    read1 = http.client.HTTPResponse.read1
    left, errors = HALF, [error]

    def read_some(response, limit=-1):
        nonlocal left
        if not errors:
            return read1(response, limit)
        if not left:
            raise errors.pop()
        block = read1(response, min(limit, left))
        left -= len(block)
        return block

    return read_some


def test_part_is_kept_when_the_user_interrupts(server, path, monkeypatch):
    monkeypatch.setattr(http.client.HTTPResponse, "read1", broken_read1(KeyboardInterrupt()))
    url = server.offer("a", server.ranged(CONTENT))
    with pytest.raises(KeyboardInterrupt):
        fetch(path, url)
    assert visible_files(path) == [f"{path.name}.part"]
    fetch(path, url)
    assert server.requests == [("a", None), ("a", f"bytes={HALF}-")]
    assert path.read_bytes() == CONTENT


def test_a_whole_download_is_kept_if_the_user_interrupts_its_hashing(server, path, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    url = server.offer("a", server.ranged(CONTENT))
    with monkeypatch.context() as patched:
        patched.setattr(download.pooch.core, "hash_matches", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch(path, url)
    assert visible_files(path) == [f"{path.name}.part"]
    fetch(path, url)
    assert ("a", None) not in server.requests[1:]
    assert path.read_bytes() == CONTENT and visible_files(path) == [path.name]


def test_a_disk_without_hard_links_gets_the_file_too(server, path, monkeypatch):
    def refuse(self, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(type(path), "hardlink_to", refuse)
    fetch(path, server.offer("a", CONTENT))
    assert path.read_bytes() == CONTENT and visible_files(path) == [path.name]


def test_mirror_that_ignores_ranges_sends_the_file_anew(server, path, part):
    part.write_bytes(b"x" * HALF)
    fetch(path, server.offer("a", CONTENT))
    assert server.requests == [("a", f"bytes={HALF}-")]
    assert path.read_bytes() == CONTENT


def test_part_longer_than_the_file_is_discarded(server, path, part):
    part.write_bytes(CONTENT + b"more")
    fetch(path, server.offer("a", server.ranged(CONTENT)))
    assert server.requests == [("a", f"bytes={len(CONTENT) + 4}-"), ("a", None)]
    assert path.read_bytes() == CONTENT


def test_part_that_is_already_whole_is_not_downloaded_again(server, path, part):
    # Killed between the last byte and the renaming: 40 minutes of Toronto would be lost.
    part.write_bytes(CONTENT)
    fetch(path, server.offer("a", server.ranged(CONTENT)))
    assert ("a", None) not in server.requests
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("told", [f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}", "bytes 5-9/10", ""])
def test_answer_with_another_range_is_discarded(server, path, part, told):
    def answer(handler):
        server.send(handler, CONTENT, 206, content_range=told)

    part.write_bytes(CONTENT[:HALF])
    fetch(path, server.offer("a", answer, CONTENT))
    assert server.requests == [("a", f"bytes={HALF}-"), ("a", None)]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("sha256", [SHA256, None], ids=["known hash", "unknown hash"])
def test_answer_with_a_shorter_range_is_continued(server, path, part, sha256):
    def answer(handler):
        told = f"bytes {HALF}-{HALF + 999}/{len(CONTENT)}"
        server.send(handler, CONTENT[HALF : HALF + 1000], 206, content_range=told)

    part.write_bytes(CONTENT[:HALF])
    fetch(path, server.offer("a", answer, server.ranged(CONTENT)), sha256=sha256)
    assert server.requests == [("a", f"bytes={HALF}-"), ("a", f"bytes={HALF + 1000}-")]
    assert path.read_bytes() == CONTENT


def test_part_of_another_file_is_found_out_and_fetched_anew(server, path, part):
    part.write_bytes(WRONG[::-1][:HALF])
    fetch(path, server.offer("a", server.ranged(CONTENT)))
    assert server.requests == [("a", f"bytes={HALF}-"), ("a", None)]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["tmp.tar.gz", "tmp-cifar-10.tar.gz"])
def test_file_may_be_called_tmp(server, path, part, name):
    path = path.with_name(name)
    path.with_name(f"{name}.part").write_bytes(CONTENT[:HALF])
    fetch(path, server.offer("a", server.ranged(CONTENT)))
    assert server.requests == [("a", f"bytes={HALF}-")]


def test_what_a_killed_program_left_is_removed(server, path, part):
    path.with_name("tmpx3k_9a2b").write_bytes(CONTENT)
    fetch(path, server.offer("a", CONTENT))
    assert visible_files(path) == [path.name]


# Mirrors that are of no use


def test_file_with_a_wrong_hash_is_refused_and_discarded(server, path):
    with pytest.raises(UnavailableError, match="SHA-256 is wrong"):
        fetch(path, server.offer("a", WRONG))
    assert visible_files(path) == []


def test_only_what_has_arrived_is_said_to_be_kept(server, path, part):
    with pytest.raises(UnavailableError) as nothing:
        fetch(path, server.offer("a", WRONG))
    part.write_bytes(CONTENT[:HALF])
    with pytest.raises(UnavailableError) as half:
        fetch(path, server.offer("a", lambda handler: handler.send_error(503)))
    is_told = ["what has arrived is kept" in str(told.value) for told in (nothing, half)]
    assert is_told == [False, True]


@pytest.mark.parametrize(("offer", "is_network"), [(404, False), (WRONG, False), (503, True)])
def test_advice_to_try_again_is_given_only_where_that_may_help(server, path, offer, is_network):
    with pytest.raises(UnavailableError) as told:
        fetch(path, server.offer("a", offer))
    assert ("Check the network and try again" in str(told.value)) == is_network
    assert ("Asking again is of no use" in str(told.value)) != is_network
    assert str(told.value).endswith("or name a file you have with CIFARLIB_SOURCE.")


def test_mirror_that_sent_a_wrong_file_is_not_asked_again(server, path):
    urls = server.offer("a", WRONG), server.offer("b", 503, CONTENT)
    fetch(path, *urls)
    assert [name for name, _ in server.requests] == ["a", "b", "b"]
    assert path.read_bytes() == CONTENT


def test_an_address_that_is_none_is_told(path):
    with pytest.raises(UnavailableError, match="is no address"):
        fetch(path, "http://example..org/a.tar.gz")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_mirror_that_refuses_is_not_asked_again(server, path, status):
    with pytest.raises(UnavailableError, match=f"answered {status}"):
        fetch(path, server.offer("a", status))
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_mirror_that_is_busy_is_asked_again(server, path, status):
    fetch(path, server.offer("a", status, CONTENT))
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_mirror_is_given_up_after_so_many_attempts(server, path):
    with pytest.raises(UnavailableError, match="answered 503"):
        fetch(path, server.offer("a", 503))
    assert len(server.requests) == PATIENCE.attempts


def test_waits_double_from_round_to_round(server, path, monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(UnavailableError):
        fetch(path, server.offer("a", 503), patience=PATIENCE._replace(attempts=4, back_off=3))
    assert waits == [3, 6, 12]


@pytest.mark.parametrize("moment", ["before the answer", "after the headers", "half-way"])
def test_silent_mirror_is_left(server, path, moment):
    def stall(handler):
        if moment != "before the answer":
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(CONTENT)))
            handler.end_headers()
        if moment == "half-way":
            handler.wfile.write(CONTENT[:HALF])
        server.closing.wait(60)

    urls = server.offer("a", stall), server.offer("b", server.ranged(CONTENT))
    fetch(path, *urls, patience=PATIENCE._replace(timeout=2))  # a busy machine stalls, too
    assert path.read_bytes() == CONTENT
    assert server.requests[1] == ("b", f"bytes={HALF}-" if moment == "half-way" else None)


def test_silence_is_told(server, path):
    url = server.offer("a", lambda handler: server.closing.wait(60))
    with pytest.raises(UnavailableError, match=r"was silent for 0\.2 s"):
        fetch(path, url, patience=PATIENCE._replace(timeout=0.2, attempts=1))


def test_trickling_mirror_is_left(server, path):
    def trickle(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        for byte in CONTENT:
            handler.wfile.write(bytes([byte]))
            if server.closing.wait(0.01):
                break

    urls = server.offer("a", trickle), server.offer("b", server.ranged(CONTENT))
    fetch(path, *urls, patience=PATIENCE._replace(window=0.3))
    assert path.read_bytes() == CONTENT
    name, wanted = server.requests[1]
    assert (name, wanted[:6]) == ("b", "bytes=")
    with pytest.raises(UnavailableError, match=r"sent only 0\.\d kB/s"):
        fetch(path.with_name("b"), urls[0], patience=PATIENCE._replace(window=0.3, attempts=1))


def test_slow_mirror_is_kept_when_it_may_be_slow(server, path):
    def slow(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "40")
        handler.end_headers()
        for byte in CONTENT[:40]:
            handler.wfile.write(bytes([byte]))
            server.closing.wait(0.01)

    mirrors = [Mirror(server.offer("a", slow), minimum_speed=0.001)]
    download.fetch(mirrors, path, None, PATIENCE._replace(window=0.05))
    assert path.read_bytes() == CONTENT[:40]


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        http.client.IncompleteRead(b""),
        ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
        OSError(errno.EHOSTUNREACH, "No route to host"),
        OSError(errno.ENETUNREACH, "Network is unreachable"),
    ],
    ids=repr,
)
def test_connection_that_breaks_is_resumed(server, path, monkeypatch, error):
    monkeypatch.setattr(http.client.HTTPResponse, "read1", broken_read1(error))
    fetch(path, server.offer("a", server.ranged(CONTENT)))
    assert server.requests == [("a", None), ("a", f"bytes={HALF}-")]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("answer", [b"\r\n\r\n", b"no HTTP at all\r\n", b""])
def test_server_that_speaks_no_http_is_left(server, path, answer):
    urls = (
        server.offer("a", lambda handler: handler.wfile.write(answer)),
        server.offer("b", CONTENT),
    )
    fetch(path, *urls)
    assert [name for name, _ in server.requests] == ["a", "b"]


# Several mirrors


def test_first_mirror_is_asked_first_and_the_others_not_at_all(server, path):
    fetch(path, server.offer("b", CONTENT), server.offer("a", CONTENT))
    assert server.requests == [("b", None)]


def test_mirrors_are_asked_in_order(server, path):
    urls = [server.offer(name, status) for name, status in [("c", 503), ("a", 404), ("b", 500)]]
    with pytest.raises(UnavailableError):
        fetch(path, *urls, patience=PATIENCE._replace(attempts=2))
    assert [name for name, _ in server.requests] == ["c", "a", "b", "c", "b"]


def test_message_names_every_mirror_with_its_reason(server, path, closed_port):
    urls = (
        server.offer("a", 404),
        server.offer("b", WRONG),
        server.offer("c", truncated, 503),
        f"http://127.0.0.1:{closed_port}/d",
    )
    with pytest.raises(UnavailableError) as caught:
        fetch(path, *urls)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    reasons = ("answered 404", "sent a file whose SHA-256", "answered 503", "could not be reached")
    for url, reason in zip(urls, reasons, strict=True):
        assert f"{url} {reason}" in message
    assert "CIFARLIB_SOURCE" in message


def test_nobody_to_be_reached_is_told(path, closed_port):
    with pytest.raises(UnavailableError, match="could not be reached"):
        fetch(path, f"http://127.0.0.1:{closed_port}/a")
    assert visible_files(path) == []


def test_unreachable_network_is_not_asked_for_long(path, closed_port, monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(UnavailableError):
        fetch(path, f"http://127.0.0.1:{closed_port}/a", patience=Patience(attempts=10))
    assert len(waits) == 1


def test_no_mirror_at_all_is_told(path):
    with pytest.raises(UnavailableError):
        fetch(path)


# This machine


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_told_as_such(server, path, part):
    part.symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"space for the download.*CIFARLIB_CACHE") as caught:
        fetch(path, server.offer("a", CONTENT), server.offer("b", CONTENT))
    assert not isinstance(caught.value, UnavailableError)
    assert caught.value.exit_status == 1, "no input is at fault"
    assert not path.exists()


def test_two_threads_download_once(server, path):
    url = server.offer("a", CONTENT)
    threads = [threading.Thread(target=fetch, args=(path, url)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert server.requests == [("a", None)]
    assert path.read_bytes() == CONTENT


SCRIPT = """
import sys
from pathlib import Path
from cifarlib.download import Mirror, fetch
url, path, sha256 = sys.argv[1:]
fetch([Mirror(url)], Path(path), sha256)
"""


@pytest.mark.parametrize(
    ("told", "asked"),
    [
        ({"etag": '"strong"', "last_modified": "Fri"}, '"strong"'),
        ({"etag": 'W/"weak"', "last_modified": "Fri"}, "Fri"),  # RFC 9110 forbids that with parts
        ({"etag": 'W/"weak"'}, None),
        ({}, None),
    ],
)
def test_a_part_is_only_continued_of_the_same_file(server, path, told, asked):
    seen = []

    def breaks_off(handler):
        server.send(handler, CONTENT[:HALF], content_length=len(CONTENT), **told)

    def goes_on(handler):
        seen.append(handler.headers.get("If-Range"))
        server.ranged(CONTENT)(handler)

    fetch(path, server.offer("a", breaks_off, goes_on))
    assert seen == [asked] and path.read_bytes() == CONTENT


def test_two_programs_download_once(server, path, run_python, wait_until):
    both_started = threading.Barrier(2)

    def answer(handler):
        both_started.wait(60)
        server.send(handler, CONTENT)

    url = server.offer("a", answer)
    processes = [run_python(SCRIPT, url, path, SHA256)]
    wait_until(lambda: server.requests, processes[0])
    # The first holds the lock; the second is at it when the answer comes.
    imports, arguments, call = SCRIPT.rpartition("url, path, sha256 = sys.argv[1:]\n")
    processes.append(
        run_python(f"{imports}{arguments}print(flush=True)\n{call}", url, path, SHA256)
    )
    processes[1].stdout.readline()
    time.sleep(0.5)
    both_started.wait(60)
    for process in processes:
        assert process.wait(60) == 0, process.communicate()
    assert server.requests == [("a", None)]
    assert path.read_bytes() == CONTENT


def test_download_that_was_killed_is_resumed(server, path, run_python, wait_until):
    def answer(handler):
        truncated(handler)
        server.closing.wait(60)

    url = server.offer("a", answer, server.ranged(CONTENT))
    process = run_python(SCRIPT, url, path, SHA256)
    part = path.with_name(f"{path.name}.part")
    wait_until(lambda: part.exists() and part.stat().st_size, process)
    process.kill()
    process.wait()
    arrived = part.stat().st_size
    assert not path.exists()
    assert fetch(path, url).read_bytes() == CONTENT
    assert server.requests == [("a", None), ("a", f"bytes={arrived}-")]
    assert visible_files(path) == [path.name]
