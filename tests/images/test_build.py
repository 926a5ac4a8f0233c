"""dispatch.image: what a build is given, and how an image's digest is kept.

The builds themselves: tests/cluster.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from agenttts.errors import MissingRequirement, UserError
from agenttts.images import build as image
from agenttts.images import pip_settings as pip
from agenttts.images.build import Mount

ROOT = Path(__file__).parents[2]
INDEX = "https://packages.example/wheels"


@pytest.fixture
def pip_environ(tmp_path: Path) -> dict[str, str]:
    """An environment in which pip's only configuration is a file of this test's."""
    (tmp_path / "wheels").mkdir()
    (tmp_path / "index" / "simple").mkdir(parents=True)
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\n"
        f"find-links = {tmp_path}/wheels\n"
        f"extra-index-url =\n    file://{tmp_path}/index/simple\n    https://packages.example/simple\n"
        "user = true\n"
        "[install]\n"
        "retries = 7\n"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return {**kept, "PIP_CONFIG_FILE": str(config), "HOME": str(tmp_path)}


@pytest.fixture
def sif(tmp_path: Path) -> Path:
    path = tmp_path / "some.sif"
    path.write_bytes(b"an image")
    return path


def rewrite(path: Path, content: bytes, seconds_later: int) -> None:
    """Write other content, with a time of change that certainly differs."""
    before = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(before, before + seconds_later * 10**9))


def test_a_file_here_does_not_hide_pip(pip_environ, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    (here / "pip.py").write_text("raise SystemExit('the wrong module')\n")
    monkeypatch.chdir(here)
    assert pip.pip_settings(pip_environ)["retries"] == "7"


def test_pip_settings_come_from_its_configuration(
    pip_environ: dict[str, str], tmp_path: Path
) -> None:
    settings = pip.pip_settings(pip_environ)
    assert settings["find-links"] == f"{tmp_path}/wheels"
    assert settings["extra-index-url"].split() == [
        f"file://{tmp_path}/index/simple",
        "https://packages.example/simple",
    ]
    assert settings["retries"] == "7"
    assert "user" not in settings  # where the host installs is no business of the image's


def test_pip_environment_overrides_its_configuration(
    pip_environ: dict[str, str], tmp_path: Path
) -> None:
    pip_environ["PIP_FIND_LINKS"] = f"{tmp_path}/other"
    pip_environ["PIP_DEFAULT_TIMEOUT"] = "33"
    settings = pip.pip_settings(pip_environ)
    assert settings["find-links"] == f"{tmp_path}/other"
    assert settings["timeout"] == "33"


def test_pip_config_with_blanks_and_a_command_of_its_own() -> None:
    listing = (
        "global.find-links='\\n/a\\nfile:///b'\n"
        "download.index-url='https://two.example'\n"
        "freeze.timeout='10'\n"
        "no such line\n"
    )
    assert pip.parse_pip_config(listing) == {
        "find-links": "/a file:///b",
        "index-url": "https://two.example",
    }


def test_local_folders() -> None:
    settings = {
        "find-links": "/wheels file:///with%20blank https://packages.example/links",
        "index-url": "file:///srv/index/simple",
    }
    assert pip.local_folders(settings) == [
        Path("/wheels"),
        Path("/with blank"),
        Path("/srv/index"),
    ]


def test_uv_is_told_what_pip_is_configured_with(pip_environ, tmp_path):
    pip_environ |= {
        "PIP_INDEX_URL": "https://mirror.example/simple", "PIP_PROXY": "http://proxy:1", "PIP_CERT": "/ca.pem",
        "PIP_TRUSTED_HOST": "mirror.example", "PIP_TIMEOUT": "15.5", "PIP_FIND_LINKS": f"{tmp_path}/wheels /nowhere file:///nowhere {INDEX}", "PIP_NO_INDEX": "true",
    }  # fmt: skip
    assert pip.uv_environment(pip.pip_settings(pip_environ)) == {
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "UV_INDEX": f"file://{tmp_path}/index/simple https://packages.example/simple",
        "UV_FIND_LINKS": f"{tmp_path}/wheels,{INDEX}",
        "UV_OFFLINE": "true",
        "UV_INSECURE_HOST": "mirror.example",
        "UV_HTTP_TIMEOUT": "16",
        "UV_HTTP_RETRIES": "7",
        "SSL_CERT_FILE": "/ca.pem",
        "HTTP_PROXY": "http://proxy:1",
        "HTTPS_PROXY": "http://proxy:1",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_NO_PROGRESS": "1",
    }
    assert set(pip.uv_environment({})) == {"UV_INDEX_STRATEGY", "UV_NO_PROGRESS"}
    odd = pip.uv_environment({"find-links": "/nowhere", "timeout": "soon"})
    assert (odd.get("UV_FIND_LINKS"), odd["UV_HTTP_TIMEOUT"]) == (None, "soon")


def test_mounts_are_what_exists_each_once(pip_environ: dict[str, str], tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("certificates")
    pip_environ |= {"PIP_CERT": str(bundle), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    settings = pip.pip_settings(pip_environ) | {"find-links": f"{tmp_path}/wheels /nowhere"}
    mounts = image.build_mounts(settings, pip_environ)
    assert set(mounts) == {
        Mount(tmp_path / "wheels", tmp_path / "wheels"),
        Mount(tmp_path / "index", tmp_path / "index"),
        Mount(tmp_path / "cache/pip", tmp_path / "cache/pip"),
        Mount(tmp_path / "cache/uv", tmp_path / "cache/uv"),
        Mount(bundle, image.IMAGE_CA_BUNDLE),
    }

    environment = image.build_environment(settings, mounts, pip_environ)
    assert environment["APPTAINERENV_PIP_FIND_LINKS"] == f"{tmp_path}/wheels /nowhere"
    assert environment["APPTAINERENV_PIP_CERT"] == str(image.IMAGE_CA_BUNDLE)
    assert environment["APPTAINERENV_PIP_CACHE_DIR"] == str(tmp_path / "cache/pip")
    assert environment["APPTAINERENV_UV_FIND_LINKS"] == f"{tmp_path}/wheels"
    assert environment["APPTAINERENV_UV_CACHE_DIR"] == str(tmp_path / "cache/uv")
    assert environment["APPTAINERENV_SSL_CERT_FILE"] == str(image.IMAGE_CA_BUNDLE)
    points = environment[image.MOUNTS_VARIABLE].splitlines()
    assert f"{tmp_path}/wheels/" in points
    assert str(image.IMAGE_CA_BUNDLE) in points


def test_without_a_cache_nothing_is_kept_in_the_image(pip_environ: dict[str, str]) -> None:
    pip_environ["PIP_NO_CACHE_DIR"] = "1"
    settings = pip.pip_settings(pip_environ)
    mounts = image.build_mounts(settings, pip_environ)
    assert not any(mount.target.name in ("pip", "uv") for mount in mounts)
    environment = image.build_environment(settings, mounts, pip_environ)
    assert environment["APPTAINERENV_PIP_NO_CACHE_DIR"] == "1"
    assert environment["APPTAINERENV_UV_NO_CACHE"] == "1"


def test_uv_keeps_its_files_where_pip_does(pip_environ: dict[str, str], tmp_path: Path) -> None:
    """As where the home directory has a quota."""
    pip_environ["PIP_CACHE_DIR"] = f"{tmp_path}/scratch"
    settings = pip.pip_settings(pip_environ)
    assert pip.uv_environment(settings)["UV_CACHE_DIR"] == f"{tmp_path}/scratch/uv"
    mounts = image.build_mounts(settings, pip_environ)
    environment = image.build_environment(settings, mounts, pip_environ)
    assert environment["APPTAINERENV_PIP_CACHE_DIR"] == f"{tmp_path}/scratch"
    assert environment["APPTAINERENV_UV_CACHE_DIR"] == f"{tmp_path}/scratch/uv"
    pip_environ["UV_CACHE_DIR"] = f"{tmp_path}/own"
    assert pip.uv_cache(settings, pip_environ) == tmp_path / "own"
    pip_environ["PIP_NO_CACHE_DIR"] = "1"
    assert pip.uv_environment(pip.pip_settings(pip_environ))["UV_NO_CACHE"] == "1"


def test_command(tmp_path: Path) -> None:
    command = image.build_command(
        "apptainer",
        Path("x.def"),
        Path("x.sif"),
        mounts=[Mount(Path("/a"), Path("/b"))],
        build_args={"project": "/src"},
    )
    assert command[:2] == ["apptainer", "build"]
    assert command[-2:] == ["x.sif", "x.def"]
    assert command[command.index("--bind") + 1] == "/a:/b"
    assert command[command.index("--build-arg") + 1] == "project=/src"
    assert "-comp zstd" in command[command.index("--mksquashfs-args") + 1]


def test_digest_is_kept_beside_the_image(sif: Path) -> None:
    expected = hashlib.sha256(b"an image").hexdigest()
    assert image.image_digest(sif) == expected
    sidecar = sif.with_name("some.sif.json")
    content = json.loads(sidecar.read_text())
    assert content["sha256"] == expected
    # Proof that the second call reads the record and not the image:
    sidecar.write_text(json.dumps({**content, "sha256": "recorded"}))
    assert image.image_digest(sif) == "recorded"


@pytest.mark.parametrize("content", [b"another image", b"an IMAGE"])
def test_digest_of_a_changed_image(sif: Path, content: bytes) -> None:
    image.image_digest(sif)
    rewrite(sif, content, 5)
    assert image.image_digest(sif) == hashlib.sha256(content).hexdigest()


def test_a_damaged_record_is_made_anew(sif: Path) -> None:
    sif.with_name("some.sif.json").write_text("{")
    assert image.image_digest(sif) == hashlib.sha256(b"an image").hexdigest()


def test_an_image_is_read_only_for_its_digest_and_once(
    sif: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image of 10 GB was read up to three times by one `doctor`."""
    read: list[Path] = []
    digest = image._hash

    def counted(path: Path) -> str:
        read.append(path)
        return digest(path)

    monkeypatch.setattr(image, "_hash", counted)
    sidecar = sif.with_name("some.sif.json")
    for content in (None, "{", '{"sha256": "0"}', '{"built": "2026-01-01"}'):
        if content is not None:
            sidecar.write_text(content)
        assert image.read_record(sif) is None
    assert read == []
    sidecar.unlink()
    sidecar.mkdir()  # so that no record can be written
    assert image.image_digest(sif) == image.image_digest(sif)
    assert read == [sif]
    rewrite(sif, b"another!", 5)
    assert image.image_digest(sif) == hashlib.sha256(b"another!").hexdigest()


