"""The files in deploy/: what cannot be started here is held against what is here.

No container, pod or unit is run by these tests. They say that each is as closed as docs/deploy.md
has it, that the commands in them exist, that ports and paths agree with each other and with the
code's own, and what systemd-analyze and kubectl, where they are installed, make of them.
"""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml  # type: ignore[import-untyped]

import tacit
from tacit.app.cli.main import cli
from tacit.app.deployment.environment import environment
from tacit.app.server_folder import JOINED, PORT
from tests.test_layout import ROOMS, ROOT

DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
USER = "10001"
USERS_OWN = {"deploy/data", "deploy/secrets/operator.key"}  # made by who follows the guide
NOT_RUN = re.compile(r"[Nn]ot (run|started|applied)\b|not applied")
MAX_EXPOSURE = 2.0  # of systemd-analyze security, from 0 to 10; "OK" goes to 5
QUIET = {
    name: value
    for name, value in environment(Path(), {}).items()
    if name.endswith(("TELEMETRY_ENABLED", "UPDATE_CHECK", "DEPENDENCY_INSTALLATION"))
}


def documents() -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        yield from yaml.safe_load_all(path.read_text())


def pods() -> list[dict[str, Any]]:
    """The specs of all pods."""
    found = [doc["spec"] for doc in documents() if doc["kind"] == "Pod"]
    return found + [
        doc["spec"]["template"]["spec"] for doc in documents() if doc["kind"] == "StatefulSet"
    ]


def containers() -> list[dict[str, Any]]:
    return [each for pod in pods() for each in (*pod.get("initContainers", ()), *pod["containers"])]


def commands() -> Iterator[list[str]]:
    """Every command that these files have a process run, or a probe."""
    for line in re.findall(r"CMD (\[.*\])$", DOCKERFILE, re.MULTILINE):
        yield json.loads(line)
    for service in SERVICES.values():
        yield [str(each) for each in service["command"]]
        if "test" in service.get("healthcheck", {}):
            yield service["healthcheck"]["test"][1:]
    for container in containers():
        yield container["command"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if "exec" in container.get(probe, {}):
                yield container[probe]["exec"]["command"]
    for unit in UNITS:
        for line in re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE):
            yield ["tacit", *shlex.split(line)[1:]]


def check_command(words: list[str]) -> None:
    """Raises AssertionError unless `tacit` has such a command, with such options."""
    command: Any = typer.main.get_command(cli)
    rest = words[1:]
    while hasattr(command, "commands"):
        assert rest, f"{words}: no command"
        assert rest[0] in command.commands, f"{words}: no command {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    known = {name for each in command.params for name in each.opts}
    for word in rest:
        assert not word.startswith("-") or word in known, f"{words}: no option {word}"


def test_commands_exist() -> None:
    ours = [words for words in commands() if words[0] == "tacit"]
    assert len(ours) >= 12
    for words in ours:
        check_command(words)
    others = {words[0] for words in commands()} - {"tacit"}
    assert others <= {"test", "sleep", "true"}
    with pytest.raises(AssertionError, match="no command"):
        check_command(["tacit", "device", "walk", "/vault"])
    with pytest.raises(AssertionError, match="no option"):
        check_command(["tacit", "up", "--upwards"])


def test_each_says_what_was_not_run() -> None:
    heads = [DEPLOY / "Dockerfile", DEPLOY / "compose.yaml", *UNITS, *MANIFESTS]
    assert len(heads) >= 10
    for path in heads:
        head = "".join(line for line in path.open() if line.startswith("#"))
        assert NOT_RUN.search(head), f"{path.name}: nothing at its head"


def test_an_empty_folder_does_not_become_a_federation() -> None:
    """`tacit up` there makes an authority of its own: all that runs it looks first."""
    there = f"/tacit/server/{JOINED}"
    server = SERVICES["server"]["depends_on"]["joined"]
    assert server == {"condition": "service_completed_successfully"}
    assert SERVICES["joined"]["command"] == ["test", "-f", there]
    (pod,) = (pod for pod in pods() if pod["containers"][0]["command"][:2] == ["tacit", "up"])
    assert pod["initContainers"][0]["command"] == ["test", "-f", there]
    unit = (DEPLOY / "systemd" / "tacit-server.service").read_text()
    assert f"ConditionPathExists=/var/lib/tacit/server/{JOINED}\n" in unit


