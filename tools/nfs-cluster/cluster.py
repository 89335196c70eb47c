"""One master and two minions on the lab's hosts, made and watched as an operator would."""

import json
import re
import shutil
import signal
import subprocess
import time

from hosts import PATIENCE, STORE, Failed, until

METRICS = "http://127.0.0.1:8003/metrics"
HEALTH = "https://127.0.0.1:8000/healthz"
# So long has a call on a mount not returned, though the file server answers other hosts, when
# an operator switches that host off and on. Seconds.
HANG = 60


class Cluster:
    """The deployment. Its files are in `lab.work`, which hosts can read."""

    def __init__(self, lab, binary):
        # A copy: the program may be built anew meanwhile.
        self.lab, self.work = lab, lab.work
        self.binary = shutil.copy(binary, lab.work / "velociraptor").as_posix()
        self.nodes = self.work / "nodes"
        self.api = self.work / "api.yaml"
        self.master, *self.minions = lab.hosts
        self.blocked, self.hung = {h: {} for h in lab.hosts}, []

    def own(self, *argv, check=True, patience=PATIENCE):
        """Runs the program outside the hosts; its standard output."""
        words = [self.binary, *map(str, argv)]
        out = subprocess.run(words, cwd=self.work, capture_output=True, text=True,
                             timeout=patience, stdin=subprocess.DEVNULL)
        if check and out.returncode != 0:
            raise Failed(f"{words[1:]}: status {out.returncode}: {out.stderr[-2000:]}")
        return out.stdout if out.returncode == 0 else None

    def configure(self):
        """`config generate`, `config frontend`, `config api_client`."""
        m = self.master.address
        merge = {
            "Frontend": {"hostname": m, "bind_address": "0.0.0.0"},
            "API": {"hostname": m, "bind_address": "0.0.0.0"},
            "Datastore": {"location": STORE, "filestore_directory": STORE},
            "Client": {"server_urls": [f"https://{m}:8000/"], "max_poll": 10},
            "defaults": {"event_max_wait": 1, "event_max_wait_jitter": 1},
        }
        text = self.own("config", "generate", "--merge", json.dumps(merge))
        (self.work / "server.config.yaml").write_text(text)
        names = [w for h in self.minions for w in ("--hostname", h.address)]
        self.own("-c", "server.config.yaml", "config", "frontend", *names, "--bind_address",
                 "0.0.0.0", "--api_hostname", m, "--output", "nodes")
        self.own("-c", self.nodes / "server.config.yaml", "config", "api_client", "--name",
                 "admin", "--role", "administrator", self.api)

    def node(self, host):
        """A node's name."""
        return f"{host.address}-8000"

    def config(self, host):
        """A node's configuration file."""
        if host is self.master:
            return self.nodes / "server.config.yaml"
        return self.nodes / f"minion.{self.node(host)}.config.yaml"

    def check(self, host, *flags):
        """`config check`, which must find nothing wrong."""
        status, out = host.run(self.binary, "-c", self.config(host), "config", "check", *flags,
                               patience=PATIENCE)
        with open(self.work / "checks.log", "a") as f:
            f.write(f"== {host.name} {' '.join(flags)}\n{out}\n")
        if status != 0:
            raise Failed(f"config check {' '.join(flags)} on {host.name}: {out}")

    def launch(self, host):
        """Starts the frontend of a host; does not wait."""
        role = [] if host is self.master else ["--minion", "--node", self.node(host)]
        argv = [self.binary, "-c", str(self.config(host)), "frontend", *role]
        host.ask("spawn", name="frontend", argv=argv)

    def start(self, host):
        """Starts it and waits until it serves."""
        self.launch(host)
        self.serves(host)

    def serves(self, host):
        """Waits until the frontend of a host is up and well; seconds."""
        return until(f"{host.name} serves", lambda: self.health(host) == 200, PATIENCE)[1]

    def health(self, host):
        """Status of its health page, asked on the host itself; 0 if nobody answers."""
        try:
            return host.ask("get", url=HEALTH)["status"]
        except (Failed, OSError):
            if host.ask("ended", name="frontend") is not None:
                raise Failed(f"the frontend of {host.name} ended") from None
            return 0

    def kill(self, host, how="SIGKILL"):
        """Ends the frontend of a host, and waits for that."""
        host.ask("signal", name="frontend", signal=how)
        until(f"the frontend of {host.name} ends",
              lambda: host.ask("ended", name="frontend") is not None, PATIENCE)

    def metrics(self, host):
        """Its metrics: name with labels, and value."""
        text = host.ask("get", url=METRICS)["body"]
        out = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                out[name] = float(value)
        return out

    def query(self, vql, check=False):
        """Rows of a query through the API; `None` if it failed."""
        text = self.own("-a", self.api, "query", "--format", "jsonl", "--timeout", "60", vql,
                        check=check)
        return None if text is None else [json.loads(line) for line in text.splitlines()]

    def connected(self):
        """Nodes that the master has a stream with, itself included; 0 if it does not answer."""
        text = self.own("-a", self.api, "cluster", "status", "--json", check=False)
        rows = [json.loads(line) for line in (text or "").splitlines()]
        return sum(1 for r in rows if r["Connected"])

    def whole(self):
        """Waits until all nodes are well and connected; seconds."""
        def look():
            unwell = [h for h in self.lab.hosts if self.health(h) != 200]
            for h in unwell if len(unwell) < len(self.lab.hosts) else []:
                self.unhang(h)
            return not unwell and self.connected() == len(self.lab.hosts)
        for seen in self.blocked.values():
            seen.clear()
        try:
            return until("all nodes are well and connected", look, PATIENCE)[1]
        except Failed as e:
            raise Failed(f"{e}\n{self.state()}") from None

    def state(self):
        """What the nodes say of themselves, and where their threads wait."""
        out = []
        for h in self.lab.hosts:
            try:
                page = h.ask("get", url=HEALTH)
                where = sorted({w for _, _, w in h.ask("blocked", name="frontend")})
                out.append(f"{h.name}: {page['status']} {page['body'].strip()}; waits: {where}")
            except (Failed, OSError) as e:
                out.append(f"{h.name}: {e}")
        return "\n".join(out)

    def unhang(self, host):
        """Switches a host off and on whose kernel does not return from a call on the mount:
        after leases ran out in a stall, nfs-ganesha puts off opens for ever (NFS4ERR_DELAY), now and then. No program can help
        there, and what ours acknowledged must outlive it."""
        seen, now = self.blocked[host], time.monotonic()
        # A call that the server puts off for ever is tried again by the kernel, and so switches.
        at = {(task, "" if "nfs4_handle_exception" in where else switches): where
              for task, switches, where in host.ask("blocked", name="frontend")}
        for gone in seen.keys() - at.keys():
            del seen[gone]
        for task in at:
            seen.setdefault(task, now)
        long = [at[task] for task, since in seen.items() if now - since > HANG]
        if long:
            self.lab.note(f"a call on the mount of {host.name} has not returned for {HANG} s, while "
                          f"other hosts are served; the host is switched off and on: {long[0]}")
            self.hung.append(host.name)
            seen.clear()
            host.power_off()
            self.power_on(host)

    def power_on(self, host):
        """Boots a host, mounts the datastore and starts its frontend."""
        host.boot()
        host.mount()
        self.launch(host)

    def second_master(self, host):
        """The master's program is refused on another host while the first one lives, with
        the status that tells units not to try again."""
        status, out = host.run(self.binary, "-c", self.config(self.master), "frontend")
        if status != 3 or self.node(self.master) not in out:
            raise Failed(f"a second master on {host.name}: status {status}: {out}")

    def settle(self):
        """`datastore status` and `settle` on the master's host; what they say."""
        def told(*words):
            argv = [self.binary, "-c", self.config(self.master), "datastore", *words, "--json"]
            status, out = self.master.run(*argv, patience=3 * PATIENCE)
            found = re.search(r"^\{.*^\}|^\{.*\}$", out, re.S | re.M)
            if status != 0 or not found:
                raise Failed(f"datastore {' '.join(words)}: status {status}: {out}")
            return json.loads(found.group())
        return told("status"), told("settle"), told("status")


