//! Isolation and names, with somebody who works against them: on real Docker.
use anyhow::{Context, Result, ensure};
use std::{os::unix::process::ExitStatusExt, time::Duration};
use syp_tests::product::{Engine, binary, left_of, sh};

const ALICE: &str = "user:alice@example.com";

/// An engine that dies before it makes one call; `between` then does its worst, and the next engine goes on.
fn interrupted(e: &Engine, point: &str, between: impl FnOnce(&str) -> Result<()>) -> Result<String> {
    let mut first = e.serve(&[("SYP_CRASH_AT", point)])?;
    let store = format!("label=syp.dev/store={}", e.store_id()?);
    e.run(&[
        "up",
        "shop",
        "--image",
        "syp-test/hello",
        "--port",
        "8080",
        "--allow",
        ALICE,
        "--no-wait",
        "--yes",
    ])?;
    ensure!(first.wait()?.signal() == Some(9), "{point} was not reached");
    let holder =
        sh("docker", &["ps", "--filter", &store, "--filter", "name=holder-0", "--format", "{{.Names}}"])?;
    between(holder.trim())?;
    // the next engine goes on by itself
    e.ok(&["ls"])?;
    e.wait_state("shop", "DESTROYED", Duration::from_secs(60))?;
    Ok(e.json(&["op", "ls", "shop"])?.to_string())
}

#[test]
fn an_app_that_answers_past_its_gate_is_never_served() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    let err = interrupted(&e, "CP3:isolation-0", |holder| {
        let pid = sh("docker", &["inspect", "-f", "{{.State.Pid}}", holder])?;
        let net = format!("--net=/proc/{}/ns/net", pid.trim());
        // the rule that the seal took away: everything that is local is delivered again
        sh("nsenter", &[&net, "ip", "rule", "add", "pref", "0", "lookup", "local"])?;
        Ok(())
    })?;
    ensure!(err.contains("ISOLATION_NOT_ENFORCED"), "{err}");
    let left = left_of(&e.store_id()?)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

/// Says to its engine that all is well, and answers 200 to whoever comes.
const OPEN_GATE: &str = r#"
import json, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
up = dict(id="0", ready=True, protocol="http1", detail="", sealed=True, listeners=[])
status = dict(generation=1, mode="serve", in_flight=0, tunnels=0, upstreams=[up], version="0")
class Any(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(status).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
threading.Thread(target=HTTPServer(("0.0.0.0", 9901), Any).serve_forever).start()
HTTPServer(("0.0.0.0", 8080), Any).serve_forever()
"#;

#[test]
fn a_gate_that_lets_anybody_in_is_never_served() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    let err = interrupted(&e, "CP3:probe", |holder| {
        let name = holder.replace("holder-0", "gate");
        let ask = |format: &str| sh("docker", &["inspect", "-f", format, &name]);
        let labels = ask("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}}\n{{end}}")?;
        let address = ask("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")?;
        let network = ask("{{range $k, $v := .NetworkSettings.Networks}}{{$v.NetworkID}}{{end}}")?;
        sh("docker", &["rm", "-f", &name])?;
        let mut args =
            vec!["run", "-d", "--name", &name, "--network", network.trim(), "--ip", address.trim()];
        for label in labels.lines().filter(|l| !l.is_empty()) {
            args.extend(["--label", label]);
        }
        args.extend(["--entrypoint", "python3", "syp-test/flask", "-u", "-c", OPEN_GATE]);
        sh("docker", &args)?;
        Ok(())
    })?;
    ensure!(err.contains("AUTH_NOT_ENFORCED"), "{err}");
    let left = left_of(&e.store_id()?)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

/// A container of somebody else's under the name that a step wants.
struct Foreign(String);

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = sh("docker", &["rm", "-f", &self.0]);
    }
}

#[test]
fn what_has_our_name_and_is_not_ours_stops_up_and_is_not_touched() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    let mut foreign = None;
    let err = interrupted(&e, "CP3:app-0", |holder| {
        let name = holder.replace("holder-0", "app-0");
        sh("docker", &["create", "--name", &name, "--label", "whose=somebody-else", "syp-test/hello"])?;
        foreign = Some(Foreign(name));
        Ok(())
    })?;
    ensure!(err.contains("NAME_CONFLICT"), "{err}");
    let foreign = foreign.context("no name")?;
    let label = sh("docker", &["inspect", "-f", "{{.Config.Labels.whose}}", &foreign.0])?;
    ensure!(label.trim() == "somebody-else", "it was not touched");
    let left = left_of(&e.store_id()?)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

#[test]
fn an_app_has_no_address_of_the_other_family_to_go_around_by() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    e.up("shop", "syp-test/hello", &["--allow", ALICE, "--port", "8080"])?;
    let store = format!("label=syp.dev/store={}", e.store_id()?);
    let holder = sh("docker", &["ps", "-q", "--filter", &store, "--filter", "name=holder-0"])?;
    let pid = sh("docker", &["inspect", "-f", "{{.State.Pid}}", holder.trim()])?;
    let net = format!("--net=/proc/{}/ns/net", pid.trim());
    // the link's own address is there on every interface that speaks IPv6 at all
    let v6 = sh("nsenter", &[&net, "ip", "-6", "-o", "addr", "show", "scope", "link"])?;
    if let Some(address) = v6.split_whitespace().find(|w| w.starts_with("fe80")) {
        let address = address.split('/').next().unwrap_or_default();
        let bridge = sh("docker", &["network", "ls", "-q", "--filter", &store])?;
        let url = format!("http://[{address}%25br-{}]:8080/", bridge.trim());
        let reached = sh("curl", &["-s", "-m", "3", "-o", "/dev/null", &url]);
        ensure!(reached.is_err(), "reached over IPv6 at {url}");
    }
    e.down("shop")
}
