"""Every error a user can meet. A class's docstring is its message when none is given, and says what to do."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


class SegkitError(Exception):
    """Something in segkit went wrong; the message says what to do."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or " ".join((type(self).__doc__ or "").split()))

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled with its message alone, so that it comes back from a Dask worker whatever its class wants to be made of.
        return with_message, (type(self), str(self))


def with_message(kind: type[SegkitError], message: str) -> SegkitError:
    """Make an error that has a message already, whatever its class wants to be made of: one that came from another process."""
    error = kind.__new__(kind, message)
    error.args = (message,)
    return error


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names the nearest of `known`, or lists them all.

    Examples
    --------
    >>> suggest("nucleus", ["nuclei", "tissue"])
    'Did you mean "nuclei"? Known: nuclei, tissue.'
    """
    choices = sorted(known)
    by_lower_case = {choice.lower(): choice for choice in choices}
    nearest = get_close_matches(name.lower(), by_lower_case, n=1, cutoff=0.5)
    hint = f'Did you mean "{by_lower_case[nearest[0]]}"? ' if nearest else ""
    return f"{hint}Known: {', '.join(choices) or 'none'}."


class SettingsError(SegkitError, ValueError):
    """A setting has a value that cannot be used. `segkit settings` lists every setting and where its value came from."""


# Images


class ImageReadError(SegkitError, ValueError):
    """The image cannot be read. Open it in another viewer; if it opens there, please report the file."""


class ImageMissingError(ImageReadError, FileNotFoundError):
    """The image file is not there. Check the path, and that the disk or share is mounted."""


class ImageFormatError(ImageReadError):
    """The file is not an image that segkit reads: TIFF, PNG, JPEG, BMP, OME-Zarr, and more with `pip install "segkit[formats]"`."""


class ImageTruncatedError(ImageReadError):
    """The file ends before its pixels do. Copy it again from where it came."""


class ImageTooLargeError(ImageReadError):
    """The image declares more pixels than the limit. If that is right, raise SEGKIT_MAX_PIXELS."""


class ImageChangedError(ImageReadError):
    """The file is not the one that was registered: its contents changed. Register it again with `segkit add`."""


class SelectionError(SegkitError, ValueError):
    """The channel, plane or time point that was asked for is not in the image."""


class PixelSizeError(SegkitError, ValueError):
    """A pixel size must be a positive number of micrometres, such as 0.325."""


# Segmenters


class UnknownSegmenterError(SegkitError, LookupError):
    """No segmenter has this name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f'There is no segmenter "{name}". {suggest(name, known)}')


class SegmenterBrokenError(SegkitError, ImportError):
    """The package that offers this segmenter cannot be loaded. Repair or uninstall it; all others go on working."""

    def __init__(self, name: str, target: str, reason: str) -> None:
        super().__init__(f'The segmenter "{name}" ({target}) cannot be loaded: {reason}. Repair or uninstall its package; the others work.')


class UnknownParameterError(SegkitError, TypeError):
    """The segmenter has no parameter of this name."""

    def __init__(self, segmenter: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f'Segmenter "{segmenter}" has no parameter "{name}". {suggest(name, known)}')


class InvalidParameterError(SegkitError, ValueError):
    """A segmenter's parameter has a value that it cannot take."""


class InvalidPixelsError(SegkitError, ValueError):
    """The pixels cannot be segmented as they are: the message says which rule they break."""


class ComponentTooLargeError(SegkitError, MemoryError):
    """One connected piece of foreground is larger than the memory allowed for it. Raise SEGKIT_WORKER_MEMORY or the threshold."""


class NotTileExactError(SegkitError, ValueError):
    """This segmenter cannot be tiled without cutting objects, and the image is too large to be segmented in one piece."""


class TileFailedError(SegkitError, RuntimeError):
    """A piece of a large image could not be segmented, however often it was tried."""


