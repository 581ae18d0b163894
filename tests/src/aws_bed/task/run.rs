//! The start of a task: images, secrets, the network namespace, then the containers in the order that their definition says.
use super::{
    super::{
        LABEL, STORE_LABEL, STORE_TAG, agent, definition,
        world::{Shared, Stream, World, now},
    },
    End,
};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::Value;
use std::{io::Write, net::Ipv4Addr};

/// Has busybox, which is all that a holder of a namespace needs.
const HOLDER: &str = "syp-test/hello";

/// Where a task's containers belong.
struct Place {
    properties: Value,
    /// `NAME=VALUE` of the labels that all have.
    labels: Vec<String>,
    task: String,
}

/// Name of the container that owns the namespace.
pub fn holder(shared: &Shared, task: &str) -> String {
    format!("syp-bed-{}-{task}", shared.id)
}

/// The containers of a definition, each after those that it depends on.
pub fn ordered(properties: &Value) -> Vec<&Value> {
    let mut left: Vec<&Value> = properties["ContainerDefinitions"].as_array().into_iter().flatten().collect();
    let mut out: Vec<&Value> = vec![];
    while !left.is_empty() {
        let ready = |c: &Value| {
            let mut needs = c["DependsOn"].as_array().into_iter().flatten().map(|d| &d["ContainerName"]);
            needs.all(|n| out.iter().any(|o| o["Name"] == *n))
        };
        // a circle is no concern of ours
        let at = left.iter().position(|c| ready(c)).unwrap_or(0);
        out.push(left.remove(at));
    }
    out
}

/// All of it, until it runs.
pub async fn begin(shared: &Shared, id: &str) -> Result<(), End> {
    let place =
        shared.with(|w| place(w, id)).ok_or_else(|| End::not_started("the task's definition is gone"))?;
    wanted(shared, id)?;
    let of = ordered(&place.properties);
    for c in &of {
        pull(shared, c).await?;
    }
    let mut secrets = vec![];
    for c in &of {
        secrets.push(values(shared, c).await?);
    }
    let address = hold(shared, &place).await?;
    seal(shared, &place).await?;
    shared.with(|w| w.tasks.get_mut(id).map(|t| t.address = Some(address)));
    for (c, secrets) in of.iter().zip(secrets) {
        wanted(shared, id)?;
        contain(shared, &place, c, &secrets).await?;
    }
    shared.with(|w| {
        if let Some(t) = w.tasks.get_mut(id) {
            (t.last, t.started) = ("RUNNING", Some(now()));
        }
    });
    Ok(())
}

/// A task that shall go is not brought up any further.
fn wanted(shared: &Shared, id: &str) -> Result<(), End> {
    match shared.see(|w| w.tasks.get(id).and_then(|t| t.told.clone())) {
        Some(why) => Err(End::told(why)),
        None => Ok(()),
    }
}

fn place(w: &mut World, id: &str) -> Option<Place> {
    let t = w.tasks.get_mut(id)?;
    t.last = "PENDING";
    let (task, service, of) = (t.id.clone(), t.service.clone(), t.definition.clone());
    let store = w.services.get(&service)?.tags.get(STORE_TAG).cloned().unwrap_or_default();
    let labels = vec![format!("{STORE_LABEL}={store}"), format!("syp.test/service={service}")];
    Some(Place { properties: definition::find(w, &of)?.properties.clone(), labels, task })
}

fn text(v: &Value) -> &str {
    v.as_str().unwrap_or_default()
}

