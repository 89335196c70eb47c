#!/usr/bin/env python3
"""Times the same queries on this program and, if given, on a stock binary.

    tools/bench_vql.py OURS [STOCK] [--rows N] [--files N] [--runs N]

OURS should be a release build. Prints the best of the runs of each, without the
time a query of one row takes (starting the program), the ratio stock/ours, and
the largest resident memory of ours. Makes its files in a temporary directory.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time


def queries(rows, tree, big):
    """Name -> the query. Each gives few rows, so that printing does not count."""
    source = f"range(end={rows})"
    out = {
        "parse": "SELECT count() AS N FROM foreach(row={ SELECT * FROM range(end=%d) }, "
        "query={ SELECT eval(func='x=>dict(a=x, b=1 + 2 * 3, c=\"' + str(str=_value) + '\")', "
        "args=_value) AS E FROM scope() }) GROUP BY 1" % (rows // 10),
        "filter": f"SELECT * FROM {source} WHERE _value * 3 = 9 OR _value = -1",
        "regex": f"SELECT * FROM {source} WHERE format(format='item %d', args=_value) =~ 'm 7{{5}}$'",
        "calls": f"SELECT count() AS N, len(list=split(string=upcase(string=format(format='a,%d,c', "
        f"args=_value)), sep=',')) AS L FROM {source} GROUP BY 1",
        "group": f"SELECT _value - int(int=_value / 100) * 100 AS K, count() AS N, sum(item=_value) AS S "
        f"FROM {source} GROUP BY K LIMIT 1",
        "sort": f"SELECT _value - int(int=_value / 1009) * 1009 AS K, _value FROM {source} "
        "ORDER BY K DESC LIMIT 1",
        "glob": f"SELECT count() AS N FROM glob(globs='{tree}/**') GROUP BY 1",
        "hash": f"SELECT hash(path='{big}', max_size=2000000000) AS H FROM scope()",
    }
    # What is printed is the work here.
    out["json"] = f"SELECT _value, format(format='text %d', args=_value) AS T, " \
                  f"dict(a=_value, b='<x>') AS D FROM {source}"
    return out


def run(binary, query):
    """Seconds and bytes of resident memory."""
    start = time.monotonic()
    process = subprocess.Popen([binary, "query", "--format", "jsonl", query],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    size = 0
    while chunk := process.stdout.read(1 << 20):
        size += len(chunk)
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    took = time.monotonic() - start
    if status or not size:
        sys.exit(f"{binary}: {query}\n{error.decode(errors='replace')}")
    return took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def best(binary, query, runs):
    all_runs = [run(binary, query) for _ in range(runs)]
    return (min(r[0] for r in all_runs), min(r[1] for r in all_runs), max(r[2] for r in all_runs))


def make_tree(root, files):
    for i in range(files):
        directory = os.path.join(root, f"{i // 1000:03}", f"{i // 100 % 10}")
        if i % 100 == 0:
            os.makedirs(directory, exist_ok=True)
        open(os.path.join(directory, f"file{i}"), "w").close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("ours")
    parser.add_argument("stock", nargs="?")
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--bytes", type=int, default=1 << 30)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        tree, big = os.path.join(work, "tree"), os.path.join(work, "big")
        make_tree(tree, args.files)
        with open(big, "wb") as f:
            block = os.urandom(1 << 20)
            for _ in range(args.bytes >> 20):
                f.write(block)
        nothing = "SELECT 1 AS A FROM scope()"
        idle = [best(b, nothing, args.runs) for b in (args.ours, args.stock) if b]
        print(f"{args.rows} rows, {args.files} files, {args.bytes} bytes, best of {args.runs}; "
              f"load {os.getloadavg()[0]:.1f}")
        print(f"{'':8} {'ours s':>9} {'cpu s':>9} {'MiB':>6}", end="")
        print(f" {'stock s':>9} {'cpu s':>9} {'ratio':>7} {'of cpu':>7}" if args.stock else "")
        for name, query in queries(args.rows, tree, big).items():
            if args.only and name not in args.only.split(","):
                continue
            ours = best(args.ours, query, args.runs)
            wall, cpu = max(ours[0] - idle[0][0], 1e-3), max(ours[1] - idle[0][1], 1e-3)
            print(f"{name:8} {wall:9.3f} {cpu:9.3f} {ours[2] >> 20:6}", end="", flush=True)
            if args.stock:
                theirs = best(args.stock, query, args.runs)
                w, c = max(theirs[0] - idle[1][0], 1e-3), max(theirs[1] - idle[1][1], 1e-3)
                print(f" {w:9.3f} {c:9.3f} {w / wall:7.1f} {c / cpu:7.1f}", end="")
            print(flush=True)


if __name__ == "__main__":
    main()
