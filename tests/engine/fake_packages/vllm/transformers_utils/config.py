"""A model's config.json as an object; one without fields if it has none."""

import json
from pathlib import Path
from types import SimpleNamespace


def get_config(model, trust_remote_code, revision=None):
    file = Path(model or "nothing") / "config.json"
    return SimpleNamespace(**json.loads(file.read_text()) if file.is_file() else {})
