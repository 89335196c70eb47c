# services.velociraptor: one frontend (alone, a cluster's master, or a minion), and the
# endpoint agent.
#
# The server's configuration file holds private keys, so it is never in the store:
# it is named by path and handed over with LoadCredential, and may belong to root
# alone. What has no secret in it can be set here: `frontend.overrides` in the
# layout of that file, `frontend.settings` in the layout of velociraptor-fleet.yaml.
{ config, lib, pkgs, ... }:

let
  inherit (lib) mkOption mkEnableOption mkIf mkMerge types optional optionals optionalAttrs;

  cfg = config.services.velociraptor;
  srv = cfg.frontend;
  cli = cfg.client;

  json = pkgs.formats.json { };
  notNull = lib.filterAttrsRecursive (_: v: v != null);
  # JSON is YAML, and needs no builder.
  write = name: value: pkgs.writeText name (builtins.toJSON (notNull value));

  settingsFile = write "velociraptor-fleet.yaml" srv.settings;
  settingsArg = if srv.settingsFile != null then "%d/velociraptor-fleet.yaml" else "${settingsFile}";

  # The unit may write only below `datastore`, and its /var/tmp, where `config
  # generate` puts the data unless told otherwise, goes with it: so the place is
  # always set here.
  overrides = lib.recursiveUpdate
    { Datastore = { location = toString srv.datastore; filestore_directory = toString srv.datastore; }; }
    srv.overrides;
  overridesFile = write "velociraptor-overrides.json" overrides;

  inStore = p: p != null && lib.hasPrefix builtins.storeDir (toString p);
  secretPlaces = [
    [ "CA" "private_key" ]
    [ "Frontend" "private_key" ]
    [ "GUI" "gw_private_key" ]
    [ "api_config" "client_private_key" ]
  ];
  leaked = builtins.filter (p: lib.hasAttrByPath p srv.overrides) secretPlaces;
  settingsSecrets = [ [ "rotation" "old_private_keys" ] [ "node" "private_key" ] ];
  leakedSettings = builtins.filter (p: lib.hasAttrByPath p srv.settings) settingsSecrets;

  stateDir = "/var/lib/velociraptor";
  binary = "${cfg.package}/bin/velociraptor";
  privileged = srv.port < 1024 || srv.gui.port < 1024;
  configPath = "/run/velociraptor/server.config.yaml";

  port = default: description: mkOption { type = types.port; inherit default description; };
  limit = default: description: mkOption { type = types.nullOr types.str; inherit default description; };
  pathOption = description: mkOption { type = types.nullOr types.str; default = null; inherit description; };