/// Only from registries of this machine: what is not there is nowhere.
async fn pull(shared: &Shared, c: &Value) -> Result<(), End> {
    let image = text(&c["Image"]);
    let failed = |why: &str| {
        End::not_started(format!(
            "CannotPullContainerError: pull image manifest has been retried 1 time(s): {image}: {why}"
        ))
    };
    let here = ["127.0.0.1:", "localhost:"].iter().any(|host| image.starts_with(host));
    if !here {
        let there = shared.docker.run(&["image", "inspect", "-f", "{{.Id}}", image]).await;
        return there.map(drop).map_err(|_| failed("not found"));
    }
    // with the login that the definition names and no other, as on a machine that has none
    let dir = tempfile::tempdir().map_err(|e| failed(&e.to_string()))?;
    let login = text(&c["RepositoryCredentials"]["CredentialsParameter"]);
    if !login.is_empty() {
        let held = shared.behind.value(login).await.map_err(|e| failed(&format!("{e:#}")))?;
        let held: Value = serde_json::from_str(&held).map_err(|e| failed(&e.to_string()))?;
        let host = image.split('/').next().unwrap_or_default();
        let pair = BASE64_STANDARD.encode(format!("{}:{}", text(&held["username"]), text(&held["password"])));
        let config = serde_json::json!({ "auths": { host: { "auth": pair } } });
        std::fs::write(dir.path().join("config.json"), config.to_string())
            .map_err(|e| failed(&e.to_string()))?;
    }
    let config = dir.path().display().to_string();
    let pulled = shared.docker.told(&["pull", "-q", image], &[("DOCKER_CONFIG", &config)]).await;
    pulled.map(drop).map_err(|e| failed(&e))
}

/// Values of its secrets, by variable.
async fn values(shared: &Shared, c: &Value) -> Result<Vec<(String, String)>, End> {
    let mut out = vec![];
    for s in c["Secrets"].as_array().into_iter().flatten() {
        let value = shared.behind.value(text(&s["ValueFrom"])).await.map_err(|e| {
            let words = "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed";
            End::not_started(format!("{words}: unable to retrieve secret from asm: {e:#}"))
        })?;
        out.push((text(&s["Name"]).to_owned(), value));
    }
    Ok(out)
}

/// The network namespace; its address.
async fn hold(shared: &Shared, place: &Place) -> Result<Ipv4Addr, End> {
    let (name, network) = (holder(shared, &place.task), shared.docker.network());
    let label = format!("{LABEL}={}", shared.id);
    let mut args = vec!["run", "-d", "--name", &name, "--network", &network, "--label", &label];
    args.extend(place.labels.iter().flat_map(|l| ["--label", l.as_str()]));
    // outgoing connections leave the ports below to apps, as the rules of the security group want it
    args.extend(["--sysctl", "net.ipv4.ip_local_port_range=49152 65534"]);
    args.extend(["--entrypoint", "/bin/busybox", HOLDER, "sleep", "2147483647"]);
    let failed = |e: String| End::not_started(format!("ResourceInitializationError: {e}"));
    shared.docker.run(&args).await.map_err(failed)?;
    let form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let at = shared.docker.run(&["inspect", "-f", form, &name]).await.map_err(failed)?;
    at.parse().map_err(|_| End::not_started(format!("no address: {at}")))
}

/// What the task's security group says, as far as it goes here: nobody gets to another port than the gate's. The gate's own program
/// makes the rules, in the task's namespace.
async fn seal(shared: &Shared, place: &Place) -> Result<(), End> {
    let mut all = place.properties["ContainerDefinitions"].as_array().into_iter().flatten();
    let Some(gate) = all.find(|c| c["Name"] == "gate") else { return Ok(()) };
    let port = gate["PortMappings"][0]["ContainerPort"].to_string();
    let mut words = gate["Command"].as_array().into_iter().flatten().map(text);
    let app = words.find(|w| *w == "--app").and_then(|_| words.next()).and_then(|a| a.rsplit(':').next());
    let (network, label) =
        (format!("container:{}", holder(shared, &place.task)), format!("{LABEL}={}", shared.id));
    let mut args = vec!["run", "--rm", "--cap-add", "NET_ADMIN", "--network", &network, "--label", &label];
    args.extend([
        "--entrypoint",
        text(&gate["EntryPoint"][0]),
        text(&gate["Image"]),
        "seal",
        "--port",
        &port,
        "--app-port",
        app.unwrap_or("8080"),
    ]);
    let failed = |e: String| End::not_started(format!("ResourceInitializationError: {e}"));
    shared.docker.run(&args).await.map(drop).map_err(failed)
}

