//! The load balancer of a stack: nginx in a container, on an address of loopback that is its own.
//!
//! There are two of it in there. The outer one has the certificate and the callers' connections, and is never told anything: a reload
//! would close connections that callers are about to use, which a load balancer does not do. The inner one knows the tasks, and is
//! reloaded when they come and go; between the two each request has a connection of its own.
use super::{
    LABEL, STORE_LABEL, STORE_TAG, http,
    world::{Front, Shared, World, random},
};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

const IMAGE: &str = "syp-test/nginx";
/// Where the inner one says which configuration it has.
const INSIDE: u16 = 8081;
/// The gate's.
const TRAFFIC: u16 = syp_steps::aws::names::TRAFFIC;
/// Addresses that are tried before it is given up.
const TRIES: usize = 50;
const SOON: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(5);

/// What both are told alike.
const COMMON: &str = "worker_processes 1;
events { worker_connections 8192; }
http {
access_log off;
client_max_body_size 0;
proxy_http_version 1.1;
proxy_buffering off;
proxy_request_buffering off;
proxy_next_upstream off;
proxy_read_timeout 120s;
proxy_send_timeout 120s;
proxy_set_header Host $http_host;
proxy_set_header Upgrade $http_upgrade;
proxy_set_header Connection $up;
map $http_upgrade $up { default upgrade; '' ''; }
";

fn outer() -> String {
    format!(
        "daemon off; pid /run/outer.pid; error_log stderr warn;\n{COMMON}\
         server {{ listen 80; return 301 https://$host$request_uri; }}\n\
         server {{\n\
         listen 443 ssl http2;\n\
         ssl_certificate /bed/cert.pem; ssl_certificate_key /bed/key.pem; ssl_protocols TLSv1.2 TLSv1.3;\n\
         location / {{\n\
         proxy_set_header Host $http_host;\n\
         proxy_set_header Upgrade $http_upgrade;\n\
         proxy_set_header Connection $up;\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
         proxy_set_header X-Forwarded-Proto https;\n\
         proxy_set_header X-Forwarded-Port 443;\n\
         proxy_pass http://unix:/run/inner.sock:;\n\
         }} }} }}\n"
    )
}

fn inner(tasks: &[Ipv4Addr], name: &str) -> String {
    let servers: String = tasks.iter().map(|a| format!("server {a}:{TRAFFIC} max_fails=0;\n")).collect();
    let (upstream, pass) = if tasks.is_empty() {
        (String::new(), "return 503;")
    } else {
        (format!("upstream tasks {{\n{servers}}}\n"), "proxy_pass http://tasks;")
    };
    format!(
        "pid /run/inner.pid; error_log /run/inner.log warn;\n{COMMON}{upstream}\
         server {{ listen {INSIDE}; location / {{ return 200 '{name}'; }} }}\n\
         server {{ listen unix:/run/inner.sock; location / {{ {pass} }} }} }}\n"
    )
}

/// A new one for a stack; where it answers.
pub async fn start(shared: &Arc<Shared>, stack: &str) -> Result<Ipv4Addr, String> {
    let (domain, store, name) = shared.see(|w| about(w, stack)).ok_or("the stack is gone")?;
    let dir = shared.dir.join(format!("front-{}", random(12)));
    furnish(shared, &dir, &domain).map_err(|e| format!("{e:#}"))?;
    let (container, address) = run(shared, &dir, &[&store, &format!("syp.test/stack={name}")]).await?;
    let form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let inside = shared.docker.run(&["inspect", "-f", form, &container]).await?;
    let inside = inside.parse().map_err(|_| format!("no address: {inside}"))?;
    let (stack, applied) = (stack.to_owned(), vec![]);
    let front = Front { domain, address, container, inside, dir, applied };
    answers(shared, &front, "none").await?;
    shared.with(|w| w.fronts.insert(stack.clone(), front));
    tokio::spawn(keep(Arc::clone(shared), stack));
    Ok(address)
}

/// Domain, label and name.
fn about(w: &World, stack: &str) -> Option<(String, String, String)> {
    let s = w.stack(stack)?;
    let url = s.shape.template["Outputs"]["Endpoint"]["Value"].as_str().unwrap_or_default();
    let store = s.shape.tags.get(STORE_TAG).cloned().unwrap_or_default();
    let domain = url.trim_start_matches("https://").to_owned();
    Some((domain, format!("{STORE_LABEL}={store}"), s.name.clone()))
}

fn furnish(shared: &Shared, dir: &Path, domain: &str) -> anyhow::Result<()> {
    let (cert, key) = shared.authority.sign(domain)?;
    fs::create_dir(dir)?;
    for (name, text) in
        [("cert.pem", cert), ("key.pem", key), ("outer.conf", outer()), ("inner.conf", inner(&[], "none"))]
    {
        fs::write(dir.join(name), text)?;
    }
    Ok(())
}

