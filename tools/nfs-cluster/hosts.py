"""Hosts with kernels, addresses and page caches of their own, and one NFS server.

Each host is a User Mode Linux kernel; the server is nfs-ganesha. All of it lives in
network, mount and process namespaces that end with `run.py`, whatever happens:

    10.77.0.0/24  br0  the file server (.1) and the hosts (.11, .12, …)
    10.78.0.0/24  br1  clients (.1) and the hosts: clients' ports, API, streams
    10.79.N.0/30       host N and the driver: never cut

The hosts see the machine's own file system, read only.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "nfs-lab"))
import lab as nfs_lab  # noqa: E402  (the modules a host needs, and what the machine lacks)

SERVER = "10.77.0.1"
# Where every host mounts the datastore, and where the machine itself sees it.
STORE = "/run/store"
CACHE = "lookupcache=positive,actimeo=1"
MEMORY = "768M"
# Everything on UML kernels is slow, and the machine may be busy.
PATIENCE = 180
GANESHA = """
NFS_CORE_PARAM {{ Bind_addr = 10.77.0.1; NFS_Port = 2049; MNT_Port = 12050;
  NLM_Port = 12051; Rquota_Port = 12052; Protocols = 3, 4; Enable_NLM = false;
  Enable_RQUOTA = false; }}
NFSV4 {{ Minor_Versions = 0, 1, 2; Lease_Lifetime = 40; Grace_Period = 45;
  RecoveryBackend = fs; }}
EXPORT_DEFAULTS {{ Access_Type = RW; Squash = No_Root_Squash; SecType = sys;
  Transports = TCP; }}
