import json, subprocess, time
from hosts import STORE, Failed, until

def play(l, binary):
    h = l.hosts[0]
    h.boot()
    l.note("booted")
    h.mount()
    l.note(str(h.run("sh","-c","mount | grep nfs; free -m; ls -la /run/store; date")))
    merge = {
        "Frontend": {"hostname": h.address, "bind_address": "0.0.0.0"},
        "API": {"hostname": h.address, "bind_address":"0.0.0.0"},
        "Datastore": {"location": STORE, "filestore_directory": STORE},
        "Client": {"server_urls": [f"https://{h.address}:8000/"], "max_poll": 10},
    }
    w = l.work
    out = subprocess.run([binary, "config","generate","--merge",json.dumps(merge)],capture_output=True,text=True,check=True).stdout
    (w/"server.config.yaml").write_text(out)
    cl = subprocess.run([binary,"-c",w/"server.config.yaml","config","client"],capture_output=True,text=True,check=True).stdout
    (w/"client.config.yaml").write_text(cl)
    t=time.time()
    print(h.run(binary,"-c",w/"server.config.yaml","config","check","--datastore")[1], time.time()-t)
    h.ask("spawn", name="frontend", argv=[str(binary),"-c",str(w/"server.config.yaml"),"frontend"])
    def up():
        import socket
        try: socket.create_connection((h.address,8000),timeout=1).close(); return True
        except OSError: return False
    l.note(str(until("up",up,60)))
    print(subprocess.run([binary,"-c",w/"server.config.yaml","config","api_client","--name","admin","--role","administrator",w/"api.yaml"],capture_output=True,text=True))
    print(subprocess.run([binary,"-c",w/"client.config.yaml","-a",w/"api.yaml","pool_client","--number","3","--keys",w/"keys.pem","--collect","Generic.Client.Info","--tasks","12","--rate","5","--duration","60"],capture_output=True,text=True))
    print(h.ask("calls",at=STORE))
