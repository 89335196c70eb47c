//! A hunt over clients of three frontends, which are killed while it recruits.

use crate::harness::{Cluster, MASTER, exact};

#[test]
fn a_hunt_over_clients_of_every_frontend_is_exact_through_kills() {
    let mut c = Cluster::all();
    for (nodes, scheme) in
        [([0, 1, 2], "https"), ([1, 2, 0], "wss"), ([2, 0, 1], "https"), ([1, 0, 2], "https")]
    {
        c.agent(&nodes, scheme);
    }
    let clients = c.clients(4);
    c.define("Custom.Rows", "SELECT _value AS I FROM range(start=0, end=700, step=1)");
    let start = |c: &Cluster, more: &str| {
        let rows = c.query(&format!(
            "SELECT hunt(artifacts='Custom.Rows', description='all' {more}).HuntId AS H FROM scope()"
        ));
        rows[0]["H"].as_str().expect("a hunt").to_owned()
    };
    let all = start(&c, "");
    let red = start(&c, ", include_labels='red'");
    c.kill(MASTER);
    c.start(MASTER);
    c.crash(0);
    // A client that enrols while hunts run, and one that gets its label late.
    c.agent(&[2, 1, 0], "https");
    assert_eq!(c.clients(5).len(), 5);
    c.query(&format!("SELECT label(client_id='{}', labels='red') FROM scope()", clients[2]));
    for (id, n) in [(&all, 5), (&red, 1)] {
        let stats = c.until("all of them finished", |c| {
            let hunt = c.ask(&format!("SELECT stats FROM hunts(hunt_id='{id}')"))?.pop()?;
            let s = hunt["stats"].clone();
            (s["total_finished_clients"] == n).then_some(s)
        });
        assert_eq!(stats["total_clients_scheduled"], n, "{stats}");
        assert_eq!(stats["total_clients_with_errors"], 0, "{stats}");
        assert_eq!(stats["total_collected_rows"], n * 700, "{stats}");
        let rows = c.query(&format!(
            "SELECT ClientId, I FROM hunt_results(hunt_id='{id}', artifact='Custom.Rows')"
        ));
        assert_eq!(rows.len(), n as usize * 700);
    }
    let flows = c.query(&format!("SELECT ClientId, FlowId FROM hunt_flows(hunt_id='{all}')"));
    assert_eq!(flows.len(), 5, "{flows:?}");
    for f in &flows {
        let (id, flow) = (f["ClientId"].as_str().unwrap(), f["FlowId"].as_str().unwrap());
        assert_eq!(flow, format!("F.{}.H", &all[2..]));
        exact(&c.ids(id, flow, "Custom.Rows"), 700);
    }
}
