//! Any image, every failure with words, and what the host may do to an instance: on real Docker.
use anyhow::{Context, Result, ensure};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use syp_tests::{
    certificate::Certificate,
    conformance::Docker,
    product::{Engine, Said, binary, get, left_of, pause, sh},
};

const ALICE: &str = "user:alice@example.com";

fn with_engine(test: impl FnOnce(&mut Engine, PathBuf) -> Result<()>) -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let mut e = Engine::new(&sypctl)?;
    test(&mut e, sypctl)?;
    let store = e.store_id()?;
    drop(e);
    let left = left_of(&store)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

fn says(s: &Said, reason: &str, words: &[&str]) -> Result<()> {
    ensure!(s.err.contains(reason), "expected {reason}: {}", s.err);
    for w in words {
        ensure!(s.err.contains(w), "expected '{w}' in: {}", s.err);
    }
    Ok(())
}

/// A client in a container of the test's Python image, on the host's network.
fn python(script: &str) -> Result<String> {
    sh(
        "docker",
        &["run", "--rm", "--network", "host", "--entrypoint", "python3", "syp-test/grpc", "-c", script],
    )
}

#[test]
fn nginx_and_flask_are_served_as_they_are() -> Result<()> {
    with_engine(|e, _| {
        // the port comes from the image
        e.up("web", "syp-test/nginx", &["--allow", ALICE, "--port", "80"])?;
        e.up(
            "flask",
            "syp-test/flask",
            &["--allow", ALICE, "--port", "5000", "--env", "COLOUR=blue", "--probe", "/"],
        )?;
        for name in ["web", "flask"] {
            let t = e.token(name, Some(ALICE))?;
            ensure!(get(&e.endpoint(name)?, Some(&t), &[])?.0 == 200, "{name}");
        }
        let t = e.token("flask", Some(ALICE))?;
        let url = e.endpoint("flask")?;
        let forged = ["-H", "X-Syp-User: root", "-H", "X-Forwarded-User: root", "-H", "X_Syp_User: root"];
        let (_, headers) = get(&format!("{url}/headers"), Some(&t), &forged)?;
        let lower = headers.to_lowercase();
        ensure!(
            lower.contains("alice@example.com") && !lower.contains("root"),
            "identity is ours alone: {headers}"
        );
        ensure!(!lower.contains("authorization"), "the token stays at the gate: {headers}");
        let (_, colour) = get(&format!("{url}/env/COLOUR"), Some(&t), &[])?;
        ensure!(colour.contains("blue"), "environment: {colour}");
        let (code, body) = get(&format!("{url}/stream"), Some(&t), &[])?;
        ensure!(code == 200 && !body.is_empty(), "a streamed answer");
        e.down("web")?;
        e.down("flask")
    })
}

#[test]
fn grpc_and_websocket_pass_and_ask_for_a_token() -> Result<()> {
    with_engine(|e, _| {
        // gRPC's usual port lies among those of the app's own outgoing connections
        e.up("rpc", "syp-test/grpc", &["--allow", ALICE, "--port", "50051"])?;
        let (network, address) = Docker::address(e, "rpc")?;
        ensure!(
            !syp_tests::product::reaches(&network, &address, "50051")?,
            "a neighbour reached the app past the gate"
        );
        e.up("ws", "syp-test/ws", &["--allow", ALICE, "--port", "8765"])?;
        let (rpc, ws) = (e.endpoint("rpc")?, e.endpoint("ws")?);
        let (t, w) = (e.token("rpc", Some(ALICE))?, e.token("ws", Some(ALICE))?);
        let target = rpc.trim_start_matches("http://");
        let script = format!(
            "import grpc\nc=grpc.insecure_channel('{target}')\nm=(('authorization','Bearer {t}'),)\n\
             u=c.unary_unary('/syp.test.v1.Echo/Unary')\nprint(u(b'one',metadata=m,timeout=10))\n\
             print(list(c.unary_stream('/syp.test.v1.Echo/ServerStream')(b'two',metadata=m+(('x-count','3'),),timeout=10)))\n\
             try:\n u(b'x',timeout=10)\nexcept grpc.RpcError as e:\n print(e.code().name)\n\
             try:\n c.unary_unary('/syp.test.v1.Echo/Fail')(b'x',metadata=m,timeout=10)\nexcept grpc.RpcError as e:\n print(e.code().name,e.details())\n"
        );
        let said = python(&script)?;
        for w in ["b'one'", "[b'two', b'two', b'two']", "UNAUTHENTICATED", "PERMISSION_DENIED told to fail"] {
            ensure!(said.contains(w), "gRPC: expected {w} in {said}");
        }
        let url = ws.replace("http://", "ws://");
        let script = format!(
            "import asyncio,websockets\nnew=int(websockets.__version__.split('.')[0])>=14\n\
             h={{'additional_headers' if new else 'extra_headers':{{'Authorization':'Bearer {w}'}}}}\n\
             async def go():\n async with websockets.connect('{url}',**h) as s:\n  await s.send('hello')\n  print(await s.recv())\n try:\n  await websockets.connect('{url}')\n except Exception as e:\n  print(e.response.status_code if hasattr(e,'response') else e.status_code)\nasyncio.run(go())\n"
        );
        let said = python(&script)?;
        ensure!(said.contains("hello") && said.contains("401"), "WebSocket: {said}");
        Ok(())
    })
}

