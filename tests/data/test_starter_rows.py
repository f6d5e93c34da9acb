"""The data starters as rows: what the real ones hold, and how they are fetched and read where nothing is as it should be.

Debian packages are made by hand here, and a small program stands in for apt-get; one test asks the real one.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from groundup.checkpoints import debian, starters
from groundup.checkpoints.starters import STARTERS, File, Starter, fetch
from groundup.core.errors import GroundupError, UsageError
from groundup.data import bible, fortunes, listing, reviews, tweets
from groundup.data.check import check
from groundup.data.rows import read
from groundup.data.summary import stats


def deb(files: dict[str, bytes], name: str = "data.tar.xz") -> bytes:
    """A Debian package: an `ar` archive of three members, the third one an odd number of bytes now and then."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:xz") as archive:
        link = tarfile.TarInfo("./usr/share/games/fortunes/art.u8")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for path, data in files.items():
            member = tarfile.TarInfo(f"./{path}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    out = b"!<arch>\n"
    for member_name, data in (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (name, inner.getvalue())):
        out += (
            f"{member_name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
            + data
            + b"\n" * (len(data) % 2)
        )
    return out


# --- the real ones ----------------------------------------------------------------------------------------------------


def test_the_tweets(starter: Callable[[str], Path]) -> None:
    starter("tweets")
    found = stats("tweets")
    assert found.rows == 38_158 and found.labels == {"negative": 16_186, "neutral": 15_018, "positive": 6_954}
    assert (found.repeated, len(found.two_labels)) == (915, 46)
    assert "a carriage return inside" not in found.odd


@pytest.mark.slow
def test_the_csv_of_the_tweets_is_as_bad_as_it_is(starter: Callable[[str], Path], tmp_path: Path) -> None:
    source = starter("tweets")
    report = check("tweets")
    assert report.ok and len(report.conflicts) == 49  # but for case and white space
    report = check(source)
    assert len(report.problems) == 4934 and "iconv -f latin1" in str(report.problems[0])
    path = tmp_path / "utf8.csv"
    path.write_bytes(source.read_bytes().decode("latin-1").encode())
    found = stats(path, label_field="sentiment")
    assert (found.rows, found.repeated, len(found.two_labels)) == (38_158, 915, 46)
    assert found.odd["a carriage return inside"] == 1564


def test_the_reviews(starter: Callable[[str], Path]) -> None:
    starter("reviews")
    train, test = read("reviews"), read("reviews", part="test")
    assert (len(train), len(test)) == (600, 379)
    for row in [*train.rows, *test.rows]:
        assert row["completion"] in reviews.LABELS and row["prompt"].strip() and not row["prompt"].startswith('"')
    assert not check("reviews").odd
    assert any("I've" in row["prompt"] for row in train.rows)


def test_the_news_by_name(starter: Callable[[str], Path]) -> None:
    starter("news")
    assert (len(read("news")), len(read("news", part="test"))) == (1956, 100)


def from_debian(name: str) -> None:
    try:
        fetch(name)
    except GroundupError as error:  # another system, or no network to Debian
        pytest.skip(str(error))


def test_the_fortunes() -> None:
    from_debian("fortunes")
    found = stats("fortunes", label_field="topic")
    assert len(found.labels) == 38 and not set(fortunes.RUDE) & set(found.labels)
    sizes = {"wisdom": 425, "people": 1251, "computers": 1051, "science": 625, "law": 206}
    assert {topic: found.labels[topic] for topic in sizes} == sizes
    assert not any("\x08" in row["text"] for row in read("fortunes").rows)


def test_the_bible() -> None:
    from_debian("bible")
    rows = [json.loads(line) for line in listing.locate("bible").read_text().splitlines()]
    assert len(rows) == 31_102 and len({row["book"] for row in rows}) == 66
    assert rows[0] == {"text": "In the beginning God created the heaven and the earth.", "book": "Ge", "verse": "1:1"}
    assert rows[-1]["text"].endswith("be with you all. Amen.") and rows[-1]["verse"] == "22:21"
    # what the package's own program prints for gen1:1-rev22:21 has so many bytes
    assert sum(len(f"{row['book']}{row['verse']} {row['text']}\n") for row in rows) == 4_404_412 - 1


# --- by name ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def test_a_file_of_that_name_goes_first_and_a_part_that_is_not_is_said(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = cache.parent / "tweets.csv"
    source.write_bytes(b'sentiment,confidence,text\r\npositive,1,"caf\xe9\r\rau lait"\r\n')
    monkeypatch.setattr(listing, "fetch", lambda name, progress: source)
    assert read("tweets").rows == [{"prompt": "café\n\nau lait", "completion": "positive"}]
    with pytest.raises(UsageError, match=r"has no part 'test', only train. Divide it: groundup data split tweets"):
        read("tweets", part="test")
    Path("tweets").mkdir()
    Path("tweets/train.jsonl").write_text('{"text": "mine"}\n')
    assert read("tweets").rows == [{"text": "mine"}]
    with pytest.raises(UsageError, match="no data file 'twits'"):
        read("twits")


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"nothing,of,this\n")
    for module in (tweets, reviews, fortunes, bible):
        with pytest.raises(GroundupError) as error:
            module.parts(path)
        assert "\n" not in str(error.value)
    path.write_bytes(deb({"usr/share/other": b"x"}))
    for module in (fortunes, bible):
        with pytest.raises(GroundupError, match="holds no"):
            module.parts(path)