def test_digest_needs_an_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not an image file"):
        image.image_digest(tmp_path)


def test_record_is_of_this_image_only(sif: Path) -> None:
    assert image.read_record(sif) is None  # not built by build_image
    sha256 = image.image_digest(sif)
    record = image.ImageRecord(sha256, 8, "cpu.def", "2026-01-01T00:00:00+00:00", "1", "apptainer")
    sidecar = sif.with_name("some.sif.json")
    sidecar.write_text(json.dumps({**vars(record), "mtime_ns": sif.stat().st_mtime_ns}))
    assert image.read_record(sif) == record
    rewrite(sif, b"an image", 5)  # a copy
    assert image.read_record(sif) == record
    rewrite(sif, b"another!", 5)
    assert image.read_record(sif) is None
    assert image.read_record(sif.with_name("none.sif")) is None


def test_bad_inputs_are_found_before_anything_is_built(tmp_path: Path, sif: Path) -> None:
    definition = ROOT / "containers" / "cpu.def"
    # The archive of the source, which the message names, has the definitions.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packed = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert {"/agenttts", "/Apptainer.def", "/containers"} <= set(packed)
    assert all((ROOT / each.removeprefix("/")).exists() for each in packed)
    with pytest.raises(UserError, match=r"the definition file .*none\.def does not exist"):
        image.build_image(tmp_path / "none.def", tmp_path / "x.sif", project=ROOT)
    with pytest.raises(UserError, match="is not a source of agenttts-hpc.* a checkout, or"):
        image.build_image(definition, tmp_path / "x.sif", project=tmp_path)
    with pytest.raises(UserError, match="exists already"):
        image.build_image(definition, sif, project=ROOT)
    with pytest.raises(MissingRequirement, match="no-such-runtime is not on"):
        image.build_image(definition, tmp_path / "x.sif", project=ROOT, runtime="no-such-runtime")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some.sif"]


