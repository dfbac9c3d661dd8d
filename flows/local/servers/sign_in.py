"""Links that sign a person in to the UIs of Prefect and MLflow, and a page that holds them."""

from __future__ import annotations

import html
import os
from pathlib import Path
from urllib.parse import quote

from ecg_lib.operations.settings import Settings
from ecg_lib.records.atomic_files import replacing
from flows.doors.addresses import find_addresses
from flows.local.servers.gate import SIGN_IN
from flows.local.servers.secret_files import MLFLOW, PREFECT, read_secret

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="referrer" content="no-referrer">
<title>ECG platform: sign in</title>
<h1>ECG platform</h1>
<p>These links hold the passwords of this platform. Do not share this page.</p>
<ul>
%s
</ul>
</html>
"""


def make_sign_in_links(settings: Settings) -> dict[str, str]:
    """Make a link for each UI; the credentials are in the fragment, which browsers do not send."""
    addresses = find_addresses(settings)
    servers = {"Prefect": (PREFECT, addresses.prefect)}
    if settings.mlflow_tracking_uri is None:
        servers["MLflow"] = (MLFLOW, addresses.mlflow)
    return {
        title: f"{address}{SIGN_IN}#{quote(read_secret(settings, name).login, safe=':')}"
        for title, (name, address) in servers.items()
    }


def write_sign_in_page(settings: Settings) -> Path:
    """Write the page with the links (mode 0600) and return its path."""
    items = [
        f'<li><a href="{html.escape(link)}">{title}</a>'
        for title, link in make_sign_in_links(settings).items()
    ]
    path = settings.home / "sign-in.html"
    with replacing(path) as draft:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(_PAGE % "\n".join(items))
    return path
