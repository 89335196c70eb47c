"""The story: a cluster comes up, works, and is hurt in every way; then everything is counted."""

import random
import threading
import time

import audit
from cluster import Cluster, Outside
from hosts import PATIENCE, STORE, Failed, sh, until

POOL = 12
ROWS = 300
BLOB = 1_500_000
BEATS = 200

COLLECTION = f"""name: Cluster.Story
sources:
  - name: Rows
    query: |
      SELECT I, I * 7919 AS Check FROM foreach(
        row={{{{ SELECT _value AS A, sleep(ms=300) AS S FROM range(start=0, end={ROWS // 10}, step=1) }}}},
        query={{{{ SELECT A * 10 + _value AS I FROM range(start=0, end=10, step=1) }}}})
  - name: File
    query: SELECT upload(file='{{blob}}') AS Upload FROM scope()
"""
EVENTS = f"""name: Cluster.Beats
type: CLIENT_EVENT
sources:
  - query: |
      LET Run <= rand(range=1000000000)
      SELECT Run, N FROM foreach(
        row={{ SELECT _value AS N, sleep(ms={BEATS}) AS S FROM range(start=0, end=1000000, step=1) }},
        query={{ SELECT Run, N FROM scope() }})
"""


class Story:
    """One run over one version of NFS."""

    def __init__(self, lab, binary, stock):
        self.lab, self.stock = lab, stock
        self.c = Cluster(lab, binary)
        self.out = Outside(self.c)
        self.scheduled, self.failed_calls, self.faults = set(), 0, []
        self.blob = lab.work / "blob.bin"

    def note(self, text):
        """A line of the story."""
        self.lab.note(text)

    def set_up(self):
        """Boots, configures, checks, starts."""
        c, hosts = self.c, self.lab.hosts
        self.blob.write_bytes(random.Random(4).randbytes(BLOB))
        c.configure()
        self.lab.boot()
        self.note(f"{len(hosts)} hosts are up, NFS {self.lab.version} is mounted")
        c.check(c.master, "--datastore")
        self.together(*[lambda h=h: c.check(h, "--datastore_peer", "first") for h in hosts[:2]])
        c.start(c.master)
        for h in c.minions:
            c.check(h, "--minion")
            c.launch(h)
        took = c.whole()
        self.note(f"configurations and datastore are checked, three frontends are connected "
                  f"({took:.1f} s)")

    def together(self, *work):
        """Does things at once; the first failure is told."""
        failed = []

        def one(f):
            try:
                f()
            except Exception as e:
                failed.append(e)

        threads = [threading.Thread(target=one, args=(f,)) for f in work]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if failed:
            raise failed[0]

    def enrol(self):
        """Clients come; events begin."""
        c = self.c
        for text in (COLLECTION.format(blob=self.blob), EVENTS):
            c.query(f"SELECT artifact_set(definition='''{text}''') FROM scope()", check=True)
        # The comma: a list of one element without it is that element.
        rows = c.query("SELECT set_client_monitoring(value=dict(artifacts=dict("
                       "artifacts=['Cluster.Beats',]))) AS T FROM scope()", check=True)
        if rows[0]["T"]["artifacts"]["artifacts"] != ["Cluster.Beats"]:
            raise Failed(f"the event table is not what was asked for: {rows}")
        self.out.pool(POOL)
        self.out.agent("ours", c.binary)
        if self.stock:
            # Its TCP keep-alive: what tells it that a host lost its power.
            self.out.agent("stock", self.stock, "  connection_timeout: 40\n")
        wanted = POOL + 1 + bool(self.stock)

        def enrolled():
            rows = c.query("SELECT client_id FROM clients() WHERE os_info.hostname") or []
            return len(rows) == wanted and rows

        rows, took = until("clients are enrolled and interrogated", enrolled, PATIENCE)
        self.clients = sorted(r["client_id"] for r in rows)
        held = [int(c.metrics(h)["velociraptor_clients_held"]) for h in self.lab.hosts]
        self.note(f"{wanted} clients are enrolled and interrogated ({took:.1f} s); held: {held}")

    def collect(self):
        """A collection on every client; a call that fails may have made some of them."""
        rows = self.c.query(
            "SELECT client_id AS C, collect_client(client_id=client_id, "
            "artifacts='Cluster.Story', env=dict()).flow_id AS F FROM clients()")
        if rows is None:
            self.failed_calls += 1
            self.note("a call for collections failed")
        self.scheduled |= {(r["C"], r["F"]) for r in rows or [] if r["F"]}

    def states(self):
        """State of every collection so far."""
        rows = self.c.query(
            "SELECT * FROM foreach(row={ SELECT client_id FROM clients() }, query={ SELECT "
            "state FROM flows(client_id=client_id) })")
        return None if rows is None else [r["state"] for r in rows]

    def fault(self, name, hurt, seen, seconds, heal):
        """Hurts something while collections run, until `seen` and for `seconds`; then heals
        it and waits until the cluster is whole."""
        self.collect()
        time.sleep(1.5)
        begun = time.monotonic()
        hurt()
        try:
            until(f"{name}: seen", seen, PATIENCE)
        except Failed as e:
            raise Failed(f"{e}\n{self.c.state()}") from None
        time.sleep(max(0, seconds - (time.monotonic() - begun)))
        heal()
        hurt_for = time.monotonic() - begun
        took = self.c.whole()
        self.faults.append({"fault": name, "seconds": round(hurt_for, 1), "whole_after": round(took, 1)})
        self.note(f"{name}: {hurt_for:.1f} s; all well {took:.1f} s after")

    def unwell(self, *hosts):
        """Whether all of these say so themselves."""
        return lambda: all(self.c.health(h) == 503 for h in hosts)

    def play(self):
        """All of it."""
        lab, c = self.lab, self.c
        one, two = c.minions
        everybody = lab.hosts
        c.second_master(one)
        self.note("the master's program was refused on another host")

        def off(host, *networks):
            return lambda: lab.link(host, networks, "down")

        def on(host, *networks):
            return lambda: lab.link(host, networks, "up")

        def link_down():
            return c.metrics(two)["velociraptor_link_up"] == 0

        def ended(host):
            return lambda: host.ask("ended", name="frontend") == -9

        self.fault("a minion's host cut off from everything", off(one, "store", "net"),
                   self.unwell(one), 15, on(one, "store", "net"))
        self.fault("a minion's host cut off from the master alone",
                   lambda: lab.between(c.master, two, True), link_down, 12,
                   lambda: lab.between(c.master, two, False))
        self.fault("a minion's host cut off from the file server alone", off(two, "store"),
                   self.unwell(two), 15, on(two, "store"))
        self.fault("kill -9 of a minion", lambda: c.kill(one), ended(one), 2,
                   lambda: c.launch(one))
        self.fault("power loss of a minion's host", two.power_off,
                   lambda: two.kernel.poll() is not None, 3, lambda: c.power_on(two))
        self.fault("the file server stands still", lambda: lab.server.send_signal(19),
                   self.unwell(*everybody), 25, lambda: lab.server.send_signal(18))
        self.fault("kill -9 and restart of the file server", lab.kill_server,
                   lambda: lab.server.poll() is not None, 3, lab.start_server)
        self.fault("kill -9 of the master", lambda: c.kill(c.master), ended(c.master), 5,
                   lambda: c.launch(c.master))
        self.fault("the master's host cut off from everything", off(c.master, "store", "net"),
                   self.unwell(c.master), 12, on(c.master, "store", "net"))
        self.collect()

    def finish(self):
        """Waits for the collections, and has the pool compare."""
        def done():
            states = self.states()
            return states is not None and set(states) <= {"FINISHED", "ERROR"} and states

        states, took = until("all collections have ended", done, 300)
        self.note(f"{len(states)} collections, interrogations included, have ended ({took:.1f} s)")
        report = self.out.stop()
        a = report["audit"]
        self.note(f"the pool: {report['rows']} rows, {report['event_rows']} event rows, "
                  f"{report['uploaded_bytes']} bytes acknowledged; lost {a['lost_rows']}, doubled "
                  f"{a['doubled_rows']}, differences {len(a['differences'])}")
        return report

    def settle(self):
        """Everything dies; what is left is settled, and read as plain files."""
        c = self.c
        for h in self.lab.hosts:
            c.kill(h)
        before = c.master.ask("calls", at=STORE)
        _, settled, after = c.settle()
        calls = {k: n - before.get(k, 0) for k, n in c.master.ask("calls", at=STORE).items()}
        left = {k: v for k, v in after["unsettled"].items() if v and k not in ("oldest",)}
        if left:
            raise Failed(f"settling leaves {left}")
        told = ", ".join(f"{settled[k]} {k}" for k in ("flows", "event_sets", "uploads"))
        self.note(f"settled: {told}, in {settled['seconds']:.1f} s and "
                  f"{sum(calls.values())} calls: {calls}")
        for h in self.lab.hosts:
            h.power_off()
        self.lab.kill_server()
        a = audit.Audit(self.lab.export, ROWS, self.blob)
        lost_answers = a.all_flows(self.scheduled)
        a.all_events()
        self.note(f"in files: {a.flows} collections ({lost_answers} of calls without an answer), "
                  f"{a.row_count} rows, {a.uploads} files of {a.bytes} bytes, {a.events} event "
                  f"rows of {a.runs} runs; differences {len(a.wrong)}")
        return a

    def stock_reads(self, a):
        """A stock server opens the tree on the machine itself, with the master's address."""
        c, lab = self.c, self.lab
        c.own("-c", c.nodes / "server.config.yaml", "user", "add", "--role", "administrator",
              "admin", "a-password-for-nobody")
        sh("ip", "addr", "add", f"{c.master.address}/24", "dev", "br1")
        server = lab.start(self.stock, "--config", c.nodes / "server.config.yaml", "frontend", "-v",
                           log="stock-server.log")

        def listed():
            if server.poll() is not None:
                raise Failed(f"the stock server ended; see {lab.work}/stock-server.log")
            rows = c.query("SELECT client_id FROM clients()") or []
            return len(rows) == len(self.clients)

        until("the stock server lists the clients", listed, 120)
        flows = c.query(
            "SELECT * FROM foreach(row={ SELECT client_id AS C FROM clients() }, query={ SELECT * "
            "FROM foreach(row={ SELECT session_id AS F, state AS State, total_collected_rows AS R, "
            "total_uploaded_bytes AS B FROM flows(client_id=C) WHERE request.artifacts =~ "
            "'Cluster.Story' }, query={ SELECT C, F, State, R, B, count() AS N FROM source("
            "client_id=C, flow_id=F, artifact='Cluster.Story', source='Rows') GROUP BY 1 }) })",
            check=True)
        events = c.query(
            "SELECT * FROM foreach(row={ SELECT client_id AS C FROM clients() }, query={ SELECT "
            "count() AS N FROM source(client_id=C, artifact='Cluster.Beats', start_time=1, "
            "end_time=4000000000) GROUP BY 1 })", check=True)
        for r in flows:
            got = (r["State"], int(r["R"]), int(r["B"]), int(r["N"]))
            if got != ("FINISHED", ROWS + 1, BLOB, ROWS):
                a.differs(f"stock server: {r}")
        found = sum(int(r["N"]) for r in events)
        if (len(flows), found) != (a.flows, a.events):
            a.differs(f"stock server: {len(flows)} collections and {found} event rows")
        server.terminate()
        server.wait(60)
        self.note(f"a stock server reads {len(flows)} collections and {found} event rows")


def play(lab, binary, stock=None):
    """Plays it; what came of it, as one object."""
    s = Story(lab, binary, stock)
    s.set_up()
    s.enrol()
    s.play()
    report = s.finish()
    a = s.settle()
    if stock:
        s.stock_reads(a)
    wrong = report["audit"]["differences"] + a.wrong
    if a.events < report["event_rows"]:
        wrong.append(f"{report['event_rows']} event rows acknowledged, {a.events} found")
    return {
        "nfs": lab.version, "seconds": round(time.monotonic() - lab.begun, 1),
        "faults": s.faults, "clients": len(s.clients), "collections": a.flows,
        "calls_failed": s.failed_calls, "hung_mounts": s.c.hung, "rows": a.row_count, "files": a.uploads,
        "file_bytes": a.bytes, "event_rows": a.events, "wrong": wrong,
    }
