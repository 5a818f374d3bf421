"""Folders, tar and zip archives: read whole, or refused."""

import bz2
import errno
import gzip
import io
import lzma
import os
import random
import struct
import tarfile
import tracemalloc
import zipfile

import pytest

from cifarlib import containers
from cifarlib.errors import InputError

KINDS = ("", "tar", "tar.gz", "tar.bz2", "tar.xz", "zip")
COMPRESSED = KINDS[2:]
ARCHIVES = KINDS[1:]

# The first does not compress, the second does; neither fills its last tar block.
MEMBERS = {
    "batches/first.bin": random.Random(0).randbytes(700),
    "batches/second.bin": b"CIFAR" * 60,
    "train/cat/1.png": random.Random(1).randbytes(100),
}
ESCAPING = ("../x.png", "train/../../x.png", "/etc/x.png", "..\\x.png", "train\\..\\..\\x.png")


def read(path, is_wanted=lambda name: True):
    return containers.read_members(path, is_wanted)


def path_of(tmp_path, kind):
    return tmp_path / ("archive." + kind if kind else "folder")


def write_tar(path, *members):
    """Write headers with contents, such as tarfile.TarInfo(...), b"..."."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for info, content in members:
            info.size = info.size or len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_every_container_gives_the_same_members(tmp_path, build, kind):
    assert read(build.pack(path_of(tmp_path, kind), MEMBERS)) == MEMBERS


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize("name", ["cifar-10-batches-py_archive", "misnamed.zip", "misnamed.tar.xz"])
def test_kind_of_archive_is_told_by_its_content(tmp_path, build, kind, name):
    assert read(build.pack(tmp_path / name, MEMBERS, kind=kind)) == MEMBERS


@pytest.mark.parametrize("kind", KINDS)
def test_only_wanted_members_are_read(tmp_path, build, kind):
    path = build.pack(path_of(tmp_path, kind), MEMBERS)
    assert list(read(path, lambda name: name.endswith(".png"))) == ["train/cat/1.png"]


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_files_and_doubles_of_macos_are_passed_over(tmp_path, build, kind):
    hidden = (".hidden/1.png", "__MACOSX/train/1.png", "train/cat/._1.png", ".DS_Store")
    path = build.pack(path_of(tmp_path, kind), {**MEMBERS, **dict.fromkeys(hidden, b"no")})
    assert read(path) == MEMBERS


@pytest.mark.parametrize("kind", ARCHIVES)
def test_members_keep_the_order_of_the_archive(tmp_path, build, kind):
    names = ["b", "c", "a"]
    assert list(read(build.pack(path_of(tmp_path, kind), dict.fromkeys(names, b"")))) == names


def test_members_of_a_folder_are_sorted(tmp_path, build):
    path = build.pack(tmp_path / "folder", dict.fromkeys(["b/2", "c", "b/1", "a"], b""))
    assert list(read(path)) == ["a", "b/1", "b/2", "c"]


@pytest.mark.parametrize("kind", ARCHIVES)
def test_names_may_start_with_a_dot_folder(tmp_path, build, kind):
    path = build.pack(path_of(tmp_path, kind), {"./train/cat/1.png": b"cat"})
    assert read(path) == {"./train/cat/1.png": b"cat"}


@pytest.mark.parametrize("name", ESCAPING)
@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize("wanted", [True, False])
def test_names_that_point_outside_are_refused(tmp_path, build, kind, name, wanted):
    path = build.pack(path_of(tmp_path, kind), {**MEMBERS, name: b"evil"})
    with pytest.raises(InputError, match="points outside"):
        read(path, lambda name: wanted)
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
@pytest.mark.parametrize("wanted", [True, False])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind, wanted):
    info = tarfile.TarInfo("train/cat/1.png")
    info.type, info.linkname = kind, "train/cat/0.png"
    path = write_tar(tmp_path / "a.tar", (info, b""))
    with pytest.raises(InputError, match=r"link or device: 'train/cat/1\.png'"):
        read(path, lambda name: wanted)


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o060666, 0o010666])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, mode):
    info = zipfile.ZipInfo("train/cat/1.png")
    info.external_attr = mode << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(InputError, match="link or device"):
        read(tmp_path / "a.zip")


@pytest.mark.parametrize("mode", [0o100644, 0o644])
def test_plain_files_and_folders_in_a_zip_are_read(tmp_path, mode):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.mkdir("train")
        info = zipfile.ZipInfo("train/1.png")
        info.external_attr = mode << 16
        archive.writestr(info, b"cat")
    assert read(tmp_path / "a.zip") == {"train/1.png": b"cat"}


@pytest.mark.parametrize("kind", COMPRESSED)
def test_every_truncation_of_a_compressed_archive_is_refused(tmp_path, build, kind):
    path = build.pack(path_of(tmp_path, kind), MEMBERS)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="expected a complete tar or zip archive"):
            read(path)


def test_every_truncation_of_a_plain_tar_is_refused(tmp_path):
    members = [(tarfile.TarInfo(name), MEMBERS[name]) for name in MEMBERS]
    path = write_tar(tmp_path / "a.tar", *members)
    whole = path.read_bytes()
    end_mark = sum(512 + -(-len(content) // 512) * 512 for content in MEMBERS.values())
    assert whole[end_mark - 512 : end_mark].strip(b"\0")
    assert not whole[end_mark:].strip(b"\0")
    for length in (*range(0, end_mark, 32), end_mark - 1, end_mark):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="expected a complete tar or zip archive"):
            read(path)


@pytest.mark.parametrize("kind", COMPRESSED)
def test_no_flipped_bit_changes_what_is_read(tmp_path, build, kind):
    path = build.pack(path_of(tmp_path, kind), MEMBERS)
    whole = path.read_bytes()
    num_refused = 0
    for index in range(len(whole)):
        path.write_bytes(
            whole[:index] + bytes([whole[index] ^ 1 << index % 8]) + whole[index + 1 :]
        )
        try:
            assert read(path) == MEMBERS, f"byte {index}"
        except InputError:
            num_refused += 1
    # What remains are dates and other fields that mean nothing here.
    assert num_refused > len(whole) * 0.8


@pytest.mark.parametrize("index", [0, 100, 124, 148, 156, 1536, 1700])
def test_flipped_bit_in_a_tar_header_is_refused(tmp_path, index):
    members = [(tarfile.TarInfo(name), MEMBERS[name]) for name in MEMBERS]
    path = write_tar(tmp_path / "a.tar", *members)
    content = bytearray(path.read_bytes())
    content[index] ^= 4
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged or truncated"):
        read(path)


def test_tar_with_a_header_of_zeros_in_its_middle_is_refused(tmp_path):
    # A block that was never written, as interrupted copies leave it, looks like the end mark.
    members = [(tarfile.TarInfo(name), MEMBERS[name]) for name in MEMBERS]
    path = write_tar(tmp_path / "a.tar", *members)
    content = bytearray(path.read_bytes())
    assert content[1536:].startswith(b"batches/second.bin\0")
    content[1536:2048] = bytes(512)
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged or truncated"):
        read(path)


@pytest.mark.parametrize(
    ("limit", "value", "culprit"),
    [
        ("MAX_MEMBERS", 2, "train/cat/1.png"),
        ("MAX_MEMBER_BYTES", 699, "batches/first.bin"),
        ("MAX_TOTAL_BYTES", 1099, "train/cat/1.png"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_container_beyond_a_limit_is_refused(
    tmp_path, build, monkeypatch, kind, limit, value, culprit
):
    path = build.pack(path_of(tmp_path, kind), MEMBERS)
    monkeypatch.setattr(containers, limit, value)
    with pytest.raises(InputError, match=f"at most .*{value:,} .* up to '{culprit}'"):
        read(path)


@pytest.mark.parametrize("kind", ARCHIVES)
def test_limits_count_members_that_nobody_wants(tmp_path, build, monkeypatch, kind):
    path = build.pack(path_of(tmp_path, kind), MEMBERS)
    monkeypatch.setattr(containers, "MAX_TOTAL_BYTES", 1099)
    with pytest.raises(InputError, match="at most"):
        read(path, lambda name: False)


def test_padding_counts_once_against_the_limit(tmp_path, build, monkeypatch):
    path = build.pack(tmp_path / "a.tar", MEMBERS)
    with path.open("ab") as file:
        file.write(bytes(5 * 2**20))
    monkeypatch.setattr(containers, "MAX_TOTAL_BYTES", 6 * 2**20)
    assert read(path) == MEMBERS


@pytest.mark.parametrize("opener", [open, gzip.open, bz2.open, lzma.open])
def test_endless_padding_after_the_last_member_is_refused(tmp_path, monkeypatch, opener):
    monkeypatch.setattr(containers, "MAX_TOTAL_BYTES", 2**20)
    with opener(tmp_path / "a.tar", "wb") as stream:
        stream.write(bytes(3 * 2**20))
    with pytest.raises(InputError, match="at most"):
        read(tmp_path / "a.tar")


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
    ],
)
def test_header_beyond_the_limit_is_refused(tmp_path, monkeypatch, kind):
    # tarfile reads such a header into memory before anybody hears of the member.
    monkeypatch.setattr(containers, "MAX_MEMBER_BYTES", 10_000)
    header, member = tarfile.TarInfo("header"), tarfile.TarInfo("train/1.png")
    header.type = kind
    content = b"20000 comment=" + b"n" * 19_985 + b"\n"
    path = write_tar(tmp_path / "a.tar", (header, content), (member, b"cat"))
    with pytest.raises(InputError):
        read(path)
    monkeypatch.setattr(containers, "MAX_MEMBER_BYTES", 30_000)
    assert list(read(path).values()) == [b"cat"]


def test_names_that_follow_one_another_do_not_fill_the_memory(tmp_path):
    # tarfile keeps all of them until it comes to the member.
    with bz2.open(tmp_path / "a.tar.bz2", "wb") as stream:
        for _ in range(20):
            header = tarfile.TarInfo("././@LongLink")
            header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**20
            stream.write(header.tobuf(tarfile.GNU_FORMAT) + bytes(2**20))
        stream.write(tarfile.TarInfo("a").tobuf() + bytes(10_240))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="a name of 1,048,576 bytes"):
            read(tmp_path / "a.tar.bz2")
        assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    finally:
        tracemalloc.stop()


def test_tar_member_whose_extended_header_leads_back_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("first", "second"):
            info = tarfile.TarInfo(name)
            info.size = 1024
            info.pax_headers = {"size": "-4096"} if name == "second" else {}
            archive.addfile(info, io.BytesIO(bytes(1024)))
    with pytest.raises(InputError, match=r"damaged or truncated file \(a member of -4,096 bytes"):
        read(tmp_path / "a.tar")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_that_is_packed_in_an_unusual_way_is_refused(tmp_path, method):
    """Python unpacks such a member whole, whatever size it tells."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("bomb", bytes(10_000))
    with pytest.raises(InputError, match=rf"packed as usual .*found method {method}: 'bomb'"):
        read(tmp_path / "a.zip")


