"""Every setting of segkit: its name, type, default and a sentence. The only module that reads the environment.

Weight, heaviest first: arguments (`segkit.open(threads_per_worker=2)`), `SEGKIT_*` variables, secret files, the settings file, the
default. The settings file is the one named by `SEGKIT_CONFIG`, or else `conf/segkit.toml` or `segkit.toml` in the working folder.
A secret file is named after its setting, such as `segkit_database_url`, and lies in the folder that `SEGKIT_SECRETS` names, in systemd's
`CREDENTIALS_DIRECTORY`, or in `/run/secrets`, where containers find theirs.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings.exceptions import SettingsError as SourceError

from segkit.errors import SettingsError, suggest

UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
PREFIX = "SEGKIT_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
CONFIG_PLACES = ("conf/segkit.toml", "segkit.toml")
SECRETS_VARIABLE = f"{PREFIX}SECRETS"
SECRETS_PLACE = "/run/secrets"


def parse_bytes(value: object) -> object:
    """Read a number of bytes such as "2 GiB", "512M" or 1048576; anything else is returned for pydantic to refuse.

    Examples
    --------
    >>> parse_bytes("2 GiB")
    2147483648
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", value, re.IGNORECASE) if isinstance(value, str) else None
    return int(float(match[1]) * UNITS[match[2].lower()]) if match else value


Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(ge=1)]


def parse_names(value: object) -> object:
    """Read names that commas part, as a variable holds them; a list of them is returned as it is.

    Examples
    --------
    >>> parse_names("lab.example.org, 10.0.0.7")
    ('lab.example.org', '10.0.0.7')
    """
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_names)]


