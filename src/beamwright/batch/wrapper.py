"""The job wrapper: runs one attempt on a worker, from its inputs' checksums to its signed report.

``python -m beamwright.batch.wrapper JOBDIR`` runs one job, or those that the file ``pack`` there lists; a
file ``stop`` in a job's directory ends that one alone. ``--serve`` takes them from the standard input, one
after the other, and runs them through a warm runner (``--fresh``: each in a process of its own). A serving
wrapper whose scheduler dies finishes the job at hand, reports and ends.

The wrapper knows the standard library and ``durable`` only, and travels as one archive; what takes long to
import (``pathlib``, ``dataclasses``, ``typing``, ``subprocess``) it does without. It holds the lock
``JOBDIR/lock`` while it works, which is how others know that the attempt lives. The report is written last;
before it, whatever is in the output directory counts for nothing.
"""

from __future__ import annotations

import errno
import gc
import hmac
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from beamwright import durable
from beamwright.batch.children import (
    Command,
    Ended,
    Fresh,
    Guard,
    Runners,
    adopt_orphans,
    has_lacked_memory,
    host,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, TypeVar

    from beamwright.batch.children import Launcher

    Awaited = TypeVar("Awaited")

REPORTED_OK, REPORTED_FAILURE, NOT_REPORTED, NOT_MINE = 0, 1, 74, 75
PACK_FILE, STOP_FILE = "pack", "stop"
# Those who look whether an attempt lives hold its lock for an instant, and longer on a busy machine.
LOCK_PATIENCE_S = 2.0
TICKET_BYTES = 32
HEARTBEAT_S = 5.0
# A job that ends before this needs no heartbeat; nor is it told to stop between two files.
FIRST_BEAT_S = 0.25
LEAST_FREE_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_STOPPED = {
    "time": "the wall time limit of {wall_s:g} s was reached",
    "memory": "the memory limit of {memory_mb:g} MB was reached",
    "node": "the job was told to stop",
}


class JobFailed(Exception):
    """The attempt failed; ``failure_class`` is one of the taxonomy's."""

    def __init__(self, failure_class: str, message: str) -> None:
        super().__init__(message)
        self.failure_class = failure_class
        self.message = message


class Stop:
    """Whether somebody has asked for an end: SIGTERM, SIGINT, or Grid Engine's warning, SIGUSR2.

    ``is_leaving`` says whether a serving wrapper takes no further job.
    """

    def __init__(self) -> None:
        self.is_asked = False
        self.is_leaving = False
        self.is_idle = False

    def install(self) -> None:
        """Listen for signals; an idle wrapper ends at once.

        SIGUSR1 is how Grid Engine warns of a suspension: the job goes on after it, and so does its payload.
        """
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, self._asked)

    def why(self) -> str:
        """Return the failure class for stopping now, or nothing."""
        return "node" if self.is_asked else ""

    def idle(self, wait: Callable[[], Awaited]) -> Awaited:
        """Wait for something; who is to end does so meanwhile."""
        self.is_idle = True
        try:
            if self.is_leaving:
                raise SystemExit(0)
            return wait()
        finally:
            self.is_idle = False

    def leave(self, *_: Any) -> None:
        """End after the job at hand."""
        self.is_leaving = True
        if self.is_idle:
            raise SystemExit(0)

    def _asked(self, *_: Any) -> None:
        self.is_asked = self.is_leaving = True
        if self.is_idle:
            raise SystemExit(128 + signal.SIGTERM)


