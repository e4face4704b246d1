"""The trusted authorities: those of the system, the environment, and the setting."""

import os
import re
import ssl
from pathlib import Path

import pytest
import trustme

from faillog_otel.tls import client_context, trusted_authorities, watched_files


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)


def authority(path: Path) -> str:
    """Writes an authority's certificate; returns it."""
    pem = trustme.CA().cert_pem
    pem.write_to_path(str(path))
    return pem.bytes().decode().strip()


def known_to(context: ssl.SSLContext) -> set[str]:
    return {ssl.DER_cert_to_PEM_cert(each).strip() for each in context.get_ca_certs(binary_form=True)}


def test_the_settings_authority_is_trusted_beside_the_systems(tmp_path: Path) -> None:
    ours = authority(tmp_path / "ca.pem")
    system = known_to(client_context())
    assert ours not in system
    assert known_to(client_context(str(tmp_path / "ca.pem"))) == system | {ours}


def test_the_environment_names_a_file_and_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder, files of any name count, not only OpenSSL's hashes; unreadable ones are ignored."""
    folder = tmp_path / "folder"
    folder.mkdir()
    found = {authority(tmp_path / "file.pem"), authority(folder / "a.crt"), authority(folder / "b")}
    (folder / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    (folder / "deeper").mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "file.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", f"{folder}:{tmp_path / 'missing'}")
    assert known_to(client_context()) == found


def test_libraries_with_their_own_list_of_authorities_get_ours(tmp_path: Path) -> None:
    """Such as gRPC, which takes text. A bundle's comments are omitted: they can be non-ASCII."""
    ours = authority(tmp_path / "ca.pem")
    (tmp_path / "ca.pem").write_text(f"# Főtanúsítvány\n{ours}\n", "utf-8")
    text = trusted_authorities(str(tmp_path / "ca.pem"))
    assert ours in text
    assert text.isascii()
    assert (
        len(re.findall("BEGIN", text)) == client_context(str(tmp_path / "ca.pem")).cert_store_stats()["x509"]
    )


@pytest.mark.parametrize(
    "content", [None, "", "no certificate", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"]
)
@pytest.mark.parametrize("says", ["setting", "environment"])
def test_a_named_file_without_certificates_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, says: str
) -> None:
    file = tmp_path / "named.pem"
    if content is not None:
        file.write_text(content)
    if says == "environment":
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
    name = "SSL_CERT_FILE" if says == "environment" else "certificate"
    with pytest.raises(OSError, match=rf"^{name}: .*named\.pem: .*; name a file of certificates in PEM form"):
        client_context(str(file) if says == "setting" else None)


def test_a_pipe_is_refused_as_a_file_of_certificates_without_waiting(tmp_path: Path) -> None:
    """Opening a pipe without a writer blocks for ever."""
    os.mkfifo(tmp_path / "named.pem")
    with pytest.raises(OSError, match=r"certificate: .*named\.pem: is a"):
        client_context(str(tmp_path / "named.pem"))


def test_all_files_and_folders_of_the_environment_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/a/file")
    monkeypatch.setenv("SSL_CERT_DIR", f"/a/folder{os.pathsep}/another")
    assert watched_files("ca.pem", None) == tuple(map(Path, ("ca.pem", "/a/file", "/a/folder", "/another")))
