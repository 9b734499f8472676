"""The tile in JupyterLab's launcher: jupyter-server-proxy starts the service and shows it to the user of that JupyterLab alone.

The service asks for a token that only the proxy knows: it is made here, given to the process by a variable, and added to each
request by the proxy, which has checked before whose request it is. So no other user of the machine gets in by the port.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Any

START_SECONDS = 60
ICON = Path(__file__).with_name("launcher.svg")


def launch() -> dict[str, Any]:
    """Describe the service as jupyter-server-proxy's entry points do."""
    token = secrets.token_urlsafe(32)
    return {
        "command": [sys.executable, "-m", "segkit", "serve", "--port", "{port}", "--root-path", "{base_url}segkit"],
        "environment": {"SEGKIT_TOKEN": token},
        "request_headers_override": {"Authorization": f"Bearer {token}"},
        "timeout": START_SECONDS,
        "absolute_url": False,
        "new_browser_tab": True,
        "launcher_entry": {"title": "segkit", "icon_path": str(ICON), "category": "Notebook"},
    }