@pytest.mark.parametrize("name", ["Apptainer.def", "containers/cpu.def"])
@pytest.mark.parametrize("variable", ["APPTAINER_ROOTFS", "SINGULARITY_ROOTFS", None])
def test_mount_points_are_made_in_the_image_alone(
    tmp_path: Path, name: str, variable: str | None
) -> None:
    """SingularityCE does not set Apptainer's variable: the host got the mount points."""
    setup = re.search(r"^%setup\n(.*?)^%", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)
    assert setup
    host, root = tmp_path / "host", tmp_path / "root"
    environment = {image.MOUNTS_VARIABLE: f"{host}/wheels/\n{host}/ca.pem"}
    if variable:
        environment[variable] = str(root)
    done = subprocess.run(
        ["sh", "-e", "-c", setup[1]], env=environment, capture_output=True, check=False
    )
    made = sorted(
        str(path.relative_to(tmp_path))
        for path in tmp_path.rglob("*")
        if path.name in ("wheels", "ca.pem")
    )
    assert (done.returncode == 0, made) == (
        (True, [f"root{host}/ca.pem", f"root{host}/wheels"]) if variable else (False, [])
    )


@pytest.mark.cluster
def test_a_failing_build_names_its_log_and_leaves_no_image(tmp_path: Path) -> None:
    definition = tmp_path / "bad.def"
    definition.write_text(
        "Bootstrap: localimage\nFrom: {{ rootfs }}\n%post\n    echo here it ends; exit 9\n"
    )
    output = tmp_path / "bad.sif"
    with pytest.raises(MissingRequirement, match="here it ends") as raised:
        image.build_image(definition, output, project=ROOT)
    assert str(output.with_name("bad.sif.log")) in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.def", "bad.sif.log"]


