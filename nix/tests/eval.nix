# nix-instantiate --eval --strict --json eval.nix --arg libPath /path/to/nixpkgs/lib
#
# Evaluates the module against narrow stand-ins for the NixOS options it sets
# (stubs.nix), so that neither a network nor a NixOS tree is needed.
{ libPath ? ./stub-nixpkgs/lib }:
let
  lib = import libPath;
  store = "/nix/store/00000000000000000000000000000000";
  pkgs = {
    inherit lib;
    formats.json = _: {
      type =
        let
          t = lib.types;
          v = t.nullOr (t.oneOf [ t.bool t.int t.float t.str (t.attrsOf v) (t.listOf v) ]) // { name = "JSON value"; description = "JSON value"; };
        in
        v;
    };
    writeText = name: text: { type = "derivation"; inherit name text; outPath = "${store}-${name}"; };
    runtimeShell = "/bin/sh";
    velociraptor = { type = "derivation"; name = "velociraptor"; outPath = "${store}-velociraptor"; };
  };
  host = m: lib.evalModules { modules = [ ./stubs.nix ../../nixos-module m ]; specialArgs = { inherit pkgs; }; };
  failing = m: map (a: a.message) (builtins.filter (a: !a.assertion) (host m).config.assertions);
  throws = m: !(builtins.tryEval (builtins.deepSeq (host m).config.rendered true)).success;
  v = x: { services.velociraptor = x; };
  with_ = x: v { frontend = { enable = true; configFile = "/etc/velociraptor/server.config.yaml"; } // x; };
  frontend = host (with_ { openFirewall = true; api.interfaces = [ "eth1" ]; });
  changed = host (with_ { overrides.GUI.bind_address = "0.0.0.0"; settings.limits.connections = 5; definitions = [ "/srv/artifacts" ]; });
  fleet = "/etc/velociraptor/minion.b-8000.fleet.yaml";
  minion_ = x: with_ ({ minion = { enable = true; node = "b-8000"; }; settingsFile = fleet; } // x);
  minion = host (minion_ { openFirewall = true; });
  client = host (v { client = { enable = true; configFile = "/etc/velociraptor/client.config.yaml"; }; });
  svc = h: h.config.systemd.services.velociraptor-frontend.serviceConfig;
  has = needle: hay: builtins.length (builtins.split needle hay) > 1;
  one = m: builtins.length (failing m) == 1;
  tests = {
    "module off sets nothing" = (host { }).config.systemd.services == { } && (host { }).config.users.users == { };
    "a frontend passes its assertions" = failing (with_ { }) == [ ];
    "state is kept under StateDirectory" = (svc frontend).StateDirectory == "velociraptor" && !((svc frontend) ? ReadWritePaths);
    "another datastore is writable instead" = let s = svc (host (with_ { datastore = "/srv/velo"; })); in s.ReadWritePaths == [ "-/srv/velo" ] && !(s ? StateDirectory);
    "the file with keys is a credential" = (svc frontend).LoadCredential == [ "server.config.yaml:/etc/velociraptor/server.config.yaml" ] && !(has "server.config.yaml:/nix" (svc frontend).ExecStartPre);
    "the datastore is where the unit may write" = let t = (builtins.elemAt frontend.config.systemd.services.velociraptor-frontend.restartTriggers 1).text; in (builtins.fromJSON t).Datastore == { location = "/var/lib/velociraptor"; filestore_directory = "/var/lib/velociraptor"; };
    "a settings file is a credential" = let s = svc (host (with_ { settingsFile = "/etc/velociraptor/velociraptor-fleet.yaml"; })); in builtins.length s.LoadCredential == 2 && has "--settings %d/velociraptor-fleet.yaml" s.ExecStart;
    "a minion passes its assertions" = failing (minion_ { }) == [ ];
    "a minion is started as one" = has "frontend --minion --node b-8000$" (svc minion).ExecStart && !(has "minion" (svc frontend).ExecStart);
    "a minion's settings are a credential" = builtins.elem "velociraptor-fleet.yaml:${fleet}" (svc minion).LoadCredential && has "--settings %d/velociraptor-fleet.yaml" (svc minion).ExecStart;
    "a minion opens the clients' port" = minion.config.networking.firewall.allowedTCPPorts == [ 8000 ];
    "refuses a minion without its settings" = one (minion_ { settingsFile = null; });
    "refuses a minion without a name" = one (minion_ { minion.enable = true; });
    "refuses a node's name without the role" = one (with_ { minion.node = "b-8000"; });
    "refuses to open what a minion does not serve" = one (minion_ { gui.openFirewall = true; }) && one (minion_ { api.interfaces = [ "eth1" ]; });
    "refuses a node's key in settings" = one (with_ { settings.node.private_key = "x"; });
    "refuses settings and a settings file" = one (with_ { settingsFile = "/x"; settings.limits.connections = 1; });
    "refuses a settings file in the store" = one (with_ { settingsFile = "${store}-x"; });
    "overrides are merged at start" = has "--merge_file" (svc changed).ExecStartPre && has "--config /run/velociraptor/server.config.yaml" (svc changed).ExecStart;
    "settings and definitions are given" = has "--settings /nix/store/" (svc changed).ExecStart && has "--definitions /srv/artifacts frontend" (svc changed).ExecStart;
    "only the clients' port is open" = frontend.config.networking.firewall.allowedTCPPorts == [ 8000 ];
    "the API's port is open on the named interface" = frontend.config.networking.firewall.interfaces.eth1.allowedTCPPorts == [ 8001 ];
    "nothing is open by default" = (host (with_ { })).config.networking.firewall.allowedTCPPorts == [ ] && (host (with_ { })).config.networking.firewall.interfaces == { };
    "the GUI can be opened" = (host (with_ { gui.openFirewall = true; })).config.networking.firewall.allowedTCPPorts == [ 8889 ];
    "uid and gid are fixed when given" = let h = host (v { uid = 28889; gid = 28890; frontend = { enable = true; configFile = "/x"; }; }); in h.config.users.users.velociraptor.uid == 28889 && h.config.users.groups.velociraptor.gid == 28890;
    "another account is not made here" = (host (v { user = "other"; group = "other"; frontend = { enable = true; configFile = "/x"; }; })).config.users.users == { };
    "a port below 1024 brings the capability" = let s = svc (host (with_ { port = 443; })); in s.AmbientCapabilities == [ "CAP_NET_BIND_SERVICE" ] && !s.PrivateUsers;
    "memory limits can be turned off" = !((svc (host (with_ { memoryMax = null; }))) ? MemoryMax);
    "a changed setting restarts" = map (f: f.text) frontend.config.systemd.services.velociraptor-frontend.restartTriggers != map (f: f.text) changed.config.systemd.services.velociraptor-frontend.restartTriggers;
    "refuses to run without a configuration" = failing (v { frontend.enable = true; }) != [ ];
    "refuses a configuration in the store" = one (with_ { configFile = "${store}-x"; });
    "refuses a key in overrides" = one (with_ { overrides.CA.private_key = "x"; });
    "refuses old keys in settings" = one (with_ { settings.rotation.old_private_keys = [ "x" ]; });
    "refuses an unknown option" = throws (with_ { nosuch = 1; });
    "refuses a port out of range" = throws (with_ { port = 70000; });
    "the client's unit stands alone" = builtins.attrNames client.config.systemd.services == [ "velociraptor-client" ];
    "the client keeps its identity in its own folder" = has "--writeback /var/lib/velociraptor-client/" client.config.systemd.services.velociraptor-client.serviceConfig.ExecStart;
    "refuses a client without a configuration" = failing (v { client.enable = true; }) != [ ];
    "refuses a client's configuration in the store" = one (v { client = { enable = true; configFile = "${store}-x"; }; });
  };
in
{
  lib = if lib ? isMini then "stand-in" else lib.version;
  failed = builtins.filter (n: !tests.${n}) (builtins.attrNames tests);
  passed = builtins.length (builtins.filter (n: tests.${n}) (builtins.attrNames tests));
  units = {
    frontend = frontend.config.rendered.velociraptor-frontend;
    frontend-overrides = changed.config.rendered.velociraptor-frontend;
    frontend-minion = minion.config.rendered.velociraptor-frontend;
    client = client.config.rendered.velociraptor-client;
  };
}