@pytest.mark.parametrize("name", ["PKG/a.png", "BZhdata/a.png"])
def test_tar_whose_first_name_begins_as_other_archives_do_is_read(tmp_path, build, name):
    assert read(build.pack(tmp_path / "a.tar", {name: b"cat"})) == {name: b"cat"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_folder_that_may_be_listed_and_not_entered_is_told(tmp_path, not_root):
    (tmp_path / "shut").mkdir()
    (tmp_path / "shut" / "a.zip").write_bytes(b"")
    (tmp_path / "shut").chmod(0o444)
    try:
        with pytest.raises(InputError, match="no permission"):
            containers.named_files([tmp_path], (".zip",), "a zip")
    finally:
        (tmp_path / "shut").chmod(0o755)


def test_tar_member_of_negative_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "MAX_MEMBERS", 100)
    header = bytearray(tarfile.TarInfo("a").tobuf())
    header[124:136] = b"\xff" + (-1024).to_bytes(11, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(InputError):
        read(path)


def test_zip_member_larger_than_it_says_is_refused(tmp_path, build):
    path = build.pack(tmp_path / "a.zip", {"bomb": bytes(100_000)})
    content = path.read_bytes()
    claimed = content.replace(struct.pack("<I", 100_000), struct.pack("<I", 10))
    assert claimed != content
    path.write_bytes(claimed)
    with pytest.raises(InputError, match="damaged or truncated"):
        read(path)


def test_encrypted_zip_is_refused(tmp_path, build):
    path = build.pack(tmp_path / "a.zip", {"a": b"secret"})
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flags in the local header, then those in the directory
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="encrypted"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"A", b"a text\n" * 200, b"\x89PNG\r\n\x1a\n" * 100])
def test_file_that_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.tar\.gz: expected a complete tar or zip archive"):
        read(tmp_path / "a.tar.gz")


