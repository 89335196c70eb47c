#!/usr/bin/env python3
"""Two programs collect the same artifacts from the same prepared root.

    tools/prepared-root/run.py OURS STOCK DEFINITIONS [--only NAME]... [--out DIR] [--show N]

OURS and STOCK are binaries, DEFINITIONS is a directory of artifacts, which is only
read. Must be run as root: the root lives in a tmpfs of namespaces of its own
(mounts, processes, network, names) and is gone at the end. Rows are compared as
sets, without the columns that differ between any two runs (VOLATILE). The exit
status is 0 when all artifacts that ran are equal.
"""

import argparse
import collections
import json
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import plant

#: Longest time for one artifact, in seconds.
LIMIT = 300

#: Artifacts and parameters they are run with. Left out are those that change the host,
#: wait for something or need another program, and those that ask for yara, which a
#: stock program built without C does not have.
CASES = {
    "Demo.Plugins.GUI": {},
    "Elastic.EventLogs.Sysmon": {},
    "Generic.Applications.Chrome.SessionStorage": {},
    "Generic.Applications.Office.Keywords": {"searchGlob": "/home/**"},
    "Generic.Client.CleanupTemp": {"TempGlob": "/tmp/none*"},
    "Generic.Client.DiskSpace": {},
    "Generic.Client.DiskUsage": {"TopLevelDirectory": "/home"},
    "Generic.Client.Info": {},
    "Generic.Client.VQL": {"Command": "SELECT OSPath, Size, Mode FROM glob(globs='/etc/*')"},
    "Generic.Collectors.File": {
        "collectionSpec": "Glob\nhome/*/.bash_history\netc/passwd\n", "Root": "/", "Accessor": "file"},
    "Generic.Detection.HashHunter": {
        "TargetGlob": "/home/**", "MD5List": plant.md5("home/bob/notes.txt")},
    "Generic.Detection.Logs": {"TargetGlob": "/var/log/*", "SearchRegex": "error"},
    "Generic.Forensic.Carving.URLs": {"UrlGlob": '["/home/bob/*.txt"]'},
    "Generic.Forensic.LocalHashes.Init": {},
    "Generic.Forensic.LocalHashes.Glob": {"HashGlob": "/home/ann/*"},
    "Generic.Forensic.LocalHashes.Query": {"CommaDelimitedHashes": plant.md5("home/ann/.bashrc")},
    "Generic.Forensic.Timeline": {"timelineGlob": "/home/**", "timelineAccessor": "file"},
    "Generic.Network.InterfaceAddresses": {},
    "Generic.System.EfiSignatures": {},
    "Generic.System.HostsFile": {},
    "Generic.System.ProcessSiblings": {},
    "Generic.System.Pstree": {},
    "Generic.Utils.Crypto": {},
    "Linux.Applications.Chrome.Extensions": {},
    "Linux.Applications.Chrome.Extensions.Upload": {},
    "Linux.Applications.Docker.Info": {},
    "Linux.Applications.Docker.Version": {},
    "Linux.Debian.AptSources": {},
    "Linux.Debian.Packages": {},
    "Linux.Detection.AnomalousFiles": {},
    "Linux.Forensics.ImmutableFiles": {},
    "Linux.Forensics.Journal": {},
    "Linux.Forensics.Journal.Fields": {},
    "Linux.Mounts": {},
    "Linux.Network.Netstat": {},
    "Linux.Network.NetstatEnriched": {},
    "Linux.Proc.Arp": {"ProcNetArp": "/opt/proc/arp"},
    "Linux.Proc.Modules": {"ProcModules": "/opt/proc/modules"},
    "Linux.RHEL.Packages": {},
    "Linux.Search.FileFinder": {
        "SearchFilesGlob": "/home/**", "Calculate_Hash": "Y", "LocalFilesystemOnly": "N"},
    "Linux.Ssh.AuthorizedKeys": {},
    "Linux.Ssh.KnownHosts": {},
    "Linux.Ssh.PrivateKeys": {"KeyGlobs": "/{root,home/*}/.ssh/*", "LocalFilesystemOnly": "N"},
    "Linux.SuSE.Packages": {},
    "Linux.Sys.ACPITables": {},
    "Linux.Sys.BashHistory": {},
    "Linux.Sys.CPUTime": {},
    "Linux.Sys.Crontab": {},
    "Linux.Sys.Groups": {},
    "Linux.Sys.LastUserLogin": {},
    "Linux.Sys.LogGrep": {"GrepRegex": "error|sshd"},
    "Linux.Sys.LogHunter": {"SearchRegex": "error|sshd"},
    "Linux.Sys.Maps": {"processRegex": "sleep"},
    "Linux.Sys.Pslist": {},
    "Linux.Sys.SUID": {},
    "Linux.Sys.Services": {},
    "Linux.Sys.Users": {},
    "Linux.Syslog.SSHLogin": {},
    "Linux.Users.InteractiveUsers": {},
    "Linux.Users.RootUsers": {},
    "Network.ExternalIpAddress": {},
    "Server.Internal.ToolDependencies": {},
    "System.VFS.ListDirectory": {"Path": "/etc", "Accessor": "file", "Depth": "1"},
    "Triage.Collection.Upload": {"path": "/etc/passwd", "type": "x"},
}