in
{
  options.services.velociraptor = {
    package = mkOption {
      type = types.package;
      default = pkgs.velociraptor;
      description = "The velociraptor package. The flake's module sets it; the bare module needs an overlay.";
    };

    user = mkOption { type = types.str; default = "velociraptor"; description = "Account the frontend runs as."; };
    group = mkOption { type = types.str; default = "velociraptor"; description = "Primary group of that account."; };
    uid = mkOption {
      type = types.nullOr types.int;
      default = null;
      example = 28889;
      description = "Numeric id of the account. Set it when the datastore is on a network file system.";
    };
    gid = mkOption {
      type = types.nullOr types.int;
      default = null;
      example = 28889;
      description = "Numeric id of the group; same rule as for `uid`.";
    };

    frontend = {
      enable = mkEnableOption "the velociraptor frontend: client connections, gRPC API and GUI";
      configFile = pathOption "Path of the server's configuration file, as `velociraptor config generate` or the stock program made it. It holds private keys: keep it out of the store.";
      overrides = mkOption {
        type = types.submodule { freeformType = json.type; };
        default = { };
        example = { GUI.bind_address = "0.0.0.0"; };
        description = "Merged over the configuration file at start (RFC 7396). World-readable: no secrets.";
      };
      settings = mkOption {
        type = types.submodule { freeformType = json.type; };
        default = { };
        example = { limits.connections = 20000; };
        description = "Settings of this implementation alone, in the layout of velociraptor-fleet.yaml. World-readable: no secrets.";
      };
      settingsFile = pathOption "Path of a settings file to use instead of `settings`: the node's *.fleet.yaml of `config frontend` on every node of a cluster, and on a single server after `config rotate_keys`. It holds keys: keep it out of the store. The unit gets a copy at its start: restart it after `config revoke_node`.";
      minion = {
        enable = mkEnableOption "the minion role: clients' connections alone, led by the master of the configuration's API.hostname";
        node = mkOption {
          type = types.nullOr types.str;
          default = null;
          example = "minion1.example.org-8000";
          description = "Which node this is: `<host name>-<port>` of its entry in ExtraFrontends.";
        };
      };
      datastore = mkOption {
        type = types.path;
        default = stateDir;
        description = "Where the data is: sets Datastore.location and filestore_directory. The unit may write there and nowhere else.";
      };
      definitions = mkOption {
        type = types.listOf types.path;
        default = [ ];
        description = "Directories of artifact definitions to load.";
      };
      extraArgs = mkOption {
        type = types.listOf types.str;
        default = [ ];
        description = "Further arguments of `velociraptor frontend`.";
      };
      port = port 8000 "Frontend.bind_port of the configuration: what `openFirewall` opens.";
      openFirewall = mkEnableOption "opening the frontend's port to clients";
      gui = {
        port = port 8889 "GUI.bind_port of the configuration.";
        openFirewall = mkEnableOption "opening the GUI's port";
      };
      api = {
        port = port 8001 "API.bind_port of the configuration.";
        interfaces = mkOption {
          type = types.listOf types.str;
          default = [ ];
          example = [ "eth1" ];
          description = "Interfaces on which the API's port is opened; never on all.";
        };
      };
      openFiles = mkOption {
        type = types.int;
        default = 1048576;
        description = "LimitNOFILE: one or two for each connected client, and spare.";
      };
      tasksMax = mkOption { type = types.int; default = 4096; description = "TasksMax."; };
      memoryHigh = limit "75%" "MemoryHigh: slowed down above this.";
      memoryMax = limit "90%" "MemoryMax: ended above this.";
    };

    client = {
      enable = mkEnableOption "the velociraptor client (endpoint agent), which runs as root";
      configFile = pathOption "Path of the client's configuration file, as `velociraptor config client` prints it. It holds the deployment's nonce: keep it out of the store.";
      writeback = mkOption {
        type = types.str;
        default = "/var/lib/velociraptor-client/writeback.yaml";
        description = "File with the agent's identity. Copying it to another host clones the client.";
      };
      cpuQuota = limit "50%" "CPUQuota of the agent.";
      memoryMax = limit "1G" "MemoryMax of the agent.";
    };
  };

  config = mkMerge [
    (mkIf srv.enable {
      assertions = [
        { assertion = srv.configFile != null; message = "services.velociraptor: frontend.configFile is not set."; }
        { assertion = !(inStore srv.configFile); message = "services.velociraptor: frontend.configFile is in the world-readable store; it holds private keys."; }
        { assertion = leaked == [ ]; message = "services.velociraptor: a private key stands in frontend.overrides; leave it in the configuration file."; }
        { assertion = leakedSettings == [ ]; message = "services.velociraptor: private keys stand in frontend.settings; use frontend.settingsFile."; }
        { assertion = srv.settingsFile == null || srv.settings == { }; message = "services.velociraptor: frontend.settingsFile excludes frontend.settings."; }
        { assertion = srv.minion.enable == (srv.minion.node != null); message = "services.velociraptor: frontend.minion.enable and frontend.minion.node go together."; }
        { assertion = !srv.minion.enable || srv.settingsFile != null; message = "services.velociraptor: a minion needs frontend.settingsFile, the *.fleet.yaml that `config frontend` made for it: it holds the node's certificate."; }
        { assertion = !srv.minion.enable || (!srv.gui.openFirewall && srv.api.interfaces == [ ]); message = "services.velociraptor: a minion serves neither the GUI nor the API: their ports stay closed."; }
        { assertion = !(inStore srv.settingsFile); message = "services.velociraptor: frontend.settingsFile is in the world-readable store; it holds private keys."; }
      ];

      environment.systemPackages = [ cfg.package ];

      users.users = optionalAttrs (cfg.user == "velociraptor") {
        velociraptor = { isSystemUser = true; group = cfg.group; uid = cfg.uid; home = toString srv.datastore; };
      };
      users.groups = optionalAttrs (cfg.group == "velociraptor") { velociraptor = { gid = cfg.gid; }; };

      networking.firewall.allowedTCPPorts =
        optional srv.openFirewall srv.port ++ optional srv.gui.openFirewall srv.gui.port;
      networking.firewall.interfaces =
        lib.genAttrs srv.api.interfaces (_: { allowedTCPPorts = [ srv.api.port ]; });

      systemd.services.velociraptor-frontend = {
        description = "Velociraptor frontend";
        wantedBy = [ "multi-user.target" ];
        wants = [ "network-online.target" ];
        after = [ "network-online.target" "remote-fs.target" ];
        restartTriggers = [ settingsFile overridesFile ];
        unitConfig = {
          StartLimitIntervalSec = 0;
          # Wants, not Requires: storage that comes late delays the start, and
          # every restart tries the mount again.
          WantsMountsFor = [ (toString srv.datastore) ];
        };
        serviceConfig = mkMerge [
          {
            Type = "exec";
            ExecStart = lib.concatStringsSep " " (
              [ binary "--config" configPath "--settings" settingsArg ]
              ++ builtins.concatMap (d: [ "--definitions" (toString d) ]) srv.definitions
              ++ [ "frontend" ]
              ++ optionals srv.minion.enable [ "--minion" "--node" (toString srv.minion.node) ]
              ++ srv.extraArgs
            );
            User = cfg.user;
            Group = cfg.group;
            ExecStartPre = "${pkgs.runtimeShell} -c '${binary} --config \"$CREDENTIALS_DIRECTORY/server.config.yaml\" --settings ${settingsFile} config show --merge_file ${overridesFile} > ${configPath}'";
            LoadCredential = [ "server.config.yaml:${toString srv.configFile}" ]
              ++ optional (srv.settingsFile != null) "velociraptor-fleet.yaml:${srv.settingsFile}";
            Restart = "always";
            # Another process has this one's place, or the master does not want it.
            RestartPreventExitStatus = 3;
            RestartSec = "1s";
            RestartSteps = 6;
            RestartMaxDelaySec = "60s";
            # SIGTERM: requests are finished, what is complete is settled.
            TimeoutStopSec = "90s";
            KillMode = "mixed";

            LimitNOFILE = srv.openFiles;
            TasksMax = srv.tasksMax;
            OOMPolicy = "stop";
            OOMScoreAdjust = -500;

            UMask = "0077";
            WorkingDirectory = "/";
            RuntimeDirectory = "velociraptor";
            RuntimeDirectoryMode = "0700";

            NoNewPrivileges = true;
            CapabilityBoundingSet = if privileged then [ "CAP_NET_BIND_SERVICE" ] else "";
            AmbientCapabilities = if privileged then [ "CAP_NET_BIND_SERVICE" ] else "";
            # Ambient capabilities have no force in a user namespace.
            PrivateUsers = !privileged;
            PrivateDevices = true;
            DevicePolicy = "closed";
            PrivateTmp = true;
            ProtectSystem = "strict";
            ProtectHome = true;
            ProtectClock = true;
            ProtectControlGroups = true;
            ProtectHostname = true;
            ProtectKernelLogs = true;
            ProtectKernelModules = true;
            ProtectKernelTunables = true;
            ProtectProc = "invisible";
            ProcSubset = "pid";
            LockPersonality = true;
            MemoryDenyWriteExecute = true;
            RemoveIPC = true;
            RestrictAddressFamilies = [ "AF_INET" "AF_INET6" "AF_UNIX" ];
            RestrictNamespaces = true;
            RestrictRealtime = true;
            RestrictSUIDSGID = true;
            SystemCallArchitectures = "native";
            SystemCallErrorNumber = "EPERM";
            SystemCallFilter = [ "@system-service" "~@privileged @resources @keyring" ];
          }
          (mkIf (srv.memoryHigh != null) { MemoryHigh = srv.memoryHigh; })
          (mkIf (srv.memoryMax != null) { MemoryMax = srv.memoryMax; })
          (if toString srv.datastore == stateDir
          then { StateDirectory = "velociraptor"; StateDirectoryMode = "0750"; }
          else { ReadWritePaths = [ "-${toString srv.datastore}" ]; })
        ];
      };
    })

    (mkIf cli.enable {
      assertions = [
        { assertion = cli.configFile != null; message = "services.velociraptor: client.configFile is not set."; }
        { assertion = !(inStore cli.configFile); message = "services.velociraptor: client.configFile is in the world-readable store; it holds the deployment's nonce."; }
      ];
      systemd.services.velociraptor-client = {
        description = "Velociraptor client";
        wantedBy = [ "multi-user.target" ];
        wants = [ "network-online.target" ];
        after = [ "network-online.target" ];
        unitConfig.StartLimitIntervalSec = 0;
        serviceConfig = mkMerge [
          {
            # Nearly unconfined, since it collects from the host.
            Type = "exec";
            ExecStart = "${binary} --config %d/client.config.yaml client --writeback ${cli.writeback}";
            LoadCredential = [ "client.config.yaml:${toString cli.configFile}" ];
            StateDirectory = "velociraptor-client";
            StateDirectoryMode = "0700";
            Restart = "always";
            RestartSec = "5s";
            RestartSteps = 6;
            RestartMaxDelaySec = "120s";
            LimitNOFILE = 20000;
            Nice = 5;
            UMask = "0077";
            OOMScoreAdjust = 300;
            ProtectClock = true;
            ProtectKernelModules = true;
            LockPersonality = true;
            RestrictRealtime = true;
            SystemCallArchitectures = "native";
          }
          (mkIf (cli.cpuQuota != null) { CPUQuota = cli.cpuQuota; })
          (mkIf (cli.memoryMax != null) { MemoryMax = cli.memoryMax; })
        ];
      };
    })
  ];
}
