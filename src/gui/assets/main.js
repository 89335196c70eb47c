// Starts the screens. Those of the first minutes come with the page, others when they
// are opened.

import { learn_rights } from "./lib/api.js";
import * as keys from "./lib/keys.js";
import { screen, start as start_routes } from "./lib/route.js";
import { failed } from "./lib/say.js";
import * as shell from "./shell.js";
import { show_clients } from "./screens/clients.js";
import { show_flow } from "./screens/flow.js";
import { show_flows } from "./screens/flows.js";
import { show_host } from "./screens/host.js";

// A screen whose script is fetched when it is opened; by then somebody may have gone on.
function later(pattern, fetch_script, name) {
  screen(pattern, async (context) => {
    try {
      const script = await fetch_script();
      if (!context.signal.aborted) await script[name](context);
    } catch (e) {
      if (!context.signal.aborted) document.getElementById("main").append(failed(e));
    }
  });
}

screen("clients", show_clients);
screen("host/{client}", show_host);
screen("host/{client}/collections", show_flows);
later("collect", () => import("./screens/collect.js"), "show_collect");
later("hunts", () => import("./screens/hunts.js"), "show_hunts");
later("hunt/{hunt}", () => import("./screens/hunts.js"), "show_hunt");
screen("flow/{client}/{flow}", show_flow);
later("artifacts", () => import("./screens/artifacts.js"), "show_artifacts");
later("notebooks", () => import("./screens/notebooks.js"), "show_notebooks");
later("notebook/{notebook}", () => import("./screens/notebooks.js"), "show_notebook");
later("cluster", () => import("./screens/cluster.js"), "show_cluster");
later("host/{client}/files", () => import("./screens/files.js"), "show_files");
later("host/{client}/shell", () => import("./screens/shells.js"), "show_shells");
later("host/{client}/events", () => import("./screens/events.js"), "show_events");
later("events/{client}", () => import("./screens/events.js"), "show_events");
later("users", () => import("./screens/users.js"), "show_users");
later("help", () => import("./screens/help.js"), "show_help");

try {
  await learn_rights();
  shell.start();
  keys.start();
  await start_routes();
} catch (e) {
  document.body.append(failed(e));
}