class Settings(BaseSettings):
    """All settings, frozen. Made by `load` and handed down; nothing is read from the environment later."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=True)

    home: str = Field("./segkit-data", min_length=1, description="Folder or fsspec URL that holds the database, results, exports and logs.")
    database_url: SecretStr | None = Field(
        None, description="PostgreSQL (postgresql://user:password@host/name) or SQLite URL; empty: SQLite in the home folder."
    )
    db_pool_max: int = Field(
        10, ge=1, le=1000, description="Most database connections one process keeps open; a service keeps up to 7 more."
    )
    redis_url: SecretStr | None = Field(
        None, description="Redis or Valkey that several processes share as a cache; empty: a cache inside the process."
    )
    cache_bytes: Bytes = Field(64 * 1024**2, description="Memory that the cache inside the process may use.")
    cache_ttl_projects: int = Field(300, ge=0, description="Seconds that project lists stay cached; 0 switches this cache off.")
    cache_ttl_images: int = Field(300, ge=0, description="Seconds that image lists stay cached; 0 switches this cache off.")
    cache_ttl_results: int = Field(
        3600, ge=0, description="Seconds that result lists stay cached in the service; 0 switches this cache off."
    )
    cache_ttl_queue: int = Field(2, ge=0, description="Seconds that queue summaries stay cached in the service; 0 switches this cache off.")
    compression_level: int = Field(3, ge=1, le=19, description="Zstandard level for stored labels and tables: 1 is fastest, 19 smallest.")
    http_compression_level: int = Field(
        1,
        ge=0,
        le=19,
        description="Zstandard level for answers of the service, and what takes as long for brotli and gzip; 0 packs nothing.",
    )
    prefetch: int = Field(4, ge=1, le=1000, description="Jobs a worker claims ahead for each of its threads.")
    workers: int | None = Field(
        None, ge=1, le=4096, description="Dask worker processes of the local cluster; empty: one per core, as far as memory goes."
    )
    threads_per_worker: int = Field(4, ge=1, le=256, description="Threads in each Dask worker process.")
    worker_memory: Bytes = Field(2 * 1024**3, description='Memory limit of each Dask worker process ("2 GiB"); none with threads.')
    cluster: str = Field(
        "local",
        pattern=r"^(local|threads|slurm|pbs|kubernetes|(tcp|tls|ucx|ws|wss|inproc)://\S+)$",
        description="Where segmentation runs: local, threads (inside this process), slurm, pbs, kubernetes, or a scheduler's address (tls://host:8786).",
    )
    cluster_options: dict[str, Any] = Field(
        default_factory=dict, description="Options handed to the SLURM, PBS or Kubernetes cluster, as JSON."
    )
    dask_tls_ca: str | None = Field(None, description="CA certificate file for a scheduler reached by tls://.")
    dask_tls_cert: str | None = Field(None, description="This client's certificate file for a scheduler reached by tls://.")
    dask_tls_key: str | None = Field(None, description="This client's key file for a scheduler reached by tls://.")
    dask_without_tls: bool = Field(
        False, description="Allow a scheduler on another machine without TLS: whoever reaches its port runs code on all workers."
    )
    lease_seconds: float = Field(60, gt=0, description="How long a worker's claim on a job holds without being renewed.")
    beat_seconds: float = Field(15, gt=0, description="How often a worker renews its claims; well under the lease.")
    poll_seconds: float = Field(1, gt=0, description="How long an idle worker waits before it looks for jobs again.")
    max_attempts: int = Field(3, ge=1, le=100, description="Attempts before a job is given up.")
    retry_seconds: float = Field(
        2, ge=0, description="Wait before a failed attempt is repeated; doubles with each attempt, up to 10 minutes."
    )
    batches_at_once: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Batches that run at once, over all workers; empty: one for every two cores of the claiming machine.",
    )
    notebook_folders: str = Field(
        "notebooks", description="Folders whose notebooks may be run as batches, separated by ':', beside those that come with segkit."
    )
    max_pixels: int = Field(2**36, ge=1, description="Most pixels an image's header may declare before the image is refused.")
    max_decoded_pixels: int = Field(2**30, ge=1, description="Most pixels of a format that can only be decoded whole (PNG, JPEG, BMP).")
    tile: int = Field(2048, ge=64, le=65536, description="Edge of a tile in pixels when a large image is segmented in pieces.")
    tile_above: int = Field(2**25, ge=1, description="Images with more pixels than this are segmented tile by tile.")
    enable_performance_monitoring: bool = Field(True, description="Time every database statement and job; off costs nothing.")
    slow_query_ms: float = Field(100, ge=0, description="Database statements slower than this are listed as slow.")
    server_host: str = Field(
        "127.0.0.1", min_length=1, description="Address that the service listens on; any but this machine's own requires a token."
    )
    server_port: int = Field(8765, ge=0, le=65535, description="Port of the service; 0, or one that is taken on loopback: a free one.")
    server_root_path: str = Field(
        "", pattern=r"^(/[A-Za-z0-9._~@%-]+)*$", description="Path prefix under which a proxy shows the service, such as /segkit."
    )
    token: SecretStr | None = Field(
        None, min_length=16, description="Token that lets in with all rights; empty: made and shown once when one is required."
    )
    metrics_token: SecretStr | None = Field(
        None, min_length=16, description="Token for /metrics and /health alone, for Prometheus; good also while the database is down."
    )
    allowed_hosts: Names = Field(
        (), description="Names under which the service may be asked for, besides this machine's own; naming any requires a token."
    )
    trusted_proxies: Names = Field(
        ("127.0.0.1", "::1"), description="Addresses of proxies that are believed who asks (X-Forwarded-For, X-Forwarded-Proto)."
    )
    data_folders: Names = Field(
        (),
        description="Folders and URLs whose images the service may register; empty: any while it serves this machine alone, else none.",
    )
    accel_redirect: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="Internal nginx location of the home folder, such as /segkit-files: nginx then sends downloads (X-Accel-Redirect).",
    )
    upload_max_bytes: Bytes = Field(16 * 1024**3, description='Largest image file that may be uploaded to the service, such as "16 GiB".')
    log_level: str = Field("WARNING", pattern=r"^(DEBUG|INFO|WARNING|ERROR)$", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: str = Field(
        "text", pattern=r"^(text|json)$", description="text for people, json for machines: a line of JSON with the ids of request and job."
    )
    keep_history_days: int = Field(
        365, ge=0, description="Days that ended batches, and runs that ended without any result, are kept; 0: for ever. Results stay."
    )
    keep_samples_days: int = Field(1095, ge=1, description="Days that measurements of processes are kept, thinned with age.")
    keep_logs_days: int = Field(30, ge=1, description="Days that log files are kept which nobody writes to any more.")
    keep_exports_days: int = Field(30, ge=1, description="Days that built exports, their indices and tiles of failed images are kept.")
    backup_every_days: int = Field(7, ge=0, description="Days after which `segkit doctor` asks for a new backup; 0: never.")

    file: ClassVar[Path | None] = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: arguments, variables, secret files, file."""
        secrets = SecretsSettingsSource(settings_cls, secrets_dir=secrets_folders())
        return (init_settings, env_settings, secrets, TomlConfigSettingsSource(settings_cls, config_file()))

    @property
    def resolved_database_url(self) -> str:
        """The database to use: the one set, or SQLite in the home folder."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        if "://" in self.home:
            raise SettingsError("SEGKIT_HOME is a URL, where no SQLite file can live: set SEGKIT_DATABASE_URL too.")
        return f"sqlite:///{Path(self.home).expanduser().resolve() / 'segkit.db'}"


@dataclass(frozen=True)
class Setting:
    """One setting as `segkit settings` prints it."""

    name: str  #: the variable's name, SEGKIT_...
    value: str  #: secrets are masked
    source: str  #: "argument", the variable, the file, or "default"
    description: str


def config_file() -> Path | None:
    """Find the settings file, or None. One that `SEGKIT_CONFIG` names must exist."""
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise SettingsError(f"{CONFIG_VARIABLE} names {named}, which is not a file.")
        return Path(named)
    return next((Path(place) for place in CONFIG_PLACES if Path(place).is_file()), None)


def secrets_folders() -> list[Path]:
    """Find the folders of secret files, the last outweighing the first. One that `SEGKIT_SECRETS` names must exist."""
    named = os.environ.get(SECRETS_VARIABLE)
    if named and not Path(named).is_dir():
        raise SettingsError(f"{SECRETS_VARIABLE} names {named}, which is not a folder.")
    places = (SECRETS_PLACE, os.environ.get("CREDENTIALS_DIRECTORY"), named)
    return [Path(place) for place in places if place and Path(place).is_dir()]


def load(**arguments: Any) -> Settings:
    """Read the settings; `arguments` outweigh `SEGKIT_*` variables, which outweigh secret files and these the settings file.

    Raises
    ------
    SettingsError
        A name is unknown or a value cannot be used; the message names it, its source and the nearest known name.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    refuse_unknown_variables()
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise SettingsError(describe(error, given)) from None
    except (SourceError, ValueError, OSError) as error:
        raise SettingsError(f"The settings cannot be read: {error}") from None
    if settings.beat_seconds >= settings.lease_seconds:
        raise SettingsError("SEGKIT_BEAT_SECONDS must be smaller than SEGKIT_LEASE_SECONDS, or every lease runs out before it is renewed.")
    return settings


