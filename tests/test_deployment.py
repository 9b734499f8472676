"""What runs segkit without containers, and what watches it: units, job scripts, manifests, rules. Each names only what there is."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_compose import parsed_command

from segkit.settings import Settings, load
from segkit.telemetry import METRICS
from segkit.worker import GRACE_SECONDS

ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf"
UNITS = sorted((CONF / "systemd").glob("*.service"))
#: Functions and words of Prometheus' language that the rules use.
PROMQL = {"up", "job", "max", "min", "by", "instance", "part", "increase", "delta", "and", "or", "unless", "time", "status", "m", "h", "e"}


class Unit(RawConfigParser):
    """A unit of systemd, in which a key may be there many times: then its lines are joined."""

    def __init__(self, path: Path) -> None:
        super().__init__(strict=False, delimiters=("=",), comment_prefixes=("#", ";"), interpolation=None)
        self.optionxform = str  # type: ignore[assignment,method-assign]
        self.many: list[tuple[str, str]] = re.findall(r"^(\w+)=(.*)$", path.read_text(), re.MULTILINE)
        self.read(path)

    def all(self, key: str) -> list[str]:
        """Return every value of a key."""
        return [value for name, value in self.many if name == key]

    @property
    def environment(self) -> dict[str, str]:
        """Return its variables."""
        words = [word for line in self.all("Environment") for word in shlex.split(line)]
        return dict(word.split("=", 1) for word in words)


@pytest.fixture(params=UNITS, ids=lambda path: path.stem)
def unit(request: pytest.FixtureRequest) -> Unit:
    return Unit(request.param)


# systemd


def test_units_start_commands_of_ours_with_settings_that_there_are(unit: Unit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (start,) = unit.all("ExecStart")
    program, *words = shlex.split(start)
    assert program == "/opt/segkit/bin/segkit"
    parsed_command(["segkit", *words])
    for credential in unit.all("LoadCredential"):
        name, place = credential.split(":")
        assert place == f"/etc/segkit/secrets/{name}"
        assert name.upper() in {f"SEGKIT_{field.upper()}" for field in Settings.model_fields}
        (tmp_path / name).write_text({"segkit_database_url": "postgresql://segkit:x@localhost/segkit"}.get(name, "t" * 48))
    for variable, value in unit.environment.items():
        if variable.startswith("SEGKIT_"):
            monkeypatch.setenv(variable, str(CONF / Path(value).name) if variable == "SEGKIT_CONFIG" else value)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    settings = load()
    assert settings.home == "/var/lib/segkit"
    assert settings.database_url is not None
    assert settings.log_format == "json"


def test_units_are_closed_bounded_and_come_back(unit: Unit) -> None:
    service = unit["Service"]
    assert service["User"] == "segkit"
    assert service["MemoryMax"]
    assert service["Restart"] == "always" if service.get("Type") != "oneshot" else "Restart" not in service
    for key, value in (("NoNewPrivileges", "yes"), ("ProtectSystem", "strict"), ("PrivateTmp", "yes"), ("CapabilityBoundingSet", "")):
        assert service[key] == value
    assert "MemoryDenyWriteExecute" not in service  # kernels are compiled at run time
    assert not re.search(r"(?i)(password|token|url)=\S", " ".join(unit.all("Environment")))


def test_a_worker_has_time_to_give_its_work_back() -> None:
    worker = Unit(CONF / "systemd" / "segkit-worker.service")["Service"]
    assert int(worker["TimeoutStopSec"]) > GRACE_SECONDS
    assert worker["KillMode"] == "mixed"  # Dask's processes are ended by the worker, in order


def test_nginx_finds_what_the_units_start() -> None:
    nginx = (CONF / "nginx.conf").read_text()
    server, voila = (Unit(CONF / "systemd" / f"segkit-{name}.service") for name in ("server", "voila"))
    for unit, line in ((server, "upstream segkit"), (voila, "upstream voila")):
        given = parsed_command(shlex.split(unit["Service"]["ExecStart"].replace("/opt/segkit/bin/", "")))
        found = re.search(rf"{line} \{{\s+server 127\.0\.0\.1:(\d+)", nginx)
        assert found is not None
        assert int(found[1]) == given["port"]
    assert f"location {server.environment['SEGKIT_ACCEL_REDIRECT']}/ {{" in nginx
    assert f"alias {server.environment['SEGKIT_HOME']}/;" in nginx


def test_the_timer_has_a_service() -> None:
    for timer in (CONF / "systemd").glob("*.timer"):
        assert timer.with_suffix(".service") in UNITS
        assert Unit(timer)["Timer"]["Persistent"] == "true"


def test_the_page_on_units_names_each() -> None:
    page = (CONF / "systemd" / "README.md").read_text()
    for path in UNITS:
        assert path.stem in page
    for named in re.findall(r"conf/[\w./-]+\w", page):
        assert (ROOT / named).exists() or list(ROOT.glob(f"{named}*")), named


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="skipped: no systemd-analyze")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for path in (CONF / "systemd").glob("segkit-*"):
        text = path.read_text().replace("/opt/segkit/bin/segkit", str(Path(sys.executable).with_name("segkit")))
        (tmp_path / path.name).write_text(text)
    verify = ["systemd-analyze", "verify", "--man=no", *sorted(map(str, tmp_path.iterdir()))]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "segkit" in line]
    assert not ours


# SLURM


def run_job(tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the job's script, with a `srun` that tells what it was asked to run."""
    (tmp_path / "srun").write_text('#!/bin/sh\nprintf "%s\\n" "$DASK_CONFIG" "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    place = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "VIRTUAL_ENV": str(Path(sys.executable).parent.parent)}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SEGKIT_", "SLURM_", "DASK_"))}
    script = ["bash", str(CONF / "slurm" / "dask_workers.sbatch")]
    return subprocess.run(script, env=kept | place | variables, capture_output=True, text=True, check=False)


def test_a_slurm_job_starts_as_many_workers_as_it_has_cores_for(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text("")
    tls = {f"SEGKIT_DASK_TLS_{name.upper()}": str(tmp_path / name) for name in ("ca", "cert", "key")}
    given = {"SEGKIT_CLUSTER": "tls://head:8786", "SLURM_CPUS_PER_TASK": "16", "SLURM_MEM_PER_NODE": "34816"}
    done = run_job(tmp_path, **tls, **given)
    assert done.returncode == 0, done.stderr
    config, program, *words = done.stdout.splitlines()
    assert Path(config) == CONF / "dask.yaml"
    assert Path(program).is_file()
    asked = parsed_command(["dask", *words])
    assert (asked["scheduler"], asked["n_workers"], asked["nthreads"]) == ("tls://head:8786", "4", 4)
    assert asked["memory_limit"] == "8268MiB"  # a quarter of 34 GiB less a twentieth
    assert asked["tls_ca_file"] == str(tmp_path / "ca")
    assert not asked["dashboard"]
    few = run_job(tmp_path, **tls, **given | {"SLURM_CPUS_PER_TASK": "2"})
    assert "--nworkers\n1\n" in few.stdout


def test_a_slurm_job_says_what_it_lacks(tmp_path: Path) -> None:
    done = run_job(tmp_path)
    assert done.returncode != 0
    assert "SEGKIT_CLUSTER: names the scheduler" in done.stderr


def test_what_the_slurm_job_names_are_settings() -> None:
    text = (CONF / "slurm" / "dask_workers.sbatch").read_text()
    assert set(re.findall(r"SEGKIT_[A-Z_]*[A-Z]", text)) <= {f"SEGKIT_{name.upper()}" for name in Settings.model_fields}
    options = re.findall(r"^#SBATCH (--[a-z-]+)=\S+|^#SBATCH (--requeue)$", text, re.MULTILINE)
    assert len(options) == len(re.findall("^#SBATCH", text, re.MULTILINE))


# Kubernetes

manifests: list[dict[str, Any]] = list(yaml.safe_load_all((CONF / "kubernetes" / "dask.yaml").read_text()))


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [each for each in manifests if each["kind"] == kind]


def test_each_manifest_is_of_a_kind_that_there_is_and_in_one_namespace() -> None:
    versions = {"Deployment": "apps/v1", "Service": "v1", "PersistentVolumeClaim": "v1", "NetworkPolicy": "networking.k8s.io/v1"}
    assert {each["kind"]: each["apiVersion"] for each in manifests} == versions
    assert {each["metadata"]["namespace"] for each in manifests} == {"segkit"}


@pytest.mark.parametrize("deployment", of_kind("Deployment"), ids=lambda each: each["metadata"]["name"])
def test_deployments_are_closed_bounded_and_run_dask(deployment: dict[str, Any]) -> None:
    spec = deployment["spec"]
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    given = parsed_command(container["args"])
    assert not given["dashboard"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"]["memory"]
    assert re.fullmatch(r"\S+:\d+\.\d+\.\d+", container["image"])
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    claims = {each["metadata"]["name"] for each in of_kind("PersistentVolumeClaim")}
    for volume in volumes.values():
        if "persistentVolumeClaim" in volume:
            assert volume["persistentVolumeClaim"]["claimName"] in claims
    (certificates,) = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "certificates"]
    made = (CONF / "make_secrets.sh").read_text()
    for part in ("tls_ca_file", "tls_cert", "tls_key"):
        assert Path(given[part]).parent == Path(certificates)
        assert Path(given[part]).name in made


def test_the_service_leads_to_the_scheduler() -> None:
    (service,) = of_kind("Service")
    scheduler, worker = of_kind("Deployment")
    assert service["spec"]["selector"] == scheduler["spec"]["template"]["metadata"]["labels"]
    port = service["spec"]["ports"][0]["port"]
    given = parsed_command(worker["spec"]["template"]["spec"]["containers"][0]["args"])
    assert given["scheduler"] == f"tls://{service['metadata']['name']}:{port}"
    assert (given["nthreads"], given["n_workers"]) == (4, "1")
    (policy,) = of_kind("NetworkPolicy")
    labels = {each["metadata"]["labels"]["app"] for each in (scheduler["spec"]["template"], worker["spec"]["template"])}
    assert set(policy["spec"]["podSelector"]["matchExpressions"][0]["values"]) == labels


# Prometheus and Grafana

prometheus = yaml.safe_load((CONF / "prometheus" / "prometheus.yml").read_text())
rules = [rule for group in yaml.safe_load((CONF / "prometheus" / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


def test_each_alert_is_explained_and_each_explanation_has_an_alert() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    named = [rule["alert"] for rule in rules]
    assert len(named) == len(set(named))
    assert set(named) == set(re.findall(r"\bSegkit[A-Z]\w+", page))


@pytest.mark.parametrize("rule", rules, ids=lambda rule: rule["alert"])
def test_rules_ask_for_metrics_that_there_are(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert re.fullmatch(r"\d+[mh]", rule.get("for", "1m"))
    known = {metric.name: metric for metric in METRICS.values()}
    asked = set(re.findall(r"\bsegkit_\w+", rule["expr"]))
    assert asked <= set(known)
    assert asked or rule["expr"] == 'up{job="segkit"} == 0'
    assert rule["expr"].count("(") == rule["expr"].count(")")
    words = set(re.findall(r"[a-z_]+", re.sub(r'"[^"]*"', "", rule["expr"])))
    assert words - asked <= PROMQL
    for name, label in re.findall(r"(segkit_\w+)\{(\w+)=", rule["expr"]):
        assert label in known[name].labels
    for function, name in re.findall(r"(increase|delta)\((segkit_\w+)", rule["expr"]):
        assert known[name].kind == ("counter" if function == "increase" else "gauge")


def test_labels_in_rules_have_values_that_there_are() -> None:
    text = " ".join(rule["expr"] for rule in rules)
    assert set(re.findall(r'status="(\w+)"', text)) <= {"queued", "running", "done", "failed", "cancelled"}
    assert set(re.findall(r'part="(\w+)"', text)) <= {"database", "changes", "cache", "home", "memory"}


def test_prometheus_asks_where_the_service_answers() -> None:
    (job,) = prometheus["scrape_configs"]
    assert (job["job_name"], job["metrics_path"]) == ("segkit", "/metrics")
    assert prometheus["rule_files"] == ["alerts.yml"]
    assert job["authorization"]["credentials_file"] == "/run/secrets/segkit_metrics_token"
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert job["static_configs"] == [{"targets": ["server:8765"]}]
    assert set(compose["services"]["prometheus"]["networks"]) <= set(compose["services"]["server"]["networks"])
    assert "segkit_metrics_token" in compose["services"]["prometheus"]["secrets"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="skipped: no promtool")
def test_promtool_takes_configuration_and_rules() -> None:
    for command in (["config", "--syntax-only", "prometheus.yml"], ["rules", "alerts.yml"]):
        subprocess.run(["promtool", "check", *command], cwd=CONF / "prometheus", check=True)


def test_grafana_is_given_its_source_and_its_page() -> None:
    provisioning = CONF / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert source["url"] == "http://prometheus:9090"
    assert source["type"] in json.dumps(json.loads((CONF / "grafana" / "segkit.json").read_text()))
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "segkit.yml").read_text())["providers"]
    mounted = [mount for mount in compose["grafana"]["volumes"] if mount.startswith("./conf/grafana/segkit.json:")]
    assert mounted == [f"./conf/grafana/segkit.json:{provider['options']['path']}/segkit.json:ro"]
    assert set(compose["grafana"]["networks"]) & set(compose["prometheus"]["networks"])


# All of conf/


def test_every_file_of_conf_is_used() -> None:
    """Named by another file of the project: a page, a command, a container, a test of its own is not enough."""
    texts = [path.read_text(errors="replace") for path in (ROOT / "segkit").rglob("*.py")]
    texts += [
        path.read_text() for path in (*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "Dockerfile", ROOT / "docker-compose.yml")
    ]
    confs = {path: path.read_text() for path in CONF.rglob("*") if path.is_file()}
    for path in confs:
        said = "\n".join([*texts, *(text for other, text in confs.items() if other != path)])
        places = [path.name, *(f"conf/{parent.relative_to(CONF)}" for parent in path.parents if CONF in parent.parents)]
        assert any(place in said for place in places), path
