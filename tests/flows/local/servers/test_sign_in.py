"""The page that signs a person in."""

from __future__ import annotations

import stat
from pathlib import Path

from ecg_lib.operations.settings import Settings
from flows.local.servers.secret_files import read_secret
from flows.local.servers.sign_in import make_sign_in_links, write_sign_in_page


def test_the_page_links_to_both_servers_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, prefect_port=4321, mlflow_port=5432)
    path = write_sign_in_page(settings)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    prefect, mlflow = (read_secret(settings, name).password for name in ("prefect", "mlflow"))
    text = path.read_text()
    assert f'"http://127.0.0.1:4321/ecg-sign-in#ecg:{prefect}"' in text
    assert f'"http://127.0.0.1:5432/ecg-sign-in#ecg:{mlflow}"' in text


def test_a_foreign_mlflow_has_no_link(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, mlflow_tracking_uri="http://mlflow.example:5000")
    assert list(make_sign_in_links(settings)) == ["Prefect"]