/// One container, started.
async fn contain(shared: &Shared, place: &Place, c: &Value, secrets: &[(String, String)]) -> Result<(), End> {
    let failed = |e: &str| End::not_started(format!("CannotStartContainerError: {e}"));
    let mut file = tempfile::NamedTempFile::new().map_err(|e| failed(&e.to_string()))?;
    let mut by_name = vec![];
    for (name, value) in secrets {
        // a file holds a line for each
        if value.contains('\n') {
            by_name.push((name.as_str(), value.as_str()));
        } else {
            writeln!(file, "{name}={value}").map_err(|e| failed(&e.to_string()))?;
        }
    }
    let mut args = arguments(shared, place, c);
    args.extend(["--env-file".into(), file.path().display().to_string()]);
    args.extend(by_name.iter().flat_map(|(name, _)| ["-e".to_owned(), (*name).to_owned()]));
    args.push(text(&c["Image"]).to_owned());
    let words = |key: &str| c[key].as_array().into_iter().flatten().map(|w| text(w).to_owned());
    args.extend(words("EntryPoint").skip(1));
    args.extend(words("Command"));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    // made first and started then: its stream is known before it says anything
    let made = shared.docker.told(&args, &by_name).await;
    let id = made.map(|(out, _)| out.trim().to_owned()).map_err(|e| failed(&e))?;
    let name = text(&c["Name"]);
    shared.with(|w| known(w, place, c, &id));
    if let Err(e) = shared.docker.run(&["start", &id]).await {
        shared.with(|w| {
            let t = w.tasks.get_mut(&place.task)?;
            let of = t.containers.iter_mut().find(|of| of.name == name)?;
            of.reason = format!("CannotStartContainerError: {e}");
            Some(())
        });
        return Err(failed(&e));
    }
    Ok(())
}

/// All before the image.
fn arguments(shared: &Shared, place: &Place, c: &Value) -> Vec<String> {
    let owned = str::to_owned;
    let mut args = ["create", "--network"].map(owned).to_vec();
    args.push(format!("container:{}", holder(shared, &place.task)));
    let task = format!("syp.test/task={}", place.task);
    let container = format!("syp.test/container={}", text(&c["Name"]));
    let bed = format!("{LABEL}={}", shared.id);
    for label in [&bed, &task, &container].into_iter().chain(&place.labels) {
        args.extend([owned("--label"), label.clone()]);
    }
    for e in c["Environment"].as_array().into_iter().flatten() {
        args.extend([owned("-e"), format!("{}={}", text(&e["Name"]), text(&e["Value"]))]);
    }
    if let Some(at) = shared.agent.get() {
        args.extend([owned("-e"), agent::variable(*at, &place.task, text(&c["Name"]))]);
    }
    if let Some(user) = c["User"].as_str() {
        args.extend([owned("--user"), owned(user)]);
    }
    if c["ReadonlyRootFilesystem"] == true {
        args.push(owned("--read-only"));
    }
    for m in c["MountPoints"].as_array().into_iter().flatten() {
        // Fargate's volumes are root's, and nobody else may write to them
        args.extend([owned("--tmpfs"), format!("{}:exec,mode=0755", text(&m["ContainerPath"]))]);
    }
    if text(&c["Name"]) == "app" {
        args.extend([owned("--memory"), format!("{}m", text(&place.properties["Memory"]))]);
    }
    if let Some(program) = c["EntryPoint"][0].as_str() {
        args.extend([owned("--entrypoint"), owned(program)]);
    }
    args
}

/// Writes down which container it is, and where its lines are.
fn known(w: &mut World, place: &Place, c: &Value, id: &str) {
    let name = text(&c["Name"]);
    if let Some(t) = w.tasks.get_mut(&place.task)
        && let Some(of) = t.containers.iter_mut().find(|of| of.name == name)
    {
        id.clone_into(&mut of.id);
    }
    let options = &c["LogConfiguration"]["Options"];
    if let Some(group) = w.groups.get_mut(text(&options["awslogs-group"])) {
        let stream = format!("{}/{name}/{}", text(&options["awslogs-stream-prefix"]), place.task);
        group.streams.insert(stream, Stream { container: id.to_owned(), kept: None, created: now() });
    }
}