class TooManyObjectsError(SegkitError, OverflowError):
    """The image has more than 2,147,483,647 objects, which label images cannot tell apart. Raise the threshold or the smallest size."""


# Catalog


class UnknownProjectError(SegkitError, LookupError):
    """No project has this name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f'There is no project "{name}". {suggest(name, known)}')


class ProjectExistsError(SegkitError, ValueError):
    """A project of this name exists already."""


class ProjectNameError(SegkitError, ValueError):
    """A project's name is 1 to 200 characters that can be printed, without line breaks or tabs."""


class UnknownImageError(SegkitError, LookupError):
    """No image has this id or name in the project."""


class NothingToAddError(SegkitError, ValueError):
    """Nothing that looks like an image was found there. Check the folder or the pattern."""


class CursorError(SegkitError, ValueError):
    """The page cursor is not one that segkit gave out. Start again from the first page."""


class PageError(SegkitError, ValueError):
    """`limit` must be from 1 to 1000, `offset` from 0 to 100000; for deeper pages use the cursor in `next`."""


class ConfirmationRequired(SegkitError, RuntimeError):
    """This deletes data for good, so it needs a yes: pass confirm=True, or --yes on the command line."""


# Jobs


class UnknownRunError(SegkitError, LookupError):
    """No run has this number. `segkit list runs` shows them."""


class UnknownJobError(SegkitError, LookupError):
    """No job has this number. `segkit list jobs` shows them."""


class UnknownStatusError(SegkitError, ValueError):
    """Jobs have no such status."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f'Jobs have no status "{name}". {suggest(name, known)}')


class PriorityError(SegkitError, ValueError):
    """A priority is a whole number from -1000 to 1000; higher is sooner."""


class NothingToRunError(SegkitError, ValueError):
    """The project has no readable image to segment. Add some with `segkit add`."""


class LeaseLost(SegkitError):
    """Another worker took this job over, so its result was not committed. Nothing is lost: the job is being run again."""


class RunFailedError(SegkitError, RuntimeError):
    """Every image of the run failed. `segkit show run N` lists the reasons."""


class WaitTimeout(SegkitError, TimeoutError):
    """The run was not finished in the time given. It goes on; call wait() again."""


class NoResultError(SegkitError, LookupError):
    """There is no result for this image yet."""


class ResultCorruptError(SegkitError, OSError):
    """A stored result no longer matches its checksum. Run `segkit retry` on its image to make it again."""


class UnknownExportError(SegkitError, LookupError):
    """No export format has this name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f'There is no export format "{name}". {suggest(name, known)}')


class OutputExistsError(SegkitError, FileExistsError):
    """The output is there already and would be overwritten. Choose another place, or pass overwrite=True (--force)."""


class DiskFullError(SegkitError, OSError):
    """The disk is full. Nothing half-written was kept; free some space and run `segkit retry`."""


class NotWritableError(SegkitError, PermissionError):
    """segkit may not write there. Choose another SEGKIT_HOME, or ask for write permission."""


# Database, cluster, plug-ins


class DatabaseError(SegkitError, ConnectionError):
    """The database cannot be reached. Check SEGKIT_DATABASE_URL and that the server runs; `segkit doctor` tells more."""


class DatabaseMissingError(DatabaseError):
    """The database has no segkit tables. Make them with `segkit init` or `segkit db upgrade`."""


class DatabaseOutdatedError(DatabaseError):
    """The database is older than this segkit. Bring it up with `segkit db upgrade`."""


class DatabaseNewerError(DatabaseError):
    """The database was made by a newer segkit. Upgrade segkit, or go back with that newer version's `segkit db downgrade`."""


class DatabaseReadOnlyError(DatabaseError, PermissionError):
    """The database can only be read, so nothing can be queued or stored. Check the file's permissions."""


class DatabaseBusyError(DatabaseError, TimeoutError):
    """The database is locked by something else and stayed so. Try again; if it lasts, look for a program that holds it open."""