def refuse_unknown_variables() -> None:
    """Refuse a misspelt `SEGKIT_*` variable, which would otherwise be ignored in silence."""
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields} | {CONFIG_VARIABLE, SECRETS_VARIABLE}
    for variable in os.environ:
        if variable.startswith(PREFIX) and variable not in known:
            raise SettingsError(f"There is no setting {variable}. {suggest_variable(variable, known)}")


def suggest_variable(variable: str, known: set[str]) -> str:
    """Name the nearest setting; the whole list is too long for a message."""
    nearest = re.match(r'Did you mean "[^"]+"\?', suggest(variable.lower(), [name.lower() for name in known]))
    return f"{nearest[0].upper().replace('DID YOU MEAN', 'Did you mean') if nearest else 'See'} `segkit settings` lists them all."


def describe(error: ValidationError, given: dict[str, Any]) -> str:
    """Turn pydantic's report into one line per setting."""
    lines = []
    for fault in error.errors():
        name = str(fault["loc"][0]) if fault["loc"] else "settings"
        hint = f" {suggest(name, Settings.model_fields)}" if fault["type"] == "extra_forbidden" else ""
        lines.append(f"{PREFIX}{name.upper()} (from {source_of(name, given)}): {fault['msg']}.{hint}")
    return "\n".join(lines)


