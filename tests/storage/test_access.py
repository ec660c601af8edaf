"""Object stores that cannot be used: each cause is one line, whoever opens the file."""

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
import s3fs
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from hilbert_ray import audio
from hilbert_ray.cli import main
from hilbert_ray.config import Config, ConfigError, TaskConfig
from hilbert_ray.config.reading import load_file
from hilbert_ray.document.records import Document
from hilbert_ray.manifest import ManifestError, read_manifest
from hilbert_ray.storage import AccessError, Files, access_error, file_versions, missing_files, place_of
from hilbert_ray.store.store import Store
from hilbert_ray.transcript import load_text
from hilbert_ray.validation import Probe, validate
from tests import make

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture
def broken(
    request: pytest.FixtureRequest, object_store: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Break the access to S3 in one way; give a pattern of the message that says so."""
    server = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    pattern = f"at {server}; correct the URI"
    if request.param == "credentials":
        for name in KEYS:
            monkeypatch.delenv(name)
        for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
            monkeypatch.setenv(name, "/nowhere")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        pattern = r"no credentials for it here \(Unable to locate credentials\); set AWS_ACCESS_KEY_ID and"
    if request.param == "endpoint":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        pattern = r"http://127\.0\.0\.1:9 does not answer \(EndpointConnectionError\); check AWS_ENDPOINT_URL"
    if request.param == "no URL":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "minio:9000")
        pattern = "minio:9000 is no URL of a server; write AWS_ENDPOINT_URL with its protocol"
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield rf"^s3://no-bucket cannot be used: .*{pattern}"
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def opened(uri: str) -> dict[str, Callable[[], object]]:
    """Return everything that opens a file of an object store."""
    document = Document(doc_id="a", text_file=f"{uri}/a.vtt", audio=f"{uri}/a.wav")
    return {
        "settings": lambda: load_file(f"{uri}/settings.yaml"),
        "manifest": lambda: list(read_manifest(f"{uri}/m.jsonl")),
        "transcript": lambda: load_text(document),
        "recording": lambda: audio.probe(f"{uri}/a.wav"),
        "reading": lambda: Files(uri).read("a"),
        "listing": lambda: Files(uri).names(""),
        "writing": lambda: Files(uri).create("a", b"x"),
        "a new store": lambda: Store.create(f"{uri}/store", 2),
        "a store": lambda: Store.open(f"{uri}/store"),
    }


@pytest.mark.parametrize("broken", ["credentials", "no URL", "bucket"], indirect=True)
def test_whatever_is_opened_names_the_cause(broken: str) -> None:
    for what, action in opened("s3://no-bucket").items():
        with pytest.raises(AccessError, match=broken) as caught:
            action()
        assert caught.value.place == (
            "s3://no-bucket" if "no such bucket" in str(caught.value) else "s3://"
        ), what
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("broken", ["credentials", "no URL", "bucket"], indirect=True)
def test_a_bucket_that_is_not_there_has_no_files_and_without_access_nobody_knows(broken: str) -> None:
    """A run must not end for one row that names a wrong bucket, nor start where all would fail."""
    for count in (1, 20):
        uris = [f"s3://no-bucket/{number}.wav" for number in range(count)]
        if "correct the URI" in broken:
            assert file_versions(uris) == dict.fromkeys(uris)
            assert missing_files(uris) == set(uris)
            continue
        for action in (file_versions, missing_files):
            with pytest.raises(AccessError, match=broken):
                action(uris)


@pytest.mark.parametrize("broken", ["credentials", "endpoint"], indirect=True)
def test_commands_end_in_one_line(broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = make.corpus(tmp_path, 1)
    for arguments in (
        ["validate", "s3://no-bucket/m.jsonl"],
        ["validate", manifest, "--config", "s3://no-bucket/c.yaml"],
        ["embed", "--manifest", manifest, "--store", "s3://no-bucket/store"],
        ["embed", "--manifest", "s3://no-bucket/m.jsonl", "--store", str(tmp_path / "store")],
    ):
        assert main(arguments) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"hilbert-ray {arguments[0]}: s3://no-bucket cannot be used: ")


@pytest.mark.parametrize(("broken", "probe"), [("endpoint", "all"), ("bucket", 1)], indirect=["broken"])
def test_validate_says_once_that_a_place_cannot_be_used_and_checks_the_rest(
    broken: str, probe: Probe, tmp_path: Path
) -> None:
    rows = [make.record(tmp_path, number) for number in range(3)]
    away = [{**row, "doc_id": f"away{i}", "audio": f"s3://no-bucket/{i}.wav"} for i, row in enumerate(rows)]
    broken_row = {**rows[0], "doc_id": "odd", "audio": "s3://no-bucket/odd.wav", "labels": {"topic": 7}}
    manifest = make.manifest(
        tmp_path / "m.jsonl", [*rows, *away, broken_row, {"doc_id": "no", "audio": "no.wav"}]
    )
    tasks = {"topic": TaskConfig(kind="binary", classes=("home", "work"))}
    report = validate(manifest, Config(tasks=tasks), probe=probe)
    assert {fault.doc_id for fault in report.faults} == {"odd", "no"}
    [problem] = report.problems
    assert problem.startswith("s3://no-bucket cannot be used: ")
    assert problem.endswith("; 3 documents are not checked for that")
    assert not report.ok
    assert report.documents == 6


@pytest.mark.parametrize(
    "code", ["403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "301"]
)
def test_answers_of_a_server_are_told_apart(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://minio:9000")
    answer = ClientError({"Error": {"Code": code, "Message": "secret"}}, "HeadObject")
    error = PermissionError("Forbidden")
    error.__cause__ = answer
    named = access_error(error, "s3://bucket/a.wav")
    assert named is not None
    parts = {
        "403": ("access to s3://bucket/a.wav is denied by https://minio:9000: ", ""),
        "AccessDenied": ("access to s3://bucket/a.wav is denied by https://minio:9000: ", ""),
        "301": ("s3://bucket cannot be used: the bucket is in another region", "s3://bucket"),
    }
    # Credentials are the same for all buckets.
    rejected = f"s3://bucket cannot be used: https://minio:9000 does not accept the credentials ({code})"
    begin, place = parts.get(code, (rejected, "s3://"))
    assert str(named).startswith(begin)
    assert named.place == place
    copy = pickle.loads(pickle.dumps(named))
    assert (str(copy), copy.place) == (str(named), place)


def test_other_errors_and_local_files_pass() -> None:
    assert access_error(FileNotFoundError("a.wav"), "s3://bucket/a.wav") is None
    assert access_error(NoCredentialsError(), "/data/a.wav") is None
    assert access_error(ValueError("Invalid value"), "s3://bucket/a.wav") is None
    missing = ClientError({"Error": {"Code": "NoSuchKey"}}, "GetObject")
    assert access_error(missing, "s3://bucket/a.wav") is None
    refused = access_error(EndpointConnectionError(endpoint_url="http://x"), "s3://bucket/a.wav")
    assert refused is not None


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("/data/a.wav", ""),
        ("file:///a.wav", ""),
        ("s3://bucket/a/b.wav", "s3://bucket"),
        ("simplecache::s3://bucket/a", "s3://bucket"),
        ("https://host:8080/a.wav", "https://host:8080"),
    ],
)
def test_a_place_is_a_server_or_bucket(uri: str, place: str) -> None:
    assert place_of(uri) == place


def test_a_missing_file_in_a_bucket_that_can_be_used_stays_a_missing_file(object_store: str) -> None:
    assert file_versions([f"{object_store}/none.wav"]) == {f"{object_store}/none.wav": None}
    with pytest.raises(ManifestError, match="there is no manifest"):
        list(read_manifest(f"{object_store}/none.jsonl"))
    with pytest.raises(ConfigError, match="there is no settings file"):
        load_file(f"{object_store}/none.yaml")
