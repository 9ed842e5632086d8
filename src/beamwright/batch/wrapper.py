"""The job wrapper: runs one attempt on a worker, from its inputs' checksums to its signed report.

``python -m beamwright.batch.wrapper JOBDIR`` runs one job, or those that the file ``pack`` there lists; a
file ``stop`` in a job's directory ends that one alone. ``--serve`` runs those whose directories come
in on the standard input, one after the other, through a warm runner (``--fresh``: each in a process of
its own). A serving wrapper whose scheduler dies finishes the job at hand, reports and ends.

The wrapper knows the standard library and ``durable`` only, and travels as one archive. It holds the lock
``JOBDIR/lock`` while it works, which is how others know that the attempt lives. The report is written last;
before it, whatever is in the output directory counts for nothing.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beamwright import durable
from beamwright.batch.children import Command, Ended, Fresh, Guard, Launcher, Warm, adopt_orphans

REPORTED_OK, REPORTED_FAILURE, NOT_REPORTED, NOT_MINE = 0, 1, 74, 75
PACK_FILE, STOP_FILE = "pack", "stop"
HEARTBEAT_S = 5.0
LEAST_FREE_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_STOPPED = {
    "time": "the wall time limit was reached",
    "memory": "the memory limit was reached",
    "node": "the job was told to stop",
}


class JobFailed(Exception):
    """The attempt failed; ``failure_class`` is one of the taxonomy's."""

    def __init__(self, failure_class: str, message: str) -> None:
        super().__init__(message)
        self.failure_class = failure_class
        self.message = message