#[test]
fn an_app_that_binds_loopback_only_is_served_and_still_sealed() -> Result<()> {
    with_engine(|e, _| {
        e.up("inner", "syp-test/loopback", &["--allow", ALICE, "--port", "5000"])?;
        let t = e.token("inner", Some(ALICE))?;
        ensure!(get(&e.endpoint("inner")?, Some(&t), &[])?.0 == 200, "it is served");
        let (_, address) = Docker::address(e, "inner")?;
        ensure!(sh("ip", &["route", "get", &address])?.contains(" dev br-"), "no local route");
        ensure!(
            get(&format!("http://{address}:5000/"), None, &["--connect-timeout", "2"]).is_err(),
            "reached past the gate"
        );
        Ok(())
    })
}

#[test]
fn what_can_be_refused_before_anything_is_made_is_refused() -> Result<()> {
    with_engine(|e, _| {
        says(
            &e.up_fails("a", "syp-test/there-is-no-such-image:7", &["--port", "80"])?,
            "IMAGE_NOT_FOUND",
            &["docker images"],
        )?;
        says(&e.up_fails("a", "syp-test/wrongarch", &["--port", "80"])?, "IMAGE_ARCH_MISMATCH", &["arm64"])?;
        says(&e.up_fails("a", "syp-test/hello", &["--port", "70000"])?, "70000", &[])?;
        says(&e.up_fails("a", "syp-test/hello", &["--port", "8080", "--allow", "nobody:x"])?, "nobody", &[])?;
        says(
            &e.up_fails("a", "syp-test/hello", &["--port", "8080", "--publish", "0.0.0.0"])?,
            "certificate",
            &[],
        )?;
        says(&e.up_fails("Bad_Name", "syp-test/hello", &["--port", "8080"])?, "lower-case", &[])?;
        let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
        let port = format!("127.0.0.1:{}", taken.local_addr()?.port());
        says(
            &e.up_fails("a", "syp-test/hello", &["--port", "8080", "--publish", &port])?,
            "PORT_TAKEN",
            &["--publish"],
        )?;
        let left = e.left()?;
        ensure!(
            left.is_empty() && e.ok(&["ls", "-o", "name"])?.trim().is_empty(),
            "nothing was made: {left:?}"
        );
        Ok(())
    })
}

