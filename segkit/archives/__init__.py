"""ZIP archives that are never made: of a whole run, or of a folder, readable from any byte on.

Members are stored as they are, so once their names and sizes are known every byte has its place, and any range of the archive is put
together when it is asked for. A member's CRC-32 is computed when its header is first read, and then kept in the index. Memory
does not grow with the archive: the index lies on the disk beside the results and is mapped.
"""

from segkit.archives.archive import Archive
from segkit.archives.making import of_exports, of_run

__all__ = ["Archive", "of_exports", "of_run"]
