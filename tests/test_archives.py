"""Archives that are never made: sizes beyond what 32 bits hold, and the index that is kept. Whole ones are in `test_server_downloads`."""

from __future__ import annotations

import io
import zipfile
from datetime import datetime
from pathlib import Path

from segkit import archives
from segkit.archives import records
from segkit.archives.index import File, Index, make
from segkit.archives.records import packed_moment
from segkit.server.bodies import LocalFile


def test_archives_beyond_4_gib_and_65535_members(tmp_path: Path) -> None:
    """Sizes and places that need 64 bits, without the bytes: members are sparse files, and only the ends are read."""
    sizes = [5 * 2**30, 3, 2**32 - 1, 10]
    for number, size in enumerate(sizes):
        with open(tmp_path / f"{number}", "wb") as file:
            file.truncate(size)
    moment = packed_moment(datetime(2026, 5, 4, 3, 2, 1))
    files = [File(f"f{number}", f"{number}", size, moment, str(size)) for number, size in enumerate(sizes)]
    files += [File(f"small/{number}", "3", 10, moment, "10") for number in range(70_000)]
    index = make(tmp_path / "index", "x", files)
    for number in range(len(files)):
        index.keep_crc(number, 0xE38A6876 if number > 3 else 0)
    archive = archives.Archive(index, lambda name: LocalFile(str(tmp_path), name))

    class Seeking(io.RawIOBase):
        place = 0

        def seekable(self) -> bool:
            return True

        def readable(self) -> bool:
            return True

        def tell(self) -> int:
            return self.place

        def seek(self, offset: int, whence: int = 0) -> int:
            self.place = offset + (0, self.place, archive.size)[whence]
            return self.place

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            part = archive.read(self.place, min(len(buffer), archive.size - self.place))
            buffer[: len(part)] = part
            self.place += len(part)
            return len(part)

    with zipfile.ZipFile(Seeking()) as opened:  # type: ignore[arg-type]
        listed = opened.infolist()
        assert [each.file_size for each in listed[:4]] == sizes
        assert len(listed) == 70_004
        assert listed[-1].header_offset > 2**33
        assert opened.read("small/69999") == b"\0" * 10
        assert listed[0].date_time == (2026, 5, 4, 3, 2, 0)


def test_an_index_is_read_back_and_one_of_something_else_is_not(tmp_path: Path) -> None:
    make(tmp_path / "index", "a", [File("x", "x", 1, 0, "c")])
    assert Index.find(tmp_path / "index", "b") is None
    found = Index.find(tmp_path / "index", "a")
    assert found is not None
    assert found.stored(0) == "x"
    assert not found.knows_crc(0)
    (tmp_path / "index" / "about.json").write_text("{")
    assert Index.find(tmp_path / "index", "a") is None
    assert records.local_size(1, 2**32 - 1) == len(records.local_header(records.Member(b"x", 2**32 - 1, 0, 0, 0)))