#[test]
fn tls_is_served_with_the_users_own_certificate_and_the_door_is_tried_over_it() -> Result<()> {
    with_engine(|e, _| {
        let (ours, other) = (Certificate::of("127.0.0.1")?, Certificate::of("127.0.0.1")?);
        let (ca, cert, key) = (ours.file("ca.pem"), ours.file("cert.pem"), ours.file("key.pem"));
        for (cert, key) in [(&cert, &other.file("key.pem")), (&cert, &ours.file("none.pem")), (&key, &key)] {
            let args = ["--port", "8080", "--tls-cert", cert, "--tls-key", key];
            says(&e.up_fails("a", "syp-test/hello", &args)?, "TLS_FILE", &["PEM"])?;
        }
        // the built-in issuer is trusted on loopback only: nobody could get in
        let args = ["--port", "8080", "--publish", "0.0.0.0", "--tls-cert", &cert, "--tls-key", &key];
        says(&e.up_fails("a", "syp-test/hello", &args)?, "ISSUER_MISSING", &["--issuer"])?;
        ensure!(e.left()?.is_empty(), "refused before anything is made");
        let args = ["--port", "8080", "--allow", ALICE, "--tls-cert", &cert, "--tls-key", &key];
        e.up("shop", "syp-test/hello", &args)?;
        let tried = e.json(&["show", "shop"])?["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "AuthEnforced" && c["status"] == "TRUE");
        ensure!(tried, "the door was tried");
        let at = e.endpoint("shop")?;
        ensure!(at.starts_with("https://"), "{at}");
        let t = e.token("shop", Some(ALICE))?;
        for version in ["--http1.1", "--http2"] {
            ensure!(get(&at, None, &["--cacert", &ca, version])?.0 == 401, "no token");
            let alice = get(&at, Some(&t), &["--cacert", &ca, version])?;
            ensure!(alice.0 == 200, "{version}: {alice:?}");
        }
        ensure!(get(&at, Some(&t), &[]).is_err(), "a certificate that nobody vouches for is not accepted");
        let plain = get(&at.replace("https", "http"), Some(&t), &[]);
        ensure!(!matches!(plain, Ok((200, _))), "in clear: {plain:?}");
        Ok(())
    })
}

#[test]
fn a_failed_up_says_why_and_takes_itself_away() -> Result<()> {
    with_engine(|e, _| {
        says(
            &e.up_fails("crash", "syp-test/crash", &["--port", "8080"])?,
            "CRASH_LOOP",
            &["fatal: no database configured", "code 3"],
        )?;
        says(
            &e.up_fails("wrong", "syp-test/wrongport", &["--port", "8080"])?,
            "PORT_NOT_LISTENING",
            &["it listens on 9999. Its", "--port 9999"],
        )?;
        for name in ["crash", "wrong"] {
            e.ok(&["wait", name, "--for", "state=destroyed", "--timeout", "120s"])?;
            e.ok(&["receipt", name, "--verify"])?;
        }
        let left = e.left()?;
        ensure!(left.is_empty(), "left behind: {left:?}");
        // and the name is free
        e.up("crash", "syp-test/hello", &["--port", "8080"])?;
        e.down("crash")
    })
}

#[test]
fn an_app_that_takes_a_while_to_listen_is_waited_for() -> Result<()> {
    with_engine(|e, _| {
        // longer than one that listens elsewhere is waited for
        let app = "sleep 12; httpd -f -p 8080 -h /www & wait";
        e.up("slow", "syp-test/hello", &["--port", "8080", "--entrypoint", "/bin/sh", "--", "-c", app])?;
        e.down("slow")
    })
}

#[test]
fn a_stubborn_app_is_ended_and_volumes_go_with_the_instance() -> Result<()> {
    with_engine(|e, _| {
        e.up("mule", "syp-test/stubborn", &["--port", "8080"])?;
        let t = Instant::now();
        e.down("mule")?;
        ensure!(t.elapsed() < Duration::from_secs(120), "a stubborn app ends within its grace");
        e.up("data", "syp-test/volume", &["--port", "8080"])?;
        ensure!(e.left()?.iter().any(|l| l.starts_with("volume ls")), "a labelled volume");
        e.down("data")
    })
}

#[test]
fn what_the_host_breaks_is_repaired() -> Result<()> {
    with_engine(|e, _| {
        e.up("fix", "syp-test/hello", &["--allow", ALICE, "--port", "8080"])?;
        let t = e.token("fix", Some(ALICE))?;
        let url = e.endpoint("fix")?;
        for step in ["app-0", "gate", "holder-0"] {
            let c = Docker::container(e, "fix", step)?;
            sh("docker", &["kill", &c])?;
            let end = Instant::now() + Duration::from_secs(180);
            while !get(&url, Some(&t), &["-m", "2"]).is_ok_and(|r| r.0 == 200) {
                ensure!(
                    Instant::now() < end,
                    "{step} was killed and not repaired: {}",
                    e.ok(&["events", "fix"])?
                );
                pause(100);
            }
            // still closed after the repair
            ensure!(get(&url, None, &[])?.0 == 401, "closed");
            e.wait_state("fix", "SERVING", Duration::from_secs(180))?;
        }
        e.wait_idle("fix", Duration::from_secs(180))?;
        ensure!(e.endpoint("fix")? == url, "the endpoint stays");
        // whoever wants to be told has it found and brought back when he says so
        e.ok(&["set", "fix", "--on-drift", "report", "--yes"])?;
        sh("docker", &["rm", "-f", &Docker::container(e, "fix", "app-0")?])?;
        let found = e.run(&["drift", "fix"])?;
        ensure!(found.code == 1 && found.out.contains("is gone") && found.err.contains("--fix"), "{found:?}");
        let fixed = e.run(&["drift", "fix", "--fix", "--yes"])?;
        ensure!(fixed.code == 0 && fixed.out.contains("brought back"), "{fixed:?}");
        ensure!(e.ok(&["drift", "fix"])?.contains("nothing differs"), "it was brought back");
        ensure!(get(&url, Some(&t), &[])?.0 == 200, "it serves");
        e.down("fix")
    })
}

#[test]
fn an_app_that_may_not_write_its_root_is_told_so_and_another_has_a_place_to_write() -> Result<()> {
    with_engine(|e, _| {
        let up = |app: &str, more: &[&str]| {
            let mut args = vec!["up", "fixed", "--image", "syp-test/hello", "--port", "8080", "--yes"];
            args.extend(more);
            args.extend(["--entrypoint", "/bin/sh", "--", "-c", app]);
            e.run(&args)
        };
        let writes = "echo x >/www/x || exit 3; exec httpd -f -p 8080 -h /www";
        let said = up(writes, &["--root", "read-only"])?;
        says(&said, "CRASH_LOOP", &["Read-only file system", "--root writable", "/tmp"])?;
        let scratch = "touch /www/x && exit 3; cp /bin/busybox /tmp/ && /tmp/busybox true || exit 4; exec httpd -f -p 8080 -h /www";
        let said = up(scratch, &["--root", "read-only"])?;
        ensure!(said.code == 0, "{}", said.err);
        let said = e.run(&["set", "fixed", "--root", "writable", "--yes", "--", "-c", writes])?;
        ensure!(said.code == 0, "{}", said.err);
        e.down("fixed")
    })
}

#[test]
fn with_its_image_and_all_else_lost_it_says_so_and_serves_another() -> Result<()> {
    with_engine(|e, _| {
        let image = format!("syp-test/lost:{}", uuid::Uuid::new_v4().simple());
        let base = sh("docker", &["create", "syp-test/hello"])?;
        let made = sh("docker", &["commit", "-c", &format!("LABEL lost={image}"), base.trim(), &image]);
        sh("docker", &["rm", base.trim()])?;
        made?;
        e.up("lost", &image, &["--port", "8080", "--allow", ALICE])?;
        let (network, _) = Docker::address(e, "lost")?;
        let all = ["app-0", "gate", "holder-0"].map(|step| Docker::container(e, "lost", step));
        e.ok(&["server", "stop"])?;
        for container in all {
            sh("docker", &["rm", "-f", &container?])?;
        }
        sh("docker", &["network", "rm", &network])?;
        sh("docker", &["rmi", &image])?;
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let said = e.json(&["show", "lost"])?["conditions"].to_string();
            if said.contains(&format!("'{image}'")) {
                break;
            }
            ensure!(Instant::now() < end, "it does not say that its image is lost: {said}");
            pause(200);
        }
        e.ok(&["set", "lost", "--image", "syp-test/hello", "--yes"])?;
        let token = e.token("lost", Some(ALICE))?;
        ensure!(get(&e.endpoint("lost")?, Some(&token), &[])?.0 == 200, "another image serves");
        e.down("lost")
    })
}

