//! Images that have to be pulled, with and without a login: from a real registry on this host.
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use syp_tests::product::{Engine, binary, get, pause, sh};

const ALICE: &str = "user:alice@example.com";

/// `htpasswd -nbB alice a-secret-of-alice`
const USERS: &str = "alice:$2y$05$R2xtmRTlgk2XvXZLaR1C2e55ktaq9QvN.AR9KnKgyeRo8GWB7BzWO";

struct Registry {
    child: Child,
    dir: tempfile::TempDir,
    host: String,
}

impl Registry {
    /// Debian's registry, with one user; `None`: this machine has none (not under CI).
    fn start() -> Result<Option<Self>> {
        let Some(program) = std::env::var_os("SYP_TEST_REGISTRY") else {
            ensure!(std::env::var("CI").as_deref() != Ok("true"), "no docker-registry");
            println!("SKIPPED: no docker-registry (SYP_TEST_REGISTRY does not say where one is)");
            return Ok(None);
        };
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("users"), USERS)?;
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {dir}/data}}}}\n\
             http: {{addr: {address}}}\nauth: {{htpasswd: {{realm: test, path: {dir}/users}}}}\n",
            dir = dir.path().display()
        );
        fs::write(dir.path().join("config.yml"), config)?;
        let child = Command::new(program)
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let r = Self { child, dir, host: address.to_string() };
        let end = Instant::now() + Duration::from_secs(10);
        while get(&format!("http://{}/v2/", r.host), None, &[]).is_err() {
            ensure!(Instant::now() < end, "the registry does not answer");
            pause(50);
        }
        Ok(Some(r))
    }

    /// A folder with a login, as `docker login` makes it.
    fn login(&self, password: &str) -> Result<String> {
        let dir = self.dir.path().join(password);
        fs::create_dir_all(&dir)?;
        let path = dir.to_str().context("path")?.to_owned();
        // "alice:PASSWORD" in base64, by the system's own tool
        let auth = sh("sh", &["-c", &format!("printf %s 'alice:{password}' | base64 -w0")])?;
        let config = serde_json::json!({ "auths": { &self.host: { "auth": auth } } });
        fs::write(dir.join("config.json"), config.to_string())?;
        Ok(path)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for name in ["shop", "gone"] {
            let _ = sh("docker", &["rmi", "-f", &format!("{}/{name}:1", self.host)]);
        }
    }
}

#[test]
fn an_image_is_pulled_with_the_users_login_and_refused_before_anything_is_made_without() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let Some(r) = Registry::start()? else { return Ok(()) };
    let (good, bad) = (r.login("a-secret-of-alice")?, r.login("guessed")?);
    let image = format!("{}/shop:1", r.host);
    sh("docker", &["tag", "syp-test/hello", &image])?;
    sh("docker", &["--config", &good, "push", "-q", &image])?;
    sh("docker", &["rmi", &image])?;

    let stranger = Engine::new(&sypctl)?.with("DOCKER_CONFIG", &bad);
    let refused = stranger.up_fails("shop", &image, &["--port", "8080"])?;
    ensure!(refused.err.contains("IMAGE_AUTH_FAILED") && refused.err.contains("docker login"), "{refused:?}");
    ensure!(!refused.err.contains("guessed"), "the password is told: {refused:?}");
    ensure!(stranger.left()?.is_empty(), "nothing was made");

    let e = Engine::new(&sypctl)?.with("DOCKER_CONFIG", &good);
    let missing = e.up_fails("gone", &format!("{}/gone:1", r.host), &["--port", "8080"])?;
    ensure!(missing.err.contains("IMAGE_NOT_FOUND"), "{missing:?}");
    e.up("shop", &image, &["--port", "8080", "--allow", ALICE])?;
    let token = e.token("shop", Some(ALICE))?;
    ensure!(get(&e.endpoint("shop")?, Some(&token), &[])?.0 == 200, "it serves");
    let shown = e.json(&["show", "shop"])?;
    ensure!(shown["imageDigest"].as_str().is_some_and(|d| d.starts_with("sha256:")), "pinned: {shown}");
    e.down("shop")
}