class Outside:
    """Agents on the machine itself; they know the hosts by the clients' network."""

    def __init__(self, cluster):
        self.cluster, self.lab, self.running = cluster, cluster.lab, {}

    def pool(self, number):
        """Many clients, until they are told to stop; then they compare."""
        c = self.cluster
        argv = [c.binary, "-c", c.nodes / "client.config.yaml", "-a", c.api, "pool_client",
                "--number", number, "--ramp", 20, "--keys", c.work / "keys.pem",
                "--report", c.work / "report.json"]
        self.running["pool"] = self.lab.start(*argv, log="pool.log")

    def agent(self, name, program, more=""):
        """One agent, ours or the stock one, with `more` lines in its section `Client`."""
        at = self.lab.work / name
        at.mkdir()
        text = (self.cluster.nodes / "client.config.yaml").read_text()
        text = re.sub(r"(writeback_linux:).*", rf"\1 {at}/writeback.yaml", text)
        text = re.sub(r"(filename_linux:).*", rf"\1 {at}/buffer", text)
        text = text.replace("Client:\n", f"Client:\n{more}", 1)
        if text.count(str(at)) != 2 or more not in text:
            raise Failed("the client's configuration does not say where its state is")
        (at / "client.config.yaml").write_text(text)
        argv = [program, "--config", at / "client.config.yaml", "client"]
        self.running[name] = self.lab.start(*argv, log=f"{name}.log")

    def stop(self):
        """Ends all agents; the pool compares first. The pool's report."""
        for name in sorted(self.running, reverse=True):
            p = self.running[name]
            if p.poll() is not None:
                raise Failed(f"{name} ended by itself; see {self.lab.work}/{name}.log")
            p.send_signal(signal.SIGTERM)
            p.wait(PATIENCE)
        return json.loads((self.lab.work / "report.json").read_text())