def source_of(name: str, given: dict[str, Any]) -> str:
    """Where the value of one setting comes from."""
    variable = f"{PREFIX}{name}".upper()
    if name in given:
        return "argument"
    if variable in os.environ:
        return f"variable {variable}"
    secret = next((path for folder in reversed(secrets_folders()) if (path := folder / variable.lower()).is_file()), None)
    if secret is not None:
        return str(secret)
    file = config_file()
    if file is not None and name in TomlConfigSettingsSource(Settings, file)():
        return str(file)
    return "default"


def explain(settings: Settings, **arguments: Any) -> list[Setting]:
    """List every setting with its value and where it came from, secrets masked."""
    given = {name: value for name, value in arguments.items() if value is not None}
    return [
        Setting(f"{PREFIX}{name}".upper(), show(getattr(settings, name)), source_of(name, given), about.description or "")
        for name, about in Settings.model_fields.items()
    ]


def show(value: object) -> str:
    """A setting's value for people; a secret shows only that it is set."""
    if isinstance(value, tuple):
        return ", ".join(value)
    return "" if value is None else "********" if isinstance(value, SecretStr) else str(value)


def as_variables(settings: Settings) -> dict[str, str]:
    """Write settings as variables, secrets included, so that a child process loads the same whatever its working folder is."""
    return {f"{PREFIX}{name}".upper(): _as_text(getattr(settings, name)) for name in Settings.model_fields if _is_set(settings, name)}


def _is_set(settings: Settings, name: str) -> bool:
    return getattr(settings, name) is not None


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(value)
    return json.dumps(value) if isinstance(value, dict | bool) else str(value)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Hub:
    """What a JupyterHub tells a service that it starts, by its `JUPYTERHUB_*` variables."""

    name: str  #: of the service
    api_url: str  #: of the Hub, as the service reaches it
    api_token: str = field(repr=False)  #: the service's own, which is its OAuth client secret too
    client_id: str
    prefix: str  #: path under which the Hub's proxy shows the service, such as /services/segkit
    host: str  #: scheme and host of the Hub for browsers; empty: the same as the service's
    base_url: str  #: path of the Hub for browsers, such as /
    callback: str  #: path or URL that the Hub sends browsers back to
    access_scopes: tuple[str, ...]  #: a user with one of them may come in
    service_url: str | None  #: where the Hub's proxy expects the service to listen

    @property
    def authorize_url(self) -> str:
        """Where a browser is sent to log in."""
        return f"{self.host}{self.base_url}hub/api/oauth2/authorize"


def hub() -> Hub | None:
    """Read what JupyterHub says; None when this process is no service of one, also when it runs in somebody's JupyterLab there.

    Raises
    ------
    SettingsError
        A variable is missing or cannot be read.
    """
    given = os.environ
    if "JUPYTERHUB_SERVICE_NAME" not in given or "JUPYTERHUB_API_URL" not in given:
        return None
    try:
        name, prefix = given["JUPYTERHUB_SERVICE_NAME"], given["JUPYTERHUB_SERVICE_PREFIX"].rstrip("/")
        scopes = json.loads(given.get("JUPYTERHUB_OAUTH_ACCESS_SCOPES") or given.get("JUPYTERHUB_OAUTH_SCOPES") or "[]")
        return Hub(
            name=name,
            api_url=given["JUPYTERHUB_API_URL"].rstrip("/"),
            api_token=given["JUPYTERHUB_API_TOKEN"],
            client_id=given.get("JUPYTERHUB_CLIENT_ID") or f"service-{name}",
            prefix=prefix,
            host=given.get("JUPYTERHUB_HOST", "").rstrip("/"),
            base_url=given.get("JUPYTERHUB_BASE_URL", "/"),
            callback=given.get("JUPYTERHUB_OAUTH_CALLBACK_URL") or f"{prefix}/oauth_callback",
            access_scopes=tuple(scopes) or (f"access:services!service={name}",),
            service_url=given.get("JUPYTERHUB_SERVICE_URL") or None,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise SettingsError(f"The variables that JupyterHub sets for a service cannot be used ({error}). Start it from the Hub.") from None


def process_environment(**extra: str) -> dict[str, str]:
    """Return the environment for a child process: this one's, and `extra`."""
    return {**os.environ, **extra}


def shared_folder(name: str) -> Path:
    """Find `notebooks`, `dashboards` or `conf`: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).parent
    inside = package / "shared" / name
    return inside if inside.is_dir() else package.parent / name