@pytest.mark.cluster
def test_a_small_image_is_built_and_recorded(tmp_path: Path) -> None:
    definition = tmp_path / "small.def"
    definition.write_text(
        "Bootstrap: localimage\nFrom: {{ rootfs }}\n%test\n    python3 -c 'import ssl, venv'\n"
    )
    output = tmp_path / "small.sif"
    record = image.build_image(definition, output, project=ROOT)
    assert image.read_record(output) == record
    assert record.sha256 == hashlib.sha256(output.read_bytes()).hexdigest()
    assert record.definition == "small.def"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "small.def",
        "small.sif",
        "small.sif.json",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--build-arg", "bsae=x"], "has no argument 'bsae'; valid: base, project; did you mean 'base'"),
        (["--build-arg", "base"], "--build-arg base: valid is NAME=VALUE"),
    ],
)  # fmt: skip
def test_a_wrong_build_argument_is_named(cli, arguments, said):
    done = cli("image", "build", ROOT / "Apptainer.def", "--output", "x.sif", *arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr


@pytest.mark.parametrize("output", ["", ".", "..", "/", "images", "images/"])
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_directory_as_the_image_is_refused(cli, tmp_path, output, force):
    (tmp_path / "images").mkdir()
    done = cli("image", "build", ROOT / "Apptainer.def", "--output", output, *force)
    assert done.returncode == 2, done.stderr
    assert f"{(tmp_path / output).resolve()} is a directory; give the file" in done.stderr
    assert list(tmp_path.rglob("*")) == [tmp_path / "images"]


def test_an_image_that_would_be_its_own_log_is_refused(cli, tmp_path):
    done = cli("image", "build", ROOT / "Apptainer.def", "--output", "agenttts.log")
    assert done.returncode == 2, done.stderr
    assert f"{tmp_path}/agenttts.log would be the log of the build" in done.stderr


def test_a_build_that_the_temporary_space_does_not_hold_is_refused(cli, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=5 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    done = cli("image", "build", ROOT / "Apptainer.def", "--output", "x.sif", env={"APPTAINER_TMPDIR": str(tmp_path)})  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert f"{tmp_path} has 5.0 GB free" in done.stderr
    assert "set APPTAINER_TMPDIR" in done.stderr


@pytest.mark.parametrize("definition", ["Apptainer.def", "containers/cpu.def"])
@pytest.mark.parametrize("place", ["not there", "a file"])
def test_a_build_without_a_place_for_temporary_files_is_refused(cli, tmp_path, place, definition):
    """The message was of 0.0 GB free, or of a missing file with a random name."""
    (tmp_path / "a file").touch()
    env = {"APPTAINER_TMPDIR": str(tmp_path / place)}
    done = cli("image", "build", ROOT / definition, "--output", "x.sif", env=env)
    assert done.returncode == 3, done.stderr
    assert f"APPTAINER_TMPDIR, {tmp_path / place}, cannot be written: " in done.stderr
    assert "set APPTAINER_TMPDIR" in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "a file"]


@pytest.mark.processes
def test_a_build_where_programs_cannot_be_executed_is_refused(tmp_path):
    """Apptainer refused it when the root file system had been copied."""
    place, image = tmp_path / "place", tmp_path / "x.sif"
    place.mkdir()
    command = [sys.executable, "-m", "agenttts.cli", "image", "build", ROOT / "containers" / "cpu.def", "--output", image]  # fmt: skip
    script = f"mount -t tmpfs -o noexec none {shlex.quote(str(place))}; {shlex.join(map(str, command))}"  # fmt: skip
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-ec", script],
        env={**os.environ, "APPTAINER_TMPDIR": str(place)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3, done.stderr
    assert f"{place} is mounted noexec" in done.stderr
    assert not list(tmp_path.glob("*.log"))


@pytest.mark.parametrize(
    ("says", "code", "cuda"),
    [
        ('{"data": {"attributes": {"labels": {"agenttts.cuda": "13.0", "a": "b"}}}}', 0, "13.0"),
        ('{"data": {"attributes": {"labels": {"agenttts.cuda": "None"}}}}', 0, None),
        ('{"data": {"attributes": {"labels": {"agenttts.cuda": 13}}}}', 0, None),
        ('{"data": {"attributes": {"labels": null}}}', 0, None),
        ('{"data": []}', 0, None),
        ("FATAL: no such image", 255, None),
    ],
)
def test_the_cuda_that_an_image_says_it_was_built_for(tmp_path, says, code, cuda):
    runtime = tmp_path / "apptainer"
    runtime.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\nexit {code}\n")
    runtime.chmod(0o755)
    assert image.image_cuda(str(runtime), tmp_path / "some.sif") == cuda
    assert image.image_cuda(str(tmp_path / "none"), tmp_path / "some.sif") is None


def test_a_record_of_an_older_version_has_no_cuda(sif: Path) -> None:
    sha256 = image.image_digest(sif)
    record = {"definition": "a.def", "built": "2026-01-01", "agenttts_version": "0", "runtime_version": "1"}  # fmt: skip
    sidecar = sif.with_name("some.sif.json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | record))
    found = image.read_record(sif)
    assert found is not None
    assert (found.sha256, found.cuda) == (sha256, None)