# Docker


def test_images_hold_what_is_installed_and_run_as_nobody() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    named = {stage.split(" AS ")[1].split()[0]: stage for stage in stages}
    for target in ("server", "device"):
        assert f"USER {USER}:{USER}\n" in named[target]
        assert "HEALTHCHECK" in named[target]
        assert named[target].index("USER") < named[target].rindex("\nCMD")
    assert "[sim]" not in named["build"]
    assert "sim" not in named["device"]
    assert "build-server" not in named["device"]
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    wanted = {name for line in copied for name in line.split()}
    assert {"tacit", *ROOMS} <= wanted
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert allowed[allowed.index("*") + 1 :][: len(wanted)] == [
        f"!{name}" for name in sorted(wanted)
    ]
    assert all((ROOT / name).exists() for name in wanted)
    assert f"EXPOSE {PORT}\n" in named["server"]
    assert "EXPOSE" not in named["device"]
    for name, value in QUIET.items():
        assert f"{name}={value}" in named["base"]
    assert not re.search(r"^(ADD|RUN .*\b(curl|wget|sudo|chmod 777)\b)", DOCKERFILE, re.MULTILINE)
    assert not re.search(r"^(ENV|ARG) .*(SECRET|PASSWORD|TOKEN|KEY)", DOCKERFILE, re.MULTILINE)


@pytest.mark.parametrize("name", SERVICES)
def test_compose_is_closed(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] == f"{USER}:{USER}"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "devices", "env_file", "environment"} & service.keys()
    assert {"mem_limit", "cpus", "pids_limit"} <= service.keys()
    assert {"healthcheck"} <= service.keys() or service["image"] == "tacit-device"
    for each in service["volumes"]:
        source, target, *mode = each.split(":")
        assert target in ("/tacit", "/data")
        assert target == "/tacit" or mode == ["ro"]
        assert source == "./data" or source in COMPOSE["volumes"]


def test_compose_shows_the_front_and_nothing_else() -> None:
    assert {name for name, each in SERVICES.items() if "ports" in each} == {"server"}
    assert SERVICES["server"]["ports"] == [f"{PORT}:{PORT}"]
    devices = [each for name, each in SERVICES.items() if name.startswith("device-")]
    assert len(devices) == 3
    assert COMPOSE["networks"]["fleet"] == {"internal": True}
    for number, device in enumerate(devices):
        assert device["networks"] == ["fleet"]
        assert device["mem_limit"] == "512m"
        assert device["command"][-1] == f"partition-id={number}"
    assert len({tuple(device["volumes"]) for device in devices}) == len(devices)
    for secret in COMPOSE["secrets"].values():
        assert secret.keys() == {"file"}


# Kubernetes


