//! What an engine asks of a real cluster (`tests/testbed/kubernetes.sh`), counted on the way to its API server.
use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use syp_tests::{
    conformance::{Bed, Cluster},
    product::{Engine, binary, pause},
};

/// Beyond this a minute of one serving instance is too many (BENCHMARKS.md has the figure).
const A_MINUTE: usize = 20;
/// Requests are counted for so long.
const LOOK_MS: u64 = 120_000;

/// `kubectl proxy`, which puts plain HTTP before an API server, and a wire before it on which requests are counted.
struct Counter {
    proxy: Child,
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}

/// Passes on what comes and keeps each request line: those after an upgrade are masked and look like none.
fn count(from: TcpStream, to: TcpStream, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let (mut from, mut to) = (from, to);
    let mut buffer = [0; 16 << 10];
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            return to.shutdown(Shutdown::Write);
        }
        for line in buffer[..n].split(|b| *b == b'\n') {
            if let Some(request) = line.strip_suffix(b" HTTP/1.1\r") {
                seen.lock().push(String::from_utf8_lossy(request).into_owned());
            }
        }
        to.write_all(&buffer[..n])?;
    }
}

impl Counter {
    fn start(kubectl: &str) -> Result<Self> {
        let mut proxy = Command::new(kubectl).args(["proxy", "--port=0"]).stdout(Stdio::piped()).spawn()?;
        let mut said = String::new();
        BufReader::new(proxy.stdout.take().context("stdout")?).read_line(&mut said)?;
        let to: u16 = said.trim().rsplit(':').next().context("a port")?.parse().context(said.clone())?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let counted = Arc::clone(&seen);
        std::thread::spawn(move || {
            for from in listener.incoming().flatten() {
                let Ok(way) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let (Ok(mut back), Ok(mut home)) = (way.try_clone(), from.try_clone()) else { continue };
                let counted = Arc::clone(&counted);
                std::thread::spawn(move || count(from, way, &counted));
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut back, &mut home);
                    home.shutdown(Shutdown::Write)
                });
            }
        });
        Ok(Self { proxy, port, seen })
    }

    fn kubeconfig(&self) -> Result<tempfile::NamedTempFile> {
        let file = tempfile::NamedTempFile::new()?;
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "kind-counted",
            "clusters": [{ "name": "c", "cluster": { "server": format!("http://127.0.0.1:{}", self.port) } }],
            "users": [{ "name": "u", "user": {} }],
            "contexts": [{ "name": "kind-counted", "context": { "cluster": "c", "user": "u" } }],
        });
        std::fs::write(file.path(), config.to_string())?;
        Ok(file)
    }

    /// What came since it was asked last, by what it was about.
    fn take(&self) -> BTreeMap<String, usize> {
        let mut out = BTreeMap::new();
        for request in std::mem::take(&mut *self.seen.lock()) {
            let (verb, path) = request.split_once(' ').unwrap_or((&request, ""));
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            let of = path.split('/').rfind(|p| p.chars().all(|c| c.is_ascii_lowercase())).unwrap_or(path);
            let watch = if query.contains("watch=true") { " watch" } else { "" };
            let metrics = if path.contains("metrics.k8s.io") { " metrics" } else { "" };
            *out.entry(format!("{verb}{watch} {of}{metrics}")).or_default() += 1;
        }
        out
    }
}

