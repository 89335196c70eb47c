// An empty deployment: what to do so that there is something to see.

import { h } from "../lib/dom.js";

export const first_steps = () => h("div", { class: "pane stack" },
  h("h2", {}, "No client has enrolled yet"),
  h("p", { class: "mid" }, "The list fills by itself: this page need not be loaded again."),
  h("ol", { class: "guide" },
    h("li", { class: "now" }, h("b", {}, "Get the clients' configuration"),
      h("p", { class: "mid" }, "The folder of ", h("code", {}, "velociraptor gui"), " has it as ", h("code", {}, "client.config.yaml"),
        ". From a server's configuration it is made by:"),
      h("pre", { class: "code inline" }, "velociraptor --config server.config.yaml config client > client.config.yaml")),
    h("li", {}, h("b", {}, "Start an agent with it"),
      h("p", { class: "mid" }, "On this machine or another that reaches the server's address; stock agents join with the same file."),
      h("pre", { class: "code inline" }, "velociraptor --config client.config.yaml client -v")),
    h("li", {}, h("b", {}, "Collect"),
      h("p", { class: "mid" }, "The client appears here within seconds. Open it and press Processes."))));
