"""docker-compose.yml and the Dockerfile: valid, nothing in them that segkit or Dask does not know, closed, bounded, no secret inside."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterable
from fnmatch import fnmatch
from importlib import resources
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from distributed.cli.dask_scheduler import main as dask_scheduler
from distributed.cli.dask_worker import main as dask_worker
from jsonschema.validators import validator_for
from typer.main import get_command

from segkit.cli import app
from segkit.settings import Settings, load, parse_bytes
from segkit.worker import GRACE_SECONDS

ROOT = Path(__file__).parent.parent
FILE, RECIPE = ROOT / "docker-compose.yml", ROOT / "Dockerfile"
#: Read by docker compose itself.
ONLY_COMPOSE = {"SEGKIT_IMAGES", "SEGKIT_PORT", "SEGKIT_TLS"}

document: dict[str, Any] = yaml.safe_load(FILE.read_text())
services: dict[str, dict[str, Any]] = document["services"]
OURS = [name for name, service in services.items() if service["image"] == "segkit:local"]


def parsed(command: Any, words: Iterable[str]) -> dict[str, Any]:
    """Read a command line as the command itself would, without running it; raises on what it does not know."""
    words = list(words)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    for parameter in command.params:
        if isinstance(getattr(parameter, "type", None), click.Path):
            parameter.type.exists = False  # in the container it does
    given: dict[str, Any] = command.make_context(command.name, words).params
    return given


def parsed_command(words: list[str]) -> dict[str, Any]:
    """Read the command line of one of our containers."""
    if words[0] == "dask":
        return parsed({"scheduler": dask_scheduler, "worker": dask_worker}[words[1]], words[2:])
    assert words[0] == "segkit"
    return parsed(get_command(app), words[1:])


def test_it_follows_the_compose_specification() -> None:
    schema = json.loads((resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json").read_text())
    specification = validator_for(schema)(schema)
    assert [error.message for error in specification.iter_errors(document)] == []
    for wrong in ({"depends_on": {"server": {"condition": "is well"}}}, {"helthcheck": {}}, {"mem_limit": []}):
        assert not specification.is_valid(document | {"services": {"nginx": services["nginx"] | wrong}})


def test_the_profiles_hold_what_they_should() -> None:
    of = {profile: {name for name, service in services.items() if profile in service["profiles"]} for profile in ("dev", "prod")}
    both = {"upgrade", "server", "voila", "nginx", "postgres", "redis"}
    assert of["dev"] == both | {"worker-dev"}
    assert of["prod"] == both | {"worker", "scheduler", "dask-scheduler", "dask-worker", "prometheus", "grafana"}
    assert of["dev"] | of["prod"] == set(services)
    for profile, names in of.items():
        for name in names:
            assert set(services[name].get("depends_on", {})) <= names, (profile, name)


def test_every_variable_is_a_setting() -> None:
    named = set(re.findall(r"SEGKIT_[A-Z_]+", FILE.read_text() + RECIPE.read_text())) - {"SEGKIT_DASK_TLS_"}
    known = {f"SEGKIT_{name.upper()}" for name in Settings.model_fields}
    assert named - known == ONLY_COMPOSE
    for service in services.values():  # inside a container they would be refused as unknown settings
        assert not ONLY_COMPOSE & set(service.get("environment", {}))


@pytest.mark.parametrize("name", OURS)
def test_values_and_secrets_are_accepted(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    service = services[name]
    for variable, value in service.get("environment", {}).items():
        assert isinstance(value, str)
        monkeypatch.setenv(variable, value)
    subprocess.run(["sh", ROOT / "conf" / "make_secrets.sh", tmp_path / "secrets"], check=True, capture_output=True)
    (tmp_path / "run").mkdir()
    for secret in service.get("secrets", []):
        shutil.copy(tmp_path / "secrets" / secret, tmp_path / "run" / secret)
    monkeypatch.setenv("SEGKIT_SECRETS", str(tmp_path / "run"))
    settings = load()
    assert settings.home == "/var/lib/segkit" or not service.get("environment")
    if "segkit_database_url" in service["secrets"]:
        assert re.fullmatch(r"postgresql://segkit:[0-9a-f]{48}@postgres/segkit", settings.resolved_database_url)
        assert settings.redis_url is not None
    if name == "server":
        assert settings.token is not None
        assert settings.metrics_token is not None
    if name == "worker":
        assert (settings.cluster, settings.threads_per_worker) == ("tls://dask-scheduler:8786", 4)
        for place in (settings.dask_tls_ca, settings.dask_tls_cert, settings.dask_tls_key):
            assert Path(str(place)).parent == Path("/run/secrets")
            assert Path(str(place)).name in service["secrets"]


@pytest.mark.parametrize("name", OURS)
def test_its_commands_are_commands_of_ours_and_of_dask(name: str) -> None:
    parsed_command(services[name]["command"])
    check = services[name].get("healthcheck", {}).get("test", ["CMD", "segkit", "db", "check"])
    assert check[0] == "CMD"
    if check[1] == "python":
        compile(check[3], name, "exec")
    else:
        parsed_command(check[1:])


def test_a_misspelt_command_or_option_would_be_found() -> None:
    for wrong in (["segkit", "wroker"], ["segkit", "serve", "--prot", "1"], ["dask", "worker", "tls://x:1", "--nthread=4"]):
        with pytest.raises(Exception, match=r"wroker|--prot|--nthread"):
            parsed_command(wrong)


def test_dask_works_in_four_threads_below_its_containers_memory_and_over_tls() -> None:
    given = parsed_command(services["dask-worker"]["command"])
    assert (given["nthreads"], given["n_workers"], given["dashboard"]) == (4, "1", False)
    assert parse_bytes(given["memory_limit"]) < 0.9 * parse_bytes(services["dask-worker"]["mem_limit"])  # type: ignore[operator]
    assert given["scheduler"] == services["worker"]["environment"]["SEGKIT_CLUSTER"]
    assert int(given["death_timeout"]) > 30
    for name in ("dask-worker", "dask-scheduler"):
        told = parsed_command(services[name]["command"])
        assert {told[part] for part in ("tls_ca_file", "tls_cert", "tls_key")} == {
            f"/run/secrets/{each}" for each in services[name]["secrets"]
        }
        assert not told["dashboard"]
    assert parsed_command(services["dask-scheduler"]["command"])["protocol"] == "tls"


def test_memory_is_limited_as_it_should_be() -> None:
    limits = {name: parse_bytes(service["mem_limit"]) for name, service in services.items()}
    assert limits["server"] == 1024**3
    assert {limits[name] for name in ("worker", "worker-dev", "dask-worker")} == {2 * 1024**3}
    assert {limits[name] for name in ("voila", "grafana")} == {512 * 1024**2}
    kept = re.search(r"^maxmemory (\S+)$", (ROOT / "conf" / "redis.conf").read_text(), re.MULTILINE)
    assert kept is not None
    assert parse_bytes(kept[1]) == 256 * 1024**2
    assert limits["redis"] == 1.25 * 256 * 1024**2
    dev = load(worker_memory=services["worker-dev"]["environment"]["SEGKIT_WORKER_MEMORY"])
    assert dev.worker_memory * int(services["worker-dev"]["environment"]["SEGKIT_WORKERS"]) < 0.7 * limits["worker-dev"]  # type: ignore[operator]


@pytest.mark.parametrize("name", services)
def test_every_container_is_closed_and_comes_back(name: str) -> None:
    service = services[name]
    assert service["restart"] == ("no" if name == "upgrade" else "unless-stopped")
    assert "healthcheck" in service or name == "upgrade"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert str(service["user"]) not in ("", "0", "root")
    assert not str(service["user"]).startswith("0:")
    assert not {"privileged", "network_mode", "pid", "ipc", "devices", "cap_add", "dns", "extra_hosts"} & set(service)
    assert set(service["profiles"]) <= {"dev", "prod"}


def test_only_nginx_is_published_and_to_this_machine_alone() -> None:
    assert {name: service["ports"] for name, service in services.items() if "ports" in service} == {
        "nginx": ["127.0.0.1:8080:${SEGKIT_PORT:-8080}"]
    }
    assert document["networks"]["back"]["internal"] is True
    inside = {name for name, service in services.items() if "front" not in service["networks"] and "out" not in service["networks"]}
    assert inside == {"upgrade", "dask-scheduler", "dask-worker", "postgres", "redis", "prometheus"}


def test_no_secret_is_inside_and_each_goes_only_to_who_needs_it() -> None:
    assert not re.search(r"(?i)(password|token|secret): *[^\s{\[&*]", re.sub(r"(?m)^ *#.*$|file: \S+", "", FILE.read_text()))
    assert all(each == {"file": f"./secrets/{name}"} for name, each in document["secrets"].items())
    given = {name: set(service.get("secrets", [])) for name, service in services.items()}
    assert set().union(*given.values()) == set(document["secrets"])
    assert {name for name, has in given.items() if "segkit_token" in has} == {"server"}
    assert {name for name, has in given.items() if "dask_key" in has} == {"worker", "dask-scheduler", "dask-worker"}
    assert "segkit_database_url" not in given["dask-worker"]  # what segments has no way to the database
    for service in services.values():
        for variable, value in service.get("environment", {}).items():
            if str(value).startswith("/run/secrets/"):
                assert value.removeprefix("/run/secrets/") in service["secrets"], variable


def test_secrets_are_made_closed_and_once(tmp_path: Path) -> None:
    script = ["sh", str(ROOT / "conf" / "make_secrets.sh"), str(tmp_path / "secrets")]
    subprocess.run(script, check=True, capture_output=True)
    folder = tmp_path / "secrets"
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(made) == set(document["secrets"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o444}
    assert made["postgres_password"] in made["segkit_database_url"]
    assert len({made[name] for name in made if "dask" not in name}) == 5
    check = ["openssl", "verify", "-CAfile", str(folder / "dask_ca"), str(folder / "dask_cert")]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0
    subprocess.run(script, check=True, capture_output=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == made


def mounts(service: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Source, place and mode of each mount."""
    found = []
    for mount in service.get("volumes", []):
        source, place, mode = re.fullmatch(r"(\$\{\w+:-[^}]+\}|[^:]+):([^:]+)(?::(\w+))?", mount).groups()  # type: ignore[union-attr]
        found.append((source, place, mode or "rw"))
    return found


