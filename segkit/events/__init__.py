"""What happens to jobs and runs, told as it happens. Publishing never fails and never waits; following never misses the end state.

Whoever changes jobs publishes to others: within the process, through PostgreSQL's NOTIFY, or through Redis when `SEGKIT_REDIS_URL`
is set. Followers are told to look, and look at the database itself: counters of runs, and which jobs run. So a message that is lost
costs a moment and not the truth. On SQLite other processes are noticed by `PRAGMA data_version`, which costs microseconds.
"""

from segkit.events.changes import ENDED, Change, RunState, decode, encode
from segkit.events.following import Follower, follow
from segkit.events.looking import Looker, named, overview, running
from segkit.events.publishing import Publisher

__all__ = ["ENDED", "Change", "Follower", "Looker", "Publisher", "RunState", "decode", "encode", "follow", "named", "overview", "running"]
