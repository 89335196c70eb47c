"""What work costs in calls to the file server: as the store counts them, and as the kernels do."""

import time

from hosts import STORE, until
from story import EVENTS, Story

CLIENTS = 24


class Costs:
    """Counts on a cluster that nobody hurts."""

    def __init__(self, lab, binary):
        self.s = Story(lab, binary, None)
        self.lab, self.c = lab, self.s.c
        self.quiet, self.table = {}, []

    def counts(self):
        """Everything that is counted, over all hosts."""
        out = {"at": time.monotonic(), "kernel": {}, "store": {}, "node": {}}
        for h in self.lab.hosts:
            for kind, n in h.ask("calls", at=STORE).items():
                out["kernel"][kind] = out["kernel"].get(kind, 0) + n
            for name, n in self.c.metrics(h).items():
                if name.startswith("velociraptor_store_operations_total"):
                    kind = name.split('"')[1]
                    if kind != "failed" and not kind.startswith("bytes_"):
                        out["store"][kind] = out["store"].get(kind, 0) + n
                elif name.startswith("velociraptor_journal_"):
                    out["node"][name] = out["node"].get(name, 0) + n
        return out

    def since(self, before):
        """What came since then, and the seconds."""
        now = self.counts()
        seconds = now["at"] - before["at"]
        grown = {part: {k: n - before[part].get(k, 0) for k, n in now[part].items()}
                 for part in ("kernel", "store", "node")}
        return seconds, grown

    def rest(self, seconds):
        """What a cluster without work does, a second."""
        before = self.counts()
        time.sleep(seconds)
        took, grown = self.since(before)
        self.quiet = {p: {k: n / took for k, n in grown[p].items()} for p in grown}
        self.row("three nodes at rest, each second", took, grown, took, subtract=False)

    def row(self, what, seconds, grown, units, subtract=True):
        """Adds a row: calls for each unit, without what a cluster at rest makes in that time."""
        each = {}
        for part in ("kernel", "store"):
            rest = self.quiet.get(part, {}) if subtract else {}
            each[part] = {k: (n - rest.get(k, 0) * seconds) / units for k, n in grown[part].items()}
        kinds = sorted(((round(n, 2), k) for k, n in each["kernel"].items() if n >= 0.05), reverse=True)
        self.table.append({
            "what": what, "units": round(units), "store": round(sum(each["store"].values()), 2),
            "kernel": round(sum(each["kernel"].values()), 2),
            "kinds": {k: n for n, k in kinds},
            "store_kinds": {k: round(n, 2) for k, n in each["store"].items() if n >= 0.05},
            "groups": round(grown["node"]["velociraptor_journal_groups_total"]),
            "records": round(grown["node"]["velociraptor_journal_records_total"]),
        })
        self.lab.note(str(self.table[-1]))

    def settled(self):
        """Waits until all flows are in their final files, and what follows that is written."""
        def look():
            return self.c.metrics(self.c.master)["velociraptor_unsettled_flows"] == 0
        until("all flows are settled", look, 300)
        time.sleep(3)

    def watch(self, names):
        """Sets the event table."""
        listed = "".join(f"'{n}'," for n in names)
        self.c.query("SELECT set_client_monitoring(value=dict(artifacts=dict("
                     f"artifacts=[{listed}]))) FROM scope()", check=True)

    def measure(self):
        """All rows."""
        c, s = self.c, self.s
        s.set_up()
        self.watch([])
        c.query(f"SELECT artifact_set(definition='''{EVENTS.replace('ms=200', 'ms=1000')}''') FROM scope()",
                check=True)
        time.sleep(10)
        self.rest(20)
        before = self.counts()
        s.out.pool(CLIENTS)
        until("clients are enrolled and interrogated", lambda: len(c.query(
            "SELECT client_id FROM clients() WHERE os_info.hostname") or []) == CLIENTS, 120)
        self.settled()
        self.row("enrolment of a client, with its interrogation, settled", *self.since(before), CLIENTS)
        before = self.counts()
        for _ in range(4):
            c.query("SELECT collect_client(client_id=client_id, artifacts='Generic.Client.Info', "
                    "env=dict()).flow_id AS F FROM clients()", check=True)
        until("flows have ended", lambda: set(s.states() or ["?"]) == {"FINISHED"}, 120)
        self.settled()
        self.row("collection, from its call to its final files", *self.since(before), 4 * CLIENTS)
        self.watch(["Cluster.Beats"])
        time.sleep(5)
        before = self.counts()
        time.sleep(20)
        took, grown = self.since(before)
        self.row("POST of events", took, grown, grown["node"]["velociraptor_journal_records_total"])
        return self.table


def measure(lab, binary):
    """Counts; the table."""
    return Costs(lab, binary).measure()