class Attempt:
    """One attempt at work: its job directory, its job document, and what it has found out so far."""

    def __init__(
        self,
        directory: str,
        job: dict[str, Any],
        ticket: bytes,
        launcher: Launcher,
        stop: Stop,
        started: float,
    ) -> None:
        self.directory, self.job, self.ticket = directory, job, ticket
        self.launcher, self.stop, self.started = launcher, stop, started
        self.scratch, self.output = str(job["scratch"]), str(job["output_directory"])
        self.log, self.phase = f"{directory}/log", "start"
        self.heartbeat_s = float((job.get("limits") or {}).get("heartbeat_s", HEARTBEAT_S))
        self.timings: dict[str, float] = {}
        self.exit_code: int | None = None
        self.payload: dict[str, Any] | None = None
        self.resources: dict[str, float] = {"cpu_s": 0.0, "wall_s": 0.0, "max_rss_kb": 0}
        self.published: list[str] = []
        self.looked = time.monotonic()
        self.beaten = self.looked - self.heartbeat_s + FIRST_BEAT_S

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
        self._clear()
        return self._report(outputs, failure)

    def beat(self) -> None:
        """Say that the attempt lives, and in which phase it is."""
        now = time.monotonic()
        if now - self.beaten >= self.heartbeat_s:
            self.beaten = now
            document = {"at": time.time(), "phase": self.phase, "events": self._progress()}
            with suppress(OSError):  # a full disk must not end the watch over the application
                durable.replace(f"{self.directory}/heartbeat.json", canonical(document), durable=False)
                self._show_histograms()

    def _show_histograms(self) -> None:
        """Put what the payload has filled so far beside the heartbeat; it may not have filled anything."""
        try:
            data = _read(f"{self.scratch}/partial.bwb")
        except FileNotFoundError:
            return
        durable.replace(f"{self.directory}/partial.bwb", data, durable=False)

    def _progress(self) -> int:
        """Return how many events the payload says it has done; it may say nothing."""
        try:
            return int(json.loads(_read(f"{self.scratch}/progress.json"))["events"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    # --- the phases ---------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        if os.path.lexists(self.scratch):
            self._clear()
        os.makedirs(os.path.dirname(self.scratch), exist_ok=True)
        os.mkdir(self.scratch, 0o700)
        if not durable.make_directory(self.output):
            durable.remove_partial(self.output)

    def _clear(self) -> None:
        """Remove the scratch directory; most hold no more than the application's report."""
        try:
            with suppress(FileNotFoundError):
                os.unlink(f"{self.scratch}/payload.json")
            os.rmdir(self.scratch)
        except OSError:
            import shutil

            shutil.rmtree(self.scratch, ignore_errors=True)

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
        path, name = str(item["path"]), item["name"]
        try:
            size = os.stat(path).st_size
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
        argv = [*self.job["commands"]["process"], "--job", f"{self.directory}/job.json"]
        ended = self._child(self.launcher.run, argv)
        self.exit_code = ended.exit_code
        self.payload = self._read_payload()
        if ended.stopped:
            raise JobFailed(ended.stopped, f"{self._stopped(ended.stopped)} while the application ran")
        if ended.exit_code < 0:
            name = signal.Signals(-ended.exit_code).name
            if ended.exit_code == -signal.SIGKILL and has_lacked_memory():
                limit = f"its limit here is {float(self.job['limits']['memory_mb']):g} MB"
                raise JobFailed("memory", f"the node ended the application for want of memory; {limit}")
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
        path = f"{self.scratch}/payload.json"
        if not os.path.isfile(path) or os.path.islink(path):
            return None
        try:
            document = json.loads(_read(path), parse_constant=_refuse_constant)
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
            if not os.path.isfile(self._local(output["file"])):
                raise JobFailed("output_invalid", f"output {output['stream']} has no file {output['file']}")
        return [found[stream] for stream in sorted(found)]

    def _validate(self, outputs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Have a second process read the outputs; return its verdict by file name."""
        if not outputs:
            return {}
        files = [self._local(output["file"]) for output in outputs]
        argv = [*self.job["commands"]["validate"], "--json", *files]
        ended = self._child(self.launcher.check, argv, is_kept=True)
        if ended.stopped:
            raise JobFailed(ended.stopped, f"{self._stopped(ended.stopped)} during validation")
        verdicts = {os.path.basename(v["file"]): v for v in map(_verdict, ended.output.splitlines()) if v}
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
        target = durable.confined_name(self.output, output["file"])
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
        return known | content | {"file": output["file"], "path": target}

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
            "host": host(),
            "started": self.started,
            "ended": time.time(),
        }
        try:
            durable.make_directory(self.output)
            durable.put_once(f"{self.output}/report.json", signed(report, self.ticket))
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

    def _child(
        self, run: Callable[[Command, Guard], Ended], argv: list[str], *, is_kept: bool = False
    ) -> Ended:
        limits = self.job["limits"]
        guard = Guard(float(limits["wall_s"]), float(limits["memory_mb"]), self.beat, self._why)
        environment = dict.fromkeys(POOLS, "1") | {"TMPDIR": self.scratch, "MPLBACKEND": "Agg"}
        try:
            ended = run(Command(argv, self.scratch, self.log, environment, is_kept), guard)
        except OSError as error:
            raise JobFailed("node", f"{argv[0]} could not be started: {error}") from error
        self.resources["cpu_s"] += ended.cpu_s
        self.resources["wall_s"] += ended.wall_s
        self.resources["max_rss_kb"] = max(self.resources["max_rss_kb"], ended.max_rss_kb)
        return ended

    def _stopped(self, why: str) -> str:
        """Return why a child was stopped, with the limit that it reached."""
        limits = {name: float(self.job["limits"][name]) for name in ("wall_s", "memory_mb")}
        return _STOPPED[why].format(**limits)

    def _local(self, name: str) -> str:
        try:
            return durable.confined_name(self.scratch, name)
        except durable.ConfinementError as error:
            raise JobFailed("policy", f"an output leaves the scratch directory: {error}") from error

    def _why(self) -> str:
        """Return the failure class for stopping now, or nothing; somebody may want this job alone to stop."""
        self.looked = time.monotonic()
        return self.stop.why() or ("node" if os.path.exists(f"{self.directory}/{STOP_FILE}") else "")

    def _pulse(self) -> None:
        self.beat()
        is_due = time.monotonic() - self.looked >= FIRST_BEAT_S
        if self.stop.why() or (is_due and self._why()):
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
    return _ENCODER.encode(document).encode()


def signed(report: dict[str, Any], ticket: bytes) -> bytes:
    """Return the report with its signature by the attempt's ticket, as bytes."""
    # Its members stand in the order of their names: those before the signature and those after it.
    sides = [{n: c for n, c in report.items() if (n < "signature") is side} for side in (True, False)]
    before, after = (canonical(side)[1:-1] for side in sides)
    content = b"{" + b",".join(filter(None, (before, after))) + b"}"
    signature = b'"signature":"%b"' % hmac.digest(ticket, content, "sha256").hex().encode()
    return b"{" + b",".join(filter(None, (before, signature, after))) + b"}"


def run_job(directory: str | Path, choose: Callable[[dict[str, Any]], Launcher], stop: Stop) -> int:
    """Run the attempt of a job directory, unless it runs, is done or was revoked; return the exit code."""
    started, folder = time.time(), os.fspath(directory)
    lock = durable.FileLock(f"{folder}/lock", f"{host()}:{os.getpid()}")
    try:
        lock.acquire(patience=LOCK_PATIENCE_S)
    except OSError as error:
        sys.stderr.write(f"{folder}: not run: {error}\n")
        return NOT_MINE
    try:
        if any(os.path.exists(f"{folder}/{name}") for name in ("revoked", STOP_FILE)):
            return NOT_MINE
        job = json.loads(_read(f"{folder}/job.json"))
        ticket = bytes.fromhex(_read(f"{folder}/ticket").decode().strip())
        if len(ticket) != TICKET_BYTES:
            raise ValueError("its ticket is not whole")
        if os.path.exists(f"{job['output_directory']}/report.json"):
            return REPORTED_OK
        return Attempt(folder, job, ticket, choose(job), stop, started).run()
    finally:
        lock.release()


def run_pack(directory: str, stop: Stop) -> int:
    """Run the jobs that a pack lists, one after the other; what befalls one leaves the others alone."""
    runners, codes = Runners(every=1000), []
    for line in _read(f"{directory}/{PACK_FILE}").decode().splitlines():
        if stop.is_asked:  # the rest has not begun, and is tried again
            break
        codes.append(_run_of_many(line, runners, stop))
    runners.close()
    return NOT_REPORTED if NOT_REPORTED in codes else max(codes, default=NOT_MINE)


def _run_of_many(directory: str, runners: Runners, stop: Stop) -> int:
    """Run a job; one that has no document, or none that is whole, leaves the next ones alone."""
    try:
        return run_job(directory, runners.choose, stop)
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.stderr.write(f"{directory}: not run: {error!r}\n")
        return NOT_MINE


def serve(every: int, is_fresh: bool) -> int:
    """Run the jobs that come in on the standard input, a packet each, which other wrappers take from too.

    A line says when one was taken, a further one that it has ended or, where this wrapper was told to end,
    that it has not begun.
    """
    stop, runners = Stop(), Runners(every, is_fresh)
    stop.install()
    signal.signal(signal.SIGUSR1, stop.leave)
    gc.freeze()
    try:
        while request := _request(stop):
            _say({"what": "took", "id": request["id"]})
            exit_code = _run_of_many(request["job"], runners, stop)
            _say({"what": "ended", "id": request["id"], "exit_code": exit_code})
    except BrokenPipeError:
        pass  # the scheduler is gone; the report is written
    finally:
        runners.close()
    return 0


def _request(stop: Stop) -> dict[str, Any] | None:
    """Take the next request; nothing once those who ask are gone. A wrapper that is to end does so here."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    while True:
        (_, events), *_ = stop.idle(poll.poll)
        if events & select.POLLHUP:
            return None
        try:
            request: dict[str, Any] = json.loads(os.read(0, 1 << 16))
        except BlockingIOError:  # another one was faster
            continue
        if not stop.is_leaving:
            return request
        _say({"what": "left", "id": request["id"]})


def _say(document: dict[str, Any]) -> None:
    os.write(1, canonical(document) + b"\n")


def main(argv: list[str]) -> int:
    """Run as ``wrapper JOBDIR``, ``wrapper PACKDIR`` or ``wrapper --serve [--fresh] [--every N]``."""
    adopt_orphans()
    has_lacked_memory()  # what was before is nobody's here
    if "--serve" in argv:
        every = int(argv[argv.index("--every") + 1]) if "--every" in argv else 1000
        return serve(every, "--fresh" in argv)
    stop = Stop()
    stop.install()
    directory = os.path.abspath(argv[0])
    if os.path.isfile(f"{directory}/{PACK_FILE}"):
        return run_pack(directory, stop)
    runners = Runners(every=1000)
    try:
        return run_job(directory, lambda job: runners.choose(job) if is_one_program(job) else Fresh(), stop)
    finally:
        runners.close()


def is_one_program(job: dict[str, Any]) -> bool:
    """Tell whether one program works and validates: then it is started once for both, as a runner."""
    process, validate = (job["commands"][name] for name in ("process", "validate"))
    are_verbs = (process[-1:], validate[-1:]) == (["process"], ["validate"])
    return are_verbs and bool(process[:-1] == validate[:-1])


def _verdict(line: str) -> dict[str, Any] | None:
    with suppress(ValueError):
        document = json.loads(line)
        return document if isinstance(document, dict) and "file" in document else None
    return None


def _read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds the number {name}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
