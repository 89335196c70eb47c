"""A deployment of real processes on this machine, and what is read off it: metrics, resident
memory, CPU time. Needs the built binary and Python's standard library."""

import base64
import contextlib
import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
USER, PASSWORD = "probe", "probe-password"


# Below the ports of outgoing connections, of which there are thousands: a node that is started
# again must find its own port free. In steps, because `config frontend` takes the ports after the
# master's one for metrics.
PORTS = itertools.cycle(range(20000 + os.getpid() % 16, 32000, 16))
for _ in range(os.getpid() * 61 % 700):
    next(PORTS)


def free_port():
    for port in PORTS:
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def load():
    """Load average of the last minute: how busy others kept this machine."""
    return float(open("/proc/loadavg").read().split()[0])


def before_others():
    """This thread, not what it starts, gets the CPU as soon as it wants it. A person sits at another
    machine: what a probe waits for the clients beside it on its CPU is no time of the server's. Needs
    root; without it that waiting counts too, and is said."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except PermissionError:
        say("  not allowed to run the probe before the clients: what it waits for them counts too")


@contextlib.contextmanager
def at_once():
    """`before_others`, as long as it lasts."""
    before_others()
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


class Process:
    """A child, its log, and its bill."""

    def __init__(self, name, argv, log, cwd=None, cpu=None, nice=0):
        def before():
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})
            os.nice(nice)

        self.name, self.log = name, log
        self.p = subprocess.Popen(argv, cwd=cwd, stdout=open(log, "ab"), stderr=subprocess.STDOUT,
                                  stdin=subprocess.DEVNULL, preexec_fn=before)

    def alive(self):
        return self.p.poll() is None

    def cpu(self):
        """Seconds of CPU so far, user and system."""
        f = open(f"/proc/{self.p.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(f[11]) + int(f[12])) / TICKS

    def rss(self):
        return int(open(f"/proc/{self.p.pid}/statm").read().split()[1]) * PAGE

    def files(self):
        return len(os.listdir(f"/proc/{self.p.pid}/fd"))

    def kill(self):
        self.p.kill()
        self.p.wait()

    def stop(self, seconds=90):
        if self.alive():
            self.p.send_signal(signal.SIGTERM)
            try:
                self.p.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()


def wait(what, f, seconds=120, step=0.1):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if (r := f()):
                return r
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(step)
    raise SystemExit(f"waited {seconds} s for {what}")


class Node:
    """One node of the deployment."""

    def __init__(self, d, name, role, ports):
        self.d, self.name, self.role, self.ports = d, name, role, ports
        self.process = None

    def start(self, binary, cpu=None, extra=()):
        if self.role == "master":
            argv = [binary, "--config", "server.config.yaml", "frontend"]
        else:
            argv = [binary, "--config", f"minion.{self.name}.config.yaml", "frontend", "--minion",
                    "--node", self.name]
        self.process = Process(self.name, argv + list(extra), f"{self.d}/{self.role}-{self.name}.log",
                               cwd=f"{self.d}/nodes", cpu=cpu)
        wait(f"{self.name} to be up", lambda: not self.process.alive() or self.metrics(), 120)
        if not self.process.alive():
            raise SystemExit(open(self.process.log).read()[-2000:])
        return self

    def metrics(self):
        """Every sample by its name and labels."""
        c = http.client.HTTPConnection("127.0.0.1", self.ports["monitoring"], timeout=20)
        c.request("GET", "/metrics")
        text = c.getresponse().read().decode()
        c.close()
        pairs = (l.rsplit(" ", 1) for l in text.splitlines() if l and l[0] != "#")
        return {k: float(v) for k, v in pairs}


class Deployment:
    """A master and `minions` minions of one store, in a new directory."""

    def __init__(self, binary, minions=2, merge=None, settings=None, schemes=("https", "wss"), keep=None):
        self.binary = os.path.abspath(binary)
        self.d = keep or tempfile.mkdtemp(prefix="load-")
        self.made = keep is None
        os.makedirs(self.d + "/ds", exist_ok=True)
        ports = [{"clients": free_port(), "monitoring": free_port()} for _ in range(minions + 1)]
        ports[0].update(api=free_port(), gui=free_port())
        frontend = {"hostname": "127.0.0.1", "bind_address": "127.0.0.1", "bind_port": ports[0]["clients"]}
        config = {
            "Frontend": frontend,
            "API": {"hostname": "127.0.0.1", "bind_address": "127.0.0.1", "bind_port": ports[0]["api"]},
            "GUI": {"bind_port": ports[0]["gui"]},
            "Monitoring": {"bind_port": ports[0]["monitoring"]},
            "Datastore": {"location": self.d + "/ds", "filestore_directory": self.d + "/ds"},
            "Client": {"server_urls": [f"https://127.0.0.1:{ports[0]['clients']}/"]},
        }
        for at, value in (merge or {}).items():
            here = config
            *way, last = at.split(".")
            for step in way:
                here = here.setdefault(step, {})
            here[last] = value
        self.write("server.config.yaml", self.run("config", "generate", "--merge", json.dumps(config)))
        self.nodes = [Node(self.d, f"127.0.0.1-{ports[0]['clients']}", "master", ports[0])]
        argv = ["--config", "server.config.yaml", "config", "frontend", "--api_hostname", "127.0.0.1",
                "--bind_address", "127.0.0.1", "--output", "nodes"]
        for p in ports[1:]:
            argv += ["--hostname", "127.0.0.1", "--bind_port", str(p["clients"])]
            self.nodes.append(Node(self.d, f"127.0.0.1-{p['clients']}", "minion", p))
        if minions:
            self.run(*argv)
        else:
            os.makedirs(self.d + "/nodes", exist_ok=True)
            shutil.copy(self.d + "/server.config.yaml", self.d + "/nodes")
            text = self.run("--config", "server.config.yaml", "config", "client")
            self.write("nodes/client.config.yaml", text)
        for node, p in zip(self.nodes[1:], ports[1:]):
            path = f"nodes/minion.{node.name}.config.yaml"
            text = open(f"{self.d}/{path}").read()
            found = re.search(r"^Monitoring:\n(?:  .*\n)*?  bind_port: (\d+)", text, re.M)
            p["monitoring"] = int(found[1])
        if settings:
            for n in self.nodes:
                name = "server" if n.role == "master" else f"minion.{n.name}"
                with open(f"{self.d}/nodes/{name}.fleet.yaml", "a") as f:
                    f.write(settings)
        self.run("--config", "nodes/server.config.yaml", "config", "api_client", "--name", "load",
                 "--role", "administrator", "api.config.yaml")
        self.run("--config", "nodes/server.config.yaml", "user", "add", "--role", "administrator",
                 USER, PASSWORD)
        self.configs = {s: self.client_config(s) for s in schemes}
        self.pools = []

    @property
    def master(self):
        return self.nodes[0]

    def run(self, *argv):
        r = subprocess.run([self.binary, *argv], cwd=self.d, capture_output=True, text=True)
        if r.returncode:
            raise SystemExit(f"{' '.join(argv)}: {r.stderr}")
        return r.stdout

    def write(self, name, text):
        with open(f"{self.d}/{name}", "w") as f:
            f.write(text)
        return f"{self.d}/{name}"

    def client_config(self, scheme, ports=None, name=None):
        """An agent's configuration with the URLs of all nodes, or of these ports, by `scheme`."""
        text = open(f"{self.d}/nodes/client.config.yaml").read()
        ports = ports or [n.ports["clients"] for n in self.nodes]
        urls = "".join(f"  - {scheme}://127.0.0.1:{p}/\n" for p in ports)
        text = re.sub(r"  server_urls:\n(  - .*\n)+", lambda _: f"  server_urls:\n{urls}", text)
        return self.write(f"client.{name or scheme}.config.yaml", text)

    def balancer(self, name):
        """A HAProxy before the clients' ports of all nodes, as docs/CLUSTER.md has it; its port."""
        port = free_port()
        servers = "".join(f"  server n{i} 127.0.0.1:{n.ports['clients']}\n" for i, n in enumerate(self.nodes))
        config = self.write(f"{name}.cfg", f"""global
  maxconn 9000
defaults
  mode tcp
  timeout connect 2s
  timeout client 3m
  timeout server 3m
  timeout tunnel 3m
  retries 2
  option redispatch
listen agents
  bind 127.0.0.1:{port}
  balance leastconn
  option httpchk GET /healthz
  default-server check check-ssl verify none inter 2s fall 2 rise 1 on-marked-down shutdown-sessions
{servers}""")
        self.pools.insert(0, Process(name, ["haproxy", "-db", "-f", config], f"{self.d}/{name}.log"))
        def open_now():
            with socket.create_connection(("127.0.0.1", port), 1):
                return True
        wait("the balancer", open_now, 20)
        return port

    def start(self, cpu=None):
        for n in self.nodes:
            n.start(self.binary, cpu)
        if len(self.nodes) > 1:
            up = "velociraptor_link_streams"
            wait("minions to join", lambda: any(k.startswith(up) and v >= len(self.nodes) - 1
                                                for k, v in self.master.metrics().items()), 60)
        return self

    def pool(self, scheme, number, *flags, cpu=None, nice=0, config=None, name=None):
        """Virtual clients, as one process."""
        name = name or f"pool-{scheme}-{len(self.pools)}"
        argv = [self.binary, "--config", config or self.configs[scheme],
                "--api_config", f"{self.d}/api.config.yaml", "pool_client", "--number", str(number),
                "--keys", keys_file(scheme), *map(str, flags)]
        p = Process(name, argv, f"{self.d}/{name}.log", cwd=self.d, cpu=cpu, nice=nice)
        self.pools.append(p)
        return p

    def held(self, nodes=None):
        """Clients held by these nodes themselves."""
        return sum(here(n.metrics()) for n in nodes or self.nodes)

    def stop(self):
        # Without the comparison at a pool's end, which for thousands of clients takes minutes.
        for p in self.pools:
            p.kill()
        for n in reversed(self.nodes):
            if n.process:
                n.process.kill()
        if self.made and not os.environ.get("LOAD_KEEP"):
            shutil.rmtree(self.d, ignore_errors=True)