#[test]
fn a_time_to_live_ends_it_and_egress_none_closes_the_way_out() -> Result<()> {
    with_engine(|e, _| {
        e.up("brief", "syp-test/hello", &["--port", "8080"])?;
        // an 'up' with it might not come to its end in that time
        e.ok(&["set", "brief", "--ttl", "5s", "--yes"])?;
        e.up("shut", "syp-test/hello", &["--port", "8080", "--egress", "none", "--allow", ALICE])?;
        let t = e.token("shut", Some(ALICE))?;
        ensure!(get(&e.endpoint("shut")?, Some(&t), &[])?.0 == 200, "it is served without a way out");
        let (_, address) = Docker::address(e, "shut")?;
        let (net, last) = address.rsplit_once('.').context("address")?;
        // something of this host that listens on the instance's own bridge
        let host = format!("{net}.{}", last.parse::<u32>()? - 2);
        let listener = std::net::TcpListener::bind((host.as_str(), 0))?;
        let port = listener.local_addr()?.port();
        // whoever gets in is hung up on at once
        std::thread::spawn(move || listener.incoming().for_each(drop));
        let script = format!("/bin/busybox timeout 3 /bin/busybox nc -w 2 {host} {port} </dev/null");
        let app = Docker::container(e, "shut", "app-0")?;
        ensure!(
            sh("docker", &["exec", &app, "/bin/busybox", "sh", "-c", &script]).is_err(),
            "it reached {host}:{port}"
        );
        // the same try from outside the seal succeeds: the test can fail
        let (network, _) = Docker::address(e, "shut")?;
        ensure!(
            syp_tests::product::reaches(&network, &host, &port.to_string())?,
            "the listener can't be reached at all"
        );
        e.ok(&["wait", "brief", "--for", "state=destroyed", "--timeout", "180s"])?;
        e.ok(&["receipt", "brief", "--verify"])?;
        e.down("shut")
    })
}