def test_what_is_mounted_is_there_and_files_of_ours_are_read_only() -> None:
    used = set()
    for name, service in services.items():
        for source, place, mode in mounts(service):
            if source in document["volumes"]:
                used.add(source)
                assert mode == "rw" or name == "nginx"
            elif source.startswith("./"):
                assert (ROOT / source).exists(), source
                assert mode == "ro"
            else:
                assert (source, mode) in {("${SEGKIT_IMAGES:-./images}", "ro"), ("${SEGKIT_TLS:-./secrets/tls}", "ro"), (".", "ro")}
            assert place.startswith("/")
    assert used == set(document["volumes"])
    assert {place for _, place, _ in mounts(services["nginx"])} == {"/var/lib/segkit", "/etc/segkit/tls"}


def test_images_are_pinned_and_built_from_stages_that_there_are() -> None:
    recipe = RECIPE.read_text()
    assert len(re.findall("^FROM", recipe, re.MULTILINE)) == len(re.findall(r"^FROM \S+ AS \w+$", recipe, re.MULTILINE)) == 3
    bases = re.findall(r"^FROM (\S+)", recipe, re.MULTILINE)
    built = {service["image"]: service["build"]["target"] for service in services.values() if "build" in service}
    assert built == {"segkit:local": "segkit", "segkit-front:local": "front"}
    assert set(built.values()) <= set(re.findall(r" AS (\w+)$", recipe, re.MULTILINE))
    pulled = [service["image"] for service in services.values() if "build" not in service]
    for image in [*bases, *pulled]:
        assert re.fullmatch(r"[a-z./-]+:v?\d+\.\d+(\.\d+)?(-[a-z-]+)?", image), image


