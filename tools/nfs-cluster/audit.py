"""What is in a settled datastore, read as plain files, compared with what was sent.

Knows the tree that stock programs read, and nothing of this one.
"""

import hashlib
import json


def sha256(path):
    """Of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def rows_of(path):
    """Objects of a file with one a line; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Audit:
    """Of collections of `Cluster.Story` and events of `Cluster.Beats` in the tree `root`."""

    def __init__(self, root, rows, blob):
        self.clients, self.rows, self.blob = root / "clients", rows, sha256(blob)
        self.size = blob.stat().st_size
        self.wrong = []
        self.flows = self.row_count = self.uploads = self.bytes = self.events = self.runs = 0

    def differs(self, text):
        """Notes a difference."""
        self.wrong.append(text)

    def flow(self, client, flow):
        """One collection: its state, its rows, its file."""
        who = f"{client} {flow}"
        base = self.clients / client
        context = base / "collections" / f"{flow}.json.db"
        if not context.exists():
            return self.differs(f"{who}: no such flow")
        state = json.loads(context.read_text())
        if state.get("state") != "FINISHED":
            self.differs(f"{who}: {state.get('state')} {state.get('status', '')}")
        got = rows_of(base / "artifacts/Cluster.Story" / flow / "Rows.json")
        wanted = [(i, i * 7919) for i in range(self.rows)]
        if [(r["I"], r["Check"]) for r in got] != wanted:
            seen = [r["I"] for r in got]
            self.differs(f"{who}: {len(got)} rows, {len(set(seen))} different, of {self.rows}")
        files = [p for p in (base / "collections" / flow / "uploads").glob("**/*") if p.is_file()]
        if [sha256(p) for p in files] != [self.blob]:
            self.differs(f"{who}: uploads {[(p.name, p.stat().st_size) for p in files]}")
        if int(state.get("totalCollectedRows", 0)) != self.rows + 1:
            self.differs(f"{who}: counts {state.get('totalCollectedRows')} rows")
        if int(state.get("totalUploadedBytes", 0)) != self.size:
            self.differs(f"{who}: counts {state.get('totalUploadedBytes')} bytes")
        self.flows += 1
        self.row_count += len(got)
        self.uploads += len(files)
        self.bytes += sum(p.stat().st_size for p in files)

    def all_flows(self, scheduled):
        """Those that were scheduled, and those whose call's answer was lost."""
        there = {(p.parents[2].name, p.name)
                 for p in self.clients.glob("*/artifacts/Cluster.Story/F.*") if p.is_dir()}
        for client, flow in sorted(there | scheduled):
            self.flow(client, flow)
        return len(there - scheduled)

    def all_events(self):
        """Every run of the event query is there from its beginning, each row once."""
        e = Events(self.clients.parent, "Cluster.Beats")
        self.wrong += e.wrong
        self.events, self.runs = e.rows, e.runs


class Events:
    """Numbered rows (`Run`, `N`) of an event query on each client in the tree `root`."""

    def __init__(self, root, artifact):
        self.rows = self.runs = self.clients = 0
        self.wrong, self.lengths = [], []
        for client in sorted((root / "clients").iterdir()):
            runs = {}
            for day in sorted((client / "monitoring" / artifact).glob("*.json")):
                for r in rows_of(day):
                    runs.setdefault(r["Run"], []).append(r["N"])
            self.clients += bool(runs)
            for run, got in sorted(runs.items()):
                # Each frontend puts its events in order; together they are complete.
                if sorted(got) != list(range(len(got))):
                    self.wrong.append(f"{client.name}: events of run {run}: {len(got)} rows, "
                                      f"{len(set(got))} different, to {max(got)}")
                self.rows += len(got)
                self.runs += 1
                self.lengths.append(len(got))

    def full(self, length):
        """How many runs have so many rows."""
        return sum(n == length for n in self.lengths)
