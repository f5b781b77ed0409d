"""What an image and a service promise, read from the files that make them: no root, nothing writable, no tools left."""

from __future__ import annotations

import configparser
import importlib.util
import json
import re
import shlex
import tomllib
import zipfile
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import yaml

from longlive_rag.cli.main import COMMANDS, cli
from longlive_rag.rights.bill import spdx_of_installation
from longlive_rag.rights.dependencies import Dependency, bill_of_materials

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
TOOLS = ("build-essential", "gcc", "g++", "make", "git", "curl", "wget", "python3-venv", "python3-pip", "python3-dev")
needs_serve = pytest.mark.skipif("serve" not in COMMANDS, reason="there is no server in this version")


@dataclass
class Stage:
    """From one FROM to the next."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [rest for found, rest in self.steps if found == word]


def stages() -> list[Stage]:
    """Of the Dockerfile, with what its arguments are by default."""
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    before: dict[str, str] = {}
    found: list[Stage] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base = rest.split(" AS ")[0]
            found.append(Stage(before.get(base.removeprefix("${").removesuffix("}"), base)))
        elif found:
            found[-1].steps.append((word, rest.strip()))
        else:
            assert word == "ARG"
            name, _, value = rest.partition("=")
            before[name] = value
    return found


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DEPLOY / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_bases_are_pinned_to_a_tag_or_a_digest() -> None:
    bases = {stage.base for stage in stages()}
    assert bases == {"debian:bookworm-slim"}
    for base in bases:
        assert re.fullmatch(r"[a-z0-9./-]+(:[\w.-]+|@sha256:[0-9a-f]{64})", base)
        assert not base.endswith(":latest")


def test_it_runs_the_server_as_nobody_in_particular() -> None:
    final = stages()[-1]
    user = final.all("USER")[-1]
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)  # by number, which orchestrators can check
    assert json.loads(final.all("ENTRYPOINT")[-1]) == ["longlive-rag", "serve"]
    words = [word for word, _ in final.steps]
    assert words.index("USER") > max(place for place, word in enumerate(words) if word in ("RUN", "COPY"))
    assert "healthz" in final.all("HEALTHCHECK")[-1]


def test_what_builds_it_stays_behind() -> None:
    *_, final = stages()
    (step,) = final.all("RUN")
    assert "pip" not in step
    assert not set(step.split()) & set(TOOLS)
    assert "rm -rf /var/lib/apt/lists/*" in step
    assert [copy.split()[0] for copy in final.all("COPY")] == ["--from=packages"]
    assert not any(stage.all("ADD") for stage in stages())


def test_everything_that_is_installed_is_locked_and_leaves_no_cache() -> None:
    steps = [step for stage in stages() for step in stage.all("RUN")]
    parts = [part for step in steps for part in re.split(r"&&|;;", step)]
    pip = [part for part in parts if re.search(r"\bpip\b.* (install|wheel) ", part)]
    assert len(pip) == 3
    assert all("--no-cache-dir" in part for part in pip)
    assert all("-c deploy/lock.txt" in part for part in pip if " install " in part)
    apt = [part for step in steps for part in step.split("&&") if "apt-get install" in part]
    assert len(apt) == 2
    assert all("-y --no-install-recommends" in part for part in apt)


def test_no_secret_is_in_an_image() -> None:
    for stage in stages():
        assert not re.search(r"KEY|TOKEN|SECRET|PASSWORD", " ".join(stage.all("ENV") + stage.all("ARG")))


def test_the_build_sees_what_it_needs_and_nothing_else() -> None:
    first, *rest = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    let_in = {line[1:] for line in rest if line.startswith("!")}
    assert first == "*"
    assert all((ROOT / name).exists() for name in let_in)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.removesuffix("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    own = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    assert let_in == packages | own | {"deploy/lock.txt", "deploy/bill.py"}


def test_the_lock_file_fits_what_is_required() -> None:
    lock = module("lock")
    try:
        assert lock.problems() == []
    except PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed here")
    pinned = dict(re.findall(r"^(\w+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert pinned
    assert pinned.items() <= lock.locked().items()


def test_a_lock_file_that_does_not_fit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = module("lock")
    text = lock.LOCK.read_text()
    monkeypatch.setattr(lock, "LOCK", tmp_path / "lock.txt")
    lock.LOCK.write_text(re.sub(r"^click==.*$", "click==7.0", text, flags=re.MULTILINE).replace("tqdm==", "# tqdm=="))
    try:
        found = lock.problems()
    except PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed here")
    assert "tqdm has no version" in found
    assert any(line.startswith("click is 7.0, but click>=") for line in found)


def test_what_torch_leaves_open_with_cuda_is_locked_too() -> None:
    """Its own pins name every other library of CUDA exactly."""
    locked = module("lock").locked()
    assert {"cuda-bindings", "cuda-pathfinder", "nvidia-nvjitlink", "nvidia-cublas", "triton"} <= locked.keys()


def wheel(folder: Path, name: str, version: str, *lines: str) -> None:
    """An empty package."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{info.removesuffix('.dist-info')}-py3-none-any.whl", "w") as file:
        metadata = ("Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines)
        file.writestr(f"{info}/METADATA", "\n".join(metadata))
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any")
        file.writestr(f"{info}/RECORD", "")


def test_versions_for_cuda_are_those_that_pip_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = module("lock")
    for name, value in {"CONFIG_FILE": "/dev/null", "NO_INDEX": "1", "FIND_LINKS": str(tmp_path)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    wheel(tmp_path, "torch", "2.13.0", "Requires-Dist: click", "Requires-Dist: nvidia-fast<14")
    wheel(tmp_path, "torch", "2.14.0")
    for version in ("13.0", "13.1", "14.0"):
        wheel(tmp_path, "nvidia-fast", version)
    wheel(tmp_path, "click", "8.5.1")
    wheel(tmp_path, "click", "9.0")
    pinned = {"torch": "2.13.0", "click": "8.5.1"}
    assert lock.for_cuda(pinned) == {"nvidia-fast": "13.1"}
    wheel(tmp_path, "torch", "2.13.0+cpu")
    with pytest.raises(ValueError, match=r"finds torch 2\.13\.0\+cpu, a build without CUDA"):
        lock.for_cuda(pinned)


def test_an_image_with_what_is_not_locked_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bill = module("bill")
    monkeypatch.setattr(bill, "LOCK", tmp_path / "lock.txt")
    bill.LOCK.write_text("# Versions\ntorch==2.13.0\ntyping-extensions==4.16.0\nclick==8.5.1\n")
    installed = {"torch": "2.13.0+cpu", "typing_extensions": "4.16.0", "longlive-rag": "0.1.0"}
    packages = [Dependency(name, version, "MIT") for name, version in installed.items()]
    assert bill.not_locked(packages) == []
    packages += [Dependency("click", "8.5", "MIT"), Dependency("nvidia-nvjitlink", "13.5.37", "MIT")]
    assert bill.not_locked(packages) == ["click==8.5", "nvidia-nvjitlink==13.5.37"]


def test_the_bill_of_an_image_names_every_package_once() -> None:
    libraries = [each for each in bill_of_materials(("longlive-rag",)) if each.name != "longlive-rag"]
    ours = [each for each in bill_of_materials(("click",))][:1]
    assert len(libraries) > 15
    document = spdx_of_installation([*libraries, _named(ours[0], "longlive-rag")])
    ids = [package["SPDXID"] for package in document["packages"]]
    assert len(ids) == len(set(ids)) == len(libraries) + 1
    depended = [each for each in document["relationships"] if each["relationshipType"] == "DEPENDS_ON"]
    assert {each["relatedSpdxElement"] for each in depended} == set(ids) - {"SPDXRef-longlive-rag"}


def test_the_bill_explains_terms_that_have_no_spdx_id() -> None:
    """SPDX 2.3 asks it of every LicenseRef that a document uses."""
    stated = {
        "longlive-rag": "Apache-2.0",
        "cublas": "LicenseRef-A",
        "cufft": "MIT AND LicenseRef-A",
        "b": "LicenseRef-B",
    }
    document = spdx_of_installation([Dependency(name, "1", license_) for name, license_ in stated.items()])
    explained = {each["licenseId"]: each["extractedText"] for each in document["hasExtractedLicensingInfos"]}
    assert explained.keys() == {"LicenseRef-A", "LicenseRef-B"}
    assert "cublas 1, cufft 1" in explained["LicenseRef-A"]
    assert "b 1" in explained["LicenseRef-B"]


def _named(library: Any, name: str) -> Any:
    from dataclasses import replace

    return replace(library, name=name)


# ---- services ----


def service() -> dict[str, Any]:
    (found,) = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values()
    assert isinstance(found, dict)
    return found


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / "longlive-rag.service")
    return parser


def test_the_container_can_write_takes_and_nothing_else() -> None:
    one = service()
    assert one["user"] == stages()[-1].all("USER")[-1]
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in one
    writable = [volume for volume in one["volumes"] if not volume.endswith(":ro")]
    assert writable == ["takes:/takes"]
    assert stages()[-1].all("VOLUME") == ["/takes"]


def test_the_container_has_one_gpu_and_only_this_machine_reaches_it() -> None:
    one = service()
    (device,) = one["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])
    assert one["build"]["args"] == {"TORCH": "cuda"}
    (port,) = one["ports"]
    assert port.startswith("127.0.0.1:")
    assert stages()[-1].all("EXPOSE") == [port.split(":")[-1]]


def test_keys_come_from_a_file_that_is_in_no_image_and_no_commit() -> None:
    described = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert described["secrets"] == {"keys": {"file": "keys.toml"}}
    assert "--keys=/run/secrets/keys.toml" in service()["command"]
    assert "/deploy/keys.toml" in (ROOT / ".gitignore").read_text().splitlines()


def test_there_is_time_to_park_what_is_being_made() -> None:
    """The server parks within 10 s."""
    assert int(service()["stop_grace_period"].removesuffix("s")) >= 20
    assert int(unit()["Service"]["TimeoutStopSec"]) >= 20
    assert stages()[-1].all("STOPSIGNAL") == ["SIGTERM"] == [unit()["Service"]["KillSignal"]]


def test_the_unit_has_no_rights_to_speak_of() -> None:
    one = unit()["Service"]
    assert one["User"] not in ("root", "0")
    assert one["ProtectSystem"] == "strict"
    assert one["NoNewPrivileges"] == "yes"
    assert one["CapabilityBoundingSet"] == ""
    writable = f"/var/lib/{one['StateDirectory']}/"
    assert f"--takes {writable}" in one["ExecStart"]


@needs_serve
@pytest.mark.parametrize("of", ["image", "compose", "unit"])
def test_the_server_knows_the_options_that_it_is_given(of: str, tmp_path: Path) -> None:
    given = {
        "image": lambda: json.loads(stages()[-1].all("CMD")[-1]),
        "compose": lambda: service()["command"],
        "unit": lambda: shlex.split(unit()["Service"]["ExecStart"])[2:],
    }[of]()
    command = cli.get_command(click.Context(cli), "serve")
    assert command is not None
    context = command.make_context("serve", list(given))
    if of != "unit":
        port = stages()[-1].all("EXPOSE")[-1]
        assert str(context.params["port"]) == port
        assert f":{port}/healthz" in stages()[-1].all("HEALTHCHECK")[-1]