class DatabaseLateError(DatabaseError, TimeoutError):
    """The database has not answered yet. What is shown follows as soon as it does; if it lasts, see `segkit doctor`."""


class DatabaseCorruptError(DatabaseError):
    """The database file is damaged, or is not a database. Restore it from a copy, or choose another SEGKIT_HOME."""


class ClusterError(SegkitError, ConnectionError):
    """The Dask cluster cannot be reached. Check SEGKIT_CLUSTER; `segkit doctor` tells more."""


class MissingExtraError(SegkitError, ImportError):
    """An optional package is needed for this."""

    def __init__(self, purpose: str, extra: str) -> None:
        super().__init__(f'{purpose} needs an optional package. Install it with: pip install "segkit[{extra}]"')


class FormatMissingError(ImageReadError, MissingExtraError):
    """An image of this format needs an optional package. Install it with: pip install "segkit[formats]"."""


class ModelFileError(SegkitError, ValueError):
    """The model file cannot be used. Check that it is the right file, and that it was copied whole."""


class TrainingError(SegkitError, ValueError):
    """A classifier cannot be trained from these strokes. Paint some background and some object, and try again."""


class InvertedContrastError(SegkitError, ValueError):
    """This image is bright nearly everywhere, as bright-field images are. Give objects="dark" if its nuclei are the dark parts,
    or objects="bright" if it is meant to be like this.
    """


# Service


class NotAdmittedError(SegkitError, PermissionError):
    """This service asks for a token. Open the link that `segkit serve` printed, or send the header "Authorization: Bearer TOKEN"."""


class ScopeError(SegkitError, PermissionError):
    """This token may only read. Make one that may write with `segkit token create NAME --scope write`."""


class TooManyFailuresError(SegkitError, PermissionError):
    """Too many wrong tokens came from this address. Wait a minute, then try again with the right one."""


class ForeignRequestError(SegkitError, PermissionError):
    """The request was made for another site. Ask for the service by its own address; add names it may have to SEGKIT_ALLOWED_HOSTS."""


class HubError(SegkitError, ConnectionError):
    """JupyterHub does not answer, so nobody can be let in. Check that the Hub runs, and JUPYTERHUB_API_URL."""


class LoginError(SegkitError, PermissionError):
    """Logging in through JupyterHub was not finished. Open the service's first page again."""


class UnknownTokenError(SegkitError, LookupError):
    """No token has this name. `segkit token list` shows those there are."""


class TokenNameError(SegkitError, ValueError):
    """A token's name is 1 to 200 characters that can be printed, and no other token's."""


class FolderNotAllowedError(SegkitError, PermissionError):
    """Images may not be registered from there. Upload them, or have the folder added to SEGKIT_DATA_FOLDERS."""


class UploadError(SegkitError, ValueError):
    """The upload cannot be used: it is empty, or was cut on its way. Send it again."""


class UploadTooLargeError(SegkitError, OverflowError):
    """The upload is larger than SEGKIT_UPLOAD_MAX_BYTES allows. Copy the file to a data folder and register it from there."""


class UploadNameError(SegkitError, ValueError):
    """An uploaded file's name is 1 to 200 characters that can be printed, without slashes, and does not begin with a dot."""


class FilterError(SegkitError, ValueError):
    """A filter is a column, a comparison and a value, such as area_um2>=10."""


class UnknownRegistrationError(SegkitError, LookupError):
    """No registration has this number here; they are forgotten when the service stops. Register again: nothing is added twice."""


class PortTakenError(SegkitError, OSError):
    """The port is taken by another program. Choose another with --port, or --port 0 for any that is free."""


# Batches and schedules


class NotebookError(SegkitError, ValueError):
    """The notebook cannot be run as a batch; the message says what it lacks."""


class UnknownNotebookError(NotebookError, LookupError):
    """No notebook has this name in the allowed folders. SEGKIT_NOTEBOOK_FOLDERS names them."""