def test_reviews_are_made_readable_and_their_pickle_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    head = "\tdrugName\treview\trating\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("drugsComTrain.tsv", head + '1\tX\t"""I&#039;ve had\r\nit &amp;amp; more. """\tpositive\n')
        archive.writestr("drugsComTest.tsv", head + "2\tY\tPlain\tneutral\n")
        archive.writestr("tokenizer.pkl", b"cos\nsystem\n(S'touch pwned'\ntR.")
    found = reviews.parts(path)
    assert found["train"] == [{"prompt": "I've had\nit & more.", "completion": "positive"}]
    assert found["test"] == [{"prompt": "Plain", "completion": "neutral"}]
    assert not Path("pwned").exists()


# --- Debian packages --------------------------------------------------------------------------------------------------


def test_a_package_is_opened_and_links_in_it_are_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.deb"
    text = "One.\n%\nTwo,\n\tand more.\n\t\t-- S. Omeone\n%\n%%\n_\x08Thrice\x08\x08\x08ee 100 %\n%\n"
    folder = fortunes.FOLDER
    path.write_bytes(deb({f"{folder}art": text.encode(), f"{folder}art.dat": b"\0", f"{folder}ethnic": b"x"}))
    assert dict(debian.members(path, folder)).keys() == {"art", "art.dat", "ethnic"}
    rows = fortunes.parts(path)["train"]
    assert [row["text"] for row in rows] == ["One.", "Two,\n\tand more.\n\t\t-- S. Omeone", "%%\nThree 100 %"]
    assert {row["topic"] for row in rows} == {"art"}


@pytest.mark.parametrize(
    "data", [b"", b"PK", deb({}, "data.tar.lzma"), deb({"a": b"x" * 999})[:-40], b"!<arch>\n" + b"?" * 99]
)
def test_what_is_no_package_is_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(data)
    with pytest.raises(GroundupError, match="no readable Debian package") as error:
        list(debian.members(path, ""))
    assert "\n" not in str(error.value)


def test_a_file_in_a_package_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(deb({"usr/a": bytes(5000)}))
    assert dict(debian.members(path, "usr/")) == {"a": bytes(5000)}
    monkeypatch.setattr(debian, "MAX_BYTES", 4999)
    with pytest.raises(GroundupError, match="a has 5,000 bytes"):
        list(debian.members(path, "usr/"))


def program(folder: Path, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "apt-get").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "apt-get").chmod(0o755)


