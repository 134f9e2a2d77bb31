"""Bytes and lines of data files: compression, character encoding, physical lines.

Promises: content decides over names; what cannot be opened, decompressed or decoded as a whole raises SeqtrackError
with the file and the reason; a line that cannot be decoded costs no other line; memory stays at one line and a buffer.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

import charset_normalizer
import pyarrow as pa

from pipeline.errors import SeqtrackError
from pipeline.params import Data

SAMPLE: Final = 2**20  # bytes looked at to find the encoding and the dialect
_GUESSED_FROM: Final = 2**16  # bytes of lines with non-ASCII characters that an encoding is guessed from

COMPRESSIONS: Final = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
_MAGIC: Final = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bz2"), (b"\xfd7zXZ\0", "xz"))
_BOMS: Final = (  # UTF-32 first: its little-endian mark starts with that of UTF-16
    (codecs.BOM_UTF8, "utf-8", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)
# Codecs that a file may be guessed to be in; each is a superset of ASCII in which no character hides a line end.
_CANDIDATES: Final = ["gb18030", "big5", "cp932", "euc_jp", "euc_kr", "cp1252", "cp1251", "cp1250", "cp1253"]
_NAMES: Final = {
    **{"gb18030": "GB18030 (which includes GBK)", "big5": "Big5", "cp932": "Shift JIS", "euc_jp": "EUC-JP"},
    **{"euc_kr": "EUC-KR", "cp1252": "Windows-1252 (which includes Latin-1)", "latin-1": "Latin-1"},
    **{"cp1251": "Windows-1251", "cp1250": "Windows-1250", "cp1253": "Windows-1253"},
}
_KANA: Final = re.compile(r"[ぁ-ヿ]")


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How the bytes of a file become characters.

    Attributes:
        codec: Python's name for it.
        mark: bytes of the byte order mark at the start, 0 when there is none.
        note: in words, for the report; says so when it is a guess.
    """

    codec: str
    mark: int
    note: str

    @property
    def wide(self) -> bool:
        """Whether a line end is more than one byte, so that lines can be told only after decoding."""
        return self.codec.startswith(("utf-16", "utf-32", "utf_16", "utf_32"))

    @property
    def line_codec(self) -> str:
        """What the lines that `byte_lines` yields are encoded in."""
        return "utf-8" if self.wide else self.codec


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what reading a file may raise into a SeqtrackError that names the file and the reason."""
    try:
        yield
    except PermissionError:
        raise SeqtrackError(
            "no permission to read it", where=str(path), fix="change the file's mode or owner"
        ) from None
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, pa.ArrowException, UnicodeDecodeError) as error:
        raise _damaged(path, error) from None
    except OSError as error:
        if error.errno is None:  # bz2 and Arrow report damage so
            raise _damaged(path, error) from None
        raise SeqtrackError(f"cannot be read: {error.strerror}", where=str(path)) from None


def _damaged(path: Path, error: BaseException) -> SeqtrackError:
    reason = " ".join(str(error).split()) or "it ends too early"
    return SeqtrackError(f"the file is damaged or cut off: {reason}", where=str(path), fix="get it again")


def stem_and_suffix(path: Path) -> tuple[str, str]:
    """Return name and lower-case extension, that of a compression left out: `a.CSV.gz` gives `a`, `.csv`."""
    bare = Path(path.stem) if path.suffix.lower() in COMPRESSIONS else Path(path.name)
    return bare.stem, bare.suffix.lower()


def compression_of(path: Path) -> str | None:
    """Tell by its first bytes how a file is compressed.

    Raises:
        SeqtrackError: its name says that it is compressed and its content is not.
    """
    with explained(path), path.open("rb") as stream:
        start = stream.read(6)
    found = next((name for magic, name in _MAGIC if start.startswith(magic)), None)
    if found is None and start and (named := COMPRESSIONS.get(path.suffix.lower())):
        raise SeqtrackError(
            f"the name says {named}, the content is not",
            where=str(path),
            fix=f"get the file again, or drop {path.suffix} from its name if it never was compressed",
        )
    return found


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading, decompressed; use it under `explained`."""
    match compression_of(path):
        case "gzip":
            return cast("BinaryIO", io.BufferedReader(gzip.GzipFile(path)))
        case "bz2":
            return cast("BinaryIO", io.BufferedReader(bz2.BZ2File(path)))
        case "xz":
            return cast("BinaryIO", io.BufferedReader(lzma.LZMAFile(path)))
        case "zstd":
            return cast("BinaryIO", io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")))
        case _:
            return path.open("rb")


def head(path: Path, size: int = SAMPLE) -> bytes:
    """Return the first bytes of a file, decompressed.

    Raises:
        SeqtrackError: they cannot be read.
    """
    with explained(path), open_bytes(path) as stream:
        return stream.read(size)


def encoding_of(path: Path, data: Data) -> Encoding:
    """Tell how a file is encoded: by data.encoding, its byte order mark, or its first non-ASCII bytes.

    Raises:
        SeqtrackError: it cannot be read, or data.encoding is no encoding.
    """
    start = head(path, 4)
    for mark, codec, name in _BOMS:
        if start.startswith(mark) and (data.encoding is None or _codec(data.encoding).startswith(codec[:5])):
            return Encoding(codec=codec, mark=len(mark), note=f"{name} with a byte order mark")
    if data.encoding is not None:
        return Encoding(codec=_codec(data.encoding), mark=0, note=f"{data.encoding}: data.encoding says so")
    sample = _first_non_ascii(path)
    if wide := _wide(sample):
        return Encoding(codec=wide, mark=0, note="UTF-16, by its zero bytes; data.encoding overrides it")
    if sample is None or _is_mostly_utf8(sample):
        return Encoding(codec="utf-8", mark=0, note="UTF-8")
    codec = _guess(sample)
    return Encoding(codec=codec, mark=0, note=f"{_NAMES[codec]}, a guess; data.encoding overrides it")


def byte_lines(path: Path, encoding: Encoding) -> Iterator[bytes]:
    """Yield physical lines, each with its LF, in `encoding.line_codec`; the byte order mark left out.

    Characters that a wide encoding cannot decode are bytes that are not UTF-8.

    Raises:
        SeqtrackError: the file cannot be opened, decompressed, or, in a wide encoding, decoded to its end.
    """
    with explained(path), open_bytes(path) as stream:
        stream.read(encoding.mark)
        if not encoding.wide:
            yield from stream
            return
        text = io.TextIOWrapper(stream, encoding.codec, errors="surrogatepass", newline="\n")
        try:
            for line in text:
                yield line.encode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise _damaged(path, error) from None


class Lines:
    """The physical lines of a file as text, line ends included; an iterator that csv.reader can pull from.

    A line that cannot be decoded sets `undecodable`, which the reader of rows clears; so a bad byte costs the one row
    it stands in.
    """

    def __init__(self, path: Path, encoding: Encoding) -> None:
        self.count = 0  # lines handed out
        self.exhausted = False
        self.undecodable: str | None = None
        self._codec = encoding.line_codec
        self._lines = byte_lines(path, encoding)

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        try:
            line = next(self._lines)
        except StopIteration:
            self.exhausted = True
            raise
        self.count += 1
        try:
            return line.decode(self._codec)
        except UnicodeDecodeError as error:
            self.undecodable = not_decodable(line, error, self.count)
            return line.decode(self._codec, "replace")


def not_decodable(line: bytes, error: UnicodeDecodeError, number: int) -> str:
    """Say which byte of a line is not in its encoding."""
    return f"byte 0x{line[error.start]:02x} at {error.start} of line {number} is not {error.encoding.upper()}"


def _codec(name: str) -> str:
    """Return Python's name for an encoding.

    Raises:
        SeqtrackError: it knows none of this name, or one that is not of characters.
    """
    try:
        codec = codecs.lookup(name)
        if "a".encode(name).decode(name) == "a":
            return {"utf-16": "utf-16-le", "utf-32": "utf-32-le", "utf-8-sig": "utf-8"}.get(codec.name, codec.name)
    except (LookupError, UnicodeError, TypeError, AttributeError):
        pass
    raise SeqtrackError(
        f"data.encoding: no such encoding: {name!r}",
        where="params.yaml",
        expected="for example utf-8, utf-16, gb18030, big5, latin-1, cp1252",
    )


def _first_non_ascii(path: Path) -> bytes | None:
    """Return the piece of a file in which its first non-ASCII or zero byte stands; None when there is none."""
    with explained(path), open_bytes(path) as stream:
        for piece in iter(lambda: stream.read(SAMPLE), b""):
            if not piece.isascii() or b"\0" in piece:
                # One line more, so that what is cut at the end is no character but at most a line.
                return piece + stream.readline(SAMPLE)
    return None


def _wide(sample: bytes | None) -> str | None:
    """Tell UTF-16 without a mark by where its zero bytes stand: every ASCII character has one, always on one side."""
    if not sample:
        return None
    sample = sample[: len(sample) // 2 * 2]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    codec = "utf-16-le" if odd > even else "utf-16-be"
    most, least = max(even, odd), min(even, odd)
    # Scripts without ASCII have few zero bytes, but are not UTF-8 either, as zero bytes in a plain file are.
    if least * 20 > most or not (
        most * 3 > len(sample) // 2 or (most * 100 > len(sample) and not _is_mostly_utf8(sample))
    ):
        return None
    try:
        text = sample.decode(codec)
    except UnicodeDecodeError as error:
        if error.start < len(sample) - 4:  # else a character cut in two
            return None
        text = sample[: error.start].decode(codec)
    return codec if "\n" in text or b"\n" not in sample else None


def _is_mostly_utf8(sample: bytes) -> bool:
    """Tell whether more of the non-ASCII characters are UTF-8 than not: then bad bytes are damage, not an encoding."""
    text = sample.decode("utf-8", "replace")
    bad = text.count("\ufffd") - sample.count("\ufffd".encode())
    good = sum(len(run) for run in re.findall(r"[^\x00-\x7f\ufffd]+", text))
    return bad <= good


def _guess(sample: bytes) -> str:
    """Guess an encoding from lines that hold non-ASCII bytes, by charset-normalizer's scores and two corrections."""
    lines = b"".join(line for line in sample.splitlines(keepends=True) if not line.isascii())
    matches = charset_normalizer.from_bytes(lines[:_GUESSED_FROM], cp_isolation=_CANDIDATES)
    best = matches.best()
    if best is None or best.encoding in {"cp1250", "cp1252"}:
        # It takes French and German for Central European: what reads as letters in both is Western.
        west, centre = (_letters(lines, codec) for codec in ("cp1252", "cp1250"))
        if west < 0:
            return "cp1250" if best is not None and centre >= 0 else "latin-1"
        return "cp1252" if west >= centre else "cp1250"
    chinese = next((match for match in matches if match.encoding == "gb18030"), None)
    if chinese is not None and not _KANA.search(str(chinese)):
        return "gb18030"  # short texts pass for several: it is the likeliest by far, unless Japanese shows through
    return best.encoding


def _letters(sample: bytes, codec: str) -> float:
    """Return the share of letters among non-ASCII characters, -1 when the codec cannot decode them."""
    try:
        characters = [character for character in sample.decode(codec) if character > "\x7f"]
    except UnicodeDecodeError:
        return -1.0
    return sum(map(str.isalpha, characters)) / max(len(characters), 1)
