"""A real Slurm of its own for tests: one controller, two nodes on this machine, nobody else's files.

It needs Slurm's programs (Debian: slurmctld, slurmd, slurm-client, slurm-wlm-basic-plugins), no root, no
munge and no service.
"""

from __future__ import annotations

import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from support.waiting import wait_for

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
SBIN = "/usr/sbin"
NODES = ("n1", "n2")
CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/log/slurmctld
SlurmdLogFile={root}/log/%n
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={root}/completed
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=defer,batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=2
MaxJobCount=20000
MaxArraySize=5001
MinJobAge=300
KillWait=5
BatchStartTimeout=300
MessageTimeout=60
SlurmdTimeout=600
ReturnToService=2
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
MailProg=/bin/true
NodeName=DEFAULT CPUs={cpus} RealMemory=64000 State=UNKNOWN
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} TmpDisk=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} TmpDisk=2000
PartitionName=main Nodes=ALL Default=YES State=UP MaxTime=120
"""


def path() -> str:
    """Return PATH with the directory of the daemons."""
    present = os.environ["PATH"]
    return present if SBIN in present.split(os.pathsep) else f"{present}{os.pathsep}{SBIN}"


def missing() -> list[str]:
    """Return the programs that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program, path=path()) is None]


@dataclass
class RealSlurm:
    """The daemons under a private directory."""

    root: Path
    cpus: int = 8
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def configuration(self) -> Path:
        return self.root / "slurm.conf"

    def start(self) -> None:
        for folder in ("state", "log", *(f"spool/{node}" for node in NODES)):
            (self.root / folder).mkdir(parents=True)
        host = socket.gethostname().split(".")[0]
        values = {"host": host, "ports": _ports(3), "user": getpass.getuser(), "cpus": self.cpus}
        self.configuration.write_text(CONFIGURATION.format(root=self.root, **values))
        self._run("slurmctld", "slurmctld", "-c", "-D")  # -c: from nothing
        for node in NODES:
            self.start_node(node)
        self.until_idle()

    def stop_controller(self) -> None:
        """End the controller; it keeps its state, and what runs goes on."""
        self.daemons["slurmctld"].terminate()
        self.daemons["slurmctld"].wait(120)

    def start_controller(self) -> None:
        self._run("slurmctld", "slurmctld", "-D")

    def start_node(self, node: str) -> None:
        self._run(node, "slurmd", "-D", "-N", node)

    def lose_node(self, node: str) -> None:
        """Kill a node's daemon; what runs on the node goes on, and nobody watches it."""
        self.daemons[node].kill()
        self.daemons[node].wait()
        self.scontrol("update", f"nodename={node}", "state=down", "reason=lost")

    def recover_node(self, node: str) -> None:
        self.start_node(node)
        self.scontrol("update", f"nodename={node}", "state=resume")
        self.until_idle()

    def until_idle(self) -> None:
        command = ["sinfo", "-h", "-N", "-o", "%T"]
        wait_for(
            lambda: self.output(*command).split() == ["idle"] * len(NODES), what="not idle", seen=self.logs
        )

    def logs(self) -> str:
        """Return the last lines of what the daemons wrote."""
        files = sorted((self.root / "log").iterdir())
        return "\n".join(f"{file.name}: {file.read_text(errors='replace')[-2000:]}" for file in files)

    def scontrol(self, *arguments: str) -> str:
        return self.output("scontrol", *arguments)

    def node_of(self, batch_id: str) -> str:
        """Return the node on which a job is or was."""
        return self.output("squeue", "-h", "-r", "-t", "all", "-j", batch_id, "-o", "%N").strip()

    def output(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment(), timeout=120)
        return done.stdout

    def environment(self) -> dict[str, str]:
        return os.environ | {"SLURM_CONF": str(self.configuration), "PATH": path()}

    def stop(self) -> None:
        """End all jobs and daemons."""
        with suppress(AssertionError, subprocess.TimeoutExpired):
            self.output("scancel", "--me")
            wait_for(lambda: not self.output("squeue", "-h"), 30)
        for daemon in reversed(list(self.daemons.values())):
            daemon.terminate()
        for daemon in self.daemons.values():
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
            daemon.kill()
            daemon.wait()

    def _run(self, name: str, *command: str) -> None:
        with open(self.root / "log" / f"{name}.out", "ab") as log:
            self.daemons[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment()
            )


@contextmanager
def running(root: Path, cpus: int = 8) -> Iterator[RealSlurm]:
    """Give a Slurm that runs; its commands find it by SLURM_CONF, and so do ours meanwhile."""
    slurm = RealSlurm(root, cpus)
    before = {name: os.environ.get(name) for name in ("SLURM_CONF", "PATH")}
    try:
        slurm.start()
        os.environ.update({"SLURM_CONF": str(slurm.configuration), "PATH": path()})
        yield slurm
    finally:
        slurm.stop()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def holder(lock: Path) -> int:
    """Return the process that a wrapper's lock names."""
    return int(lock.read_text().strip().rpartition(":")[2])


def end(pid: int) -> None:
    """Ask one process to end."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def _ports(count: int) -> list[int]:
    """Return free ports, of those that no connection is given by itself."""
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    end = max(int(given.read_text().split()[0]) if given.exists() else 32768, 11000)
    found: set[int] = set()
    while len(found) < count:
        port = random.SystemRandom().randrange(10000, end)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
    return sorted(found)
