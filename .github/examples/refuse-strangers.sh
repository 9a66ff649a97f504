#!/bin/bash
# For ACTIONS_RUNNER_HOOK_JOB_STARTED of a self-hosted runner: ends a job before its first step
# unless it comes from the repository itself. A fork can change workflows and their conditions; it
# cannot change what is on the runner.
set -euo pipefail
exec python3 -I - <<'PYTHON'
import json
import os
import sys

event = os.environ["GITHUB_EVENT_NAME"]
trusted = event in ("push", "schedule", "workflow_dispatch")
if event == "pull_request":
    with open(os.environ["GITHUB_EVENT_PATH"], encoding="utf-8") as file:
        head = json.load(file)["pull_request"]["head"]["repo"]
    trusted = head is not None and head["full_name"] == os.environ["GITHUB_REPOSITORY"]
if not trusted:
    sys.exit(
        f"::error title=Energy::Refused before the first step: this runner runs neither code from a "
        f"fork nor a {event} that anybody can cause. Someone with write access may push the branch "
        f"to this repository."
    )
PYTHON