#[test]
fn a_serving_instance_asks_its_cluster_seldom_and_a_change_asks_once_for_all_rights() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    if std::env::var_os("SYP_TEST_K8S").is_none() {
        return Ok(());
    }
    let kubectl = std::env::var("SYP_K8S_KUBECTL").unwrap_or_else(|_| "kubectl".into());
    let counter = Counter::start(&kubectl)?;
    let config = counter.kubeconfig()?;
    let e = Engine::new(&sypctl)?.with("KUBECONFIG", &config.path().display().to_string());
    let image = ["up", "shop", "--image", "syp-test/hello:latest", "--on", "k8s:kind-counted", "--yes"];
    e.ok(&[&image[..], &["--port", "8080", "--isolation", "rules"]].concat())?;
    let up = counter.take();
    let of = |all: &BTreeMap<String, usize>, what: &str| {
        all.iter().filter(|(k, _)| k.contains(what)).map(|(_, n)| n).sum::<usize>()
    };
    println!("requests of an up: {} ({up:?})", up.values().sum::<usize>());
    // what follows an operation is over by then
    pause(15_000);
    counter.take();
    pause(LOOK_MS);
    let serving = counter.take();
    let minute = serving.values().sum::<usize>() * 60_000 / usize::try_from(LOOK_MS)?;
    println!("requests a minute while serving: {minute} ({serving:?} in {} s)", LOOK_MS / 1000);
    ensure!(of(&up, "selfsubject") <= 2, "one review for all rights: {up:?}");
    ensure!(of(&serving, "portforward") > 0, "the gate was looked at: {serving:?}");
    ensure!(minute <= A_MINUTE, "{minute} requests a minute: {serving:?}");
    e.ok(&["down", "shop", "--yes"]).map(drop)
}

/// The verdict of one line.
fn verdict<'a>(said: &'a Value, what: &str) -> &'a str {
    let all = said["findings"].as_array().into_iter().flatten();
    all.filter(|f| f["what"] == what).find_map(|f| f["verdict"].as_str()).unwrap_or("missing")
}