def here(m):
    return int(m.get("velociraptor_readers_held", 0))


def keys_file(name):
    """Keys of virtual clients take minutes to make: they are kept for the next run."""
    d = os.environ.get("LOAD_KEYS", os.path.expanduser("~/.cache/velociraptor-load"))
    os.makedirs(d, exist_ok=True)
    return f"{d}/{name}.keys.pem"


class Api:
    """The HTTP API behind the GUI, over one connection that is kept."""

    def __init__(self, port, timeout=60):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.c = http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout, context=context)
        word = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        self.headers = {"Authorization": f"Basic {word}"}

    def ask(self, method, path, body=None, **headers):
        self.c.request(method, path, body=body, headers={**self.headers, **headers})
        r = self.c.getresponse()
        answer = r.read()
        if r.status != 200:
            raise SystemExit(f"{path}: {r.status} {answer[:300]!r}")
        self.token = r.headers.get("x-csrf-token") or getattr(self, "token", None)
        return answer

    def get(self, path):
        return self.ask("GET", path)

    def json(self, path):
        return json.loads(self.get(path))

    def post(self, path, body):
        """A change: the server wants a token with it, which every answer brings."""
        if not getattr(self, "token", None):
            self.get("/api/v1/GetUserUITraits")
        return json.loads(self.ask("POST", path, json.dumps(body), **{"x-csrf-token": self.token}))


def query(d, vql, **env):
    """Rows of a query, by the command line."""
    flags = [x for k, v in env.items() for x in ("--env", f"{k}={v}")]
    text = d.run("--api_config", "api.config.yaml", "query", "--format", "jsonl", *flags, vql)
    return [json.loads(l) for l in text.splitlines() if l.strip()]


def percentile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, max(0, -(-len(values) * q // 100) - 1))]


def histogram_bound(m, name, limit, q, before=None):
    """The upper bound, in seconds, below which a share `q` of the waits lay."""
    rows = []
    for k, v in m.items():
        g = re.match(re.escape(name) + r'_bucket\{limit="%s",le="([^"]+)"\}' % limit, k)
        if g:
            rows.append((float(g[1]), v - (before or {}).get(k, 0)))
    rows.sort()
    if not rows or not rows[-1][1]:
        return None
    return next(b for b, n in rows if n >= q * rows[-1][1])


def say(text):
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit("a library; see README.md")