#[test]
fn isolation_none_is_accepted_and_stays_visible() -> Result<()> {
    with_engine(|e, _| {
        let both = ["--port", "8080", "--isolation", "none", "--egress", "none"];
        says(&e.up_fails("open", "syp-test/hello", &both)?, "spec.egress", &["choose one"])?;
        e.up("open", "syp-test/hello", &["--port", "8080", "--allow", ALICE, "--isolation", "none"])?;
        let shown = e.json(&["show", "open"])?["conditions"].to_string();
        ensure!(shown.contains("ISOLATION_NOT_ENFORCED"), "the condition is shown: {shown}");
        let (network, address) = Docker::address(e, "open")?;
        ensure!(syp_tests::product::reaches(&network, &address, "8080")?, "it was to be open to neighbours");
        // the gate is closed all the same
        ensure!(get(&e.endpoint("open")?, None, &[])?.0 == 401, "no token is 401");
        e.down("open")
    })
}

#[test]
fn a_twin_of_its_network_that_landed_late_is_no_obstacle_and_goes_with_it() -> Result<()> {
    with_engine(|e, _| {
        e.up("twin", "syp-test/hello", &["--allow", ALICE, "--port", "8080"])?;
        let (network, _) = Docker::address(e, "twin")?;
        let labels = sh("docker", &["network", "inspect", "-f", "{{json .Labels}}", &network])?;
        // what a create does whose caller was killed; the command line would look for the name first
        let body =
            format!(r#"{{"Name":"{network}","CheckDuplicate":false,"Driver":"bridge","Labels":{labels}}}"#);
        let socket = std::env::var("DOCKER_HOST").unwrap_or_default();
        let socket = socket.strip_prefix("unix://").unwrap_or("/var/run/docker.sock").to_owned();
        let more = ["--unix-socket", &socket, "-H", "Content-Type: application/json", "-d", &body];
        let (code, said) = get("http://docker/networks/create", None, &more)?;
        // newer engines keep the names apart
        ensure!(code == 201 || code == 409, "{code} {said}");
        let (t, url) = (e.token("twin", Some(ALICE))?, e.endpoint("twin")?);
        sh("docker", &["rm", "-f", &Docker::container(e, "twin", "gate")?])?;
        let end = Instant::now() + Duration::from_secs(180);
        while !get(&url, Some(&t), &["-m", "2"]).is_ok_and(|r| r.0 == 200) {
            ensure!(Instant::now() < end, "not repaired: {}", e.ok(&["events", "twin"])?);
            pause(100);
        }
        e.down("twin")
    })
}

#[test]
fn ctrl_c_detaches_and_a_cancelled_up_takes_itself_away() -> Result<()> {
    with_engine(|e, _| {
        e.ok(&["ls"])?;
        // long enough for what is done to it meanwhile
        let app = "sleep 12; httpd -f -p 8080 -h /www & wait";
        let up = ["up", "left", "--image", "syp-test/hello", "--port", "8080", "--yes"];
        let mut command = e.spawn(&[&up[..], &["--entrypoint", "/bin/sh", "--", "-c", app]].concat())?;
        // once the work has been taken on and is followed
        let end = Instant::now() + Duration::from_secs(120);
        while !std::fs::read_to_string(e.talk())?.contains("snapshot") {
            ensure!(Instant::now() < end, "the work never began");
            pause(10);
        }
        sh("kill", &["-INT", &command.id().to_string()])?;
        let code = command.wait()?.code();
        ensure!(code == Some(130), "Ctrl-C ended it with {code:?}");
        e.wait_state("left", "SERVING", Duration::from_secs(120))?;
        e.down("left")?;
        e.up("not", "syp-test/silent", &["--port", "8080", "--no-wait"])?;
        e.ok(&["op", "cancel", "not"])?;
        e.ok(&["wait", "not", "--for", "state=destroyed", "--timeout", "120s"])?;
        e.ok(&["receipt", "not", "--verify"]).map(drop)
    })
}

#[test]
fn replicas_share_the_load_and_limits_are_set() -> Result<()> {
    with_engine(|e, _| {
        e.up(
            "many",
            "syp-test/hello",
            &["--allow", ALICE, "--port", "8080", "--replicas", "3", "--cpu", ".25", "--memory", "64Mi"],
        )?;
        let app = Docker::container(e, "many", "app-2")?;
        let limits =
            sh("docker", &["inspect", "-f", "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}}", &app])?;
        ensure!(limits.trim() == "250000000 67108864", "limits: {limits}");
        let t = e.token("many", Some(ALICE))?;
        let url = e.endpoint("many")?;
        // one of three dies: requests go to the others
        sh("docker", &["kill", &app])?;
        for _ in 0..30 {
            ensure!(get(&url, Some(&t), &[])?.0 == 200, "a dead replica is not asked");
        }
        e.down("many")
    })
}

#[test]
fn a_foreign_thing_with_our_name_is_left_alone_and_a_planted_orphan_is_found() -> Result<()> {
    with_engine(|e, _| {
        e.up("seen", "syp-test/hello", &["--port", "8080"])?;
        let store = e.store_id()?;
        let label = format!("syp.dev/store={store}");
        let orphan = format!("syp-{store}-orphan");
        sh(
            "docker",
            &[
                "volume",
                "create",
                "--label",
                &label,
                "--label",
                "syp.dev/instance=00000000000000000000000000000001",
                &orphan,
            ],
        )?;
        let foreign = "syp-foreign-volume-of-a-test";
        sh("docker", &["volume", "create", foreign])?;
        let report = e.json(&["sweep"])?;
        ensure!(report.to_string().contains(&orphan), "the orphan is reported: {report}");
        ensure!(!report.to_string().contains(foreign), "foreign things are not");
        e.ok(&["sweep", "--delete"])?;
        ensure!(sh("docker", &["volume", "inspect", &orphan]).is_err(), "the orphan is gone");
        sh("docker", &["volume", "rm", foreign])?;
        ensure!(e.state("seen")? == "SERVING", "what serves was not touched");
        e.down("seen")
    })
}

#[test]
fn the_engine_can_stop_and_start_while_instances_serve() -> Result<()> {
    with_engine(|e, _| {
        e.up("stay", "syp-test/hello", &["--allow", ALICE, "--port", "8080"])?;
        let t = e.token("stay", Some(ALICE))?;
        let url = e.endpoint("stay")?;
        e.ok(&["server", "stop"])?;
        ensure!(get(&url, Some(&t), &[])?.0 == 200, "it serves without the engine");
        ensure!(e.state("stay")? == "SERVING", "the engine starts again by itself");
        ensure!(e.endpoint("stay")? == url, "the same endpoint");
        e.down("stay")
    })
}
