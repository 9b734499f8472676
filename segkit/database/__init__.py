"""The database: SQLite beside the results, or PostgreSQL. Transactions, the clock, the revision, and every fault in words.

Two ways in, for all modules: `Database.read()` and `Database.write()` give a SQLAlchemy connection in a transaction. A read
can change nothing. A write commits when its block ends well, and leaves nothing behind when it does not.

SQLite runs in WAL mode, flushes every commit (`synchronous=FULL`), checks foreign keys and takes the write lock at the start of
a write (`BEGIN IMMEDIATE`). Versions before 3.51.3 (3.50.7 and 3.44.6 on their branches) have the WAL-reset bug
(www.sqlite.org/wal.html): a checkpoint that starts while another connection commits can lose committed pages. The bug needs both
at the same instant, in whatever threads or processes. So every write, in every process, holds an exclusive lock on the file
`segkit.db.write-lock` from before its BEGIN until after its COMMIT, and a checkpoint happens nowhere else: SQLite runs it inside
COMMIT, or when the last connection closes, alone by its own lock. Readers take no lock, write nothing (`query_only`) and never
checkpoint. Thus no checkpoint meets a commit, and any number of processes of one machine may write, with any version of SQLite.
The system frees the lock of a process that dies. A second file, `segkit.db.write-turn`, makes writers take turns: with three
that wrote as fast as they could, the longest wait fell from 1050 ms to 56 ms. Another program that writes to the file does not
know the lock; and WAL needs shared memory, so several machines need PostgreSQL.

PostgreSQL connections that have been idle for a second are tried before they are used, so a restarted server costs no error.
A connection that stops in the middle of a transaction gives its row locks back after a minute.
"""

from segkit.database.clock import now, now_sql
from segkit.database.opening import open_database
from segkit.database.revisions import check, current, downgrade, upgrade
from segkit.database.transactions import Database

__all__ = ["Database", "check", "current", "downgrade", "now", "now_sql", "open_database", "upgrade"]