def test_missing_file_is_told_with_its_path(tmp_path):
    with pytest.raises(InputError, match=r"absent\.tar: expected .* found nothing there"):
        read(tmp_path / "absent.tar")


@pytest.mark.usefixtures("not_root")
@pytest.mark.parametrize("locked", ["folder", "folder/train", "folder/train/1.png", "archive.tar"])
def test_missing_permission_is_told(tmp_path, build, locked):
    members = {"train/1.png": b"cat", "test/1.png": b"cat"}
    build.pack(tmp_path / "folder", members)
    build.pack(tmp_path / "archive.tar", members)
    (tmp_path / locked).chmod(0)
    try:
        with pytest.raises(InputError, match="no permission"):
            read(tmp_path / locked.partition("/")[0])
    finally:
        (tmp_path / locked).chmod(0o700)


@pytest.fixture
def list_all_but(monkeypatch):
    """Return a function that forbids everybody to list a folder, root too."""

    def forbid(folder):
        def list_some(path):
            if os.fspath(path) == str(folder):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", list_some)

    scandir = os.scandir
    return forbid


@pytest.mark.parametrize("locked", ["folder", "folder/train"])
def test_folder_that_may_not_be_listed_is_not_taken_for_an_empty_one(
    tmp_path, build, list_all_but, locked
):
    build.pack(tmp_path / "folder", {"train/1.png": b"cat", "test/1.png": b"cat"})
    list_all_but(tmp_path / locked)
    with pytest.raises(InputError, match=f"{locked}: .*no permission"):
        read(tmp_path / "folder")