#: Columns, at any depth, that differ between any two runs: when and by whom it
#: was run, what reading a file changes, and counters that go on.
VOLATILE = {"*": {"_ts", "Atime", "ATime", "atime", "AccessTime"}}
VOLATILE.update({
    "Demo.Plugins.GUI": {"Base64Image"},
    "Generic.Client.Info": {"Name", "BuildTime", "Version", "build_url", "install_time", "TotalFreeMemory",
                            "TotalSharedMemory", "FreeSwap"},
    # The text of an error.
    "Network.ExternalIpAddress": {"IP"},
    # The programs themselves are in it.
    "Linux.Network.NetstatEnriched": {"ChildrenTree", "MemoryInfo", "Times"},
    # Memory and processor time go on.
    "Generic.System.Pstree": {"MemoryInfo", "Times"},
    # When it was run.
    "Generic.Client.VQL": {"Timestamp"},
    "Generic.Collectors.File": {"CopiedOnTimestamp"},
    "Generic.Client.DiskSpace": {"Free", "Used", "Use%", "Available", "used", "free"},
    "Linux.Sys.CPUTime": {"User", "Nice", "System", "Idle", "IOWait", "IRQ", "SoftIRQ", "Steal", "Guest", "GuestNice"},
    "Linux.Sys.Pslist": {"RSS", "CPU", "Utime", "Stime"},
})

#: Rows that are volatile as a whole, by a part of their text.
VOLATILE_ROWS = {"Generic.Client.Info": ['"Param": "Uptime"', '"Param": "BootTime"', '"Param": "Exe"',
                                         '"Param": "CompilerVersion"', '"Param": "ClientStart"', '"Param": "CWD"'],
                 # Processes come and go, and with them their times and numbers.
                 "System.VFS.ListDirectory": ['"_OSPath": "/proc/']}

#: Processes that are the program itself, by what their rows say.
SELF = ("/ours", "/stock")


def enter():
    """Runs itself again in namespaces of its own."""
    if os.environ.get("PREPARED_ROOT") == "inside":
        return
    argv = ["unshare", "--mount", "--pid", "--fork", "--net", "--uts", "--ipc", "--kill-child",
            "--propagation", "private", sys.executable, os.path.abspath(__file__)] + sys.argv[1:]
    os.execvpe("unshare", argv, {**os.environ, "PREPARED_ROOT": "inside"})


def call(*argv):
    subprocess.run(argv, check=True)


def prepare(root, ours, stock, definitions):
    call("mount", "-t", "tmpfs", "-o", "size=1g,mode=755", "prepared", root)
    plant.files(root)
    for name, path in [("ours", ours), ("stock", stock)]:
        plant.copy_program(root, path)
        shutil.copy(path, os.path.join(root, name))
    shutil.copytree(definitions, os.path.join(root, "definitions"))
    call("mount", "-t", "proc", "proc", os.path.join(root, "proc"))
    call("mount", "-t", "proc", "proc", "/proc")
    call("mount", "-t", "sysfs", "-o", "ro", "sysfs", os.path.join(root, "sys"))
    for name, major, minor in [("null", 1, 3), ("zero", 1, 5), ("urandom", 1, 9), ("random", 1, 8)]:
        os.mknod(os.path.join(root, "dev", name), 0o020_666, os.makedev(major, minor))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=False)
    subprocess.run(["hostname", "prepared"], check=False)