/// The container, on an address that nobody has.
async fn run(shared: &Shared, dir: &Path, labels: &[&str]) -> Result<(String, Ipv4Addr), String> {
    let (label, network) = (format!("{LABEL}={}", shared.id), shared.docker.network());
    let mount = format!("{}:/bed:ro", dir.display());
    let mut words = String::new();
    for _ in 0..TRIES {
        let [_, _, c, d, ..] = *uuid::Uuid::new_v4().as_bytes();
        let at = Ipv4Addr::new(127, 77, c, d.clamp(1, 254));
        if TcpStream::connect((at, 443)).is_ok() {
            continue;
        }
        let (tls, plain) = (format!("{at}:443:443"), format!("{at}:80:80"));
        let mut args = vec!["create", "--network", &network, "--label", &label, "-v", &mount];
        args.extend(labels.iter().flat_map(|l| ["--label", *l]));
        // a connection for each request: their ports must not run out
        args.extend(["--sysctl", "net.ipv4.tcp_tw_reuse=1", "-p", &tls, "-p", &plain]);
        let both = "nginx -c /bed/inner.conf && exec nginx -c /bed/outer.conf";
        args.extend(["--entrypoint", "/bin/sh", IMAGE, "-c", both]);
        let id = shared.docker.run(&args).await?;
        match shared.docker.run(&["start", &id]).await {
            Ok(_) => return Ok((id, at)),
            // somebody else was faster
            Err(e) => words = e,
        }
        let _ = shared.docker.run(&["rm", "-f", &id]).await;
    }
    Err(format!("no address of loopback for a load balancer: {words}"))
}

/// Takes it away.
pub async fn stop(shared: &Shared, stack: &str) {
    let Some(front) = shared.with(|w| w.fronts.remove(stack)) else { return };
    let _ = shared.docker.run(&["rm", "-f", "-v", &front.container]).await;
    let _ = fs::remove_dir_all(&front.dir);
}

/// Tells it of tasks that come and go, for as long as it is there.
async fn keep(shared: Arc<Shared>, stack: String) {
    loop {
        let change = shared.until(|w| {
            let Some(f) = w.fronts.get(&stack).filter(|_| !w.closing) else { return Some(None) };
            let wanted = healthy(w, &stack);
            (wanted != f.applied).then(|| Some((f.clone(), wanted)))
        });
        let Some((front, wanted)) = change.await else { return };
        match apply(&shared, &front, &wanted).await {
            Ok(()) => shared.with(|w| {
                if let Some(f) = w.fronts.get_mut(&stack) {
                    f.applied = wanted;
                }
            }),
            Err(_) => tokio::time::sleep(SOON).await,
        }
    }
}

fn healthy(w: &World, stack: &str) -> Vec<Ipv4Addr> {
    let of = |service: &str| w.services.get(service).is_some_and(|s| s.stack == stack);
    let mut all: Vec<_> =
        w.tasks.values().filter(|t| t.healthy && of(&t.service)).filter_map(|t| t.address).collect();
    all.sort();
    all
}

async fn apply(shared: &Shared, front: &Front, tasks: &[Ipv4Addr]) -> Result<(), String> {
    let name = random(12);
    let (part, file) = (front.dir.join("part"), front.dir.join("inner.conf"));
    fs::write(&part, inner(tasks, &name))
        .and_then(|()| fs::rename(&part, &file))
        .map_err(|e| e.to_string())?;
    shared.docker.run(&["exec", &front.container, "nginx", "-c", "/bed/inner.conf", "-s", "reload"]).await?;
    answers(shared, front, &name).await
}

/// Waits until it has the configuration of this name: then new requests go by it alone.
async fn answers(shared: &Shared, front: &Front, name: &str) -> Result<(), String> {
    let at = SocketAddr::from((front.inside, INSIDE));
    let asked = async {
        while !matches!(http::get(at, "/", LIMIT).await, Ok((200, said)) if said == name) {
            tokio::time::sleep(SOON).await;
        }
        // for a tenth of a second the worker from before takes requests too
        while shared
            .docker
            .run(&["top", &front.container, "-o", "pid,args"])
            .await
            .is_ok_and(|all| workers(&all) > 2)
        {
            tokio::time::sleep(SOON).await;
        }
    };
    if tokio::time::timeout(LIMIT * 2, asked).await.is_err() {
        let said = shared.docker.told(&["logs", &front.container], &[]).await;
        return Err(format!("the load balancer does not answer: {said:?}"));
    }
    Ok(())
}

/// Workers of both that take requests.
fn workers(processes: &str) -> usize {
    let takes = |l: &&str| l.contains("nginx: worker process") && !l.contains("shutting down");
    processes.lines().filter(takes).count()
}