def test_what_the_dockerfile_copies_is_there_and_reaches_the_engine() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", RECIPE.read_text(), re.MULTILINE):
        for source in copied.split():
            assert (ROOT / source).exists(), source
            assert any(fnmatch(source, rule) or source.startswith(f"{rule}/") for rule in allowed), source
    assert not {"secrets", ".git", ".venv", "segkit-data", "tests"} & set(allowed)
    users = re.findall(r"^USER (\S+)$", RECIPE.read_text(), re.MULTILINE)
    assert users == ["10001:10001", "www-data"]


def test_what_a_container_starts_with(tmp_path: Path) -> None:
    """Compiled kernels are put where numba may write; then the command takes the script's place."""
    script = ROOT / "conf" / "container_start.sh"
    ran = subprocess.run(
        ["sh", script, "sh", "-c", "echo $$ $0 $1", "a b"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
    )
    assert ran.stdout.split()[1:] == ["a", "b"]
    environment = dict(re.findall(r"(\w+)=(\S+)", RECIPE.read_text()))
    assert environment["NUMBA_CACHE_DIR"].startswith("/tmp/")
    assert "/opt/segkit/kernels" in script.read_text()
    assert "NUMBA_CACHE_DIR=/opt/segkit/kernels" in RECIPE.read_text()


def front_config() -> str:
    """conf/nginx.conf as the Dockerfile changes it, by the same sed."""
    edit = re.search(r"^RUN sed -i (.*?)/etc/nginx/nginx\.conf$", RECIPE.read_text(), re.MULTILINE | re.DOTALL)
    assert edit is not None
    script = edit[1].replace("\\\n", " ")
    given = f"sed {script} {ROOT / 'conf' / 'nginx.conf'}"
    return subprocess.run(given, shell=True, capture_output=True, text=True, check=True).stdout


def test_nginx_in_its_container_reaches_those_it_should(tmp_path: Path) -> None:
    config = front_config()
    addresses = {name: service["networks"]["front"]["ipv4_address"] for name, service in services.items() if "front" in service["networks"]}
    (network,) = document["networks"]["front"]["ipam"]["config"]
    assert all(ip_address(each) in ip_network(network["subnet"]) for each in addresses.values())
    for name, port in (("server", 8765), ("voila", 8866), ("grafana", 3000)):
        assert f"server {addresses[name]}:{port} " in config
    assert "127.0.0.1" not in re.sub(r"(?m)^ *#.*$", "", config)
    assert parsed_command(services["voila"]["command"])["host"] == addresses["voila"]
    assert services["server"]["environment"]["SEGKIT_TRUSTED_PROXIES"] == addresses["nginx"]
    assert "listen 8080 " in config
    assert f"location {services['server']['environment']['SEGKIT_ACCEL_REDIRECT']}/" in config
    assert f"alias {services['server']['environment']['SEGKIT_HOME']}/" in config
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if nginx is not None and Path("/usr/lib/nginx/modules/ngx_http_brotli_filter_module.so").is_file():
        (tmp_path / "nginx.conf").write_text(config.replace("/tmp/", f"{tmp_path}/"))
        tried = subprocess.run([nginx, "-e", "stderr", "-t", "-c", tmp_path / "nginx.conf"], capture_output=True, text=True, check=False)
        assert tried.returncode == 0, tried.stderr


def test_whoever_stops_has_time_to() -> None:
    for name in ("worker", "worker-dev", "dask-worker"):
        assert int(services[name]["stop_grace_period"].removesuffix("s")) > GRACE_SECONDS