def test_pods_are_closed() -> None:
    assert len(pods()) == 3
    for pod in pods():
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert str(context["runAsUser"]) == str(context["runAsGroup"]) == USER
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert all(
            volume.keys() & {"persistentVolumeClaim", "emptyDir"} for volume in pod["volumes"]
        )
    for container in containers():
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "privileged" not in context
        for kind in ("requests", "limits"):
            assert container["resources"][kind].keys() == {"cpu", "memory"}
    for pod in pods():
        for container in pod["containers"]:
            assert "readinessProbe" in container
    names = [doc for doc in documents() if doc["kind"] == "Namespace"]
    assert names[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_volumes_of_pods_are_there() -> None:
    claims = {d["metadata"]["name"] for d in documents() if d["kind"] == "PersistentVolumeClaim"}
    for doc in documents():
        if doc["kind"] == "StatefulSet":
            spec, name = doc["spec"], doc["metadata"]["name"]
            for claim in spec.get("volumeClaimTemplates", ()):
                made = claim["metadata"]["name"]
                claims |= {f"{made}-{name}-{number}" for number in range(spec["replicas"])}
    for pod in pods():
        own = {volume["name"] for volume in pod["volumes"]}
        used = {
            v["persistentVolumeClaim"]["claimName"]
            for v in pod["volumes"]
            if "persistentVolumeClaim" in v
        }
        assert used <= claims
        mounted = {m["name"] for c in pod["containers"] for m in c["volumeMounts"]}
        assert mounted <= own | {"vault"}


def test_only_the_front_is_reached() -> None:
    services = [doc for doc in documents() if doc["kind"] == "Service"]
    assert [port["port"] for doc in services for port in doc["spec"]["ports"]] == [PORT]
    policies = {
        d["metadata"]["name"]: d["spec"] for d in documents() if d["kind"] == "NetworkPolicy"
    }
    assert policies["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    reached = [port["port"] for each in policies["front"]["ingress"] for port in each["ports"]]
    assert reached == [PORT]
    assert {p["port"] for e in policies["device"]["egress"] for p in e["ports"]} == {PORT, 53}
    (server,) = (c for c in containers() if c["command"][:2] == ["tacit", "up"])
    assert [port["containerPort"] for port in server["ports"]] == [PORT]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        get = server[probe]["httpGet"]
        assert get == {"scheme": "HTTPS", "path": "/health", "port": "front"}
    for container in containers():
        given = {each["name"]: each.get("value") for each in container.get("env", ())}
        if container["command"][0] == "tacit":
            assert QUIET.items() <= given.items()


def test_images_are_of_this_version() -> None:
    kept = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    assert {each["newTag"] for each in kept["images"]} == {tacit.__version__}
    (enrol,) = (pod for pod in pods() if pod["containers"][0]["name"] == "enrol")
    assert enrol["containers"][0]["image"] == f"tacit-server:{tacit.__version__}"
    listed = {f"{path.name}" for path in MANIFESTS} - {"kustomization.yaml", "enrol.yaml"}
    assert set(kept["resources"]) == listed


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_puts_it_together() -> None:
    command = ["kubectl", "kustomize", str(DEPLOY / "kubernetes")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    kinds = [each["kind"] for each in yaml.safe_load_all(done.stdout)]
    assert sorted(kinds) == sorted(
        doc["kind"] for doc in documents() if doc["kind"] not in ("Kustomization", "Pod")
    )


# systemd


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_units_are_closed(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    wanted = {
        "CapabilityBoundingSet=",
        "NoNewPrivileges=yes",
        "PrivateTmp=yes",
        "ProtectHome=yes",
        "ProtectSystem=strict",
        "Restart=always",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "SystemCallFilter=@system-service",
        "UMask=0077",
        *(f"Environment={name}={value}" for name, value in QUIET.items()),
    }
    assert wanted <= set(lines)
    assert any(line.startswith("User=tacit") for line in lines)
    assert any(line.startswith("MemoryMax=") for line in lines)
    if unit.stem.endswith("@"):
        assert "MemoryMax=512M" in lines


def put(unit: Path, folder: Path) -> Path:
    """A copy whose command is there, and for a template an instance of it."""
    copy = folder / unit.name.replace("@.", "@ward-1.")
    copy.write_text(unit.read_text().replace("/opt/tacit/bin/tacit", "/bin/true"))
    return copy


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_takes_the_units(unit: Path, tmp_path: Path) -> None:
    copy = put(unit, tmp_path)
    verify = ["systemd-analyze", "verify", "--man=no", str(copy)]
    done = subprocess.run(verify, capture_output=True, text=True, timeout=60, check=False)
    about_ours = [line for line in done.stderr.splitlines() if copy.name in line]
    assert (done.returncode, about_ours) == (0, []), done.stderr
    security = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(copy)]
    done = subprocess.run(security, capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r"exposure level for .*: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= MAX_EXPOSURE


# The guide


def asked(line: str) -> list[str]:
    """The words of Tacit's command in a line, also of one inside a container or as another user."""
    begun = re.search(rf"(?:^|sudo -u \S+ |-- |(?:{'|'.join(SERVICES)}) )(?=tacit )", line)
    return shlex.split(re.split(r" [&|<>]", line[begun.end() :])[0], comments=True) if begun else []


def test_commands_of_the_guide_exist() -> None:
    guide = (ROOT / "docs" / "deploy.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", guide, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [words for line in lines if (words := asked(line))]
    assert len(found) >= 40
    for words in found:
        check_command(words)


def test_the_guide_names_what_is_there() -> None:
    guide = (ROOT / "docs" / "deploy.md").read_text()
    for name in set(re.findall(r"\bdeploy/[\w/@.-]*\w", guide)) - USERS_OWN:
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\(([\w-]+\.md)(?:#[\w-]+)?\)", guide):
        assert (ROOT / "docs" / name).exists(), name
