#!/bin/bash
# For ACTIONS_RUNNER_HOOK_JOB_STARTED of a self-hosted runner: a job ends here, before its first step, unless it comes from the repository
# itself. A fork may change or add workflows, and so leave out any condition in them; it cannot change what lies on the runner.
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
    sys.exit(f"::error title=Energy::This runner takes no code of forks, and no {event} of strangers: the job was refused before its first step.")
PYTHON