#[test]
fn provider_check_passes_where_up_does_and_names_what_is_in_its_way() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let Some(cluster) = Cluster::from_env()? else { return Ok(()) };
    let engine = |kubeconfig: &std::path::Path| {
        Ok::<_, anyhow::Error>(Engine::new(&sypctl)?.with("KUBECONFIG", &kubeconfig.display().to_string()))
    };
    let json = |e: &Engine, args: &[&str]| -> Result<(i32, Value)> {
        let said = e.run(&[&["provider", "check", "k8s"], args, &["-o", "json"]].concat())?;
        Ok((said.code, serde_json::from_str(&said.out).with_context(|| format!("{said:?}"))?))
    };

    // with just the rights that the repository names
    let least = cluster.env();
    let least = least.iter().find(|(n, _)| *n == "KUBECONFIG").context("kubeconfig")?;
    let e = engine(std::path::Path::new(&least.1))?;
    let (code, said) = json(&e, &[])?;
    ensure!(code == 0 && said["ok"] == true, "{said}");
    ensure!(said["identity"] == "system:serviceaccount:syp-system:syp-engine", "{said}");
    for what in
        ["reachable", "version", "identity", "rights", "gate's image", "nodes", "metrics server", "issuer"]
    {
        ensure!(verdict(&said, what) == "OK", "{what}: {said}");
    }
    // this network enforces nothing: that is no failure
    ensure!(verdict(&said, "network") == "NOTE", "{said}");

    let (code, said) = json(&e, &["--namespace", "syp-nothing-here"])?;
    ensure!(code == 6 && verdict(&said, "namespace") == "FAIL", "{code} {said}");
    ensure!(said.to_string().contains("NAMESPACE_NOT_FOUND"), "{said}");

    // somebody who may look at quotas too
    let rules = "get,list,create,patch,delete,watch";
    let role = "syp-test-more";
    let all = "serviceaccounts,secrets,services,pods,pods/log,pods/portforward,namespaces,resourcequotas,limitranges,deployments.apps,networkpolicies.networking.k8s.io,ingresses.networking.k8s.io,poddisruptionbudgets.policy,horizontalpodautoscalers.autoscaling";
    let _ = cluster.kubectl(&["delete", "clusterrole", role]);
    cluster.kubectl(&[
        "create",
        "clusterrole",
        role,
        &format!("--verb={rules}"),
        &format!("--resource={all}"),
    ])?;
    let more = cluster.identity(role, role)?;
    let place = "syp-test-quota";
    let _ = cluster.kubectl(&["create", "namespace", place]);
    let _ = cluster.kubectl(&["create", "quota", "small", "-n", place, "--hard=pods=2"]);
    let e = engine(more.path())?;
    // rights and a quota count a moment after they are made
    let comes_to =
        |e: &Engine, args: &[&str], wanted: &dyn Fn(i32, &Value) -> bool| -> Result<(i32, Value)> {
            let end = std::time::Instant::now() + Duration::from_secs(60);
            loop {
                let (code, said) = json(e, args)?;
                if wanted(code, &said) || std::time::Instant::now() > end {
                    return Ok((code, said));
                }
                pause(300);
            }
        };
    let (code, said) = comes_to(&e, &["--namespace", place, "--replicas", "2"], &|code, _| code == 10)?;
    ensure!(code == 10 && said.to_string().contains("leaves too little of pods"), "{code} {said}");
    let (code, said) = json(&e, &["--namespace", place])?;
    ensure!(code == 0 && verdict(&said, "quota") == "OK", "one fits: {code} {said}");
    cluster.kubectl(&["delete", "namespace", place, "--wait=false"])?;

    // what is missing is named, as 'up' does, and what is printed gives it
    let role = "syp-test-less";
    for kind in ["clusterrole", "clusterrolebinding"] {
        let _ = cluster.kubectl(&["delete", kind, role, "syp-engine-more"]);
    }
    let all = all.replace("pods/portforward,", "");
    cluster.kubectl(&[
        "create",
        "clusterrole",
        role,
        &format!("--verb={rules}"),
        &format!("--resource={all}"),
    ])?;
    let less = cluster.identity(role, role)?;
    let e = engine(less.path())?;
    let missing = json!(["create pods/portforward", "get pods/portforward"]);
    let (code, said) = comes_to(&e, &[], &|_, said| said["missingPermissions"] == missing)?;
    ensure!(code == 6 && verdict(&said, "rights") == "FAIL", "{code} {said}");
    ensure!(said["missingPermissions"] == missing, "{said}");
    let up = ["up", "a", "--image", "x:1", "--port", "80", "--on", "k8s", "--yes"];
    let refused = e.run(&up)?;
    ensure!(refused.code == 6 && refused.err.contains("RIGHTS_MISSING"), "up: {refused:?}");
    let yaml = tempfile::NamedTempFile::new()?;
    std::fs::write(yaml.path(), e.ok(&["provider", "check", "k8s", "--role"])?)?;
    cluster.kubectl(&["apply", "-f", &yaml.path().display().to_string()])?;
    let (code, said) = comes_to(&e, &[], &|code, _| code == 0)?;
    ensure!(code == 0, "with what was printed: {code} {said}");
    ensure!(e.ok(&["provider", "check", "k8s", "--role"])?.trim().is_empty(), "nothing is missing any more");

    // an engine that nobody told where the gate's image is
    let e = engine(less.path())?.with("SYP_GATE_IMAGE", "");
    let (code, said) = json(&e, &[])?;
    ensure!(code == 6 && verdict(&said, "gate's image") == "FAIL", "{code} {said}");
    for kind in ["clusterrole", "clusterrolebinding"] {
        let _ = cluster.kubectl(&["delete", kind, role, "syp-test-more", "syp-engine-more"]);
    }
    Ok(())
}