class NotebookFolderError(NotebookError, PermissionError):
    """The notebook lies outside the allowed folders. Move it there, or add its folder to SEGKIT_NOTEBOOK_FOLDERS."""


class NoParametersCellError(NotebookError):
    """The notebook has no cell tagged "parameters". Tag the cell that holds its parameters (JupyterLab: property inspector, Cell Tags)."""


class NotebookKernelError(NotebookError, LookupError):
    """The notebook's kernel is not installed. `jupyter kernelspec list` shows those that are."""


class NotebookParameterError(NotebookError, TypeError):
    """A parameter is not one of the notebook's, or has a value of another type than the notebook declares."""


class UnknownBatchError(SegkitError, LookupError):
    """No batch has this number. `segkit batch list` shows them."""


class BatchFailedError(SegkitError, RuntimeError):
    """The batch failed. `segkit batch show N` says in which cell, and why."""


class NotificationError(SegkitError, ValueError):
    """The address cannot be notified. Give a webhook such as https://host/path, or any address that Apprise takes."""


class ScheduleError(SegkitError, ValueError):
    """The schedule cannot be kept as it is; the message says why."""


class UnknownScheduleError(SegkitError, LookupError):
    """No schedule has this name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f'There is no schedule "{name}". {suggest(name, known)}')


# Downloads


class RangeError(SegkitError, ValueError):
    """The Range header asks for bytes that are not there, or for too many pieces. Ask again without it, or for fewer pieces."""


class UnknownFileError(SegkitError, LookupError):
    """There is no such file to download."""


class PreconditionError(SegkitError, ValueError):
    """The file is not the one that If-Match or If-Unmodified-Since asks for. Download it from its beginning."""


class ArchiveChangedError(SegkitError, OSError):
    """A file of the archive was replaced while it was being downloaded. Start the download again."""


class TooBusyError(SegkitError, RuntimeError):
    """The service does as much in the background as it can. Wait until some of it has ended, then ask again."""


# Corrections


class CorrectionError(SegkitError, ValueError):
    """The correction cannot be made as asked: the message says why."""


class CorrectionConflictError(SegkitError, RuntimeError):
    """The result was changed by somebody else since it was opened. Open it again and repeat your corrections."""


class UnknownVersionError(SegkitError, LookupError):
    """The result has no version of this number."""


class SubscriptionError(SegkitError, ValueError):
    """A subscription names up to 1000 runs, jobs or projects by their numbers, such as {"subscribe": {"runs": [1, 2]}}."""


class UnknownStatementError(SegkitError, LookupError):
    """No slow statement has this number. They are forgotten when the service starts anew; the list of slow queries shows them."""


# Client


class ServiceUnreachableError(SegkitError, ConnectionError):
    """The service does not answer. Check its address, and that `segkit serve` runs there."""


class ServiceFaultError(SegkitError, RuntimeError):
    """The service failed at this. Its log says more; please report it."""


class NotAServiceError(SegkitError, ValueError):
    """What answers at this address is no segkit service, or one of another version. Check the address that `segkit serve` printed."""


class RequestError(SegkitError, ValueError):
    """The service does not take this request; the message names the part that it refuses."""


class DownloadError(SegkitError, OSError):
    """The download is not whole. Ask for it again: it goes on from where it stopped."""


class NotOverHttpError(SegkitError, AttributeError):
    """This cannot be done from afar. Do it where the service runs."""


# Operations


class NoBackupError(SegkitError, LookupError):
    """There is no backup there. `segkit backup FOLDER` makes one; name its folder."""


class BackupDamagedError(SegkitError, OSError):
    """The backup is not whole. Restore an older one, or a copy of this one on another disk."""


class RestoreTargetError(SegkitError, FileExistsError):
    """A backup is restored to an empty home and database. Name others (--home, SEGKIT_DATABASE_URL), or --force to lose what is there."""