EXPORT {{ Export_Id = 1; Path = {export}; Pseudo = /export; FSAL {{ Name = VFS; }} }}
LOG {{ Default_Log_Level = WARN; }}
"""


class Failed(Exception):
    """The lab, or what runs in it, did not do what it should."""


class NotHere(Failed):
    """The lab itself does not come up on this machine: that says nothing of the program."""


def sh(*words, **kw):
    """Runs a command of the lab itself."""
    return subprocess.run([str(w) for w in words], check=True, **kw)


def until(what, look, seconds):
    """Waits until `look` gives something true, and returns that with the time it took."""
    begun = time.monotonic()
    while True:
        got = look()
        took = time.monotonic() - begun
        if got:
            return got, took
        if took > seconds:
            raise Failed(f"not within {seconds} s: {what}")
        time.sleep(0.2)


class Host:
    """One host, numbered from 1."""

    def __init__(self, lab, no):
        self.lab, self.no, self.kernel, self.boots, self.failure = lab, no, None, 0, None
        self.name = f"host{no}"
        self.address = f"10.78.0.1{no}"

    def boot(self):
        """Starts its kernel, and waits until it answers."""
        self.boots += 1
        log = open(self.lab.work / f"{self.name}.log", "ab")
        n, work = self.no, self.lab.work
        words = [
            self.lab.uml / "usr/bin/linux.uml", f"mem={MEMORY}", "root=/dev/root",
            "rootfstype=hostfs", "rootflags=/", "ro", f"init={work}/host.sh", f"labdir={work}",
            f"hostno={n}", f"eth0=tuntap,store{n}", f"eth1=tuntap,net{n}", f"eth2=tuntap,ctl{n}",
            "con=null", "con0=null,fd:1", "quiet", f"uml_dir={work}/uml/",
            f"umid={self.name}.{self.boots}",
        ]
        self.kernel = subprocess.Popen(
            [str(w) for w in words],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )
        log.close()
        until(f"{self.name} comes up", self.answers, PATIENCE)

    def try_boot(self):
        """The same, on a thread: what went wrong is kept."""
        try:
            self.boot()
        except (Failed, OSError) as e:
            self.failure = e

    def answers(self):
        """Whether host.py is there."""
        if self.kernel.poll() is not None:
            raise Failed(f"{self.name}: its kernel ended; see {self.lab.work}/{self.name}.log")
        try:
            socket.create_connection((f"10.79.{self.no}.2", 7000), timeout=1).close()
            return True
        except OSError:
            return False

    def ask(self, op, patience=60, **more):
        """Has host.py do something."""
        with socket.create_connection((f"10.79.{self.no}.2", 7000), timeout=10) as s:
            s.settimeout(patience)
            s.sendall(json.dumps({"op": op, **more}).encode() + b"\n")
            line = s.makefile().readline()
        reply = json.loads(line or '{"failed": "the host is gone"}')
        if "failed" in reply:
            raise Failed(f"{self.name}: {op}: {reply['failed']}")
        return reply["is"]

    def mount(self):
        """Mounts the datastore."""
        if self.lab.version == "3":
            kind = (f"vers=3,nolock,addr={SERVER},port=2049,proto=tcp,"
                    f"mountaddr={SERVER},mountport=12050,mountproto=tcp")
            source = f"{SERVER}:{self.lab.export}"
        else:
            kind = f"vers={self.lab.version},addr={SERVER},clientaddr=10.77.0.1{self.no}"
            source = f"{SERVER}:/export"
        options = f"{kind},hard,{CACHE}"
        until(f"{self.name} mounts", lambda: self._mounted(options, source), PATIENCE)

    def _mounted(self, options, source):
        try:
            self.ask("mount", options=options, source=source, at=STORE)
            return True
        except Failed as e:
            self.lab.note(str(e))
            return False

    def run(self, *argv, cwd=None, patience=120):
        """Runs a program there to its end: status and output."""
        r = self.ask("run", patience + 10, argv=list(map(str, argv)), cwd=cwd, timeout=patience)
        return r["status"], r["out"]

    def power_off(self):
        """kill -9 of the whole kernel: peers hear nothing."""
        os.killpg(self.kernel.pid, signal.SIGKILL)
        self.kernel.wait()

    def kernel_signal(self, name):
        """SIGSTOP or SIGCONT for the whole kernel."""
        os.killpg(self.kernel.pid, getattr(signal, name))


class Lab:
    """Three networks, the file server, and hosts that are not booted yet."""

    def __init__(self, uml, work, version, hosts):
        self.uml, self.work, self.version = uml, work, version
        self.export = work / "export"
        self.hosts = [Host(self, n + 1) for n in range(hosts)]
        self.server = self.rpcbind = None
        self.begun = time.monotonic()

    def note(self, text):
        """A line of the story."""
        print(f"[{time.monotonic() - self.begun:6.1f}] {text}", flush=True)

    def __enter__(self):
        try:
            self.come_up()
        except (Failed, OSError, subprocess.SubprocessError) as e:
            raise NotHere(f"the lab does not come up here: {e}") from e
        return self

    def come_up(self):
        """Networks and the file server."""
        shutil.rmtree(self.work, ignore_errors=True)
        (self.work / "uml").mkdir(parents=True)
        self.export.mkdir()
        for name in ("host.py", "host.sh"):
            shutil.copy(HERE / name, self.work / name)
        order = nfs_lab.module_order(self.uml)
        (self.work / "modules").write_text("".join(f"{m}\n" for m in order))
        (self.work / "ganesha.conf").write_text(GANESHA.format(export=self.export))
        self.networks()
        # /run and the server's memory of its clients are this lab's own.
        sh("mount", "-t", "tmpfs", "tmp", "/run")
        for d in ("/run/rpcbind", "/run/ganesha", "/run/lock", STORE):
            pathlib.Path(d).mkdir(parents=True, exist_ok=True)
        memory = pathlib.Path("/var/lib/nfs/ganesha")
        memory.mkdir(parents=True, exist_ok=True)
        sh("mount", "-t", "tmpfs", "tmp", memory)
        sh("mount", "--bind", self.export, STORE)
        self.rpcbind = self.start("rpcbind", "-f", log="rpcbind.log")
        self.start_server()

    def boot(self):
        """Boots all hosts, and has them mount the datastore."""
        booting = [threading.Thread(target=h.try_boot) for h in self.hosts]
        for t in booting:
            t.start()
        for t in booting:
            t.join()
        try:
            for h in self.hosts:
                if h.failure:
                    raise h.failure
                h.mount()
        except Failed as e:
            raise NotHere(f"hosts do not come up here: {e}") from e

    def networks(self):
        """Bridges and taps."""
        sh("ip", "link", "set", "lo", "up")
        for i, net in ((0, "10.77.0.1"), (1, "10.78.0.1")):
            sh("ip", "link", "add", f"br{i}", "type", "bridge")
            sh("ip", "addr", "add", f"{net}/24", "dev", f"br{i}")
            sh("ip", "link", "set", f"br{i}", "up")
        for h in self.hosts:
            for name, bridge in (("store", "br0"), ("net", "br1"), ("ctl", None)):
                tap = f"{name}{h.no}"
                sh("ip", "tuntap", "add", "dev", tap, "mode", "tap")
                if bridge:
                    sh("ip", "link", "set", tap, "master", bridge)
                else:
                    sh("ip", "addr", "add", f"10.79.{h.no}.1/30", "dev", tap)
                sh("ip", "link", "set", tap, "up")

    def start(self, *words, log, **more):
        """A process of the machine, outside the hosts."""
        out = open(self.work / log, "ab")
        p = subprocess.Popen(
            [str(w) for w in words], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True, **more,
        )
        out.close()
        return p

    def start_server(self):
        """Starts the file server."""
        self.server = self.start(
            "ganesha.nfsd", "-F", "-f", self.work / "ganesha.conf",
            "-L", self.work / "ganesha.log", "-p", self.work / "ganesha.pid", log="ganesha.out",
        )
        until("the file server listens", self.listens, 30)

    def listens(self):
        """Whether the file server does."""
        if self.server.poll() is not None:
            raise Failed(f"the file server ended; see {self.work}/ganesha.log")
        try:
            socket.create_connection((SERVER, 2049), timeout=1).close()
            return True
        except OSError:
            return False

    def kill_server(self):
        """kill -9 of the file server; what it told to be written is in the machine's cache."""
        self.server.kill()
        self.server.wait()

    def link(self, host, networks, state):
        """Cuts a host off (`down`) from `store` or `net`, or connects it again (`up`)."""
        for n in networks:
            sh("ip", "link", "set", f"{n}{host.no}", state)

    def between(self, a, b, cut):
        """Cuts two hosts from each other, and from nobody else, on the clients' network."""
        for h in (a, b):
            sh("bridge", "link", "set", "dev", f"net{h.no}", "isolated", "on" if cut else "off")

    def __exit__(self, *_):
        for h in self.hosts:
            if h.kernel and h.kernel.poll() is None:
                h.power_off()
        for p in (self.server, self.rpcbind):
            if p and p.poll() is None:
                p.kill()
                p.wait()