def test_apt_get_fetches_and_what_it_says_is_told_in_a_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = deb({"usr/share/x": b"x"})
    source = cache.parent / "source"
    source.write_bytes(package)
    files = (File("tiny.deb", hashlib.sha256(package).hexdigest(), len(package)),)
    entry = Starter("tiny", "data", "tiny", "1:1-1", len(package), "", files, "none", "for tests", by="apt")
    monkeypatch.setitem(STARTERS, "tiny", entry)
    tools = cache.parent / "tools"
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(starters, "POLL_SECONDS", 0.01)

    program(tools, f'[ "$1" = download ] && [ "$4" = "tiny=1:1-1" ] && cp {source} tiny_1%3a1-1_all.deb')
    assert fetch("tiny").read_bytes() == package and fetch("tiny").name == "tiny.deb"
    for said, why in {
        "E: Unable to locate package tiny": "apt-get could not fetch tiny=1:1-1: Unable to locate.*apt-get update",
        "E: Version '1:1-1' for 'tiny' was not found": "was not found.*Debian 12",
        "E: Failed to fetch http://deb.debian.org/ Could not resolve": "archive cannot be reached. Look at the network",
        "": "it said nothing",
    }.items():
        program(tools, f'echo "{said}" >&2; exit 100')
        (cache / "starters" / "tiny" / "tiny.deb").unlink(missing_ok=True)
        with pytest.raises(GroundupError, match=why) as error:
            fetch("tiny")
        assert "\n" not in str(error.value)
    program(tools, "echo x > tiny.deb")
    with pytest.raises(GroundupError, match=r"tiny.deb of the starter 'tiny' has another size"):
        fetch("tiny")
    monkeypatch.setenv("PATH", str(cache.parent / "nowhere"))
    with pytest.raises(GroundupError, match="tiny comes as a Debian package and this machine has no apt-get"):
        fetch("tiny")


# --- the packed Bible -------------------------------------------------------------------------------------------------


def compress(data: bytes, most: int = 16) -> bytes:
    """LZW as Unix's compress writes it, without its head: written from its description, the other way round."""
    codes, width, bits, _count, out = {bytes((byte,)): byte for byte in range(256)}, 9, list[int](), 0, b""
    following, before = 257, b""

    def put(code: int) -> None:
        bits.extend(code >> at & 1 for at in range(width))

    def flush(group: int) -> bytes:
        while len(bits) % group:
            bits.append(0)
        packed = bytes(sum(bit << at for at, bit in enumerate(bits[i : i + 8])) for i in range(0, len(bits), 8))
        bits.clear()
        return packed

    for byte in data:
        now = before + bytes((byte,))
        if now in codes:
            before = now
            continue
        put(codes[before])
        if following < 1 << most:
            # the reader learns each entry one code later, and so does it widen
            if following > 1 << width:
                raise AssertionError
            if following == 1 << width:
                out += flush(8 * width)  # a group of eight codes is filled up
                width += 1
            codes[now] = following
            following += 1
        before = bytes((byte,))
    if before:
        put(codes[before])
    return out + flush(8)


def packed_bible(text: bytes, size: int) -> bytes:
    windows = [compress(text[at : at + size]) for at in range(0, len(text), size)]
    offsets = [92 + 4 * (len(windows) + 1)]
    for window in windows:
        offsets.append(offsets[-1] + len(window))
    head = b"EC02Compressed Data File".ljust(84, b"\0") + struct.pack(">II", size, len(windows))
    return head + struct.pack(f">{len(offsets)}I", *offsets) + b"".join(windows)


def test_the_packed_text_is_read(tmp_path: Path) -> None:
    verses = "".join(
        f"{book}{n // 30 + 1}:{n % 30 + 1} And word {n * 7919 % 613} was said.\n"
        for book in ("Ge", "1Sa")
        for n in range(900)
    )
    text = ("Holy Bible, Authorized Version.\n" + verses + "\n").encode()
    path = tmp_path / "a.deb"
    path.write_bytes(deb({"usr/lib/bible.data": packed_bible(text, 16_384)}))
    rows = bible.parts(path)["train"]
    assert len(rows) == 1800 and rows[900] == {"text": "And word 0 was said.", "book": "1Sa", "verse": "1:1"}
    assert bible.unpacked(packed_bible(text, 16_384)) == text


def test_a_code_that_names_what_comes_just_now() -> None:
    for data in (b"aaaaaaaaaaaaaaaa", b"abababababababab" * 40, bytes(range(256)) * 9):
        assert bible.lzw(compress(data), len(data)) == data
        assert bible.lzw(compress(data), 7) == data[:7]


def test_a_damaged_text_is_said_to_be_so() -> None:
    good = packed_bible(b"In the beginning " * 200, 4096)
    for bad in (b"", good[:50], b"EC01" + good[4:], good[:84] + b"\xff" * 8 + good[92:]):
        with pytest.raises(GroundupError, match="no bible.data"):
            bible.unpacked(bad)
    with pytest.raises(GroundupError, match="damaged: code"):
        bible.lzw(b"\xff" * 40, 4096)