class Stop:
    """Whether somebody has asked for an end: SIGTERM, SIGINT, or Grid Engine's warning, SIGUSR2."""

    def __init__(self) -> None:
        self.is_asked = False
        self.is_idle = False

    def install(self) -> None:
        """Listen for signals; an idle wrapper ends at once."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, self._asked)

    def why(self) -> str:
        """Return the failure class for stopping now, or nothing."""
        return "node" if self.is_asked else ""

    def idle(self, wait: Callable[[], bytes]) -> bytes:
        """Wait for something; SIGTERM ends the process meanwhile."""
        self.is_idle = True
        try:
            return wait()
        finally:
            self.is_idle = False

    def _asked(self, *_: Any) -> None:
        self.is_asked = True
        if self.is_idle:
            raise SystemExit(128 + signal.SIGTERM)


@dataclass
class Attempt:
    """One attempt at work: its job directory, its job document, and what it has found out so far."""

    directory: Path
    job: dict[str, Any]
    ticket: bytes
    launcher: Launcher
    stop: Stop
    started: float
    phase: str = "start"
    timings: dict[str, float] = field(default_factory=dict)
    exit_code: int | None = None
    payload: dict[str, Any] | None = None
    resources: dict[str, float] = field(
        default_factory=lambda: {"cpu_s": 0.0, "wall_s": 0.0, "max_rss_kb": 0}
    )
    published: list[Path] = field(default_factory=list)
    beaten: float = 0.0

    @property
    def scratch(self) -> Path:
        return Path(self.job["scratch"])

    @property
    def output(self) -> Path:
        return Path(self.job["output_directory"])

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def run(self) -> int:
        """Do the work and write the report; return the wrapper's exit code."""
        begun = time.perf_counter()
        outputs, failure = [], None
        try:
            self._prepare()
            self.timings["start"] = time.perf_counter() - begun
            outputs = self._work()
        except JobFailed as error:
            failure = error
        except OSError as error:
            failure = self._storage_failure(error)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            failure = JobFailed(
                "output_invalid", f"a document has not the agreed form: {error!r} (phase {self.phase})"
            )
        if failure:
            self._withdraw()
        shutil.rmtree(self.scratch, ignore_errors=True)
        return self._report(outputs, failure)

    def beat(self) -> None:
        """Say that the attempt lives, and in which phase it is."""
        now = time.monotonic()
        if now - self.beaten >= float(self.job["limits"].get("heartbeat_s", HEARTBEAT_S)) or not self.beaten:
            self.beaten = now
            document = {"at": time.time(), "phase": self.phase, "events": self._progress()}
            with suppress(OSError):  # a full disk must not end the watch over the application
                durable.replace(self.directory / "heartbeat.json", canonical(document), durable=False)
                self._show_histograms()

    def _show_histograms(self) -> None:
        """Put what the payload has filled so far beside the heartbeat; it may not have filled anything."""
        try:
            data = (self.scratch / "partial.bwb").read_bytes()
        except FileNotFoundError:
            return
        durable.replace(self.directory / "partial.bwb", data, durable=False)

    def _progress(self) -> int:
        """Return how many events the payload says it has done; it may say nothing."""
        try:
            return int(json.loads((self.scratch / "progress.json").read_bytes())["events"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    # --- the phases ---------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True, mode=0o700)
        durable.make_directory(self.output)
        durable.remove_partial(self.output)
        self.beat()

    def _work(self) -> list[dict[str, Any]]:
        with self._timed("stage"):
            for item in self.job["inputs"]:
                self._check_input(item)
        with self._timed("process"):
            self._process()
        declared = self._declared()
        with self._timed("validate"):
            verdicts = self._validate(declared)
        published = [self._publish(output, verdicts[output["file"]]) for output in declared]
        with self._timed("copy"):
            durable.fsync_directory(self.output)
        return published

    def _check_input(self, item: dict[str, Any]) -> None:
        """Compare an input with its registration: its size, and its content unless its pages are checked."""
        path, name = Path(item["path"]), item["name"]
        try:
            size = path.stat().st_size
            digest = durable.hash_file(path, self._pulse) if item["kind"] != "rntuple" else None
        except FileNotFoundError:
            raise JobFailed("input", f"input {name} is missing: {path}") from None
        except OSError as error:
            raise JobFailed("stage_in", f"input {name} cannot be read: {error}") from error
        if size != item["size"]:
            message = f"input {name} has {size} bytes, not the registered {item['size']}: {path}"
            raise JobFailed("input", message)
        if digest and digest.sha256 != item["sha256"]:
            message = f"input {name} is not what was registered: sha256 {digest.sha256}, not {item['sha256']}"
            raise JobFailed("input", f"{message}: {path}")

    def _process(self) -> None:
        argv = [*self.job["commands"]["process"], "--job", str(self.directory / "job.json")]
        ended = self._child(argv)
        self.exit_code = ended.exit_code
        self.payload = self._read_payload()
        if ended.stopped:
            raise JobFailed(ended.stopped, f"{_STOPPED[ended.stopped]} while the application ran")
        if ended.exit_code < 0:
            name = signal.Signals(-ended.exit_code).name
            raise JobFailed(self._full() or "application_crash", f"the application was killed by {name}")
        if self.payload is None:
            message = f"the application ended with exit code {ended.exit_code} and left no report"
            raise JobFailed(self._full() or "application_error", message)
        if self.payload["status"] != "ok":
            failure_class = self.payload.get("failure_class") or "application_error"
            raise JobFailed(failure_class, str(self.payload.get("message") or "the application failed"))
        if ended.exit_code != 0:
            message = f"the application reports success but ended with exit code {ended.exit_code}"
            raise JobFailed("application_error", message)

    def _read_payload(self) -> dict[str, Any] | None:
        path = self.scratch / "payload.json"
        if not path.is_file() or path.is_symlink():
            return None
        try:
            document = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
            if not isinstance(document, dict) or document.get("status") not in ("ok", "failed"):
                raise ValueError("it tells no status")
            canonical(document)
        except ValueError as error:
            raise JobFailed("output_invalid", f"the application's report is unusable: {error}") from error
        return document

    def _declared(self) -> list[dict[str, Any]]:
        """Return the payload's outputs: those that the job declares, no more and no fewer.

        A fit may propose no payload for some of its tags.
        """
        assert self.payload is not None
        streams, found = self.job["streams"], {output["stream"]: output for output in self.payload["outputs"]}
        missing = [s for s in streams if s not in found and not s.startswith("payload:")]
        unknown = [s for s in found if s not in streams or found[s]["file"] != streams[s]["file"]]
        if missing or unknown or len(found) != len(self.payload["outputs"]):
            names = ", ".join(missing or unknown) or "one stream twice"
            what = (
                "does not report the declared output"
                if missing
                else "reports an output that is not declared:"
            )
            raise JobFailed("output_invalid", f"the application {what} {names}")
        for output in found.values():
            if not self._local(output["file"]).is_file():
                raise JobFailed("output_invalid", f"output {output['stream']} has no file {output['file']}")
        return [found[stream] for stream in sorted(found)]

    def _validate(self, outputs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Have a second process read the outputs; return its verdict by file name."""
        if not outputs:
            return {}
        verdict_file = self.scratch / "verdicts.jsonl"
        files = [str(self._local(output["file"])) for output in outputs]
        ended = self._child([*self.job["commands"]["validate"], "--json", *files], verdict_file)
        if ended.stopped:
            raise JobFailed(ended.stopped, f"{_STOPPED[ended.stopped]} during validation")
        lines = verdict_file.read_text(errors="replace").splitlines() if verdict_file.exists() else []
        verdicts = {Path(v["file"]).name: v for v in map(_verdict, lines) if v}
        for output in outputs:
            self._judge(output, verdicts.get(output["file"]), ended)
        if ended.exit_code != 0:
            raise JobFailed("output_invalid", f"the validation ended with exit code {ended.exit_code}")
        return verdicts

    def _judge(self, output: dict[str, Any], verdict: dict[str, Any] | None, ended: Ended) -> None:
        stream = output["stream"]
        if verdict is None:
            message = f"the validation gave no verdict on {stream} and ended with exit code {ended.exit_code}"
            raise JobFailed("output_invalid", message)
        if not verdict["valid"]:
            raise JobFailed("output_invalid", f"output {stream}: {'; '.join(map(str, verdict['problems']))}")
        if verdict["events"] != output["events"]:
            message = f"output {stream} holds {verdict['events']} events, not the reported {output['events']}"
            raise JobFailed("output_invalid", message)
        if output.get("uuid") and verdict["uuid"] != output["uuid"]:
            raise JobFailed(
                "output_invalid", f"output {stream} has the uuid {verdict['uuid']}, not {output['uuid']}"
            )

    def _publish(self, output: dict[str, Any], verdict: dict[str, Any]) -> dict[str, Any]:
        """Bring an output to its final place; what arrives must be what was validated."""
        self.phase, hasher, start = "copy", durable.Hasher(), time.perf_counter()
        target = durable.confined(self.output, output["file"])
        self.published.append(target)
        try:
            digest = durable.move_new(self._local(output["file"]), target, hasher, self._pulse, sync=False)
        except FileExistsError as error:
            raise JobFailed("copy_out", f"{target} exists with other content") from error
        self._add_time("hash", hasher.seconds)
        self._add_time("copy", time.perf_counter() - start - hasher.seconds)
        if (digest.size, digest.sha256, digest.adler32) != (
            verdict["size"],
            verdict["sha256"],
            verdict["adler32"],
        ):
            raise JobFailed("copy_out", f"output {output['stream']} changed after its validation")
        known = {"stream": output["stream"], "kind": output["kind"], "events": verdict["events"]}
        content = {
            "size": digest.size,
            "sha256": digest.sha256,
            "adler32": digest.adler32,
            "uuid": verdict["uuid"],
        }
        return known | content | {"file": output["file"], "path": str(target)}

    # --- the report ---------------------------------------------------------------------------------------

    def _report(self, outputs: list[dict[str, Any]], failure: JobFailed | None) -> int:
        report = {
            "format": 1,
            "attempt": self.job["attempt"],
            "status": "failed" if failure else "ok",
            "failure_class": failure.failure_class if failure else None,
            "message": failure.message if failure else "",
            "exit_code": self.exit_code,
            "payload": self.payload,
            "outputs": [] if failure else outputs,
            "resources": self.resources,
            "timings": {name: round(seconds, 6) for name, seconds in self.timings.items()},
            "host": os.uname().nodename,
            "started": self.started,
            "ended": time.time(),
        }
        try:
            durable.make_directory(self.output)
            durable.put_once(self.output / "report.json", signed(report, self.ticket))
        except OSError as error:
            sys.stderr.write(f"{self.directory}: the report could not be written: {error}\n")
            return NOT_REPORTED
        return REPORTED_FAILURE if failure else REPORTED_OK

    def _withdraw(self) -> None:
        """Take back what was put into the output directory: without a report it is nothing."""
        for path in self.published:
            with suppress(FileNotFoundError):
                os.unlink(path)

    # --- helpers ------------------------------------------------------------------------------------------

    def _child(self, argv: list[str], stdout: Path | None = None) -> Ended:
        limits = self.job["limits"]
        guard = Guard(float(limits["wall_s"]), float(limits["memory_mb"]), self.beat, self._why)
        environment = dict.fromkeys(POOLS, "1") | {"TMPDIR": str(self.scratch), "MPLBACKEND": "Agg"}
        try:
            ended = self.launcher.run(Command(argv, self.scratch, self.log, stdout, environment), guard)
        except OSError as error:
            raise JobFailed("node", f"{argv[0]} could not be started: {error}") from error
        self.resources["cpu_s"] += ended.cpu_s
        self.resources["wall_s"] += ended.wall_s
        self.resources["max_rss_kb"] = max(self.resources["max_rss_kb"], ended.max_rss_kb)
        return ended

    def _local(self, name: str) -> Path:
        try:
            return durable.confined(self.scratch, name)
        except durable.ConfinementError as error:
            raise JobFailed("policy", f"an output leaves the scratch directory: {error}") from error

    def _why(self) -> str:
        """Return the failure class for stopping now, or nothing; somebody may want this job alone to stop."""
        return self.stop.why() or ("node" if (self.directory / STOP_FILE).exists() else "")

    def _pulse(self) -> None:
        self.beat()
        if self._why():
            raise JobFailed("node", f"{_STOPPED['node']} in the phase {self.phase}")

    def _full(self) -> str:
        """Return the failure class of a full scratch disk, or nothing."""
        status = os.statvfs(self.scratch)
        return "disk" if status.f_bavail * status.f_frsize < LEAST_FREE_BYTES else ""

    def _storage_failure(self, error: OSError) -> JobFailed:
        if error.errno in _FULL:
            where = error.filename or (self.output if self.phase == "copy" else self.scratch)
            return JobFailed("disk", f"no space left on the file system of {where} (phase {self.phase})")
        return JobFailed("copy_out" if self.phase == "copy" else "node", f"phase {self.phase}: {error}")

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        self.phase, start = phase, time.perf_counter()
        try:
            yield
        finally:
            self._add_time(phase, time.perf_counter() - start)

    def _add_time(self, name: str, seconds: float) -> None:
        self.timings[name] = self.timings.get(name, 0.0) + seconds


def canonical(document: Any) -> bytes:
    """Return the document as canonical JSON, as ``core.canonical`` writes it."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def signed(report: dict[str, Any], ticket: bytes) -> bytes:
    """Return the report with its signature by the attempt's ticket, as bytes."""
    signature = hmac.new(ticket, canonical(report), hashlib.sha256).hexdigest()
    return canonical(report | {"signature": signature})


def run_job(directory: Path, choose: Callable[[dict[str, Any]], Launcher], stop: Stop) -> int:
    """Run the attempt of a job directory, unless it runs, is done or was revoked; return the exit code."""
    started = time.time()
    lock = durable.FileLock(directory / "lock", f"{os.uname().nodename}:{os.getpid()}")
    try:
        lock.acquire(patience=0.5)
    except OSError as error:
        sys.stderr.write(f"{directory}: not run: {error}\n")
        return NOT_MINE
    try:
        if any((directory / name).exists() for name in ("revoked", STOP_FILE)):
            return NOT_MINE
        job = json.loads((directory / "job.json").read_bytes())
        ticket = bytes.fromhex((directory / "ticket").read_text().strip())
        if (Path(job["output_directory"]) / "report.json").exists():
            return REPORTED_OK
        return Attempt(directory, job, ticket, choose(job), stop, started).run()
    finally:
        lock.release()


def run_pack(directory: Path, stop: Stop) -> int:
    """Run the jobs that a pack lists, one after the other; what befalls one leaves the others alone."""
    runners, codes = Runners(every=1000), []
    for line in (directory / PACK_FILE).read_text().splitlines():
        if stop.is_asked:  # the rest has not begun, and is tried again
            break
        try:
            codes.append(run_job(Path(line), runners.choose, stop))
        except (OSError, ValueError, KeyError, TypeError) as error:
            sys.stderr.write(f"{line}: not run: {error!r}\n")
            codes.append(NOT_MINE)
    runners.close()
    return NOT_REPORTED if NOT_REPORTED in codes else max(codes, default=NOT_MINE)


class Runners:
    """The warm runner for consecutive jobs of one kind; another release or experiment gets a new one."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._key: tuple[Any, ...] = ()
        self._warm: Warm | None = None

    def choose(self, job: dict[str, Any]) -> Launcher:
        """Return the runner that serves this job."""
        command = job["commands"]["process"]
        key = (*command, job["release"], job["experiment"])
        if self._warm is None or key != self._key:
            self.close()
            self._key, self._warm = key, Warm([*command, "--serve"], self._every)
        return self._warm

    def close(self) -> None:
        """End the runner."""
        if self._warm is not None:
            self._warm.close()


def serve(every: int, is_fresh: bool) -> int:
    """Run the jobs whose directories come in, one JSON line each; answer each with its exit code."""
    stop, runners = Stop(), Runners(every)
    stop.install()
    choose = (lambda job: Fresh()) if is_fresh else runners.choose
    try:
        while not stop.is_asked and (line := stop.idle(sys.stdin.buffer.readline)):
            directory = json.loads(line)["job"]
            exit_code = run_job(Path(directory), choose, stop)
            os.write(1, canonical({"job": directory, "exit_code": exit_code}) + b"\n")
    except BrokenPipeError:
        pass  # the scheduler is gone; the report is written
    finally:
        runners.close()
    return 0


def main(argv: list[str]) -> int:
    """Run as ``wrapper JOBDIR``, ``wrapper PACKDIR`` or ``wrapper --serve [--fresh] [--every N]``."""
    adopt_orphans()
    if "--serve" in argv:
        every = int(argv[argv.index("--every") + 1]) if "--every" in argv else 1000
        return serve(every, "--fresh" in argv)
    stop = Stop()
    stop.install()
    directory = Path(argv[0]).absolute()
    if (directory / PACK_FILE).is_file():
        return run_pack(directory, stop)
    return run_job(directory, lambda job: Fresh(), stop)


def _verdict(line: str) -> dict[str, Any] | None:
    with suppress(ValueError):
        document = json.loads(line)
        return document if isinstance(document, dict) and "file" in document else None
    return None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds the number {name}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