#[test]
fn provider_check_says_when_a_cluster_or_a_target_is_not_there() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let file = tempfile::NamedTempFile::new()?;
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "gone",
        "clusters": [{ "name": "c", "cluster": { "server": "http://127.0.0.1:1" } }],
        "users": [{ "name": "u", "user": {} }],
        "contexts": [{ "name": "gone", "context": { "cluster": "c", "user": "u" } }],
    });
    std::fs::write(file.path(), config.to_string())?;
    let e = Engine::new(&sypctl)?.with("KUBECONFIG", &file.path().display().to_string());
    let said = e.run(&["provider", "check", "k8s:gone"])?;
    ensure!(said.code == 11 && said.out.contains("fail  reachable"), "{said:?}");
    ensure!(said.err.contains("PROVIDER_UNREACHABLE"), "{said:?}");
    let said = e.run(&["provider", "check", "k8s:other"])?;
    ensure!(said.err.contains("there is no context 'other'") && said.err.contains("it has gone"), "{said:?}");
    // this machine's Docker
    let said = e.run(&["provider", "check"])?;
    ensure!(said.code == 0 && said.out.contains("a replica costs"), "{said:?}");
    let said = e.run(&["provider", "check", "--memory", "1000000Gi"])?;
    ensure!(said.code == 1 && said.err.contains("RESOURCES_EXCEED_HOST"), "{said:?}");
    let all = e.ok(&["provider", "ls", "-o", "name"])?;
    ensure!(all.lines().any(|l| l == "docker") && all.lines().any(|l| l == "k8s:gone"), "{all}");
    Ok(())
}

#[test]
fn an_up_passes_where_a_quota_wants_all_limits_and_is_refused_with_words_where_it_can_not() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let Some(cluster) = Cluster::from_env()? else { return Ok(()) };
    let place = "syp-test-limits";
    let _ = cluster.kubectl(&["create", "namespace", place]);
    let hard = "--hard=limits.cpu=2,limits.memory=2Gi,requests.cpu=1,requests.memory=1Gi";
    let _ = cluster.kubectl(&["create", "quota", "all", "-n", place, hard]);
    // with just the rights that the repository names
    let least = cluster.env();
    let least = least.iter().find(|(n, _)| *n == "KUBECONFIG").context("kubeconfig")?;
    let e = Engine::new(&sypctl)?.with("KUBECONFIG", &least.1);
    let up = |more: &[&str]| {
        let image =
            ["up", "shop", "--image", "syp-test/hello:latest", "--on", "k8s", "--yes", "--port", "8080"];
        e.run(&[&image[..], &["--isolation", "rules", "--namespace", place], more].concat())
    };
    for (more, words) in [
        (&[][..], &["wants every container to say requests.cpu, limits.cpu", "add --cpu and --memory"][..]),
        (
            &["--cpu", "200m", "--memory", "4Gi"],
            &["too little of limits.memory", "too little of requests.memory"],
        ),
        (&["--cpu", "200m", "--memory", "64Mi", "--replicas", "3"], &["too little of limits.cpu"]),
    ] {
        let end = std::time::Instant::now() + Duration::from_secs(20);
        // a quota counts a moment after it is made; nothing was made by then or by this
        let said = loop {
            let said = up(&[more, &["--plan"]].concat())?;
            if said.code != 0 || std::time::Instant::now() > end {
                break said;
            }
            pause(300);
        };
        ensure!(said.code == 10 && said.err.contains("QUOTA_EXCEEDED"), "{more:?}: {said:?}");
        ensure!(words.iter().all(|w| said.err.contains(w)), "{more:?}: {words:?} in {said:?}");
    }
    let said = up(&["--cpu", "200m", "--memory", "64Mi"])?;
    ensure!(said.code == 0, "{said:?}");
    let limits = "jsonpath={.items[*].spec.initContainers[*].resources.limits.cpu}";
    let gates = cluster.kubectl(&["get", "pods", "-n", place, "-o", limits])?;
    ensure!(gates.trim() == "100m 500m", "what the gate and what seals say: {gates}");
    // what it has by now is among what is used, and is no reason to refuse a change
    e.ok(&["set", "shop", "--env", "A=1", "--cpu", "300m", "--yes"])?;
    e.ok(&["down", "shop", "--yes"])?;
    cluster.kubectl(&["delete", "namespace", place, "--wait=false"]).map(drop)
}
