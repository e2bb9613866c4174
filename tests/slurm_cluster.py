"""A Slurm of one node with two fake GPUs, on loopback alone, started and stopped for tests."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from pipeline.progress import is_held

TEMPLATE = Path(__file__).with_name("slurm.conf")
MARK = TEMPLATE.read_text().splitlines()[0]  # by which a killed session's files are known
ETC = Path("/etc/slurm")  # the plugin drops SLURM_CONF: there is no other place
PACKAGES = ("slurm-wlm", "munge")
UP = {"idle", "mixed", "allocated"}
INSTALLING = 240.0  # seconds, with a network
PATIENCE = 60.0  # seconds for a daemon to come up


def why_not():
    """Return why no cluster can be started here, None where one can; installs what it needs."""
    if os.geteuid() != 0:
        return "needs root, to start Slurm's daemons and write /etc/slurm"
    conf = ETC / "slurm.conf"
    if conf.exists():
        if not conf.read_text().startswith(MARK):
            return f"{conf} is there: this machine's own Slurm is left alone"
        if is_held(conf):
            return f"{conf} is there: other tests have their Slurm running"
        clear_leftovers()
    if shutil.which("slurmctld") and shutil.which("munged"):
        return None
    if not shutil.which("apt-get"):
        return f"needs {' and '.join(PACKAGES)}, and there is no apt-get to install them"
    install = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (install, ["apt-get", "update"], install):  # with the lists there are, then newer
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, env=environment, timeout=INSTALLING
            )
        except subprocess.TimeoutExpired:
            return f"{' '.join(words)} took more than {INSTALLING} s"
        if words is install and done.returncode == 0:
            return None
    return f"{' '.join(install)} failed: {done.stderr[-300:]}"


def pid_file(name):
    return ETC / f"tests-{name}.pid"


def clear_leftovers():
    """Stop the daemons of a session that was killed, by their pid files, and remove its files."""
    for file in ETC.glob(pid_file("*").name):
        pid, name = int(file.read_text()), file.stem.removeprefix("tests-")
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            # Another process may have the number by now.
            if any(Path(word).name == name for word in psutil.Process(pid).cmdline()):
                os.killpg(pid, signal.SIGKILL)
    remove_files()


def remove_files():
    for file in (ETC / "slurm.conf", ETC / "gres.conf", *ETC.glob(pid_file("*").name)):
        file.unlink(missing_ok=True)


class Cluster:
    """The daemons, by name, and what they are asked."""

    def __init__(self, folder):
        self.folder = folder
        self.daemons = {}

    def start(self):
        """Start munged, the controller and the node; return when the node is idle."""
        run_folder = Path("/run/munge")
        run_folder.mkdir(exist_ok=True)
        shutil.chown(run_folder, "munge", "munge")
        socket_file = run_folder / "munge.socket.2"
        as_munge = ["runuser", "-u", "munge", "--"]
        self._spawn("munged", [*as_munge, "munged", "--foreground", "--force"])
        self._wait(socket_file.exists, "munged")
        self.start_slurm()

    def start_slurm(self):
        """Start the controller and the node."""
        self._spawn("slurmctld", ["slurmctld", "-D"])
        self._spawn("slurmd", ["slurmd", "-D", "-N", "localhost"])
        # After a power cut its jobs are still in the books.
        self._wait(lambda: UP & set(ask("sinfo", "-h", "-o", "%T").split()), "the node")

    def cut_power(self):
        """Kill the controller, the node and all that runs on it."""
        for name in ("slurmctld", "slurmd"):
            process = self.daemons.pop(name)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        kill_jobs()

    def stop(self):
        """Cancel all jobs and stop what was started."""
        ask("scancel", "--user=root")
        for name in reversed(list(self.daemons)):
            os.killpg(self.daemons[name].pid, signal.SIGTERM)
        for process in self.daemons.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        kill_jobs()

    def _spawn(self, name, command):
        log = (self.folder / f"{name}.log").open("ab")
        self.daemons[name] = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True
        )
        pid_file(name).write_text(str(self.daemons[name].pid))

    def _wait(self, ready, what):
        end = time.monotonic() + PATIENCE
        while not ready():
            if time.monotonic() > end:
                logs = "\n".join(f.read_text()[-1500:] for f in self.folder.glob("*.log"))
                raise TimeoutError(f"{what} did not come up in {PATIENCE} s\n{logs}")
            time.sleep(0.2)


def kill_jobs():
    """Kill every job's processes: there is no other Slurm here, or none would have been started."""
    steps = [p for p in psutil.process_iter(["name"]) if p.info["name"] == "slurmstepd"]
    for process in [*steps, *(child for step in steps for child in step.children(recursive=True))]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def cluster(folder):
    """Give a running cluster whose files lie in ``folder``; its daemons end with it."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    devices = [folder / f"nvidia{i}" for i in (0, 1)]
    for device in devices:
        subprocess.run(["mknod", device, "c", "1", "3"], check=True)
    ports = free_ports(2)
    ETC.mkdir(exist_ok=True)
    files = {
        "slurm.conf": TEMPLATE.read_text().format(
            folder=folder, ctld_port=ports[0], slurmd_port=ports[1]
        ),
        "gres.conf": f"Name=gpu Type=h200 File={folder}/nvidia[0-1]\n",
    }
    for name, text in files.items():
        (ETC / name).write_text(text)
    found = Cluster(folder)
    # Held as long as this process lives, however it ends.
    with (ETC / "slurm.conf").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        try:
            found.start()
            yield found
        finally:
            found.stop()
            remove_files()


def free_ports(count):
    """Return so many ports above 16000 that nobody listens on."""
    ports = []
    for port in range(16817, 17817):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError("no free ports")


def ask(*command):
    """Return what a Slurm command prints, nothing where it fails."""
    return subprocess.run(command, capture_output=True, text=True).stdout