@pytest.mark.parametrize("locked", ["folder", "folder/train"])
def test_files_are_not_looked_for_in_a_folder_that_may_not_be_listed(
    tmp_path, build, list_all_but, locked
):
    build.pack(tmp_path / "folder", {"train/1.zip": b"cat"})
    list_all_but(tmp_path / locked)
    with pytest.raises(InputError, match=f"{locked}: .*no permission"):
        containers.named_files(tmp_path / "folder", (".zip",), "a zip")


def test_a_zip_whose_end_record_has_no_end_is_damage(tmp_path, build):
    """The last four bytes look like the beginning of another end record."""
    path = build.pack(tmp_path / "a.zip", {"a.txt": b"cat"})
    content = bytearray(path.read_bytes())
    end = content.rindex(b"PK\5\6")
    content[end + 16 : end + 20] = b"PK\5\6"  # where the directory begins, 0 in a plain zip
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged or truncated"):
        read(path)


def test_a_header_with_an_entry_that_is_no_number_is_damage(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("train/1.png")
        info.pax_headers = {"GNU.sparse.map": "x"}
        archive.addfile(info)
    with pytest.raises(InputError, match="a damaged or truncated file"):
        read(tmp_path / "a.tar")


def test_one_path_need_not_be_in_a_list(tmp_path):
    (tmp_path / "a.zip").touch()
    for paths in (tmp_path, str(tmp_path), [tmp_path]):
        found = containers.named_files(paths, (".zip",), "a zip")
        assert found == [("a.zip", tmp_path / "a.zip")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipe_in_a_folder_is_not_waited_for(tmp_path, build, run_python):
    path = build.pack(tmp_path / "folder", {"train/1.png": b"cat"})
    os.mkfifo(path / "train" / "2.png")
    script = """
import sys
from pathlib import Path
from cifarlib.containers import read_members
print(*read_members(Path(sys.argv[1]), lambda name: True))
"""
    output, errors = run_python(script, path).communicate(timeout=20)
    assert output == "train/1.png\n", errors


def test_errors_are_one_line(tmp_path):
    (tmp_path / "a\nb.tar").write_bytes(b"no archive")
    with pytest.raises(InputError) as caught:
        read(tmp_path / "a\nb.tar")
    assert len(str(caught.value).splitlines()) == 1


def test_the_caller_may_set_limits_of_its_own(tmp_path, build):
    path = build.pack(tmp_path / "a.zip", MEMBERS)
    limits = containers.Limits(3, 700, 1100)
    assert containers.read_members(path, lambda name: True, limits) == MEMBERS
    for field in limits._fields:
        less = limits._replace(**{field: getattr(limits, field) - 1})
        with pytest.raises(InputError, match="expected at most"):
            containers.read_members(path, lambda name: True, less)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", b"shown to one reader")
        archive.writestr("a", b"shown to another")
    with pytest.raises(InputError, match="two members of one name: 'a'"):
        read(tmp_path / "a.zip")


def test_a_member_is_not_unpacked_beyond_its_told_size(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(50_000_000))
    told = struct.pack("<L", 50_000_000)
    content = (tmp_path / "a.zip").read_bytes()
    assert content.count(told) == 2
    (tmp_path / "a.zip").write_bytes(content.replace(told, struct.pack("<L", 50)))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="damaged"):
            read(tmp_path / "a.zip")
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