def collect(root, program, artifact, parameters):
    """The rows, and what was said."""
    if program == "ours":
        argv = ["/ours", "--definitions", "/definitions", "artifacts", "collect", artifact, "--format", "jsonl"]
        for name, value in parameters.items():
            argv += ["--args", f"{name}={value}"]
    else:
        # Its own `artifacts collect` runs sources whatever their preconditions say.
        given = "".join(f"`{name}`='''{value}''', " for name, value in parameters.items())
        query = f"SELECT * FROM Artifact.{artifact}({given}preconditions=TRUE)"
        argv = ["/stock", "--nobanner", "--definitions", "/definitions", "query", query, "--format", "jsonl"]
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "TMPDIR": "/tmp"}
    run = lambda: (os.chroot(root), os.chdir("/root"))
    try:
        done = subprocess.run(argv, preexec_fn=run, env=env, capture_output=True, timeout=LIMIT,
                              stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return None, "took too long"
    rows = []
    for line in done.stdout.decode(errors="replace").splitlines():
        if line.startswith("{"):
            try:
                rows.append(json.loads(line))
            except ValueError:
                pass
    return rows, done.stderr.decode(errors="replace")


def stripped(value, volatile):
    if isinstance(value, dict):
        return {k: stripped(v, volatile) for k, v in value.items() if k not in volatile}
    if isinstance(value, list):
        return [stripped(v, volatile) for v in value]
    return value


def row_set(rows, volatile, volatile_rows):
    """Rows as a multiset of texts; rows about the program itself are left out."""
    out = collections.Counter()
    for row in rows:
        text = json.dumps(stripped(row, volatile))
        own = any(f'"{s}' in text or f'{s} ' in text for s in SELF)
        if not own and not any(part in text for part in volatile_rows):
            out[text] += 1
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("ours")
    parser.add_argument("stock")
    parser.add_argument("definitions")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--out", help="keep the rows of both here")
    parser.add_argument("--show", type=int, default=2, help="rows shown of each side of a difference")
    args = parser.parse_args()
    enter()
    unknown = set(args.only) - set(CASES)
    if unknown:
        sys.exit(f"not a case: {', '.join(sorted(unknown))}")
    root = tempfile.mkdtemp(prefix="prepared-root.")
    prepare(root, args.ours, args.stock, args.definitions)
    kept = plant.processes(root)
    equal, differ = [], []
    for artifact in args.only or CASES:
        volatile = VOLATILE["*"] | VOLATILE.get(artifact, set())
        sides = {}
        for program in ("ours", "stock"):
            rows, said = collect(root, program, artifact, CASES[artifact])
            sides[program] = rows
            if args.out:
                os.makedirs(args.out, exist_ok=True)
                with open(os.path.join(args.out, f"{artifact}.{program}"), "w") as f:
                    f.writelines(json.dumps(r) + "\n" for r in rows or [])
                    f.write(f"# {said}\n")
        a, b = (row_set(sides[p] or [], volatile, VOLATILE_ROWS.get(artifact, [])) for p in ("ours", "stock"))
        late = [p for p in sides if sides[p] is None]
        if a == b and not late:
            equal.append((artifact, sum(a.values())))
            print(f"equal   {artifact}: {sum(a.values())} rows")
            continue
        differ.append(artifact)
        print(f"differ  {artifact}: ours {sum(a.values())}, stock {sum(b.values())} rows"
              + (f"; too late: {', '.join(late)}" if late else ""))
        for mark, more in (("+", a - b), ("-", b - a)):
            for text in list(more)[:args.show]:
                print(f"    {mark} {text[:600]}")
    with_rows = sum(1 for _, n in equal if n)
    print(f"{len(equal)} equal, {with_rows} of them with rows; {len(differ)} differ")
    for process in kept[0]:
        process.kill()
    sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
