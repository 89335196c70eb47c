// Starts the screens.

import { learn_rights } from "./lib/api.js";
import * as keys from "./lib/keys.js";
import { screen, start as start_routes } from "./lib/route.js";
import { failed } from "./lib/say.js";
import * as shell from "./shell.js";
import { show_artifacts } from "./screens/artifacts.js";
import { show_clients } from "./screens/clients.js";
import { show_cluster } from "./screens/cluster.js";
import { show_collect } from "./screens/collect.js";
import { show_flow } from "./screens/flow.js";
import { show_flows } from "./screens/flows.js";
import { show_help } from "./screens/help.js";
import { show_host } from "./screens/host.js";
import { show_hunt, show_hunts } from "./screens/hunts.js";

screen("clients", show_clients);
screen("host/{client}", show_host);
screen("host/{client}/collections", show_flows);
screen("collect", show_collect);
screen("hunts", show_hunts);
screen("hunt/{hunt}", show_hunt);
screen("flow/{client}/{flow}", show_flow);
screen("artifacts", show_artifacts);
screen("cluster", show_cluster);
screen("help", show_help);

try {
  await learn_rights();
  shell.start();
  keys.start();
  await start_routes();
} catch (e) {
  document.body.append(failed(e));
}
