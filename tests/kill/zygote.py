"""Imports everything once, then forks one agents' process per line of JSON, and answers with its exit code.

A line names ``workspace``, ``raw``, ``environment``, ``fresh``, ``whole``, ``bug`` and ``log``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import sitecustomize  # the one in instrument/

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from kill import bugs, production, whole

LIMIT_S = 300


def child(request: dict[str, object]) -> None:
    os.setsid()
    signal.alarm(LIMIT_S)
    for name, value in dict(request["environment"]).items():  # type: ignore[call-overload]
        os.environ[name] = value
    os.dup2(os.open(str(request["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.dup2(2, 1)
    sitecustomize.NOTES = os.environ["KILL_NOTES"]
    bugs.plant(str(request["bug"]))
    if os.environ.get("KILL_COUNTS") != "no":
        sitecustomize.process.enter("agents")
    workspace = Path(str(request["workspace"]))
    if request["whole"]:
        whole.produce(workspace, Path(str(request["raw"])))
    else:
        production.produce(workspace, bool(request["fresh"]))


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                child(request)
            except SystemExit as error:
                sys.stderr.write(f"{error}\n")
                os._exit(3)
            except BaseException:  # noqa: BLE001 - a child never goes on with the zygote's loop
                import traceback

                traceback.print_exc()
                sys.stderr.flush()
                os._exit(2)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
