"""A real Grid Engine of its own for tests: master and node in namespaces of their own, in a private folder.

It needs Grid Engine's programs (Debian: gridengine-master, gridengine-exec, gridengine-client), ``ip``,
``unshare`` and root. Grid Engine wants a host name that stands for an address outside of the loopback, and
fixed places for its files: both exist only inside the namespaces.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from support.waiting import wait_for

PROGRAMS = ("sge_qmaster", "sge_execd", "qconf", "qsub", "qstat", "qdel", "qacct", "ip", "unshare", "nsenter")
COMMANDS = ("qsub", "qstat", "qdel", "qacct")
SGE_ROOT, SPOOL = Path("/var/lib/gridengine"), Path("/var/spool/gridengine")
HOST, ADDRESS = "sgehost", "10.99.0.1"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
GLOBAL = {
    "min_uid": "0",
    "min_gid": "0",
    "load_report_time": "00:00:02",
    "reporting_params": "accounting=true reporting=false flush_time=00:00:01 joblog=false sharelog=00:00:00",
}
SCHEDULE = {"schedule_interval": "0:0:1", "flush_submit_sec": "1", "flush_finish_sec": "1"}
_COMPLEX = 'echo "{name} {name} MEMORY <= YES YES 0 0" >>"$1"'
QUEUE = {
    "hostlist": "@allhosts",
    "slots": "50",
    "pe_list": "NONE",
    "load_thresholds": "NONE",
    "shell": "/bin/sh",
    "notify": "00:00:05",
}


def missing() -> list[str]:
    """Return what is not there for a Grid Engine."""
    absent = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    return absent or ([] if os.getuid() == 0 else ["root"])


@dataclass
class RealGridEngine:
    """The daemons, and a folder with the commands that reach them."""

    root: Path
    holder: subprocess.Popen[bytes] | None = None
    inside: list[str] = field(default_factory=list)

    def start(self) -> None:
        for name in ("cell/common", "spool/spooldb", "spool/qmaster", "spool/execd", "bin"):
            (self.root / name).mkdir(parents=True)
        self._make_namespaces()
        self._make_cell()
        self.run("sge_qmaster")
        self.until("the master answers", lambda: self.run("qconf", "-sh").returncode == 0)
        self._configure()
        self.run("sge_execd")
        self.until("the node reports", self._has_reported)
        self.run("qconf", "-tsm")  # the scheduler's first round, now
        for command in COMMANDS:
            self._put(self.root / "bin" / command, f'exec {" ".join(self.inside)} /usr/bin/{command} "$@"')

    def run(self, *command: str, editor: Path | None = None) -> subprocess.CompletedProcess[bytes]:
        more = {"EDITOR": str(editor)} if editor else {}
        environment = self.environment() | more
        return subprocess.run([*self.inside, *command], env=environment, capture_output=True, timeout=120)

    def must(self, *command: str, editor: Path | None = None) -> None:
        done = self.run(*command, editor=editor)
        assert done.returncode == 0, (command, done.stdout, done.stderr)

    def environment(self) -> Mapping[str, str]:
        return {"PATH": PATH, "HOME": "/root", "SGE_ROOT": str(SGE_ROOT), "SGE_CELL": "default"}

    def declare_scratch(self, name: str, megabytes: int) -> None:
        """Declare scratch space as something that jobs use up, and how much of it the node has."""
        self.must("qconf", "-mc", editor=self._put(self.root / "edit-complex", _COMPLEX.format(name=name)))
        self.must("qconf", "-aattr", "exechost", "complex_values", f"{name}={megabytes}M", HOST)

    def kill_node(self) -> None:
        """Kill the node's daemon; what runs there goes on."""
        self._signal("sge_execd", signal.SIGKILL)

    def stop(self) -> None:
        """End all jobs and daemons, and with them the namespaces."""
        with suppress(subprocess.TimeoutExpired):
            self.run("qdel", "-f", "-u", "*")
        for name in ("sge_shepherd", "sge_execd", "sge_qmaster"):
            self._signal(name, signal.SIGKILL)
        if self.holder:
            self.holder.kill()
            self.holder.communicate()

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        wait_for(holds, what=f"not so: {what}")

    def _make_namespaces(self) -> None:
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--uts", "--mount", "sh", "-c", "echo; exec sleep infinity"],
            stdout=subprocess.PIPE,
            env=dict(self.environment()),
        )
        assert self.holder.stdout and self.holder.stdout.readline()
        self.inside = ["/usr/bin/nsenter", "-t", str(self.holder.pid), "-n", "-u", "-m"]
        self.must("hostname", HOST)
        self.must("ip", "link", "set", "lo", "up")
        self.must("ip", "link", "add", "sge0", "type", "veth", "peer", "name", "sge1")
        self.must("ip", "addr", "add", f"{ADDRESS}/24", "dev", "sge0")
        self.must("ip", "link", "set", "sge0", "up")
        hosts = self.root / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n{ADDRESS} {HOST}\n")
        hosts.chmod(0o644)  # whatever files are made like here: the daemons have an account of their own
        for own, place in (
            ("hosts", "/etc/hosts"),
            ("cell", SGE_ROOT / "default"),
            ("spool", SPOOL),
        ):
            self.must("mount", "--bind", str(self.root / own), str(place))

    def _make_cell(self) -> None:
        bootstrap = Path("/usr/share/gridengine/default-bootstrap")
        given = SGE_ROOT / "default/common/bootstrap"  # what the package made, outside of the namespaces
        shutil.copy(given if given.exists() else bootstrap, self.root / "cell/common/bootstrap")
        (self.root / "cell/common/act_qmaster").write_text(f"{HOST}\n")
        for folder in (self.root / "cell", self.root / "spool"):
            self.must("chown", "-R", "sgeadmin", str(folder))
        script = "/usr/share/gridengine/scripts/init_cluster"
        arguments = [str(SGE_ROOT), "default", str(SPOOL / "spooldb"), "sgeadmin"]
        self.must("setpriv", "--reuid=sgeadmin", "--regid=sgeadmin", "--clear-groups", script, *arguments)

    def _configure(self) -> None:
        asadmin = ["setpriv", "--reuid=sgeadmin", "--regid=sgeadmin", "--clear-groups"]
        self.run(*asadmin, "qconf", "-am", "root")
        self.run("qconf", "-as", HOST)
        group = self.root / "group"
        group.write_text(f"group_name @allhosts\nhostlist {HOST}\n")
        self.must("qconf", "-Ahgrp", str(group))
        self.must("qconf", "-aq", "all.q", editor=self._editor("queue", QUEUE))
        self.must("qconf", "-mconf", editor=self._editor("global", GLOBAL))
        self.must("qconf", "-msconf", editor=self._editor("schedule", SCHEDULE))

    def _has_reported(self) -> bool:
        lines = self.run("qhost").stdout.decode().splitlines()
        return any(line.startswith(HOST) and line.split()[6] != "-" for line in lines)

    def _editor(self, name: str, settings: Mapping[str, str]) -> Path:
        """Return a program that edits a configuration as ``qconf`` wishes it edited: in place."""
        joined = r"-e ':a' -e '/\\$/{N;s/\\\n *//;ba' -e '}'"  # a value that goes on in the next line
        edits = " ".join(f"-e 's#^{key} .*#{key} {value}#'" for key, value in settings.items())
        return self._put(self.root / f"edit-{name}", f'sed -i {joined} "$1"; sed -i {edits} "$1"')

    def _put(self, path: Path, body: str) -> Path:
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    def _signal(self, name: str, number: int) -> None:
        """Signal the daemons of that name in our namespaces."""
        assert self.holder
        ours = os.stat(f"/proc/{self.holder.pid}/ns/net").st_ino
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                is_named = (process / "comm").read_text().strip() == name
                if is_named and os.stat(process / "ns/net").st_ino == ours:
                    os.kill(int(process.name), number)


@contextmanager
def running(root: Path) -> Iterator[RealGridEngine]:
    """Give a Grid Engine that runs; its commands come first on PATH meanwhile."""
    engine = RealGridEngine(root)
    before = {name: os.environ.get(name) for name in ("PATH", "SGE_ROOT", "SGE_CELL")}
    try:
        engine.start()
        os.environ["PATH"] = f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}"
        os.environ |= {"SGE_ROOT": str(SGE_ROOT), "SGE_CELL": "default"}
        yield engine
    finally:
        engine.stop()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
