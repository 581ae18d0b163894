//! What the targets on Kubernetes have in common, seen from outside with `kubectl`.
use crate::product::Engine;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// What `kubectl` prints.
pub type Kubectl<'a> = &'a dyn Fn(&[&str]) -> Result<String>;

struct Pod {
    namespace: String,
    name: String,
    address: String,
    /// The app's, as the node knows it.
    image: String,
}

/// A pod of an instance.
fn pod(k: Kubectl<'_>, e: &Engine, name: &str) -> Result<Pod> {
    let labels = format!("syp.dev/store={},syp.dev/name={name}", e.store_id()?);
    let all: Value = serde_json::from_str(&k(&["get", "pods", "-A", "-l", &labels, "-o", "json"])?)?;
    let all = all["items"].as_array().context("pods")?;
    let p = all.iter().find(|p| p["status"]["podIP"].is_string()).context("a pod of it")?;
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    Ok(Pod {
        namespace: text(&p["metadata"]["namespace"]),
        name: text(&p["metadata"]["name"]),
        address: text(&p["status"]["podIP"]),
        image: text(&p["spec"]["containers"][0]["image"]),
    })
}

/// From a pod elsewhere; the gate's own port shows that the try can succeed.
///
/// # Errors
/// It can't be tried.
pub fn ways_past_the_gate(k: Kubectl<'_>, e: &Engine, name: &str) -> Result<Vec<String>> {
    let target = pod(k, e, name)?;
    let neighbour = format!("syp-test-{}", uuid::Uuid::new_v4().simple());
    let tries = format!(
        "for p in 8080 49149 49151; do /bin/busybox timeout 3 /bin/busybox nc -w 2 {} $p </dev/null && echo reached $p; done; true",
        target.address
    );
    let out = k(&[
        "run",
        &neighbour,
        "-n",
        "default",
        "--image",
        &target.image,
        "--image-pull-policy=Never",
        "--restart=Never",
        "--attach",
        "--rm",
        "-q",
        "--command",
        "--",
        "/bin/busybox",
        "sh",
        "-c",
        &tries,
    ])?;
    ensure!(out.contains("reached 49151"), "the neighbour can't even reach the gate: {out}");
    let open = ["8080", "49149"].into_iter().filter(|p| out.contains(&format!("reached {p}")));
    Ok(open.map(|p| format!("from another pod at {p}")).collect())
}

/// The cluster's own API is elsewhere, seen from the app.
///
/// # Errors
/// It can't be tried.
pub fn way_out(k: Kubectl<'_>, e: &Engine, name: &str) -> Result<bool> {
    let p = pod(k, e, name)?;
    let to = k(&["get", "service", "kubernetes", "-n", "default", "-o", "jsonpath={.spec.clusterIP}"])?;
    let script = format!("/bin/busybox timeout 3 /bin/busybox nc -w 2 {} 443 </dev/null", to.trim());
    let args = ["exec", "-n", &p.namespace, &p.name, "-c", "app", "--", "/bin/busybox", "sh", "-c", &script];
    Ok(k(&args).is_ok())
}
