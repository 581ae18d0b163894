//! What an engine asks of a real cluster (`tests/testbed/kubernetes.sh`), counted on the way to its API server.
use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use serde_json::json;
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
};
use syp_tests::product::{Engine, binary, pause};

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
