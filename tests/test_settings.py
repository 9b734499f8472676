"""Settings: three sources in order of weight, errors that name the setting, and every setting documented."""

from __future__ import annotations

from pathlib import Path

import pytest

from segkit.errors import SettingsError
from segkit.settings import Settings, explain, load, parse_bytes, shared_folder

NAMED_BY_THE_ISSUE = [
    "SEGKIT_DB_POOL_MAX",
    "SEGKIT_CACHE_TTL_PROJECTS",
    "SEGKIT_CACHE_TTL_IMAGES",
    "SEGKIT_CACHE_TTL_RESULTS",
    "SEGKIT_CACHE_TTL_QUEUE",
    "SEGKIT_COMPRESSION_LEVEL",
    "SEGKIT_PREFETCH",
    "SEGKIT_THREADS_PER_WORKER",
    "SEGKIT_WORKER_MEMORY",
    "SEGKIT_ENABLE_PERFORMANCE_MONITORING",
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder without a settings file."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_defaults_are_those_promised() -> None:
    settings = load()
    assert (settings.prefetch, settings.threads_per_worker, settings.worker_memory) == (4, 4, 2 * 1024**3)
    assert settings.resolved_database_url.endswith("/segkit-data/segkit.db")


def test_arguments_outweigh_variables_outweigh_the_file(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "conf").mkdir()
    (elsewhere / "conf" / "segkit.toml").write_text('prefetch = 2\nthreads_per_worker = 2\nworker_memory = "1 GiB"\n')
    monkeypatch.setenv("SEGKIT_PREFETCH", "3")
    monkeypatch.setenv("SEGKIT_THREADS_PER_WORKER", "3")
    settings = load(prefetch=5)
    assert (settings.prefetch, settings.threads_per_worker, settings.worker_memory) == (5, 3, 1024**3)
    sources = {each.name: each.source for each in explain(settings, prefetch=5)}
    assert sources["SEGKIT_PREFETCH"] == "argument"
    assert sources["SEGKIT_THREADS_PER_WORKER"] == "variable SEGKIT_THREADS_PER_WORKER"
    assert sources["SEGKIT_WORKER_MEMORY"] == "conf/segkit.toml"
    assert sources["SEGKIT_HOME"] == "default"


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGKIT_DATABASE_URL", "postgresql://me:hunter2@there/db")
    settings = load()
    shown = [f"{each}" for each in explain(settings)]
    assert settings.resolved_database_url == "postgresql://me:hunter2@there/db"
    assert "hunter2" not in "".join(shown) + repr(settings)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"prefetch": 0}, "SEGKIT_PREFETCH"),
        ({"prefetch": "many"}, "SEGKIT_PREFETCH"),
        ({"worker_memory": "2 parsecs"}, "SEGKIT_WORKER_MEMORY"),
        ({"cluster": "cloud"}, "SEGKIT_CLUSTER"),
        ({"thread_per_worker": 2}, 'Did you mean "threads_per_worker"'),
        ({"lease_seconds": 10, "beat_seconds": 10}, "SEGKIT_BEAT_SECONDS"),
    ],
)
def test_a_bad_value_is_named(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        load(**arguments)


def test_a_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGKIT_PREFECH", "3")
    with pytest.raises(SettingsError, match='Did you mean "SEGKIT_PREFETCH"'):
        load()


def test_a_bad_variable_says_where_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGKIT_PREFETCH", "-1")
    with pytest.raises(SettingsError, match="from variable SEGKIT_PREFETCH"):
        load()


@pytest.mark.parametrize("content", ["prefetch = [", "prefetch = 0", "prefech = 3", '"\x00" = 1'])
def test_a_bad_file_is_an_error_in_words(elsewhere: Path, content: str) -> None:
    (elsewhere / "segkit.toml").write_text(content)
    with pytest.raises(SettingsError):
        load()


def test_a_named_file_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGKIT_CONFIG", "gone.toml")
    with pytest.raises(SettingsError, match=r"gone\.toml"):
        load()


def test_a_home_in_a_store_needs_a_database() -> None:
    with pytest.raises(SettingsError, match="SEGKIT_DATABASE_URL"):
        _ = load(home="s3://lab/segkit").resolved_database_url


def test_every_setting_is_documented() -> None:
    names = {f"SEGKIT_{name}".upper() for name in Settings.model_fields}
    assert set(NAMED_BY_THE_ISSUE) <= names
    assert not [name for name, field in Settings.model_fields.items() if not (field.description or "").strip().endswith((".", ")"))]


def test_the_shipped_file_shows_real_settings() -> None:
    lines = (shared_folder("conf") / "segkit.toml").read_text().splitlines()
    named = {line.removeprefix("# ").split(" = ")[0] for line in lines if " = " in line and line.startswith("# ") and "(" not in line}
    assert named
    assert named <= set(Settings.model_fields)


@pytest.mark.parametrize(("text", "number"), [("2 GiB", 2 * 1024**3), ("512M", 512 * 1024**2), ("1.5k", 1536), ("7", 7), ("7 b", 7)])
def test_sizes_are_read_as_people_write_them(text: str, number: int) -> None:
    assert parse_bytes(text) == number
